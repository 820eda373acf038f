"""An ensemble of ridge logistic heads on pair features, small enough to be refitted after every batch of a bench.

Like the learner's heads: each is fitted on a bootstrap sample of prompts, the likelihood knows that some answers are flipped, and
the data choose the penalty; here by the evidence of a Laplace approximation (MacKay 1992), which needs no folds.
Shapes: n answers, E heads, D features.
"""

import numpy as np
from scipy.special import expit

NUM_HEADS = 16
MAX_STEP = 4.0  # of one step, in weights: far from the optimum the curvature says little
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
    weights, steps = (np.zeros((NUM_HEADS, features.shape[1])), 10) if start is None else (start, 5)
    middle, every = weights.mean(0, keepdims=True), np.ones((1, len(features)))
    fits = [
        _newton(features, chose_first, every, middle, flip_rate=flip_rate, penalty=penalty, steps=steps) for penalty in PENALTIES
    ]
    evidence = [
        _evidence(features, chose_first, fit[0], flip_rate, penalty) for fit, penalty in zip(fits, PENALTIES, strict=True)
    ]
    known, place = np.unique(prompt, return_inverse=True)
    counts = rng.exponential(size=(NUM_HEADS, len(known)))[:, place]
    return _newton(
        features, chose_first, counts, weights, flip_rate=flip_rate, penalty=PENALTIES[int(np.argmax(evidence))], steps=steps
    )


def _newton(
    features: np.ndarray,
    chose_first: np.ndarray,
    counts: np.ndarray,
    weights: np.ndarray,
    *,
    flip_rate: float,
    penalty: float,
    steps: int,
) -> np.ndarray:
    """Steps of Fisher scoring; answers count ``counts`` (E, n) times."""
    for _ in range(steps):
        slope, told = _information(features, chose_first, weights, flip_rate)
        gradient = (counts * slope) @ features - penalty * weights
        step = np.linalg.solve(_curvature(features, counts * told, penalty), gradient[..., None])[..., 0]
        weights = weights + step * np.minimum(1.0, MAX_STEP / np.linalg.norm(step, axis=1, keepdims=True).clip(1e-12))
    return weights


def _information(
    features: np.ndarray, chose_first: np.ndarray, weights: np.ndarray, flip_rate: float
) -> tuple[np.ndarray, np.ndarray]:
    """(E, n): derivative of the log likelihood of each answer in its logit, and the expected square of it."""
    chance = _chance(features, weights)
    seen = flip_rate + (1 - 2 * flip_rate) * chance
    turned = (1 - 2 * flip_rate) * chance * (1 - chance)  # derivative of seen
    return (chose_first - seen) * turned / (seen * (1 - seen)), turned**2 / (seen * (1 - seen))


def _evidence(features: np.ndarray, chose_first: np.ndarray, weights: np.ndarray, flip_rate: float, penalty: float) -> float:
    """Log probability of the answers given the penalty, up to a constant, around the fitted weights (D,)."""
    chance = _chance(features, weights[None])
    seen = flip_rate + (1 - 2 * flip_rate) * chance
    said = np.where(chose_first, seen, 1 - seen)
    _, told = _information(features, chose_first, weights[None], flip_rate)
    curvature = _curvature(features, told, penalty)
    _, volume = np.linalg.slogdet(curvature / penalty)
    return float(np.log(said).sum() - 0.5 * penalty * weights @ weights - 0.5 * volume[0])


def _chance(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return expit(np.clip(weights @ features.T, -30, 30))  # (E, n)


def _curvature(features: np.ndarray, counts: np.ndarray, penalty: float) -> np.ndarray:
    return (counts[:, None, :] * features.T) @ features + penalty * np.eye(features.shape[1])  # (E, D, D)
