"""Who is right where people disagree: Dawid and Skene's expectation maximisation (Applied Statistics 28, 1979).

Every item has one true class; annotator k says class b of an item of class a with probability P_k[a, b]. Classes are drawn from
a common prior. A little belief in annotators (2 on the diagonal, 1 off) keeps those with few labels from extremes.
Shapes: L labels, I items, A annotators, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RIGHT, WRONG = 2.0, 1.0  # Dirichlet counts, of which the mode takes one less
MAX_STEPS, TOLERANCE = 200, 1e-4  # accuracies within .003 of the limit, measured
LEAST = 1e-12  # probability that is not told from 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DawidSkene:
    """truth (I, C): probability of each class. confusion (A, C, C): rows are true classes. prior (C,)."""

    truth: np.ndarray
    confusion: np.ndarray
    prior: np.ndarray

    def accuracy(self) -> np.ndarray:
        """(A,): probability that an annotator says the true class of a random item."""
        return np.einsum("kaa,a->k", self.confusion, self.prior)

    def truth_by_others(self, labels: Sequence[tuple[int, int, int]]) -> np.ndarray:
        """(L, C): for each (item, annotator, class) label, the probability of each class without that annotator's labels."""
        given = Labels(labels, self.truth.shape[1])
        told = given.told(self.confusion)
        pairs, place = np.unique(given.annotators * len(self.truth) + given.items, return_inverse=True)
        own = _sum_by(place, told, len(pairs))
        return _normalise((_log(self.prior) + _sum_by(given.items, told, len(self.truth)))[given.items] - own[place])


def dawid_skene(labels: Sequence[tuple[int, int, int]], *, num_classes: int) -> DawidSkene:
    """Fit (item, annotator, class) labels, each counted from 0 without gaps; starts from shares of votes."""
    given = Labels(labels, num_classes)
    votes = _sum_by(given.items, np.eye(num_classes)[given.classes], given.num_items)
    found = given.maximise(votes / votes.sum(1, keepdims=True))
    for _ in range(MAX_STEPS):
        last, found = found, given.maximise(given.expect(*found))
        if max(np.abs(new - old).max() for new, old in zip(found, last, strict=True)) < TOLERANCE:
            break
    confusion, prior = found
    return DawidSkene(truth=given.expect(confusion, prior), confusion=confusion, prior=prior)


class Labels:
    """(item, annotator, class) labels in columns, and both steps of the maximisation."""

    def __init__(self, labels: Sequence[tuple[int, int, int]], num_classes: int) -> None:
        self.items, self.annotators, self.classes = (np.array(column) for column in zip(*labels, strict=True))
        self.num_items, self.num_annotators = int(self.items.max()) + 1, int(self.annotators.max()) + 1
        self.num_classes = num_classes

    def maximise(self, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Confusion (A, C, C) and prior (C,) given the truth (I, C)."""
        size = self.num_classes
        said = _sum_by(self.annotators * size + self.classes, truth[self.items], self.num_annotators * size)
        belief = np.where(np.eye(size, dtype=bool), RIGHT, WRONG) - 1.0
        said = said.reshape(self.num_annotators, size, size).transpose(0, 2, 1) + belief
        total = said.sum(-1, keepdims=True)
        return np.divide(said, total, out=np.full_like(said, 1 / size), where=total > 0), truth.mean(0)

    def expect(self, confusion: np.ndarray, prior: np.ndarray) -> np.ndarray:
        """The truth (I, C) given what annotators do."""
        return _normalise(_log(prior) + _sum_by(self.items, self.told(confusion), self.num_items))

    def told(self, confusion: np.ndarray) -> np.ndarray:
        """(L, C): log probability of each label under every class that may be true."""
        return _log(confusion)[self.annotators, :, self.classes]


def _sum_by(places: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """(size, C): sums of (L, C) values by place."""
    return np.stack([np.bincount(places, column, size) for column in values.T], axis=1)


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, LEAST))


def _normalise(scores: np.ndarray) -> np.ndarray:
    odds = np.exp(scores - scores.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)
