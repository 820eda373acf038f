"""Families with skew-symmetric blocks: exactly skew-symmetric, and as many blocks as the data call for."""

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from online_learner.fit_figures import save_reliability, wilson
from online_learner.preference_models.fit import fit_preference_models
from online_learner.preference_models.general_preference import bt_gpm, compare_blocks, gpm
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
