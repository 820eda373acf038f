"""Mixture of Bradley-Terry utilities with a context router, for people who judge by different criteria (MiCRo, arXiv:2505.24846).

    P(a over b) = sum_m w_m sigma(u_m(a) - u_m(b)),    w = softmax(router)

Which criterion counts depends on the context, so one utility cannot represent it; averaged over contexts such preferences may
even go in circles. Differs from the paper: the router reads the mean of both responses' features, which hold their prompt's
context, because features of the prompt alone are not kept; weights are pushed towards uniform by the router's ridge instead of an
entropy term.
Stage two, the weights of one annotator, is ``annotator_weights``.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from online_learner.preference_models.base import PreferenceFamily


def compare_mixture(embedding_a: Tensor, embedding_b: Tensor) -> Tensor:
    """(..., 2M), (..., 2M) -> (...): M utilities, then M router scores."""
    utility_a, router_a = embedding_a.chunk(2, -1)
    utility_b, router_b = embedding_b.chunk(2, -1)
    log_weight = torch.log_softmax((router_a + router_b) / 2, -1)
    difference = utility_a - utility_b
    # Swapping a and b negates each difference and swaps the two sums: the logit changes its sign and nothing else.
    for_a = (log_weight + logsigmoid(difference)).logsumexp(-1)
    for_b = (log_weight + logsigmoid(-difference)).logsumexp(-1)
    return for_a - for_b


def micro(num_criteria: int = 2) -> PreferenceFamily:
    """The family with ``num_criteria`` utilities."""
    return PreferenceFamily(
        name="micro",
        summary=f"{num_criteria} utilities mixed by context: people who judge by different criteria",
        width=2 * num_criteria,
        compare=compare_mixture,
        ridges=tuple((utility,) * num_criteria + (router,) * num_criteria for utility, router in RIDGES),
        init_scale=(0.3,) * (2 * num_criteria),
    )


RIDGES = ((0.016, 0.016), (0.06, 0.016), (0.06, 0.06), (0.24, 0.24), (1.0, 1.0), (16.0, 16.0))


def annotator_weights(sided: Tensor, annotator: Tensor, num_annotators: int, *, prior: Tensor, rate: float = 1.0) -> Tensor:
    """Weights (A, M) of each criterion for each annotator, by Hedge on their judgments; with ``rate`` 1 it is Bayes' rule.

    sided (M, n): logit of each criterion for the recorded verdict, 0 for a tie. annotator (n,) in 0 .. A - 1. prior (M,).
    """
    gain = sided.new_zeros(len(sided), num_annotators).index_add_(1, annotator, logsigmoid(sided) * (sided != 0))
    return torch.softmax(prior.log() + rate * gain.T, dim=-1)
