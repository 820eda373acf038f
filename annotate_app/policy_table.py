"""Policies ranked: a win matrix with intervals, Bradley-Terry ratings, and Nash averaging, for when no ranking exists. Pure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import linprog, minimize

from annotate_app.style_control import Estimate, Strengths, Votes, Z, connected
from annotate_app.trust_estimates import share

ELO = 400 / np.log(10)  # points for one logit
ELO_OF_FIRST = 1000.0  # the policy that all are compared with, the base where it was compared
LEAST_PER_SIDE = 5  # votes of each order of showing, for a rate that weighs both orders alike
CLIP = 0.02  # of a rate before its logit is taken

Rates = Mapping[tuple[int, int], Estimate]  # of the first policy against the second


def win_matrix(votes: Votes) -> dict[tuple[int, int], Estimate]:
    """For both orders of each pair of policies that met: win rate, ties one half, both orders of showing weighed alike."""
    found = {}
    for low, high in np.unique(votes.pairs, axis=0).tolist():
        here = (votes.pairs == (low, high)).all(axis=1)
        first = votes.first[here] == high
        scores = np.where(first, votes.score[here], 1 - votes.score[here])
        found[high, low] = rate = balanced_rate(scores, first)
        found[low, high] = {"mean": 1 - rate["mean"], "low": 1 - rate["high"], "high": 1 - rate["low"], "n": rate["n"]}
    return found


def balanced_rate(scores: np.ndarray, shown_first: np.ndarray) -> Estimate:
    """The mean score with a 95 % interval, as if it had been shown first and second equally often: free of position bias.

    With few votes of one order it is the plain share with Wilson's interval.
    """
    sides = scores[shown_first], scores[~shown_first]
    if min(map(len, sides)) < LEAST_PER_SIDE:
        plain = share(float(scores.sum()), len(scores))
        assert plain is not None, "the policies met"
        return plain
    mean = float(np.mean([side.mean() for side in sides]))
    # Agresti and Coull's two wins and two losses, one of each on either side, keep the interval honest near 0 and 1.
    widened = [np.concatenate([side, [0, 1]]) for side in sides]
    error = 0.5 * float(np.sqrt(sum(side.var() / len(side) for side in widened)))
    center = float(np.mean([side.mean() for side in widened]))
    low, high = min(mean, center - Z * error), max(mean, center + Z * error)
    return {"mean": mean, "low": max(0.0, low), "high": min(1.0, high), "n": len(scores)}


def ratings(strengths: Strengths) -> dict[int, Estimate]:
    """Bradley-Terry ratings in Elo points with 95 % intervals, relative to the first policy, which has 1000."""
    first = strengths.policies[0]
    found = {}
    for policy in strengths.policies:
        logit, error = strengths.difference(policy, first)
        values = {"mean": logit, "low": logit - Z * error, "high": logit + Z * error}
        found[policy] = {name: ELO_OF_FIRST + ELO * value for name, value in values.items()}
    return found


def strengths_of_rates(rates: Rates) -> Strengths | None:
    """Bradley-Terry strengths from win rates with intervals, by weighted least squares of their logits.

    For rates that a preference model expects: there are no votes to regress. None without a rate.
    """
    measured = {pair: rate for pair, rate in rates.items() if rate["high"] > rate["low"]}
    policies = connected(np.array(list(measured), int).reshape(-1, 2))
    if not policies:
        return None
    known = [(pair, rate) for pair, rate in measured.items() if pair[0] in policies]
    means, lows, highs = (_logit(np.array([rate[name] for _, rate in known])) for name in ("mean", "low", "high"))
    errors = np.maximum((highs - lows) / (2 * Z), 1e-3)
    design = np.zeros((len(known), len(policies)))
    for row, ((policy, opponent), _) in enumerate(known):
        design[row, policies.index(policy)] += 1
        design[row, policies.index(opponent)] -= 1
    weights: Any = 1 / errors**2
    from statsmodels.api import WLS  # seconds: the app starts without it

    fitted = WLS(means, design[:, 1:], weights=weights).fit(cov_type="fixed scale")
    k = len(policies)
    logits, covariance = np.zeros(k), np.zeros((k, k))
    logits[1:], covariance[1:, 1:] = fitted.params, fitted.cov_params()
    return Strengths(policies=policies, logits=logits, covariance=covariance, effects={})


def nash_average(rates: Rates, strengths: Strengths) -> dict[int, dict[str, float]]:
    """For each policy its weight in the Nash mixture of greatest entropy and its win rate against that mixture.

    (Balduzzi et al. 2018, arXiv:1806.02643.) Where preferences go in circles no rating can say who is best; the mixture is what
    no policy beats. Pairs that never met are filled in by the ratings.
    """
    policies = strengths.policies
    payoff = np.array([[_margin(i, j, rates, strengths) for j in policies] for i in policies])
    weights = max_entropy_nash(payoff)
    against = 0.5 + payoff @ weights
    return {p: {"weight": float(w), "win_rate": float(a)} for p, w, a in zip(policies, weights, against, strict=True)}


def max_entropy_nash(payoff: np.ndarray) -> np.ndarray:
    """(n,) the equilibrium of greatest entropy of a symmetric zero-sum game; payoff (n, n) is antisymmetric."""
    n = len(payoff)
    some = linprog(np.zeros(n), A_ub=payoff, b_ub=np.full(n, 1e-9), A_eq=np.ones((1, n)), b_eq=[1], bounds=[(0, 1)] * n).x

    def negative_entropy(p: np.ndarray) -> float:
        return float(np.sum(p * np.log(np.maximum(p, 1e-12))))

    found = minimize(
        negative_entropy,
        (some + 1 / n) / 2,
        method="SLSQP",
        bounds=[(0, 1)] * n,
        constraints=[
            {"type": "ineq", "fun": lambda p: -payoff @ p, "jac": lambda p: -payoff},
            {"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones((1, n))},
        ],
        jac=lambda p: np.log(np.maximum(p, 1e-12)) + 1,
        options={"maxiter": 500, "ftol": 1e-10},
    )
    good = found.success and float(np.max(payoff @ found.x)) < 1e-4
    weights = np.clip(found.x if good else some, 0, 1)
    return weights / weights.sum()


def _margin(policy: int, opponent: int, rates: Rates, strengths: Strengths) -> float:
    if policy == opponent:
        return 0.0
    rate = rates.get((policy, opponent)) or strengths.win_rate(policy, opponent)
    return rate["mean"] - 0.5


def _logit(rates: np.ndarray) -> np.ndarray:
    clipped = np.clip(rates, CLIP, 1 - CLIP)
    return np.log(clipped / (1 - clipped))
