"""Estimates of one annotator, each with a 95 % interval, as {"mean", "low", "high", "n"}; None of nothing. Pure."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
from scipy.special import bdtr, betaincinv

LEVEL = 0.95
TAILS = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
GRID = (np.arange(400) + 0.5) / 400  # of rates
FASTEST_READER = 15.0  # words a second; who is faster has not read both texts
LEAST_SECONDS = 1.0
Estimate = dict[str, float]


def share(count: float, total: int) -> Estimate | None:
    """A share with Wilson's interval; a tie may count one half."""
    if total == 0:
        return None
    z = NormalDist().inv_cdf(TAILS[1])
    mean, width = count / total, 1 + z**2 / total
    centre = (mean + z**2 / (2 * total)) / width
    half = z * sqrt(mean * (1 - mean) / total + z**2 / (4 * total**2)) / width
    return {"mean": mean, "low": max(0.0, centre - half), "high": min(1.0, centre + half), "n": total}


def accuracy(right: int, total: int) -> Estimate | None:
    """Posterior of how often somebody is right where the answer is known: Jeffreys' prior, Beta(1/2, 1/2)."""
    if total == 0:
        return None
    low, high = betaincinv(right + 0.5, total - right + 0.5, TAILS)
    return {"mean": (right + 0.5) / (total + 1), "low": float(low), "high": float(high), "n": total}


def accuracy_by_consensus(truth: np.ndarray, said: np.ndarray) -> Estimate | None:
    """Posterior of how often somebody says what is true, where the truth is known from others only.

    truth (n, C): chance of each class by the others' answers; said (n,): this person's class. A wrong answer is any of the
    others alike.
    """
    true = truth[np.arange(len(said)), said]
    wrong = (1 - true) / (truth.shape[1] - 1)
    return rate_posterior(true[:, None] * GRID + wrong[:, None] * (1 - GRID))


def flip_rate(chance: np.ndarray, chose_1: np.ndarray) -> Estimate | None:
    """Posterior of how often somebody answers the wrong way round beside the others.

    chance (n,): that one more of the others would prefer response 1; 0 is somebody like them, 1 their opposite.
    """
    likely = np.where(chose_1, chance, 1 - chance)[:, None]
    return rate_posterior(likely * (1 - GRID) + (1 - likely) * GRID)


def rate_posterior(likelihoods: np.ndarray) -> Estimate | None:
    """Mean and interval of a rate from (n, GRID) likelihoods of n answers, under Jeffreys' prior."""
    if len(likelihoods) == 0:
        return None
    logs = np.log(np.maximum(likelihoods, 1e-12)).sum(0) - 0.5 * np.log(GRID * (1 - GRID))
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    low, high = np.interp(TAILS, np.cumsum(weights) - weights / 2, GRID)
    return {"mean": float(weights @ GRID), "low": float(low), "high": float(high), "n": len(likelihoods)}


def median_seconds(seconds: Sequence[float]) -> Estimate | None:
    """Median with the interval between two order statistics; the whole range of fewer than six."""
    if not seconds:
        return None
    ordered, n = np.sort(seconds), len(seconds)
    below = int(np.searchsorted(bdtr(np.arange(n + 1), n, 0.5), TAILS[0]))  # the binomial quantile
    outside = max(0, below - 1)  # as many lie below and above, at most LEVEL's rest beyond
    return {"mean": float(np.median(ordered)), "low": float(ordered[outside]), "high": float(ordered[n - 1 - outside]), "n": n}


def too_fast(seconds: Sequence[float], num_words: Sequence[int]) -> Estimate | None:
    """Share of answers given sooner than anybody could have read both texts."""
    least = [max(LEAST_SECONDS, words / FASTEST_READER) for words in num_words]
    return share(sum(s < most for s, most in zip(seconds, least, strict=True)), len(seconds))
