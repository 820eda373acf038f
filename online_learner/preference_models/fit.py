"""From judgments and frozen features to a calibrated preference model.

Each candidate family: the penalty is chosen by cross-validation grouped by prompt; held-out predictions of bootstrap
ensembles fit one temperature and give every reported figure; the final ensemble is fitted on bootstrap samples of all
prompts. The simplest family wins unless another is clearly better.
Shapes: n judgments, R responses, d features, F folds, H heads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import softplus

from online_learner.preference_models.base import LinearPreference, PreferenceFamily
from online_learner.preference_models.calibration import clustered_mean, decided_metrics, fit_temperature
from online_learner.preference_models.crowd import scale_posterior
from online_learner.preference_models.fitted import AnswerModel, FittedPreference
from online_learner.preference_models.heads import FittedHeads, fit_heads, observed_logits
from online_learner.preference_models.likelihood import (
    Nuisance,
    Observations,
    answer_log_prob,
    decided_probability,
    log_likelihood,
    thresholds,
)
from online_learner.preference_models.observations import encode_judgments
from online_learner.preference_models.registry import PREFERENCE_MODELS
from online_learner.preference_models.resampling import bootstrap_weights, prompt_folds
from online_learner.preference_models.reward_voting import label_strengths, mapped_answers, vote_margins
from online_learner.seeds import stream
from storage.errors import UserError

MIN_GAIN_NATS = 0.002  # per judgment; less is not worth a model that can be wrong in more ways
MAX_FOLD_HEADS = 4  # heads per fold behind held-out predictions; more changes them by less than their noise


@dataclass(frozen=True, slots=True, kw_only=True)
class FitData:
    """What all candidates are fitted on: standardised features (R, d), observations, and the fold (n,) of each.

    label_map: what the fit makes of labels that look wrong, one of reward_voting.LABEL_MAPS. Held-out figures are on the labels
    as they were given.
    """

    features: Tensor
    mean: Tensor
    scale: Tensor
    observations: Observations
    fold: Tensor
    num_folds: int
    seed: int
    label_map: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Predictions for judgments whose prompt the predicting heads never saw; all (n,)."""

    logits: Tensor
    low: Tensor
    high: Tensor
    edge: Tensor
    bias: Tensor
    flip: Tensor

    def log_prob(self, logits: Tensor) -> Tensor:
        """Log probability of the recorded answers."""
        return answer_log_prob(logits, self.low, self.high, self.bias, self.flip)

    def decided(self, temperature: float) -> Tensor:
        """P(a | decided)."""
        return decided_probability(self.logits / temperature, self.edge, self.bias, self.flip)


def fit_preference_models(
    features_of: Mapping[str, Tensor],
    judgments: pa.Table,
    *,
    seed: int,
    models: Sequence[str] = ("bradley_terry", "bt_gpm"),
    num_heads: int = 8,
    num_folds: int = 5,
    min_judgments: int = 20,
    position_bias: bool = True,
) -> FittedPreference:
    """The best of ``models`` for judgments (columns of contract.schemas.JUDGMENTS) on features (d,) by response id.

    Raises UserError with too few decided judgments (verdict a or b), or fewer than two prompts.
    """
    data = prepare(
        features_of, judgments, seed=seed, num_folds=num_folds, min_judgments=min_judgments, position_bias=position_bias
    )
    candidates = fit_candidates(data, models, num_heads)
    return candidates[next(iter(candidates.values())).report["selected"]]


