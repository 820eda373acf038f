"""An ensemble of ridge logistic heads on pair features, small enough to be refitted after every batch of a bench.

Like the learner's heads: each is fitted on a bootstrap sample of prompts, the likelihood knows that some answers are flipped, and
the data choose the penalty; here by the evidence of a Laplace approximation (MacKay 1992), which needs no folds.
Shapes: n answers, E heads, D features.
"""

import numpy as np
from scipy.special import expit

NUM_HEADS = 8
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)


def fit_heads(
    features: np.ndarray,
    chose_first: np.ndarray,
    prompt: np.ndarray,
    *,
    flip_rate: float,
    rng: np.random.Generator,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """(n, D) features, (n,) answers and prompts -> (E, D) weights. ``start`` are the weights of an earlier fit.

    Bootstrap: Bayesian, exponential weights of prompts.
    """
    weights = np.zeros((NUM_HEADS, features.shape[1])) if start is None else start
    middle, every = weights.mean(0, keepdims=True), np.ones((1, len(features)))
    fits = [_newton(features, chose_first, every, middle, flip_rate=flip_rate, penalty=penalty) for penalty in PENALTIES]
    evidence = [
        _evidence(features, chose_first, fit[0], flip_rate, penalty) for fit, penalty in zip(fits, PENALTIES, strict=True)
    ]
    known, place = np.unique(prompt, return_inverse=True)
    counts = rng.exponential(size=(NUM_HEADS, len(known)))[:, place]
    return _newton(features, chose_first, counts, weights, flip_rate=flip_rate, penalty=PENALTIES[int(np.argmax(evidence))])


def _newton(
    features: np.ndarray, chose_first: np.ndarray, counts: np.ndarray, weights: np.ndarray, *, flip_rate: float, penalty: float
) -> np.ndarray:
    """Newton steps of expectation maximisation over flips; answers count ``counts`` (E, n) times."""
    for _ in range(8):
        chance = _chance(features, weights)
        as_meant = (1 - flip_rate) * np.where(chose_first, chance, 1 - chance)
        flipped = flip_rate * np.where(chose_first, 1 - chance, chance)
        meant = as_meant / (as_meant + flipped)
        target = np.where(chose_first, meant, 1 - meant)
        gradient = (counts * (target - chance)) @ features - penalty * weights
        curvature = _curvature(features, counts * chance * (1 - chance), penalty)
        weights = weights + np.linalg.solve(curvature, gradient[..., None])[..., 0]
    return weights


def _evidence(features: np.ndarray, chose_first: np.ndarray, weights: np.ndarray, flip_rate: float, penalty: float) -> float:
    """Log probability of the answers given the penalty, up to a constant, around the fitted weights (D,)."""
    chance = _chance(features, weights[None])
    said = flip_rate + (1 - 2 * flip_rate) * np.where(chose_first, chance, 1 - chance)
    curvature = _curvature(features, chance * (1 - chance), penalty)
    _, volume = np.linalg.slogdet(curvature / penalty)
    return float(np.log(said).sum() - 0.5 * penalty * weights @ weights - 0.5 * volume[0])


def _chance(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return expit(np.clip(weights @ features.T, -30, 30))  # (E, n)


def _curvature(features: np.ndarray, counts: np.ndarray, penalty: float) -> np.ndarray:
    return (counts[:, None, :] * features.T) @ features + penalty * np.eye(features.shape[1])  # (E, D, D)
