"""Families with skew-symmetric blocks: exactly skew-symmetric, and as many blocks as the data call for."""

import math

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from online_learner.fit_figures import save_reliability, wilson
from online_learner.preference_models.base import LinearPreference
from online_learner.preference_models.fit import fit_family, fit_preference_models, prepare
from online_learner.preference_models.general_preference import (
    bt_gpm,
    bt_gpm_gated,
    compare_blocks,
    compare_gated,
    compare_with_blocks,
    gpm,
)
from online_learner.preference_models.registry import PREFERENCE_MODELS
from storage.contract.schemas import JUDGMENTS

NUM_ITEMS = 12
BLOCKS = ("bradley_terry", "bt_gpm", "bt_gpm_2", "bt_gpm_4")  # 0, 1, 2 and 4 of them


@given(st.integers(0, 10_000), st.sampled_from(sorted(PREFERENCE_MODELS)))
def test_every_family_changes_its_sign_and_nothing_else_when_responses_are_swapped(seed, name):
    family = PREFERENCE_MODELS[name]
    a, b = 10 * torch.randn(2, 6, family.width, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(family.compare(a, b), -family.compare(b, a))


def test_blocks_by_hand():
    # (1, 2) and (3, 4) in the first block, (0, 1) and (1, 0) in the second: 1 * 4 - 2 * 3 + 0 * 0 - 1 * 1 = -3
    assert compare_blocks(torch.tensor([1.0, 2, 0, 1]), torch.tensor([3.0, 4, 1, 0])).item() == -3
    assert (gpm(3).width, bt_gpm(4).width) == (6, 9)


def fitted(logits, num_labels, models, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(NUM_ITEMS, (num_labels,), generator=generator)
    second = (first + torch.randint(1, NUM_ITEMS, (num_labels,), generator=generator)) % NUM_ITEMS
    won = torch.rand(num_labels, generator=generator) < torch.sigmoid(logits[first, second])
    columns = {
        "prompt_id": [f"p{i % 40}" for i in range(num_labels)],
        "response_a_id": [f"r{i}" for i in first.tolist()],
        "response_b_id": [f"r{i}" for i in second.tolist()],
        "verdict": ["a" if w else "b" for w in won.tolist()],
    }
    arrays = {field.name: pa.array(columns.get(field.name, [None] * num_labels), field.type) for field in JUDGMENTS}
    indicators = {f"r{i}": row for i, row in enumerate(torch.eye(NUM_ITEMS))}
    return fit_preference_models(indicators, pa.table(arrays, schema=JUDGMENTS), seed=0, models=models)


def two_cycles(scale):
    """Items on two independent circles at once: no single block can hold both."""
    angle = 2 * torch.pi * torch.arange(NUM_ITEMS) / NUM_ITEMS
    other = 2 * torch.pi * (5 * torch.arange(NUM_ITEMS) % NUM_ITEMS) / NUM_ITEMS
    return scale * (torch.sin(angle[:, None] - angle) + torch.sin(other[:, None] - other))


@pytest.mark.slow
def test_two_independent_cycles_call_for_two_blocks_and_a_utility_for_none():
    assert fitted(two_cycles(2.0), 6000, BLOCKS).name == "bt_gpm_2"
    utility = torch.linspace(-2, 2, NUM_ITEMS)
    assert fitted(utility[:, None] - utility, 1000, BLOCKS).name == "bradley_terry"


def test_the_reliability_diagram_draws_wilsons_intervals(tmp_path):
    assert wilson(7, 20) == pytest.approx(proportion_confint(7, 20, method="wilson"), abs=1e-6)
    file = tmp_path / "reliability.png"
    save_reliability("bradley_terry", [(0.55, 0.5, 40), (0.9, 0.95, 40)], file)
    assert file.read_bytes().startswith(b"\x89PNG")


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 4]))
def test_a_gated_model_changes_its_sign_and_nothing_else_when_responses_change_places(seed, num_blocks):
    a, b = torch.randn(2, 5, 1 + 3 * num_blocks, generator=torch.Generator().manual_seed(seed)) * 20
    assert torch.equal(compare_gated(a, b), -compare_gated(b, a))


def test_a_gate_by_hand():
    # u 3 and 1; block (1, 2) against (4, 5): 1 * 5 - 2 * 4 = -3; gate log 3: 2 sigma = 1.5. 3 - 1 - 4.5
    gate = math.log(3)
    a, b = torch.tensor([3.0, 1.0, 2.0, gate]), torch.tensor([1.0, 4.0, 5.0, gate])
    assert compare_gated(a, b).item() == pytest.approx(-2.5, abs=1e-6)


def test_a_gate_without_evidence_is_the_model_without_a_gate():
    a, b = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    open_gates = torch.zeros(7, 2)
    gated = compare_gated(torch.cat([a, open_gates], 1), torch.cat([b, open_gates], 1))
    assert torch.equal(gated, compare_with_blocks(a, b))


def test_gates_read_the_prompt_alone_and_the_rest_the_response_alone():
    family = bt_gpm_gated(2)
    weights = torch.randn(1, 8, family.width, generator=torch.Generator().manual_seed(0))
    response, prompt = torch.randn(4), torch.randn(4)
    embedded = LinearPreference(family, weights).embed(torch.cat([response, prompt]))[0]
    assert torch.allclose(embedded[:5], response @ weights[0, :4, :5], atol=1e-6)
    assert torch.allclose(embedded[5:], prompt @ weights[0, 4:, 5:], atol=1e-6)


@pytest.mark.slow
def test_circles_that_run_the_other_way_in_half_of_the_prompts_are_found_by_the_gate_alone():
    """Three classes beat each other 90:10 in a circle; the prompt's first feature says which way round."""
    generator = torch.Generator().manual_seed(0)
    num = 600
    turn = torch.where(torch.rand(num, generator=generator) < 0.5, 1, -1)
    first = torch.randint(3, (num,), generator=generator)
    logit = math.log(9) * turn  # of the first response, whose class is one before the second's
    won = torch.rand(num, generator=generator) < torch.sigmoid(logit)
    prompts = torch.randn(num, 6, generator=generator)
    prompts[:, 0] = turn
    responses = torch.eye(6)[torch.stack([first, (first + 1) % 3])] + 0.3 * torch.randn(2, num, 6, generator=generator)
    features = torch.cat([responses, prompts.expand(2, -1, -1)], dim=-1)
    columns = {
        "prompt_id": [f"p{i}" for i in range(num)],
        "response_a_id": [f"p{i}a" for i in range(num)],
        "response_b_id": [f"p{i}b" for i in range(num)],
        "verdict": ["a" if w else "b" for w in won.tolist()],
    }
    arrays = {field.name: pa.array(columns.get(field.name, [None] * num), field.type) for field in JUDGMENTS}
    by_id = {f"p{i}{side}": features[k, i] for i in range(num) for k, side in enumerate("ab")}
    data = prepare(by_id, pa.table(arrays, schema=JUDGMENTS), seed=0)
    loss = {family.name: float(fit_family(family, data, 2)[1].mean()) for family in (bt_gpm(2), bt_gpm_gated(2))}
    assert loss["bt_gpm_gated"] < 0.5  # the truth has .9 log(1 / .9) + .1 log 10 = .325
    assert loss["bt_gpm_2"] > 0.6  # a coin has .693
