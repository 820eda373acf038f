"""How far predicted preferences can be believed: temperature, log loss, Brier score, calibration error. Pure tensors."""

import math
from collections.abc import Callable

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

TEMPERATURE_PRIOR_SD = 0.5  # of log temperature; only matters below some hundred judgments


def fit_temperature(logits: Tensor, log_prob: Callable[[Tensor], Tensor]) -> float:
    """The divisor of held-out logits (n,) that makes their answers likeliest, between 1/5 and 5.

    ``log_prob`` maps logits (n,) to the log probabilities of the recorded answers. Dividing keeps the logits
    skew-symmetric; an additive correction would not, and is the position bias's business. N(0, .5^2) prior on the logarithm.
    """

    def objective(log_temperature: float) -> float:
        prior = 0.5 * (log_temperature / TEMPERATURE_PRIOR_SD) ** 2
        return prior - float(log_prob(logits / math.exp(log_temperature)).sum())

    bound = math.log(5)
    return math.exp(minimize_scalar(objective, bounds=(-bound, bound), method="bounded").x)  # type: ignore[union-attr]


def decided_metrics(probability: Tensor, won: Tensor, num_bins: int = 10) -> dict:
    """Scores of P(a wins) (n,) against won (n,) in {0, 1}, ties left out. Natural logarithm.

    accuracy counts a prediction of exactly 1/2 as half right; ece and reliability bin the more likely side's probability.
    """
    if not len(won):
        return {"log_loss": None, "accuracy": None, "brier": None, "ece": None, "n": 0, "reliability": []}
    probability, won = probability.double(), won.double()
    chosen = torch.where(won > 0.5, probability, 1 - probability)
    bins = reliability(probability, won, num_bins)
    return {
        "log_loss": float(-chosen.clamp_min(1e-12).log().mean()),
        "accuracy": float((chosen > 0.5).double().mean() + (chosen == 0.5).double().mean() / 2),
        "brier": float((1 - chosen).square().mean()),
        "ece": sum(count * abs(mean - frequency) for mean, frequency, count in bins) / len(won),
        "n": len(won),
        "reliability": bins,
    }


def reliability(probability: Tensor, won: Tensor, num_bins: int = 10) -> list[tuple[float, float, int]]:
    """Bins of equal size by confidence: (mean confidence, share in which the more likely side won, count).

    Confidence is max(p, 1 - p), because which response is called a is arbitrary.
    """
    confidence = torch.maximum(probability, 1 - probability)
    right = torch.where(probability > 0.5, won, torch.where(probability < 0.5, 1 - won, torch.full_like(won, 0.5)))
    order = confidence.argsort(stable=True)
    parts = order.tensor_split(min(num_bins, len(order)))
    return [(float(confidence[i].mean()), float(right[i].mean()), len(i)) for i in parts if len(i)]


def clustered_mean(values: Tensor, cluster: Tensor) -> tuple[float, float]:
    """Mean of values (n,) and its standard error when values of one cluster (n,) may depend on each other.

    Sandwich estimate with the G / (G - 1) correction; the error is infinite with a single cluster.
    """
    mean = values.mean()
    _, index = cluster.unique(return_inverse=True)
    num_clusters = int(index.max()) + 1
    if num_clusters < 2:
        return float(mean), math.inf
    sums = torch.zeros(num_clusters, dtype=values.dtype).index_add_(0, index, values - mean)
    variance = sums.square().sum() / len(values) ** 2 * num_clusters / (num_clusters - 1)
    return float(mean), float(variance.sqrt())
