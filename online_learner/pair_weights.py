"""Factors on the loss of a pair; the one place to add a weight. Pure tensors, without gradient.

N prompts, K responses per prompt. Every weight is (N, K, K): element [n, i, j] applies where i wins over j. ratios (N, K) are
log pi - log anchor, nats, -inf where padding.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from online_learner.targets import PairFacts, group_win_rates

MADPO_LARGEST, MADPO_SLOPE = 2.0, 1.0  # c_max and lambda of the released MADPO settings; c_min is 1 / c_max
MADPO_THRESHOLD = math.log(0.999 / 0.001)  # reward gap, nats, at which the margin is neither stretched nor shrunk


def one(ratios: Tensor, preferences: Tensor, facts: PairFacts) -> Tensor:
    """Every pair counts the same."""
    return torch.ones_like(preferences)


def margin_adaptive(ratios: Tensor, preferences: Tensor, facts: PairFacts) -> Tensor:
    """Weight sigma(c d) / sigma(d) for d > -threshold, else 1; d is the preference model's logit that the winner is better.

    c = stretch(|d|): the margin of the population optimum becomes c(|d|) d (arXiv:2510.05342, released code).
    """
    d = _given(facts.model_logits, "the preference model's logits (N, K, K)").to(ratios)
    weight = torch.exp(torch.nn.functional.logsigmoid(stretch(d.abs()) * d) - torch.nn.functional.logsigmoid(d))
    return torch.where(d > -MADPO_THRESHOLD, weight, 1.0)


def stretch(gap: Tensor) -> Tensor:
    """MADPO's c of a reward gap >= 0, from nearly c_max at 0 through 1 at the threshold to c_min, any shape."""
    largest, least = MADPO_LARGEST, 1 / MADPO_LARGEST
    ratio = (largest - 1) / (1 - least)
    return least + (largest - least) / (1 + ratio * torch.exp(MADPO_SLOPE * (gap - MADPO_THRESHOLD)))


def certain(ratios: Tensor, preferences: Tensor, facts: PairFacts) -> Tensor:
    """Certainty of the preference model's heads about each pair, as ``certainty`` computes it."""
    return _given(facts.certainty, "the certainty (N, K, K) of the preference model").to(ratios)


def certainty(member_logits: Tensor) -> Tensor:
    """1 - BALD of each pair, 0 where the mean vote contradicts the ranking; heads' logits (E, N, K, K) -> (N, K, K).

    BALD = H(mean p) - mean H(p), nats: without a contradiction the result is in [1 - log 2, 1]. The ranking is by mean logit
    against the group. UPO draws pairs with this probability (arXiv:2409.11212, released code); weighting by it has the same
    expectation and less noise.
    """
    p = torch.sigmoid(member_logits)
    bald = _entropy(p.mean(0)) - _entropy(p).mean(0)
    mean = member_logits.mean(0)
    rewards = mean.mean(-1)
    agrees = mean * (rewards.unsqueeze(-1) - rewards.unsqueeze(-2)) >= 0
    return torch.where(agrees, 1 - bald, 0.0)


def ndcg(ratios: Tensor, preferences: Tensor, facts: PairFacts) -> Tensor:
    """Change of the ranking's discounted gain if i and j swapped places, |2^v_i - 2^v_j| |1/log(1 + rank_i) - 1/log(1 + rank_j)|.

    v are win rates in the group, ranks count from 1 by the policy's log-ratio (arXiv:2410.12854, Eq. 7-8).
    """
    gains = 2 ** group_win_rates(preferences, facts.opponent_weights)
    ranks = ratios.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1) + 1
    discounts = 1 / torch.log1p(ranks.to(gains))
    return (gains.unsqueeze(-1) - gains.unsqueeze(-2)).abs() * (discounts.unsqueeze(-1) - discounts.unsqueeze(-2)).abs()


def _entropy(p: Tensor) -> Tensor:
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))


def _given(fact: Tensor | None, what: str) -> Tensor:
    if fact is None:
        raise ValueError(f"the rule's pair weight needs {what}")
    return fact


PairWeight = Callable[[Tensor, Tensor, PairFacts], Tensor]
PAIR_WEIGHTS: dict[str, PairWeight] = {"one": one, "margin_adaptive": margin_adaptive, "certainty": certain, "ndcg": ndcg}
