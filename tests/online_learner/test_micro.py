"""Mixtures of criteria: exactly skew-symmetric, found where one utility fails, and re-weighted for one annotator."""

import math

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from online_learner.preference_models.fit import fit_preference_models
from online_learner.preference_models.micro import annotator_weights, compare_mixture, micro
from storage.contract.schemas import JUDGMENTS

NUM_PROMPTS, NUM_FEATURES, NUM_LABELS = 200, 6, 1200


@given(st.integers(0, 10_000))
def test_swapping_the_responses_changes_the_sign_and_nothing_else(seed):
    a, b = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(seed)) * 20
    assert torch.equal(compare_mixture(a, b), -compare_mixture(b, a))


def test_a_mixture_by_hand():
    # Differences 2 and -1, router means (1, 0): weights e / (e + 1) and 1 / (e + 1)
    a, b = torch.tensor([2.0, 0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    weight = math.e / (math.e + 1)
    p = weight / (1 + math.exp(-2)) + (1 - weight) / (1 + math.exp(1))
    assert compare_mixture(a, b).item() == pytest.approx(math.log(p / (1 - p)), abs=1e-6)


def planted(seed):
    """In one half of the prompts the first feature counts, in the other the second one the other way; feature 2 tells which."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(NUM_PROMPTS, 4, NUM_FEATURES, generator=generator)
    context = torch.where(torch.rand(NUM_PROMPTS, generator=generator) < 0.5, 1.0, -1.0)
    features[:, :, 2] = context[:, None]
    truth = torch.where(context[:, None] > 0, 3 * features[..., 0], -3 * features[..., 0])
    prompt = torch.randint(NUM_PROMPTS, (NUM_LABELS,), generator=generator)
    first = torch.randint(4, (NUM_LABELS,), generator=generator)
    second = (first + torch.randint(1, 4, (NUM_LABELS,), generator=generator)) % 4
    won = torch.rand(NUM_LABELS, generator=generator) < torch.sigmoid(truth[prompt, first] - truth[prompt, second])
    columns = {
        "prompt_id": [f"p{p}" for p in prompt.tolist()],
        "response_a_id": [f"p{p}r{k}" for p, k in zip(prompt.tolist(), first.tolist(), strict=True)],
        "response_b_id": [f"p{p}r{k}" for p, k in zip(prompt.tolist(), second.tolist(), strict=True)],
        "verdict": ["a" if w else "b" for w in won.tolist()],
    }
    arrays = {field.name: pa.array(columns.get(field.name, [None] * NUM_LABELS), field.type) for field in JUDGMENTS}
    by_id = {f"p{p}r{k}": features[p, k] for p in range(NUM_PROMPTS) for k in range(4)}
    return by_id, pa.table(arrays, schema=JUDGMENTS)


@pytest.mark.slow
def test_two_populations_told_by_the_context_are_found_where_one_utility_is_a_coin():
    features, judgments = planted(0)
    report = fit_preference_models(features, judgments, seed=0, models=("bradley_terry", "micro")).report
    accuracy = {name: row["accuracy"] for name, row in report["models"].items()}
    assert report["selected"] == "micro"
    assert accuracy["bradley_terry"] < 0.6 and accuracy["micro"] > 0.8


def test_an_annotators_weights_are_bayes_rule():
    # One judgment that criterion 0 gives sigma(1), criterion 1 sigma(-1): odds sigma(1) / sigma(-1) = e with even priors
    sided = torch.tensor([[1.0], [-1.0]])
    weights = annotator_weights(sided, torch.tensor([1]), 2, prior=torch.tensor([0.5, 0.5]))
    assert weights[0].tolist() == [0.5, 0.5]  # nobody's judgments: the prior
    assert (weights[1, 0] / weights[1, 1]).item() == pytest.approx(math.e, rel=1e-5)


def test_opposite_annotators_are_told_apart_by_a_dozen_labels():
    generator = torch.Generator().manual_seed(0)
    taste = torch.tensor([0, 1]).repeat_interleave(12)
    logits = 2 * torch.randn(2, 24, generator=generator)  # of each criterion, first response over second
    won = torch.rand(24, generator=generator) < torch.sigmoid(logits[taste, torch.arange(24)])
    sided = torch.where(won, logits, -logits)
    weights = annotator_weights(sided, taste, 2, prior=torch.tensor([0.5, 0.5]))
    assert weights.diagonal().min() > 0.9


def test_criteria_are_as_many_as_asked():
    family = micro(3)
    assert family.width == 6 and all(len(ridge) == 6 for ridge in family.ridges)
