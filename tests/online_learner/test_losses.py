"""Pair losses by hand, against another library, and what holds for all of them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from online_learner.losses import PAIR_LOSSES, hinge_loss, log_ratio_margin, logistic_loss, square_loss

finite = st.floats(-20, 20)
probability = st.floats(0, 1)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_margin_by_hand():  # (-1 - -2) - (-4 - -3) = 2
    assert log_ratio_margin(column(-1), column(-4), column(-2), column(-3)).tolist() == [2.0]


def test_square_loss_by_hand():  # (2 - 0.5)^2 = 2.25; with scale 3: (6 - 0.5)^2 = 30.25
    assert square_loss(column(2), column(0.5), column(1), 1.0).tolist() == [2.25]
    assert square_loss(column(2), column(0.5), column(1), 3.0).tolist() == [30.25]


def test_logistic_loss_with_a_hard_label_is_dpo():
    # -log sigmoid(beta h) = log(1 + exp(-0.1 * 5)); its derivative in h is -beta sigmoid(-beta h) = -0.1 / (1 + exp(0.5))
    margin = column(5.0).requires_grad_()
    loss = logistic_loss(margin, column(0), column(1), 0.1)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.5)), abs=1e-12)
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(-0.1 / (1 + math.exp(0.5)), abs=1e-12)


def test_logistic_loss_is_the_cross_entropy_of_the_shifted_logit():
    margin, target, label = column(-3, 0.2, 7), column(1, -1, 0), column(0.25, 0.5, 0.9)
    expected = binary_cross_entropy_with_logits(0.3 * margin - target, label, reduction="none")
    torch.testing.assert_close(logistic_loss(margin, target, label, 0.3), expected)


def test_logistic_loss_is_least_where_the_probability_is_the_soft_label():
    # d/dz [p softplus(-z) + (1 - p) softplus(z)] = sigmoid(z) - p, zero at z = logit(p): for p = .8 and beta = .5, h = 2 ln 4
    margin = column(2 * math.log(4)).requires_grad_()
    logistic_loss(margin, column(0), column(0.8), 0.5).sum().backward()
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_hinge_loss_by_hand():  # relu(1 - (.5 * 1.2 - .1)) = .5; label 0: 1 + .5; label .25: a quarter of .5, three of 1.5
    found = hinge_loss(column(1.2, 1.2, 1.2, 9), column(0.1, 0.1, 0.1, 0), column(1, 0, 0.25, 1), 0.5)
    assert found.tolist() == pytest.approx([0.5, 1.5, 1.25, 0.0])


def test_large_margins_give_finite_losses():  # softplus(1000) = 1000
    assert logistic_loss(column(-1000.0), column(0), column(1), 1.0).item() == pytest.approx(1000.0)


@pytest.mark.parametrize("name", list(PAIR_LOSSES))
@given(margin=finite, target=finite, label=probability)
def test_swapping_the_responses_changes_no_loss(name, margin, target, label):
    pair_loss = PAIR_LOSSES[name]
    swapped = pair_loss(column(-margin), column(-target), column(1 - label), 0.7)
    torch.testing.assert_close(pair_loss(column(margin), column(target), column(label), 0.7), swapped)


@pytest.mark.parametrize("name", list(PAIR_LOSSES))
def test_losses_refuse_to_broadcast(name):
    row, tall = torch.zeros(3), torch.zeros(3, 1)
    with pytest.raises(ValueError, match=r"share one shape .* \[\(3,\), \(3, 1\)\]"):
        PAIR_LOSSES[name](row, tall, row, 1.0)
    with pytest.raises(ValueError, match="share one shape"):
        log_ratio_margin(row, row, row, tall)
