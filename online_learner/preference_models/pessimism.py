"""The pessimistic value of a policy under a fitted utility: the least that any utility the judgments allow gives it.

With a linear utility u(y) = w . f(y) and v the policy's mean feature minus the reference's, the value is w . v, and over the
ellipsoid of plausible weights { w : |w - fitted|_H <= radius } its minimum is

    fitted . v - radius sqrt(v . H^-1 v)                          arXiv:2301.11270 v5, sections 3 and 4 (pessimistic MLE)

so a direction that no judgment has measured costs the most. The norm is of the policy's mean, not of each response. Differs
from the paper: H is the curvature of the penalised likelihood at the fit (a posterior by Laplace) in place of the covariance of
features times the least curvature there could be, and the radius is the quantile of its chi-squared, d degrees of freedom, in
place of a bound with an unknown constant. The bound holds for all policies at once, so also for one chosen by these judgments.
Shapes: n pairs, R responses, d features.
"""

import math
from dataclasses import dataclass

import torch
from scipy.stats import chi2
from torch import Tensor

from online_learner.preference_models.heads import RIDGE_LABELS
from online_learner.preference_models.likelihood import Observations
from online_learner.preference_models.plackett_luce import Rankings

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class PlausibleUtilities:
    """The ellipsoid of weights: its centre (d,) and the curvature H (d, d) there, float64."""

    weights: Tensor
    curvature: Tensor

    def value(self, policy: Tensor, reference: Tensor) -> dict[str, float]:
        """{"mean", "standard_error", "pessimistic"} of the value above the reference's, logits; mean features (d,)."""
        v = (policy - reference).double()
        error = math.sqrt(float(v @ torch.linalg.solve(self.curvature, v)))
        mean = float(self.weights @ v)
        radius = math.sqrt(float(chi2.ppf(CONFIDENCE, len(v))))
        return {"mean": mean, "standard_error": error, "pessimistic": mean - radius * error}


def plausible_utilities(
    weights: Tensor, ridge: float, features: Tensor, data: Observations, flip_rates: Tensor | None = None
) -> PlausibleUtilities:
    """From fitted weights (d,), their penalty, and the features (R, d) and judgments that they were fitted on.

    flip_rates (1 + A,) of the annotators. A tie or a strength counts as the verdict it is nearest to would.
    """
    weights, features = weights.double(), features.double()
    curvature = 2 * ridge * RIDGE_LABELS * torch.eye(len(weights), dtype=torch.float64)
    alone = torch.ones(len(data), dtype=torch.bool)
    if data.rankings is not None:
        alone = data.rankings.of_pair < 0
        curvature += _of_rankings(features @ weights, features, data.rankings)
    differences = (features[data.row_a] - features[data.row_b])[alone]
    p = torch.sigmoid(differences @ weights)
    flip = torch.zeros(len(data)) if flip_rates is None else flip_rates[data.annotator]
    kept = 1 - 2 * flip[alone].double()
    said = kept * p + (1 - kept) / 2
    # Information of a verdict: (d said / d logit)^2 / (said (1 - said)); p (1 - p) where nobody flips.
    information = (kept * p * (1 - p)).square() / (said * (1 - said)).clamp_min(1e-12)
    curvature += differences.T @ (information[:, None] * differences)
    return PlausibleUtilities(weights=weights, curvature=curvature)


def _of_rankings(utilities: Tensor, features: Tensor, rankings: Rankings) -> Tensor:
    """(d, d): over choices, the covariance of features among the responses that remained.

    Where responses are tied, what their order would have told is taken off: the covariance of the gradient over orders.
    """
    log_prob, gradient = utilities.new_zeros(len(rankings.orders)), torch.zeros_like(features[rankings.orders[:, 0]])
    choices: list[tuple[Tensor, Tensor]] = []  # orders that have the choice, sqrt p times centred features
    for k in range(rankings.orders.shape[1] - 1):
        remaining = rankings.orders[:, k:]
        present = remaining >= 0
        chosen = (present.sum(1) > 1).nonzero()[:, 0]
        rows = remaining[chosen].clamp_min(0)
        p = torch.softmax(utilities[rows].masked_fill(~present[chosen], -torch.inf), dim=1)  # (chosen, K - k)
        centred = features[rows] - (p.unsqueeze(-1) * features[rows]).sum(1, keepdim=True)
        log_prob[chosen] += p[:, 0].log()
        gradient[chosen] += centred[:, 0]
        choices.append((chosen, p.sqrt().unsqueeze(-1) * centred))
    share, spread = torch.zeros_like(log_prob), torch.zeros_like(gradient)
    for ranking in range(len(rankings.sizes)):
        own = rankings.ranking == ranking
        share[own] = torch.softmax(log_prob[own], dim=0)
        spread[own] = gradient[own] - share[own] @ gradient[own]
    total = -spread.T @ (share[:, None] * spread)
    for chosen, scaled in choices:
        weighed = (share[chosen].sqrt()[:, None, None] * scaled).flatten(0, 1)
        total += weighed.T @ weighed
    return total
