"""One likelihood for verdict, strength and ties, with annotator flips and position bias. Pure tensors.

A judgment is an interval of a latent answer z = s + b + logistic noise, where s is the preference logit of the response
shown first and b the pull of the first place. Thresholds are symmetric, so swapping the responses mirrors the answer:

    b much   b slightly   tie   a slightly   a much
          -k1          -k0   k0            k1

P(z in (low, high)) = sigma(high - s - b) - sigma(low - s - b). An annotator who flips with probability e sees -s instead
of s (Crowd-BT with a position term). Without ties k0 = 0, and with verdicts only this is binary cross-entropy.
both_bad and skip say nothing about the order and are no observation. Shapes: M fits side by side, n judgments, A annotators.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from online_learner.preference_models.plackett_luce import Rankings


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Judgments as tensors. low, high (n,) index the threshold vector of ``thresholds``; row_a is the response shown first.

    annotator (n,): 0 is "nobody in particular", who never flips; 1 .. A are ``annotators`` in order.
    """

    row_a: Tensor
    row_b: Tensor
    low: Tensor
    high: Tensor
    verdict: Tensor  # +1 a, 0 tie, -1 b
    annotator: Tensor
    prompt: Tensor
    annotators: tuple[str, ...]
    strengths: tuple[int, ...]  # strength levels that occur, ascending
    has_ties: bool
    position_bias: bool
    rankings: Rankings | None = None

    def __len__(self) -> int:
        return len(self.verdict)

    @property
    def num_decided(self) -> int:
        """Verdicts a or b."""
        return int((self.verdict != 0).sum())

    @property
    def weight(self) -> Tensor:
        """(n,): how much each counts; the pairs of a ranking less, because they were not judged one by one."""
        return torch.ones(len(self)) if self.rankings is None else self.rankings.pair_weight


@dataclass(frozen=True, slots=True)
class Nuisance:
    """How people answer, beside the preferences themselves, for M fits. gaps and bias are unconstrained."""

    gaps: Tensor  # (M, S): softplus gives k0 and the distances between thresholds
    bias: Tensor  # (M,)
    flip_rates: Tensor  # (M, 1 + A), in [0, 1/2); 0 for annotator 0

    def select(self, members: slice) -> "Nuisance":
        """Some of the fits."""
        return Nuisance(self.gaps[members], self.bias[members], self.flip_rates[members])


def threshold_indices(verdict: int, level: int | None, num_levels: int) -> tuple[int, int]:
    """Where the interval of an answer begins and ends in the vector of ``thresholds``; level is None without a strength."""
    first = num_levels + 1  # index of k0; the vector is -inf, -k_S .. -k0, k0 .. k_S, inf
    if verdict == 0:
        return first - 1, first
    low, high = (0, num_levels) if level is None else (level, level + 1)
    low, high = first + low, first + high
    return (low, high) if verdict > 0 else (2 * first - 1 - high, 2 * first - 1 - low)


def thresholds(gaps: Tensor, has_ties: bool) -> Tensor:
    """(M, L) unconstrained gaps to the symmetric ascending vector (M, 2 L + 2), infinities at both ends."""
    steps = softplus(gaps)
    if not has_ties:
        steps = torch.cat([torch.zeros_like(steps[:, :1]), steps[:, 1:]], dim=1)
    upper = steps.cumsum(1)
    end = torch.full_like(upper[:, :1], torch.inf)
    return torch.cat([-end, -upper.flip(1), upper, end], dim=1)


def interval_log_prob(logits: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """log P(low < logits + logistic noise < high); all of one shape, low < high, infinities allowed.

    sigma(x) - sigma(y) = sigma(x) sigma(-y) (1 - exp(y - x)), which loses no digits far from zero.
    """
    return logsigmoid(high - logits) + logsigmoid(logits - low) + torch.log1p(-torch.exp(low - high))


def answer_log_prob(logits: Tensor, low: Tensor, high: Tensor, bias: Tensor, flip: Tensor | None = None) -> Tensor:
    """Log probability of the recorded answers; logits, low, high, flip (M, n), bias broadcasts to it."""
    seen = interval_log_prob(logits + bias, low, high)
    return seen if flip is None else mixed_log_prob(seen, interval_log_prob(bias - logits, low, high), flip)


def mixed_log_prob(seen: Tensor, flipped: Tensor, flip: Tensor) -> Tensor:
    """Log of (1 - flip) exp(seen) + flip exp(flipped); flip in [0, 1)."""
    return torch.logaddexp(torch.log1p(-flip) + seen, flip.clamp_min(1e-30).log() + flipped)


def log_likelihood(
    logits: Tensor, nuisance: Nuisance, data: Observations, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    """(M, n) log probabilities of all judgments under M fits; ``low``, ``high`` (M, n) replace the recorded answers."""
    low, high = _edges(logits, nuisance, data, low, high)
    flip = nuisance.flip_rates[:, data.annotator] if data.annotators else None
    return answer_log_prob(logits, low, high, nuisance.bias[:, None], flip)


def seen_and_flipped(
    logits: Tensor, nuisance: Nuisance, data: Observations, low: Tensor | None = None, high: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(M, n) twice: log probabilities of all judgments if nobody flips, and if everybody does."""
    low, high = _edges(logits, nuisance, data, low, high)
    bias = nuisance.bias[:, None]
    return answer_log_prob(logits, low, high, bias), answer_log_prob(-logits, low, high, bias)


def _edges(
    logits: Tensor, nuisance: Nuisance, data: Observations, low: Tensor | None, high: Tensor | None
) -> tuple[Tensor, Tensor]:
    edges = thresholds(nuisance.gaps, data.has_ties)
    low = edges.gather(1, (data.low if low is None else low).expand(logits.shape))
    return low, edges.gather(1, (data.high if high is None else high).expand(logits.shape))


def log_prior(nuisance: Nuisance) -> Tensor:
    """(M,): N(0, .5^2) on the position bias, a wide N(0, 3^2) on the gaps. Up to a constant."""
    return -2 * nuisance.bias**2 - nuisance.gaps.square().sum(1) / 18


def decided_probability(logits: Tensor, first_threshold: Tensor, bias: Tensor, flip: Tensor) -> Tensor:
    """P(verdict a | verdict is a or b), elementwise; all arguments broadcast."""
    end = torch.full_like(logits, torch.inf)
    edge = first_threshold.expand(logits.shape)
    flip = flip.expand(logits.shape)
    log_a = answer_log_prob(logits, edge, end, bias, flip)
    log_b = answer_log_prob(logits, -end, -edge, bias, flip)
    return torch.sigmoid(log_a - log_b)