def prepare(
    features_of: Mapping[str, Tensor],
    judgments: pa.Table,
    *,
    seed: int,
    num_folds: int = 5,
    min_judgments: int = 20,
    position_bias: bool = True,
    label_map: str = "none",
) -> FitData:
    """Standardise features, encode judgments and deal prompts into folds."""
    row_of = {response_id: row for row, response_id in enumerate(features_of)}
    observations = encode_judgments(judgments, row_of, position_bias=position_bias)
    if observations.num_decided < min_judgments:
        raise UserError(
            f"Only {observations.num_decided} decided judgments (verdict a or b) on known responses, of "
            f"{judgments.num_rows} in all; a preference model needs at least {min_judgments}. Collect more."
        )
    num_prompts = len(observations.prompt[observations.verdict != 0].unique())
    if num_prompts < 2:
        raise UserError("All decided judgments are on 1 prompt; held-out figures need at least 2. Judge more prompts.")
    raw = torch.stack([torch.as_tensor(row, dtype=torch.float32) for row in features_of.values()])
    if not raw.isfinite().all():
        num_bad = int((~raw.isfinite()).any(1).sum())
        raise UserError(f"Features of {num_bad} of {len(raw)} responses are not finite. Use another encoder or precision.")
    mean = raw.mean(0)
    deviation = raw.std(0, correction=0)
    # A constant column says nothing; the 4 / sqrt(d) keeps penalties comparable between widths of models.
    scale = torch.where(deviation > 1e-6, 4 / (raw.shape[1] ** 0.5 * deviation.clamp_min(1e-6)), 0.0)
    num_folds = min(num_folds, num_prompts)
    fold = prompt_folds(observations.prompt, num_folds, stream(seed, "folds"))
    return FitData(
        features=(raw - mean) * scale,
        mean=mean,
        scale=scale,
        observations=observations,
        fold=fold,
        num_folds=num_folds,
        seed=seed,
        label_map=label_map,
    )


def fit_candidates(data: FitData, models: Sequence[str], num_heads: int) -> dict[str, FittedPreference]:
    """Every named model, fitted and calibrated, with one shared report that says which is selected and why.

    report["gains"]: nats per judgment, with standard error, by which each beats the first one on held-out prompts.
    """
    return compare(fit_each(data, models, num_heads), data)


def fit_each(data: FitData, models: Sequence[str], num_heads: int) -> dict[str, tuple[FittedPreference, Tensor]]:
    """Every named model, simplest first, with its held-out log loss per decided judgment."""
    unknown = [name for name in models if name not in PREFERENCE_MODELS]
    if unknown or not models:
        raise UserError(f"Preference models {list(models)}: {unknown} unknown. Choose from {list(PREFERENCE_MODELS)}.")
    names = [name for name in PREFERENCE_MODELS if name in models]  # simplest first
    return {name: fit_family(PREFERENCE_MODELS[name], data, num_heads) for name in names}


def compare(fits: Mapping[str, tuple[FittedPreference, Tensor]], data: FitData) -> dict[str, FittedPreference]:
    """Fitted models with their held-out log losses per decided judgment (n,), simplest first, under one shared report."""
    names = list(fits)
    losses = {name: losses for name, (_, losses) in fits.items()}
    cluster = data.observations.prompt[data.observations.verdict != 0]
    selected, why = select(losses, cluster)
    shared = {
        "models": {name: fitted.report for name, (fitted, _) in fits.items()},
        "gains": {name: clustered_mean(losses[names[0]] - losses[name], cluster) for name in names[1:]},
        "selected": selected,
        "why": why,
        **_counts(data),
    }
    candidates = {name: replace(fitted, report=shared) for name, (fitted, _) in fits.items()}
    shared |= _chosen(candidates[selected])
    return candidates


def select(losses: Mapping[str, Tensor], cluster: Tensor) -> tuple[str, str]:
    """The first of ``losses`` (held-out log loss per decided judgment, (n,)) unless a later one is clearly better; and a
    sentence that says so. Standard errors are clustered by prompt.
    """
    names = list(losses)
    selected, why = names[0], f"{names[0]} is the only candidate"
    for name in names[1:]:
        gain, error = clustered_mean(losses[selected] - losses[name], cluster)
        better = clearly_better(gain, error)
        why = (
            f"held-out log loss of {name} is {abs(gain):.4f} nats {'lower' if gain > 0 else 'higher'} than that of "
            f"{selected} (standard error {error:.4f}): {'clearly better' if better else 'not clearly better'}"
        )
        selected = name if better else selected
    return selected, why


