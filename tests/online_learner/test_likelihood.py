import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from online_learner.preference_models.likelihood import (
    Nuisance,
    Observations,
    answer_log_prob,
    decided_probability,
    interval_log_prob,
    log_likelihood,
    log_prior,
    threshold_indices,
    thresholds,
)

INF = torch.inf


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def observations(verdicts: list[int], levels: list[int | None], *, num_levels: int, has_ties: bool) -> Observations:
    intervals = [threshold_indices(v, level, num_levels) for v, level in zip(verdicts, levels, strict=True)]
    zeros = torch.zeros(len(verdicts), dtype=torch.long)
    return Observations(
        row_a=zeros,
        row_b=zeros,
        low=torch.tensor([low for low, _ in intervals]),
        high=torch.tensor([high for _, high in intervals]),
        verdict=torch.tensor(verdicts),
        annotator=zeros,
        prompt=zeros,
        annotators=(),
        strengths=tuple(range(num_levels)) if num_levels > 1 else (),
        has_ties=has_ties,
        position_bias=True,
    )


def test_verdicts_alone_are_binary_cross_entropy():
    logits = tensor(-30.0, -2.0, -0.1, 0.0, 0.7, 5.0, 40.0)
    verdicts = [1, -1, 1, 1, -1, -1, 1]
    data = observations(verdicts, [None] * 7, num_levels=1, has_ties=False)
    nuisance = Nuisance(torch.zeros(1, 1).double(), torch.zeros(1).double(), torch.zeros(1, 1).double())
    ours = -log_likelihood(logits[None], nuisance, data)[0]
    theirs = binary_cross_entropy_with_logits(logits, (torch.tensor(verdicts) > 0).double(), reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_threshold_vector_by_hand():
    # softplus(log(e^1 - 1)) = 1 and softplus(log(e^2 - 1)) = 2, so k0 = 1 and k1 = 1 + 2 = 3
    gaps = tensor(math.log(math.e - 1), math.log(math.e**2 - 1))[None]
    torch.testing.assert_close(thresholds(gaps, has_ties=True)[0], tensor(-INF, -3, -1, 1, 3, INF))
    torch.testing.assert_close(thresholds(gaps, has_ties=False)[0], tensor(-INF, -2, 0, 0, 2, INF))


@pytest.mark.parametrize(
    ("verdict", "level", "interval"),
    [  # vector: -inf, -k1, -k0, k0, k1, inf
        (1, None, (3, 5)),
        (1, 0, (3, 4)),
        (1, 1, (4, 5)),
        (0, None, (2, 3)),
        (-1, None, (0, 2)),
        (-1, 0, (1, 2)),
        (-1, 1, (0, 1)),
    ],
)
def test_answers_are_the_right_intervals(verdict, level, interval):
    assert threshold_indices(verdict, level, 2) == interval


@given(st.floats(-30, 30), st.lists(st.floats(-5, 5), min_size=1, max_size=4))
def test_probabilities_of_all_answers_sum_to_one(logit, gaps):
    edges = thresholds(tensor(*gaps)[None], has_ties=True)[0]
    total = interval_log_prob(torch.full_like(edges[1:], logit), edges[:-1], edges[1:]).exp().sum()
    assert total.item() == pytest.approx(1.0, abs=1e-9)


@given(st.floats(-20, 20), st.floats(-2, 2), st.floats(0, 0.5), st.integers(0, 1))
def test_swapping_the_responses_and_the_place_mirrors_the_answer(logit, bias, flip, level):
    edges = thresholds(tensor(0.3, 0.2)[None], has_ties=True)[0]
    ahead, behind = threshold_indices(1, level, 2), threshold_indices(-1, level, 2)
    seen = answer_log_prob(tensor(logit), edges[[ahead[0]]], edges[[ahead[1]]], tensor(bias), tensor(flip))
    swapped = answer_log_prob(tensor(-logit), edges[[behind[0]]], edges[[behind[1]]], tensor(-bias), tensor(flip))
    torch.testing.assert_close(seen, swapped)


def test_tie_probability_by_hand():
    # k0 = 1, s = 0: sigma(1) - sigma(-1) = 0.731059 - 0.268941 = 0.462117
    assert interval_log_prob(tensor(0.0), tensor(-1.0), tensor(1.0)).exp().item() == pytest.approx(0.462117, abs=1e-6)


def test_flips_are_crowd_bt_by_hand():
    # s = 2, b = 0, e = .1: .9 sigma(2) + .1 sigma(-2) = .9 * .880797 + .1 * .119203 = .804638
    p = answer_log_prob(tensor(2.0), tensor(0.0), tensor(INF), tensor(0.0), tensor(0.1)).exp()
    assert p.item() == pytest.approx(0.804638, abs=1e-6)


def test_decided_probability_by_hand():
    # k0 = 1, s = 2: sigma(1) / (sigma(1) + sigma(-3)) = .731059 / (.731059 + .047426) = .939079
    p = decided_probability(tensor(2.0), tensor(1.0), tensor(0.0), tensor(0.0))
    assert p.item() == pytest.approx(0.939079, abs=1e-6)
    # no ties, no flips: simply sigma(s + b)
    torch.testing.assert_close(
        decided_probability(tensor(2.0), tensor(0.0), tensor(0.5), tensor(0.0)), torch.sigmoid(tensor(2.5))
    )


def test_priors_by_hand():
    # b = .5: -.5 * (.5 / .5)^2 = -.5; a gap of 3: -.5 * (3 / 3)^2 = -.5
    nuisance = Nuisance(tensor(3.0)[None], tensor(0.5), tensor(0.0)[None])
    assert log_prior(nuisance).item() == pytest.approx(-1)


def test_gradients_are_finite_with_infinite_edges_and_extreme_logits():
    logits = tensor(-60.0, 0.0, 60.0, 1.0).requires_grad_()
    gaps = tensor(0.0, 0.0)[None].requires_grad_()
    data = observations([1, 0, -1, 1], [None, None, 1, 0], num_levels=2, has_ties=True)
    log_likelihood(logits[None], Nuisance(gaps, tensor(0.0), torch.zeros(1, 1).double()), data).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert gaps.grad is not None and gaps.grad.isfinite().all()
