"""Win rates from judgments whose pairs were chosen by a rule: the choice must not bend the estimate. Pure.

Three figures of the same share: by inverse probability (all judgments, each weighed by how unlikely its pair was to be drawn),
by the random share alone, and the naive average, which is right only where everything was drawn at random.
Shapes: M judged pairs in the order they were drawn.
"""

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from scipy.special import stdtrit

Method = Literal["inverse probability", "random share", "naive average"]
LEAST = 10  # random judgments below which their share alone says too little to be preferred


class ShareEstimate(TypedDict):
    """A share with its 95 % interval, the judgments it rests on, and how it was made."""

    mean: float
    low: float
    high: float
    n: int
    method: Method


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrawnVotes:
    """``score`` (M,) 1, 1/2 or 0; ``probability`` (M,) of each draw among all pairs left then; whether it was drawn evenly
    (M,); ``num_pairs``, all pairs there were before the first draw."""

    score: np.ndarray
    probability: np.ndarray
    is_random: np.ndarray
    num_pairs: int


def by_inverse_probability(votes: DrawnVotes) -> ShareEstimate | None:
    """Mean over all pairs, judged or not: Farquhar, Gal and Rainforth's weights (arXiv:2101.11665, Eq. 5), None below two votes.

    v_m = 1 + (N - M)/(N - m) (1 / ((N - m + 1) p_m) - 1) makes the mean unbiased though pairs are drawn without replacement and
    each draw depends on the answers before it. The interval takes the weighted answers as independent, about the ratio mean.
    """
    num, pairs = len(votes.score), votes.num_pairs
    if num < 2:
        return None
    m = np.arange(1, num + 1)
    left = np.maximum(pairs - m, 1)
    weights = 1 + (pairs - num) / left * (1 / ((pairs - m + 1) * votes.probability) - 1)
    return _ratio(votes.score, weights, "inverse probability")


def by_random_share(votes: DrawnVotes) -> ShareEstimate | None:
    """Mean of the judgments whose pair was drawn evenly from those left; None below two."""
    return _ratio(votes.score[votes.is_random], np.ones(int(votes.is_random.sum())), "random share")


def naively(votes: DrawnVotes) -> ShareEstimate | None:
    """Mean of all judgments as if pairs had been drawn evenly; None below two."""
    return _ratio(votes.score, np.ones(len(votes.score)), "naive average")


def estimate_share(votes: DrawnVotes) -> ShareEstimate | None:
    """The figure to report: the naive average where every draw was even, else by inverse probability."""
    return naively(votes) if votes.is_random.all() else by_inverse_probability(votes)


def _ratio(score: np.ndarray, weights: np.ndarray, method: Method) -> ShareEstimate | None:
    num = len(score)
    if num < 2 or weights.sum() <= 0:
        return None
    mean = float(weights @ score / weights.sum())
    residual = weights * (score - mean)
    error = float(np.sqrt(num / (num - 1) * residual @ residual) / weights.sum())
    effective = max(float(weights.sum() ** 2 / (weights @ weights)), 2.0)
    half = float(stdtrit(effective - 1, 0.975)) * error
    return {"mean": mean, "low": max(mean - half, 0.0), "high": min(mean + half, 1.0), "n": num, "method": method}
