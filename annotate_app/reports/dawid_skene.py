"""Who is right where people disagree: Dawid and Skene's expectation maximisation (Applied Statistics 28, 1979).

Every item has one true class; annotator k says class b of an item of class a with probability P_k[a, b]. Classes are drawn from
a common prior. A little belief in annotators (2 on the diagonal, 1 off) keeps those with few labels from extremes.
Shapes: I items, A annotators, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RIGHT, WRONG = 2.0, 1.0  # Dirichlet counts, of which the mode takes one less
MAX_STEPS, TOLERANCE = 500, 1e-8


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
        items, annotators, classes = (np.array(column) for column in zip(*labels, strict=True))
        log_confusion = np.log(np.maximum(self.confusion, 1e-12))
        own = np.zeros((len(self.confusion), *self.truth.shape))
        np.add.at(own, (annotators, items), log_confusion[annotators, :, classes])
        scores = np.log(np.maximum(self.prior, 1e-12)) + own.sum(0)
        return _normalise(scores[items] - own[annotators, items])


def dawid_skene(labels: Sequence[tuple[int, int, int]], *, num_classes: int) -> DawidSkene:
    """Fit (item, annotator, class) labels, each counted from 0 without gaps; starts from shares of votes."""
    items, annotators, classes = (np.array(column) for column in zip(*labels, strict=True))
    counts = np.zeros((annotators.max() + 1, items.max() + 1, num_classes))
    np.add.at(counts, (annotators, items, classes), 1.0)
    votes = counts.sum(0)
    found = _maximise(counts, votes / votes.sum(1, keepdims=True))
    for _ in range(MAX_STEPS):
        last, found = found, _maximise(counts, _expect(counts, *found))
        if max(np.abs(new - old).max() for new, old in zip(found, last, strict=True)) < TOLERANCE:
            break
    confusion, prior = found
    return DawidSkene(truth=_expect(counts, confusion, prior), confusion=confusion, prior=prior)


def _maximise(counts: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    num_classes = truth.shape[1]
    belief = np.where(np.eye(num_classes, dtype=bool), RIGHT, WRONG) - 1.0
    said = np.einsum("ia,kib->kab", truth, counts) + belief
    total = said.sum(-1, keepdims=True)
    confusion = np.divide(said, total, out=np.full_like(said, 1 / num_classes), where=total > 0)
    return confusion, truth.mean(0)


def _expect(counts: np.ndarray, confusion: np.ndarray, prior: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(confusion, 1e-12))
        scores = np.log(np.maximum(prior, 1e-12)) + np.einsum("kib,kab->ia", counts, logs)
    return _normalise(scores)


def _normalise(scores: np.ndarray) -> np.ndarray:
    odds = np.exp(scores - scores.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)