def clearly_better(gain: float, error: float) -> bool:
    """Whether a gain in held-out log loss exceeds its standard error and what is worth having."""
    return gain > max(error, MIN_GAIN_NATS)


def choose_ridge(family: PreferenceFamily, data: FitData) -> tuple[float, ...]:
    """The penalty of the family's grid whose held-out answers are likeliest."""
    kept = torch.stack([data.fold != fold for fold in range(data.num_folds)]).float()
    ridge = torch.tensor(family.ridges).repeat_interleave(data.num_folds, 0)
    generator = stream(data.seed, "start")
    fits = fit_heads(family, data.features, data.observations, kept.repeat(len(family.ridges), 1), ridge, generator)
    scores = [held_out(fits, data, range(i * data.num_folds, (i + 1) * data.num_folds)) for i in range(len(family.ridges))]
    weight = data.observations.weight
    best = max(range(len(scores)), key=lambda i: float((weight * scores[i].log_prob(scores[i].logits)).sum()))
    return family.ridges[best]


def held_out(fits: FittedHeads, data: FitData, members: Sequence[int]) -> HeldOut:
    """Predictions of ``members``, an equal number in a row for each fold, for the fold that they left out."""
    pick = torch.tensor(members)
    observations, fold = data.observations, data.fold

    def by_fold(values: Tensor) -> Tensor:  # (members, ...) -> (F, ...)
        return values[pick].unflatten(0, (data.num_folds, -1)).mean(1)

    logits = by_fold(observed_logits(fits.model, data.features, observations)).gather(0, fold[None])[0]
    edges = by_fold(thresholds(fits.nuisance.gaps, observations.has_ties))
    return held_out_answers(logits, edges, by_fold(fits.nuisance.bias), by_fold(fits.nuisance.flip_rates), data)


