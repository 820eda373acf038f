"""How far each annotator can be trusted, one number at a time, by empirical Bayes on a grid. Pure tensors.

Flips: an annotator sees -s instead of s with probability e (Crowd-BT with any score). Scale: an annotator sees g s, so a poor
one is noisy near ties only. Given the preference logits s, an annotator's answers are independent and e or g is one number, so
its posterior is exact on a grid; no gradient has to carry it there. The prior is learnt from all annotators together, its
parameters averaged over by how well they explain everybody. Few annotators with few labels say little about it, and the values
stay near what is usual.
Shapes: M fits, n judgments, A annotators, G values on the grid, P priors.
"""

from collections.abc import Callable

import torch
from torch import Tensor

NUM_RATES = 25
PRIOR_MEANS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)  # of e
PRIOR_SIZES = (2.0, 5.0, 10.0, 20.0)  # judgments that the prior is worth
USUAL_MEAN, MEAN_SPREAD = 0.1, 1.0  # before any label: the prior's mean is .1 within a factor e
SCALES = torch.logspace(-2, 2, 25, base=2)  # a quarter to four times as sharp as the others
SCALE_SPREADS = (0.1, 0.2, 0.4, 0.8)  # standard deviations of log g


def flip_posterior(seen: Tensor, flipped: Tensor, weights: Tensor, annotator: Tensor, num_annotators: int) -> Tensor:
    """Posterior mean flip rates (M, 1 + A), 0 for annotator 0, who is nobody.

    seen, flipped (M, n): log probability of the recorded answer if the annotator did not flip, and if they did. weights (M, n)
    count a judgment as often as that. annotator (n,) in 0 .. A.
    """
    rates = _rates(seen)
    per_label = torch.logaddexp(torch.log1p(-rates)[:, None, None] + seen, rates.log()[:, None, None] + flipped)  # (G, M, n)
    mean = _posterior_mean(weights * per_label, rates, _priors(rates), _usual(seen), annotator, num_annotators)
    return torch.cat([mean.new_zeros(len(mean), 1), mean], dim=1)


def scale_posterior(log_prob_at: Callable[[Tensor], Tensor], weights: Tensor, annotator: Tensor, num_annotators: int) -> Tensor:
    """Posterior mean scales (M, A); 1 is as sharp as the preference model says people are.

    log_prob_at: a scale () to the log probability (M, n) of the recorded answers if all had it. Others as in ``flip_posterior``.
    """
    scales = SCALES.to(weights)
    per_label = torch.stack([log_prob_at(scale) for scale in scales])
    spreads = torch.tensor(SCALE_SPREADS).to(weights)[:, None]
    priors = torch.log_softmax(-(scales.log() / spreads).square() / 2, dim=-1)
    even = weights.new_zeros(len(SCALE_SPREADS))
    return _posterior_mean(weights * per_label, scales, priors, even, annotator, num_annotators)


def _posterior_mean(
    per_label: Tensor, values: Tensor, priors: Tensor, prior_weight: Tensor, annotator: Tensor, num_annotators: int
) -> Tensor:
    """(M, A) of log likelihoods (G, M, n), the grid (G,), its log priors (P, G) and their log weights (P,)."""
    likelihood = per_label.new_zeros(*per_label.shape[:2], 1 + num_annotators)
    likelihood.index_add_(2, annotator, per_label)
    joint = likelihood.permute(1, 2, 0)[:, 1:, None] + priors  # (M, A, P, G)
    evidence = joint.logsumexp(-1).sum(1) + prior_weight  # (M, P)
    return ((joint.softmax(-1) @ values) * evidence.softmax(-1)[:, None]).sum(-1)


def _rates(like: Tensor) -> Tensor:
    """(G,) midpoints of equal cells of (0, 1/2): an answer worth nothing is the worst there is."""
    return (torch.arange(NUM_RATES, device=like.device).to(like) + 0.5) / (2 * NUM_RATES)


def _priors(rates: Tensor) -> Tensor:
    """(P, G) log probabilities of the grid under 2 e ~ Beta(size m, size (1 - m)), m twice the mean of e."""
    means = 2 * torch.tensor(PRIOR_MEANS).to(rates).repeat_interleave(len(PRIOR_SIZES))
    sizes = torch.tensor(PRIOR_SIZES).to(rates).repeat(len(PRIOR_MEANS))
    first, second = (sizes * means)[:, None], (sizes * (1 - means))[:, None]
    return torch.log_softmax((first - 1) * (2 * rates).log() + (second - 1) * torch.log1p(-2 * rates), dim=-1)


def _usual(like: Tensor) -> Tensor:
    """(P,) log weight of each prior before any label."""
    means = torch.tensor(PRIOR_MEANS).to(like).repeat_interleave(len(PRIOR_SIZES))
    return -((means / USUAL_MEAN).log() / MEAN_SPREAD).square() / 2
