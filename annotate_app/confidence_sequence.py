"""Confidence sequences for a win rate: intervals that hold however often one looks. Pure; arrays broadcast.

A vote scores 1 (win), one half (tie) or 0 (loss). Against the claim that the mean score is at most m, stake a share f of a
capital on every vote: it grows by 1 + f (score / m - 1). Under the claim nobody expects to gain, so a mixture over f exceeds
1 / level at any time with probability at most level (Ville's inequality), whatever the share of ties. The bound is the largest m
whose claim has been refuted so (Waudby-Smith and Ramdas 2024, arXiv:2010.09686, section 4). At m = 1/2 a tie changes nothing.

People differ: votes of one annotator are alike. Counts are divided by the design effect before they are staked. It is 1 or more,
and a capital's root is below the capital, so for independent votes the guarantee stays exact; for clustered ones it is the
usual approximation, and `nashloop bench gate` measures it.
"""

from typing import Any

import numpy as np

STAKES = (0.1, 0.2, 0.4)  # tuned to win rates of .55 to .7
LEVEL = 0.05  # of each side: how often a bound may ever be on the wrong side of the truth
TOLERANCE = 1e-4  # of a bound

Array = Any  # numbers or arrays of them


def log_capital(wins: Array, ties: Array, losses: Array, mean: Array = 0.5) -> Array:
    """Log of the evidence against "the mean score is at most ``mean``"; 0 before the first vote. ``mean`` in (0, 1)."""
    of_stake = [
        wins * np.log1p(f * (1 / np.asarray(mean) - 1))
        + ties * np.log1p(f * (0.5 / np.asarray(mean) - 1))
        + losses * np.log1p(-f)
        for f in STAKES
    ]
    return np.logaddexp.reduce(of_stake, axis=0) - np.log(len(STAKES))


def lower_bound(wins: Array, ties: Array, losses: Array, *, level: float = LEVEL) -> Array:
    """Largest mean that is refuted, by bisection: the evidence falls with the mean. 0 while nothing is."""
    wins, ties, losses = np.broadcast_arrays(*(np.asarray(x, float) for x in (wins, ties, losses)))
    low, high = np.zeros(wins.shape), np.ones(wins.shape)
    while np.max(high - low, initial=0) > TOLERANCE:
        middle = (low + high) / 2
        refuted = log_capital(wins, ties, losses, middle) >= -np.log(level)
        low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
    return low


def upper_bound(wins: Array, ties: Array, losses: Array, *, level: float = LEVEL) -> Array:
    """Smallest mean that is refuted from above: the lower bound of the other side, turned."""
    return 1 - lower_bound(losses, ties, wins, level=level)


def intraclass_correlation(wins: Array, ties: Array, losses: Array) -> Array:
    """How alike the votes of one annotator are, by one-way analysis of variance, not below 0.

    The last axis is annotators, those without votes count as absent. 0 where fewer than two voted, or nobody twice.
    """
    size = np.asarray(wins + ties + losses, float)
    score, squares = wins + np.asarray(ties) / 2, np.sum(wins + np.asarray(ties) / 4, axis=-1)
    n, groups = size.sum(-1), (size > 0).sum(-1)
    of_groups = np.sum(np.divide(score**2, size, out=np.zeros_like(size), where=size > 0), axis=-1)
    between = (of_groups - np.divide(score.sum(-1) ** 2, np.maximum(n, 1))) / np.maximum(groups - 1, 1)
    within = np.maximum(squares - of_groups, 0) / np.maximum(n - groups, 1)
    typical = (n - np.divide((size**2).sum(-1), np.maximum(n, 1))) / np.maximum(groups - 1, 1)
    total = between + (typical - 1) * within
    known = (groups > 1) & (n > groups) & (total > 0)
    return np.clip(np.divide(between - within, total, out=np.zeros_like(total), where=known), 0, 1)


def design_effect(wins: Array, ties: Array, losses: Array, correlation: Array | None = None) -> Array:
    """By how much clustering enlarges the variance of the mean (Kish): 1 + correlation (sum of squared sizes / n - 1)."""
    size = np.asarray(wins + ties + losses, float)
    if correlation is None:
        correlation = intraclass_correlation(wins, ties, losses)
    typical = np.divide((size**2).sum(-1), np.maximum(size.sum(-1), 1))
    return 1 + correlation * np.maximum(typical - 1, 0)