def held_out_answers(logits: Tensor, edges: Tensor, bias: Tensor, flip_rates: Tensor, data: FitData) -> HeldOut:
    """Held-out logits (n,) with how each fold's fit says people answer: edges (F, 2 L + 2), bias (F,), flip rates (F, 1 + A)."""
    observations, fold = data.observations, data.fold
    own = edges[fold]
    return HeldOut(
        logits=logits,
        low=own.gather(1, observations.low[:, None])[:, 0],
        high=own.gather(1, observations.high[:, None])[:, 0],
        edge=own[:, own.shape[1] // 2],
        bias=bias[fold],
        flip=flip_rates[fold, observations.annotator],
    )


def fit_family(family: PreferenceFamily, data: FitData, num_heads: int) -> tuple[FittedPreference, Tensor]:
    """One family on frozen features, calibrated, and its held-out log loss per decided judgment."""
    observations = data.observations
    ridge = choose_ridge(family, data)
    draws = stream(data.seed, "bootstrap")
    fold_heads = min(num_heads, MAX_FOLD_HEADS)
    samples = [bootstrap_weights(observations.prompt, data.fold != fold, fold_heads, draws) for fold in range(data.num_folds)]
    everything = torch.ones(len(observations), dtype=torch.bool)
    samples.append(bootstrap_weights(observations.prompt, everything, num_heads, draws))
    weights = torch.cat(samples)
    penalties = torch.tensor(ridge).expand(len(weights), -1)
    start = stream(data.seed, "start")
    fits = fit_heads(family, data.features, observations, weights, penalties, start)
    if data.label_map != "none":
        votes = _own_votes(fits, data, fold_heads)
        strength, _ = label_strengths(votes, observations.verdict)
        answers = mapped_answers(data.label_map, observations, strength, len(weights), stream(data.seed, "label map"))
        offset = vote_margins(data.label_map, votes, observations.verdict)
        fits = fit_heads(family, data.features, observations, weights, penalties, stream(data.seed, "start"), *answers, offset)
    predictions = held_out(fits, data, range(data.num_folds * fold_heads))
    final = replace(fits.model, weights=fits.model.weights[-num_heads:].clone())
    answers = fits.nuisance.select(slice(-num_heads, None))
    fitted, losses = calibrate(final, answers, predictions, ridge, data)
    fitted.report["annotator_scales"] = _annotator_scales(final, answers, data)
    return fitted, losses


def _own_votes(fits: FittedHeads, data: FitData, fold_heads: int) -> Tensor:
    """(fold_heads, n): logits of each judged pair by the heads that its prompt was kept from."""
    by_fold = observed_logits(fits.model, data.features, data.observations)[: data.num_folds * fold_heads]
    return by_fold.unflatten(0, (data.num_folds, fold_heads))[data.fold, :, torch.arange(len(data.fold))].T


def _annotator_scales(model: LinearPreference, nuisance: Nuisance, data: FitData) -> dict[str, float]:
    """How sharp each annotator's answers are beside the others'; a check, on the judgments that were fitted."""
    observations = data.observations
    logits = observed_logits(model, data.features, observations)
    nobody_flips = Nuisance(nuisance.gaps, nuisance.bias, torch.zeros_like(nuisance.flip_rates))
    scales = scale_posterior(
        lambda scale: log_likelihood(scale * logits, nobody_flips, observations),
        torch.ones_like(logits),
        observations.annotator,
        len(observations.annotators),
    )
    return dict(zip(observations.annotators, scales.mean(0).tolist(), strict=True))


def calibrate(
    model: LinearPreference, nuisance: Nuisance, predictions: HeldOut, ridge: Sequence[float], data: FitData
) -> tuple[FittedPreference, Tensor]:
    """The finished model: its temperature and every reported figure come from held-out predictions."""
    observations = data.observations
    temperature = fit_temperature(predictions.logits, lambda logits: observations.weight * predictions.log_prob(logits))
    decided = observations.verdict != 0
    won = (observations.verdict[decided] > 0).float()
    probability = predictions.decided(temperature)[decided]
    answer_losses = -predictions.log_prob(predictions.logits / temperature)
    report = {
        **decided_metrics(probability, won),
        "answer_log_loss": float(answer_losses.mean()),  # ties and strengths included
        "temperature": temperature,
        "ridge": list(ridge),
    }
    losses = -torch.where(won > 0, probability, 1 - probability).clamp_min(1e-12).log()
    fitted = FittedPreference(
        model=model,
        feature_mean=data.mean,
        feature_scale=data.scale,
        temperature=temperature,
        answers=_answer_model(nuisance, observations),
        report=report,
    )
    return fitted, losses.double()


def _answer_model(nuisance: Nuisance, observations: Observations) -> AnswerModel:
    edges = softplus(nuisance.gaps)
    if not observations.has_ties:
        edges = torch.cat([torch.zeros_like(edges[:, :1]), edges[:, 1:]], dim=1)
    rates = nuisance.flip_rates[:, 1:].mean(0)
    return AnswerModel(
        thresholds=tuple(edges.cumsum(1).mean(0).tolist()),
        position_bias=float(nuisance.bias.mean()),
        flip_rates=dict(zip(observations.annotators, rates.tolist(), strict=True)),
    )


def with_selected(fitted: FittedPreference, why: str) -> FittedPreference:
    """The candidate with a report that says it is the one selected, and why."""
    return replace(fitted, report={**fitted.report, **_chosen(fitted), "selected": fitted.name, "why": why})


def _chosen(fitted: FittedPreference) -> dict[str, Any]:
    row = fitted.report["models"][fitted.name]
    return {
        "temperature": fitted.temperature,
        "ridge": row["ridge"],
        "reliability": row["reliability"],
        "thresholds": list(fitted.answers.thresholds),
        "position_bias": fitted.answers.position_bias,
        "annotator_flips": fitted.answers.flip_rates,
        "annotator_scales": row.get("annotator_scales", {}),
    }


def _counts(data: FitData) -> dict[str, int]:
    observations = data.observations
    return {
        "num_decided": observations.num_decided,
        "num_ties": len(observations) - observations.num_decided,
        "num_rankings": 0 if observations.rankings is None else len(observations.rankings.sizes),
        "num_prompts": int(observations.prompt.max()) + 1,
        "num_folds": data.num_folds,
        "num_features": data.features.shape[1],
    }
