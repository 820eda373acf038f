"""What the others say of a pair, and how surely one more honest person would say the same. Pure, numpy and scipy only.

Of every pair an unknown share theta of people prefers response 1; theta ~ Beta(spread, spread): a small spread means clear pairs.
The chance that a new honest person prefers response 1 is then (spread + votes for 1) / (2 spread + votes), whatever pairs were
chosen. Only decided verdicts are votes: how readily somebody says "tie" is a matter of taste. Shapes: V votes, I pairs.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import betaln

KNOWN_ANSWER_VOTES = 15.0  # a known answer counts as so many people of one mind
FEWEST, MOST = -4.0, 2.0  # log spread; pairs on which nobody or everybody agrees lie beyond


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """Decided verdicts in the order given. ``known`` (I,): +1 where response 1 is known to be right, -1 for 2, 0 elsewhere."""

    pair: np.ndarray  # (V,) from 0
    annotator: np.ndarray  # (V,) from 0
    chose_1: np.ndarray  # (V,) bool
    first_1: np.ndarray  # (V,) bool: response 1 was shown first
    known: np.ndarray

    @property
    def num_annotators(self) -> int:
        return int(self.annotator.max(initial=-1)) + 1

    @property
    def chose_first(self) -> np.ndarray:
        return self.chose_1 == self.first_1


def fit_spread(votes: Votes, trusted: np.ndarray) -> float:
    """The spread under which the votes of ``trusted`` (A,) annotators are most likely; near 1 where few pairs are shared.

    A person counts once per pair. The prior on log spread is normal, mean 0 and deviation 1.
    """
    counts = vote_counts(votes, np.flatnonzero(trusted[votes.annotator] & ~_repeated(votes)))
    counts, times = np.unique(counts[counts.sum(1) >= 2], axis=0, return_counts=True)

    def loss(log_spread: float) -> float:
        spread = np.exp(log_spread)
        return float(log_spread**2 / 2 - times @ (betaln(spread + counts[:, 0], spread + counts[:, 1]) - betaln(spread, spread)))

    found = minimize_scalar(loss, bounds=(FEWEST, MOST), method="bounded")
    return float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]


def vote_counts(votes: Votes, which: np.ndarray) -> np.ndarray:
    """(I, 2): how many of the votes ``which`` (indices) prefer response 1 and response 2 of each pair."""
    counts = np.zeros((len(votes.known), 2))
    np.add.at(counts, (votes.pair[which], np.where(votes.chose_1[which], 0, 1)), 1.0)
    return counts


def others_votes(votes: Votes, trusted: np.ndarray) -> np.ndarray:
    """(V, 2): for each vote, what trusted others said of its pair, a known answer included; a person counts once per pair."""
    once = ~_repeated(votes)
    counts = vote_counts(votes, np.flatnonzero(trusted[votes.annotator] & once))
    counts[:, 0] += KNOWN_ANSWER_VOTES * (votes.known > 0)
    counts[:, 1] += KNOWN_ANSWER_VOTES * (votes.known < 0)
    _, place = np.unique(votes.annotator * len(votes.known) + votes.pair, return_inverse=True)
    own = np.zeros((place.max(initial=-1) + 1, 2))
    mine = np.flatnonzero(trusted[votes.annotator] & once)
    np.add.at(own, (place[mine], np.where(votes.chose_1[mine], 0, 1)), 1.0)
    return counts[votes.pair] - own[place]


def own_earlier_votes(votes: Votes) -> np.ndarray:
    """(V, 2): what the same person said of the same pair before."""
    earlier, said = np.zeros((len(votes.pair), 2)), {}
    for v in np.flatnonzero(_among_repeats(votes)):
        before = said.setdefault((votes.annotator[v], votes.pair[v]), np.zeros(2))
        earlier[v] = before
        before[0 if votes.chose_1[v] else 1] += 1.0
    return earlier


def honest_chance(spread: float, counts: np.ndarray) -> np.ndarray:
    """(V,): the chance that one more honest person prefers response 1 after ``counts`` (V, 2) votes."""
    return (spread + counts[:, 0]) / (2 * spread + counts.sum(1))


def _keys(votes: Votes) -> np.ndarray:
    return votes.annotator * len(votes.known) + votes.pair


def _repeated(votes: Votes) -> np.ndarray:
    """(V,): whether this person voted on this pair before."""
    again = np.ones(len(votes.pair), dtype=bool)
    again[np.unique(_keys(votes), return_index=True)[1]] = False
    return again


def _among_repeats(votes: Votes) -> np.ndarray:
    _, place, times = np.unique(_keys(votes), return_inverse=True, return_counts=True)
    return times[place] > 1
