"""Does somebody click without reading, or against what they read? Evidence that may be looked at after every label. Pure.

Each is a likelihood ratio of all votes so far: this person clicking so, against this person judging as the others do with at
most LAPSES of their answers careless. For an honest person it is a nonnegative supermartingale that starts at 1 (a test
martingale, Ville 1939): the chance that it ever passes 1 / ALPHA is at most ALPHA, however often one looks.
Shapes: V votes, A annotators.
"""

from dataclasses import dataclass, replace

import numpy as np

from annotate_app.trust_votes import Votes, fit_spread, honest_chance, others_votes, own_earlier_votes

ALPHA = 0.02  # most honest people who are ever suspected
THRESHOLD = float(np.log(1 / ALPHA))
ADVERSARIAL_WEIGHT = 0.1  # adversarial clicking is rare and soon seen
LAPSES = 1 / 8  # careless answers that an honest person may give
SIDE_WEIGHT = 0.1  # of clicking with a taste for one side, beside an even coin
NUM_PASSES = 3  # votes of those suspected no longer count as the others' in the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """(A,) each. ``random``, ``adversarial``: log odds against an honest person, nats. ``trusted``: counts as the others."""

    random: np.ndarray
    adversarial: np.ndarray
    trusted: np.ndarray
    spread: float

    @property
    def total(self) -> np.ndarray:
        """Log of the weighted mean of both: what ALPHA is held for."""
        weight = ADVERSARIAL_WEIGHT
        return np.logaddexp(np.log(1 - weight) + self.random, np.log(weight) + self.adversarial)


def weigh_evidence(votes: Votes, left_out: np.ndarray | None = None) -> Evidence:
    """Evidence against every annotator; votes of those ``left_out`` (A,) never count as the others'."""
    counted = np.ones(votes.num_annotators, dtype=bool) if left_out is None else ~left_out
    found = _weigh(votes, counted)
    for _ in range(NUM_PASSES - 1):
        found = _weigh(votes, counted & (found.total < THRESHOLD))
    return replace(found, trusted=counted & (found.total < THRESHOLD))


def _weigh(votes: Votes, trusted: np.ndarray) -> Evidence:
    spread = fit_spread(votes, trusted)
    others, own = others_votes(votes, trusted), own_earlier_votes(votes)
    honest = honest_chance(spread, others + own)
    contrary = _with_lapses(honest_chance(spread, others[:, ::-1] + own))
    steps = {
        "coin": log_ratios(votes.chose_1, honest, np.full(len(honest), 0.5)),
        "side": log_ratios(votes.chose_1, honest, _side_chance(votes)),
        "adversarial": log_ratios(votes.chose_1, honest, contrary),
    }
    coin, side, adversarial = (np.bincount(votes.annotator, s, votes.num_annotators) for s in steps.values())
    random = np.logaddexp(np.log(1 - SIDE_WEIGHT) + coin, np.log(SIDE_WEIGHT) + side)
    return Evidence(random=random, adversarial=adversarial, trusted=trusted, spread=spread)


def log_ratios(chose_1: np.ndarray, honest: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(V,): log P(vote | other) / P(vote | honest with LAPSES), lowered where it could favour ``other`` for fewer lapses.

    ``honest`` and ``other`` are chances of preferring response 1. The expectation under an honest person is linear in their
    lapses, 1 at LAPSES, and kept at most 1 without any: so it is at most 1 in between.
    """
    lapsing = _with_lapses(honest)
    without = honest * other / lapsing + (1 - honest) * (1 - other) / (1 - lapsing)
    ratio = np.where(chose_1, other / lapsing, (1 - other) / (1 - lapsing))
    return np.log(ratio) - np.log(np.maximum(without, 1.0))


def _with_lapses(chance: np.ndarray) -> np.ndarray:
    return (1 - LAPSES) * chance + LAPSES / 2


def _side_chance(votes: Votes) -> np.ndarray:
    """(V,): of preferring response 1 for somebody who looks at sides only, learnt from their votes before (Krichevsky)."""
    order = np.argsort(votes.annotator, kind="stable")
    first = votes.chose_first[order].astype(float)
    starts = np.searchsorted(votes.annotator[order], votes.annotator[order])  # where each person's votes begin
    before = np.concatenate([[0.0], np.cumsum(first)])
    num_first, num = before[np.arange(len(first))] - before[starts], np.arange(len(first)) - starts
    chance = np.empty(len(first))
    chance[order] = (num_first + 0.5) / (num + 1.0)
    return np.where(votes.first_1, chance, 1 - chance)
