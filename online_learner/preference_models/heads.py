"""Maximum a posteriori fits of many heads at once: the same judgments under other weights, penalties or answers.

M fits share one matrix product per step; Adam works element by element, so a fit does not depend on its neighbours.
Shapes: M fits, n judgments, R responses, d features, w embedding columns.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from online_learner.preference_models.base import LinearPreference, PreferenceFamily
from online_learner.preference_models.crowd import flip_posterior
from online_learner.preference_models.likelihood import Nuisance, Observations, log_likelihood, log_prior, seen_and_flipped
from online_learner.preference_models.plackett_luce import spread_over_pairs

RIDGE_LABELS = 400  # penalties are stated for this many judgments; a mean log loss needs less of them with more data
NUM_STEPS = 150
LEARNING_RATE = 0.05
START_FLIP_RATE = 0.05
FLIPS_EVERY = 15  # steps between exact updates of the flip rates, which hardly move after a few of them


@dataclass(frozen=True, slots=True)
class FittedHeads:
    """M finished fits and the penalised mean negative log likelihood (M,) that each reached."""

    model: LinearPreference
    nuisance: Nuisance
    objective: Tensor


def fit_heads(
    family: PreferenceFamily,
    features: Tensor,
    data: Observations,
    weights: Tensor,
    ridge: Tensor,
    generator: torch.Generator,
    low: Tensor | None = None,
    high: Tensor | None = None,
    offset: Tensor | None = None,
) -> FittedHeads:
    """Fit M heads on features (R, d): judgment weights (M, n), penalties (M, w); ``low``, ``high`` (M, n) replace answers.

    ``offset`` (n,) is taken from the logits in the likelihood: the heads have to make up for it.
    """
    head_weights, gaps, bias = parameters = _start(family, features, data, len(weights), generator)
    flip_rates = torch.full((len(weights), 1 + len(data.annotators)), START_FLIP_RATE, dtype=features.dtype)
    flip_rates[:, 0] = 0
    weights = weights * data.weight
    total = weights.sum(1)
    optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE, betas=(0.9, 0.99))

    def fitted() -> tuple[LinearPreference, Nuisance]:
        pull = bias if data.position_bias else torch.zeros_like(bias)
        return LinearPreference(family, head_weights), Nuisance(gaps, pull, flip_rates)

    def objective() -> Tensor:
        model, nuisance = fitted()
        loss = -(weights * _log_prob(model, nuisance, features, data, low, high, offset)).sum(1) / total
        penalty = (ridge * head_weights.square().sum(1)).sum(1) * RIDGE_LABELS / total
        return loss + penalty - log_prior(nuisance) / total

    for step in range(NUM_STEPS):
        if data.annotators and step % FLIPS_EVERY == FLIPS_EVERY - 1:
            flip_rates = _flip_rates(*fitted(), features, data, weights, low, high, offset)
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * (0.01 + 0.99 * math.cos(math.pi / 2 * step / NUM_STEPS) ** 2)
        optimiser.zero_grad()
        objective().sum().backward()
        optimiser.step()
    with torch.no_grad():
        final = objective()
    for parameter in parameters:
        parameter.requires_grad_(False)
    return FittedHeads(*fitted(), final)


def _log_prob(
    model: LinearPreference,
    nuisance: Nuisance,
    features: Tensor,
    data: Observations,
    low: Tensor | None,
    high: Tensor | None,
    offset: Tensor | None,
) -> Tensor:
    of_pairs = log_likelihood(_observed_logits(model, features, data, offset), nuisance, data, low, high)
    if data.rankings is None or not model.family.listwise:
        return of_pairs
    return spread_over_pairs(of_pairs, model.embed(features)[..., 0], data.rankings)


@torch.no_grad()
def _flip_rates(
    model: LinearPreference,
    nuisance: Nuisance,
    features: Tensor,
    data: Observations,
    weights: Tensor,
    low: Tensor | None,
    high: Tensor | None,
    offset: Tensor | None,
) -> Tensor:
    seen, flipped = seen_and_flipped(_observed_logits(model, features, data, offset), nuisance, data, low, high)
    return flip_posterior(seen, flipped, weights, data.annotator, len(data.annotators))


def observed_logits(model: LinearPreference, features: Tensor, data: Observations) -> Tensor:
    """(M, n): the logit of every judged pair, first shown over second."""
    with torch.no_grad():
        return _observed_logits(model, features, data)


def _observed_logits(model: LinearPreference, features: Tensor, data: Observations, offset: Tensor | None = None) -> Tensor:
    embedded = model.embed(features)  # (M, R, w): responses are embedded once, however many pairs they are in
    logits = model.family.compare(embedded[:, data.row_a], embedded[:, data.row_b])
    return logits if offset is None else logits - offset


def _start(
    family: PreferenceFamily, features: Tensor, data: Observations, num_fits: int, generator: torch.Generator
) -> list[Tensor]:
    one = torch.randn(features.shape[1], family.width, generator=generator, dtype=features.dtype)
    head = one * torch.tensor(family.init_scale, dtype=features.dtype)
    gaps = torch.zeros(num_fits, max(len(data.strengths), 1), dtype=features.dtype)
    bias = torch.zeros(num_fits, dtype=features.dtype)
    start = [head.expand(num_fits, -1, -1).clone(), gaps, bias]
    return [parameter.requires_grad_() for parameter in start]
