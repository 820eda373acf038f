"""How often each annotator answers the wrong way round, by empirical Bayes on a grid. Pure tensors.

An annotator flips with probability e (Crowd-BT with any score). Given the preference logits, an annotator's answers are
independent and e is one number, so its posterior is exact on a grid; no gradient has to carry it there. The prior is learnt from
all annotators together: 2 e ~ Beta, its mean and size averaged over by how well they explain everybody. Few annotators with few
labels say little about it, and the rates stay near what is usual.
Shapes: M fits, n judgments, A annotators, G rates on the grid, P priors.
"""

import torch
from torch import Tensor

NUM_RATES = 25
PRIOR_MEANS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)  # of e
PRIOR_SIZES = (2.0, 5.0, 10.0, 20.0)  # judgments that the prior is worth
USUAL_MEAN, MEAN_SPREAD = 0.1, 1.0  # before any label: the prior's mean is .1 within a factor e


def flip_posterior(seen: Tensor, flipped: Tensor, weights: Tensor, annotator: Tensor, num_annotators: int) -> Tensor:
    """Posterior mean flip rates (M, 1 + A), 0 for annotator 0, who is nobody.

    seen, flipped (M, n): log probability of the recorded answer if the annotator did not flip, and if they did. weights (M, n)
    count a judgment as often as that. annotator (n,) in 0 .. A.
    """
    rates = _rates(seen)
    per_label = torch.logaddexp(torch.log1p(-rates)[:, None, None] + seen, rates.log()[:, None, None] + flipped)  # (G, M, n)
    likelihood = seen.new_zeros(len(rates), len(seen), 1 + num_annotators)
    likelihood.index_add_(2, annotator, weights * per_label)
    joint = likelihood.permute(1, 2, 0)[:, 1:, None] + _priors(rates)  # (M, A, P, G)
    evidence = joint.logsumexp(-1).sum(1) + _usual(seen)  # (M, P)
    posterior = joint.softmax(-1) @ rates  # (M, A, P)
    mean = (posterior * evidence.softmax(-1)[:, None]).sum(-1)
    return torch.cat([mean.new_zeros(len(mean), 1), mean], dim=1)


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
