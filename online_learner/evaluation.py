"""How a policy compares: win rate, length-controlled win rate, KL, restricted duality gap. Pure functions on numpy arrays.

Every interval is a 95 % interval clustered by prompt: responses to one prompt share its difficulty, so prompts are the sample,
not comparisons. Outcomes are in [0, 1], from the policy's side: a probability of the preference model, or 1, 1/2 for a tie, 0.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from storage.contract.report import Interval

CONFIDENCE = 0.95
PRIOR_SD = 10.0  # of the logistic coefficients, in logits: keeps separated data finite, moves others by less than .001 at n = 100


def win_rate(outcomes: ArrayLike, prompt_ids: Sequence | NDArray) -> Interval:
    """Share of comparisons won, (B,) outcomes of (B,) prompts, with a central-limit interval clustered by prompt.

    Where every outcome is the same 0 or 1 the spread says nothing; the exact binomial limit for that many prompts is taken then.
    ValueError on empty or unequal arrays and outcomes outside [0, 1]; one prompt alone gives the interval [0, 1].
    """
    values = _checked(outcomes, prompt_ids, "outcomes")
    if np.any((values < 0) | (values > 1)):
        raise ValueError(f"outcomes must be in [0, 1], got {values.min()} to {values.max()}")
    num_prompts = len(np.unique(list(prompt_ids)))
    all_equal = float(values[0]) if np.ptp(values) == 0 else None
    if all_equal in (0.0, 1.0):
        limit = ((1 - CONFIDENCE) / 2) ** (1 / num_prompts)  # Clopper-Pearson for n of n
        return Interval(mean=all_equal, low=limit if all_equal else 0.0, high=1.0 if all_equal else 1 - limit)
    interval = clustered_mean(values, prompt_ids)
    return Interval(mean=interval["mean"], low=max(0.0, interval["low"]), high=min(1.0, interval["high"]))


def clustered_mean(values: ArrayLike, prompt_ids: Sequence | NDArray) -> Interval:
    """Mean of (B,) values with a Student-t interval whose standard error sums residuals within each of the G prompts.

    se^2 = G / (G - 1) * sum_g (sum_{i in g} (x_i - mean))^2 / B^2, G - 1 degrees of freedom. One prompt gives infinite limits.
    """
    x = _checked(values, prompt_ids, "values")
    _, group = np.unique(list(prompt_ids), return_inverse=True)
    num_groups = int(group.max()) + 1
    mean = float(x.mean())
    if num_groups < 2:
        return Interval(mean=mean, low=-np.inf, high=np.inf)
    sums = np.bincount(group, weights=x - mean)
    half = _t_quantile(num_groups) * np.sqrt(num_groups / (num_groups - 1) * np.sum(sums**2)) / len(x)
    return Interval(mean=mean, low=float(mean - half), high=float(mean + half))


def length_controlled_win_rate(outcomes: ArrayLike, length_differences: ArrayLike, prompt_ids: Sequence | NDArray) -> Interval:
    """Win rate that a logistic regression on length predicts for responses of equal length, with an interval clustered by prompt.

    logit P(win) = a + b tanh(d / rms(d)), d the policy's length minus the opponent's in any unit; sigmoid(a) is reported. The
    form is AlpacaEval 2's (arXiv:2404.04475) without its term for the difficulty of each instruction. Sandwich standard error
    on the logit, so the limits stay in [0, 1].
    """
    y = _checked(outcomes, prompt_ids, "outcomes")
    differences = _checked(length_differences, prompt_ids, "length_differences")
    spread = float(np.sqrt(np.mean(differences**2)))
    length = np.tanh(differences / spread) if spread > 0 else np.zeros_like(differences)
    design = np.stack([np.ones_like(length), length], axis=1)  # (B, 2)
    coefficients, covariance = _logistic_regression(design, y, np.asarray(list(prompt_ids)))
    num_prompts = len(np.unique(list(prompt_ids)))
    mean = float(special.expit(coefficients[0]))
    if num_prompts < 2:
        return Interval(mean=mean, low=0.0, high=1.0)
    half = _t_quantile(num_prompts) * float(np.sqrt(covariance[0, 0]))
    low, high = special.expit([coefficients[0] - half, coefficients[0] + half])
    return Interval(mean=mean, low=float(low), high=float(high))


def kl_from_samples(policy_logps: ArrayLike, other_logps: ArrayLike, prompt_ids: Sequence | NDArray) -> Interval:
    """KL(policy || other) in nats, mean of log pi - log other over (B,) responses sampled from the policy at temperature 1.

    Unbiased, so an estimate near zero may come out negative; interval as in clustered_mean.
    """
    own, other = np.asarray(policy_logps, dtype=float), np.asarray(other_logps, dtype=float)
    if own.shape != other.shape:
        raise ValueError(f"policy_logps and other_logps must share one shape, got {own.shape} and {other.shape}")
    return clustered_mean(own - other, prompt_ids)


def restricted_duality_gap(preferences: ArrayLike, names: Sequence[str], policy: ArrayLike) -> dict[str, object]:
    """Gap of self-play when only the named policies may answer, {"value", "best_response", "search_set"}.

    preferences (S, S) = P(row beats column), policy (S,) = its weights over the set; value = 2 max_s P(s beats policy) - 1, in
    [0, 1]. A larger set can only raise it: it is a lower bound of the duality gap.
    """
    prefs, weights = np.asarray(preferences, dtype=float), np.asarray(policy, dtype=float)
    if prefs.shape != (len(names), len(names)) or weights.shape != (len(names),):
        raise ValueError(f"need preferences (S, S), S names and weights (S,), got {prefs.shape}, {len(names)}, {weights.shape}")
    if not np.allclose(prefs + prefs.T, 1, atol=1e-6) or not np.isclose(weights.sum(), 1, atol=1e-6) or np.any(weights < 0):
        raise ValueError("preferences must satisfy P(a beats b) + P(b beats a) = 1, and weights must be a distribution")
    rates = prefs @ weights
    best = int(rates.argmax())
    return {"value": float(2 * rates[best] - 1), "best_response": names[best], "search_set": list(names)}


def response_duality_gap(preferences: ArrayLike) -> float:
    """Mean over prompts of the gap when the best of M given responses answers each prompt, in [-1, 1].

    preferences (N, M, K)[n, m, k] = P(response m preferred to the policy's k-th sample). The maximum over noisy win rates errs
    upwards, so K must be large. Name the M responses beside the number.
    """
    prefs = np.asarray(preferences, dtype=float)
    if prefs.ndim != 3 or 0 in prefs.shape:
        raise ValueError(f"preferences must be (N, M, K) and not empty, got {prefs.shape}")
    return float(np.mean(2 * prefs.mean(-1).max(-1) - 1))


def _logistic_regression(
    design: NDArray[np.float64], outcomes: NDArray[np.float64], groups: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients (D,) and their cluster-robust covariance (D, D), by Newton steps; outcomes may be fractions."""
    beta = np.zeros(design.shape[1])
    ridge = np.eye(len(beta)) / PRIOR_SD**2
    for _ in range(100):
        p = special.expit(design @ beta)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + ridge
        change = np.linalg.solve(hessian, design.T @ (outcomes - p) - ridge @ beta)
        beta = beta + change / max(
            1.0, float(np.abs(change).max())
        )  # at most one logit a step: Newton overshoots on separated data
        if np.abs(change).max() < 1e-10:
            break
    p = special.expit(design @ beta)
    bread = np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design + ridge)
    _, group = np.unique(groups, return_inverse=True)
    num_groups = int(group.max()) + 1
    scores = np.zeros((num_groups, len(beta)))
    np.add.at(scores, group, design * (outcomes - p)[:, None])
    return beta, bread @ (scores.T @ scores) @ bread * num_groups / max(1, num_groups - 1)


def _t_quantile(num_groups: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, num_groups - 1))


def _checked(values: ArrayLike, prompt_ids: Sequence | NDArray, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) == 0 or len(array) != len(prompt_ids):
        raise ValueError(
            f"{name} must be (B,) with one prompt id each and B > 0, got {array.shape} and {len(prompt_ids)} prompt ids"
        )
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite, got {int(np.sum(~np.isfinite(array)))} that are not")
    return array
