"""Strengths of policies from votes, with the place on the screen, length and style as covariates, as LMArena does it. Pure.

logit P(the first shown wins) = strength of its policy - strength of the other's + position + sum of effects x style difference.
A difference of style is (a - b) / (a + b), 0 where both have none, so strengths are compared at equal style. Ties count one half.
One tie is added for every pair of policies that met and for every effect, so that what won every vote has a finite strength.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.sparse.csgraph import connected_components

FEATURES = ("length", "headers", "lists", "bold")  # characters, and Markdown of which there are so many
LEAST_PER_PARAMETER = 10  # votes; fewer tell nothing about style
FEW_ANNOTATORS = 5  # below, votes of one prompt are taken as alike instead of votes of one annotator
Z = NormalDist().inv_cdf(0.975)
Estimate = dict[str, float]

_CODE = re.compile(r"```.*?(```|\Z)", re.DOTALL)
_MARKS = (
    re.compile(r"^ {0,3}#{1,6}\s", re.MULTILINE),
    re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s", re.MULTILINE),
    re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """n votes between two policies each: numbers of the policies, in the order shown, and the score of the first."""

    first: np.ndarray  # (n,)
    second: np.ndarray  # (n,)
    score: np.ndarray  # (n,) 1, one half or 0
    style_first: np.ndarray  # (n, 4), FEATURES
    style_second: np.ndarray  # (n, 4)
    annotator: Sequence[str]
    prompt: Sequence[str]

    @property
    def pairs(self) -> np.ndarray:
        """(n, 2): the two policies, smaller number first."""
        return np.sort(np.stack([self.first, self.second], axis=1), axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strengths:
    """Logits relative to the first of ``policies``, their covariance, and the effects of covariates by name."""

    policies: tuple[int, ...]
    logits: np.ndarray  # (k,)
    covariance: np.ndarray  # (k, k)
    effects: dict[str, Estimate]  # logits; position, and each feature of style

    def difference(self, policy: int, opponent: int) -> tuple[float, float]:
        """Logit that ``policy`` beats ``opponent``, and its standard error."""
        i, j = self.policies.index(policy), self.policies.index(opponent)
        variance = self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j]
        return float(self.logits[i] - self.logits[j]), float(np.sqrt(max(variance, 0)))

    def win_rate(self, policy: int, opponent: int) -> Estimate:
        """Its probability to win, with a 95 % interval, at equal covariates."""
        logit, error = self.difference(policy, opponent)
        mean, low, high = (float(1 / (1 + np.exp(-x))) for x in (logit, logit - Z * error, logit + Z * error))
        return {"mean": mean, "low": low, "high": high}


def style_of(text: str) -> np.ndarray:
    """(4,) FEATURES of a response; what stands in code blocks is no Markdown."""
    prose = _CODE.sub("", text)
    return np.array([len(text), *(len(mark.findall(prose)) for mark in _MARKS)], float)


def fit_strengths(votes: Votes, controls: Sequence[str] = ()) -> Strengths | None:
    """Logistic regression of the votes; ``controls`` of FEATURES. None where too few votes would be left for each parameter.

    Only policies that votes connect are compared: the largest such group. Errors are robust to votes of one annotator being
    alike, or of one prompt where there are few annotators.
    """
    policies = connected(votes.pairs)
    inside = np.isin(votes.first, policies)
    num_parameters = len(policies) + len(controls)
    if len(policies) < 2 or (controls and inside.sum() < LEAST_PER_PARAMETER * num_parameters):
        return None
    names = ("position", *controls)
    design, ties = _design(votes, inside, policies, controls)
    scores = np.concatenate([votes.score[inside], np.full(len(ties), 0.5)])
    from statsmodels.api import GLM, families  # seconds: the app starts without it

    model = GLM(scores, np.concatenate([design, ties]), family=families.Binomial())
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": _groups(votes, inside, len(ties))})
    found, covariance = np.asarray(fitted.params), np.asarray(fitted.cov_params())
    differs = np.any(design[:, : len(names)] != 0, axis=0)  # what never did has no effect to tell
    effects = {name: _estimate(found[i], covariance[i, i]) for i, name in enumerate(names) if differs[i]}
    strengths, between = np.zeros(len(policies)), np.zeros((len(policies), len(policies)))
    strengths[1:], between[1:, 1:] = found[len(names) :], covariance[len(names) :, len(names) :]
    return Strengths(policies=policies, logits=strengths, covariance=between, effects=effects)


def _design(votes: Votes, inside: np.ndarray, policies: Sequence[int], controls: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the votes and of the added ties; columns: position, controls, every policy but the first."""
    style = _differences(votes.style_first, votes.style_second)[inside][:, [FEATURES.index(name) for name in controls]]
    who = _indicator(votes.first[inside], policies) - _indicator(votes.second[inside], policies)
    met = np.unique(votes.pairs[inside], axis=0)
    even = _indicator(met[:, 0], policies) - _indicator(met[:, 1], policies)
    votes_rows = np.concatenate([np.ones((len(who), 1)), style, who[:, 1:]], axis=1)
    num_effects = 1 + len(controls)
    ties = np.zeros((num_effects + len(met), votes_rows.shape[1]))
    ties[:num_effects, :num_effects] = np.eye(num_effects)
    ties[num_effects:, num_effects:] = even[:, 1:]
    return votes_rows, ties


def _estimate(mean: float, variance: float) -> Estimate:
    error = float(np.sqrt(max(variance, 0)))
    return {"mean": float(mean), "low": float(mean) - Z * error, "high": float(mean) + Z * error}


def connected(pairs: np.ndarray) -> tuple[int, ...]:
    """The policies of the largest group that pairs (n, 2) connect, by number."""
    if not len(pairs):
        return ()
    numbers, places = np.unique(pairs, return_inverse=True)
    joined = np.zeros((len(numbers), len(numbers)))
    joined[tuple(places.reshape(-1, 2).T)] = 1
    _, group = connected_components(joined, directed=False)
    largest = np.bincount(group).argmax()
    return tuple(int(number) for number in numbers[group == largest])


def _indicator(numbers: np.ndarray, policies: Sequence[int]) -> np.ndarray:
    return (numbers[:, None] == np.array(policies)).astype(float)


def _differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    total = first + second
    return np.divide(first - second, total, out=np.zeros_like(total), where=total > 0)


def _groups(votes: Votes, inside: np.ndarray, num_added: int) -> np.ndarray:
    """Which rows are alike; added ties are groups of their own."""
    by = votes.annotator if len(set(votes.annotator)) >= FEW_ANNOTATORS else votes.prompt
    _, groups = np.unique(np.array(by, dtype=object)[inside].astype(str), return_inverse=True)
    return np.concatenate([groups, groups.max() + 1 + np.arange(num_added)])
