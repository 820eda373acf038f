"""From judged pairs as text to a calibrated preference model, with the backbone frozen or trained.

The texts become rows of features and the judgments become pairs of rows, so that everything after is the fit on frozen
features: one likelihood, folds grouped by prompt, penalties and temperature chosen on held-out answers, an ensemble of heads.
Shapes: n judgments, R texts, M heads, F folds.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from online_learner.feature_cache import FeatureCache
from online_learner.features import (
    MAX_CONTEXT,
    TokenisedText,
    context_length,
    layer_index,
    read_features,
    reads_both_ways,
    tokenise_responses,
)
from online_learner.pairs_file import Pair, Side, judgments_table
from online_learner.preference_models.backbone import TunedBody, Tuning, standardised, tune
from online_learner.preference_models.fit import FitData, HeldOut, calibrate, choose_ridge, fit_family, held_out_answers, prepare
from online_learner.preference_models.fitted import FittedPreference, load_preference
from online_learner.preference_models.heads import FittedHeads
from online_learner.preference_models.likelihood import Nuisance, thresholds
from online_learner.preference_models.observations import VERDICT_SIGN
from online_learner.preference_models.plackett_luce import Rankings, read_rankings
from online_learner.preference_models.resampling import bootstrap_weights
from online_learner.preference_models.text_models import TextModel
from online_learner.preference_models.text_rows import Pasts, RowMaker, ordered_rows
from online_learner.seeds import stream, stream_seed
from storage.errors import UserError

READS, ADAPTER = "text.json", "adapter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """The model that reads the texts: its body, tokenizer, the block that features come from, and how they are kept."""

    body: nn.Module
    tokenizer: Any
    layer: int
    both_ways: bool
    cache: FeatureCache

    @classmethod
    def of(cls, body: nn.Module, tokenizer: Any, directory: Path | None = None) -> "Encoder":
        """Read as features.extract_features reads it by default; ``directory`` keeps features for the next time."""
        layer = layer_index(body, "middle")
        cache = FeatureCache(body, layer, directory)
        return cls(body=body, tokenizer=tokenizer, layer=layer, both_ways=reads_both_ways(body), cache=cache)

    def row_maker(self) -> RowMaker:
        """Tokens of ordered pairs: averaged over the last response by an encoder, the last token of a decoder."""
        return RowMaker(self.tokenizer, min(context_length(self.body), MAX_CONTEXT), self.both_ways)


class Reading(NamedTuple):
    """The texts of some pairs: which two rows each pair compares, and the texts of an epoch (0: the ones that are scored).

    A row is a text; where ``prompts`` are given, the text of that number follows it in the row: texts of prompts come last.
    """

    rows: list[tuple[int, int]]
    texts_at: Callable[[int], list[TokenisedText]]
    prompts: list[int] | None = None

    def features(self, of_texts: Tensor) -> Tensor:
        """(T, d) features of texts -> (R, d or 2 d) of rows."""
        if self.prompts is None:
            return of_texts
        return torch.cat([of_texts[: len(self.prompts)], of_texts[self.prompts]], dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPreference:
    """A fitted model of text. ``body`` is the trained backbone, None where the encoder was left as it is."""

    model: TextModel
    fitted: FittedPreference
    encoder: Encoder
    body: TunedBody | None

    def pair_features(self, pairs: Sequence[Pair], labelled: Sequence[Pair] = ()) -> tuple[Tensor, Tensor]:
        """(n, d), (n, d): what ``fitted`` compares for each pair; annotators' pasts come from ``labelled``."""
        reading = read_pairs(self.model, self.encoder, pairs, Pasts(labelled, {}), seed=0)
        texts = reading.texts_at(0)
        if self.body:
            with torch.no_grad():
                features = self.body.features(texts)
        else:
            features = read_features(self.encoder.body, texts, layer=self.encoder.layer, cache=self.encoder.cache)
        features = reading.features(features)
        a, b = torch.tensor(reading.rows).T
        return features[a], features[b]

    def save(self, directory: Path) -> None:
        """The heads as FittedPreference.save, what is read in text.json and, where trained, the LoRA weights in adapter/."""
        self.fitted.save(directory)
        facts = {
            "shots": self.model.shots,
            "reads": self.model.reads,
            "layer": self.encoder.layer,
            "tuned": self.body is not None,
        }
        (directory / READS).write_text(json.dumps(facts, indent=2, sort_keys=True))
        if self.body:
            self.body.save(directory / ADAPTER)


def load_text_preference(directory: Path, encoder: Encoder) -> TextPreference:
    """The model that ``TextPreference.save`` wrote, on the encoder that it was fitted on."""
    fitted = load_preference(directory)
    try:
        facts = json.loads((directory / READS).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{directory} holds no preference model of text ({error}). Fit it again.") from error
    model = TextModel(family=fitted.model.family, reads=facts["reads"], shots=facts["shots"])
    if facts["layer"] != encoder.layer:
        raise UserError(f"{directory} was fitted on another encoder: it reads block {facts['layer']}, this one {encoder.layer}.")
    tuned = TunedBody(encoder.body, facts["layer"], Tuning(), 0, directory / ADAPTER) if facts["tuned"] else None
    return TextPreference(model=model, fitted=fitted, encoder=encoder, body=tuned)


def fit_text_model(
    model: TextModel,
    encoder: Encoder,
    pairs: Sequence[Pair],
    *,
    seed: int,
    tuning: Tuning | None = None,
    num_heads: int = 8,
    num_folds: int = 5,
    min_judgments: int = 20,
    position_bias: bool = False,
    progress: Callable[[str], None] = lambda sentence: None,
    label_map: str = "none",
) -> tuple[TextPreference, Tensor, FitData]:
    """One model of text, its held-out log loss per decided judgment, and the data it was fitted on.

    ``tuning`` trains the backbone with LoRA; without it only heads are fitted. ``position_bias`` where a is known to be the side
    shown first.
    """
    pairs = [pair for pair in pairs if pair.verdict in VERDICT_SIGN]
    shared = {"seed": seed, "num_folds": num_folds, "min_judgments": min_judgments, "position_bias": position_bias}
    folds = _prepare([torch.zeros(1)] * (2 * len(pairs)), pairs, [(2 * i, 2 * i + 1) for i in range(len(pairs))], **shared)
    fold_of = {pair.group: int(fold) for pair, fold in zip(pairs, folds.fold, strict=True)}
    reading = read_pairs(model, encoder, pairs, Pasts(pairs, fold_of), seed)
    texts = reading.texts_at(0)
    if tuning is not None and reading.prompts is not None:
        raise UserError(
            f"{model.name} reads prompts apart from responses, with the encoder as it is. Leave the backbone untuned."
        )
    progress(f"{model.name}: reading {len(texts)} texts")
    features = reading.features(read_features(encoder.body, texts, layer=encoder.layer, cache=encoder.cache))
    data = _prepare(list(features), pairs, reading.rows, label_map=label_map, **shared)
    if tuning is None:
        fitted, losses = fit_family(model.family, data, num_heads)
        return TextPreference(model=model, fitted=fitted, encoder=encoder, body=None), losses, data
    body, fitted, losses = _fit_tuned(model, encoder, reading, data, tuning, num_heads, progress)
    return TextPreference(model=model, fitted=fitted, encoder=encoder, body=body), losses, data


def read_pairs(model: TextModel, encoder: Encoder, pairs: Sequence[Pair], pasts: Pasts, seed: int) -> Reading:
    """The texts of ``pairs``: every distinct response once, or both orders of every pair with its annotator's past."""
    if model.reads != "ordered_pairs":
        return _read_responses(encoder, pairs, with_prompts=model.reads == "responses_and_prompts")
    maker = encoder.row_maker()

    def texts_at(epoch: int) -> list[TokenisedText]:
        return ordered_rows(maker, pairs, pasts, model.shots, stream_seed(seed, f"past/{epoch}"))

    return Reading([(2 * i, 2 * i + 1) for i in range(len(pairs))], texts_at)


def _read_responses(encoder: Encoder, pairs: Sequence[Pair], *, with_prompts: bool) -> Reading:
    sides = list(dict.fromkeys(side for pair in pairs for side in (pair.a, pair.b)))
    row_of = {side: row for row, side in enumerate(sides)}
    read = [(side.messages, side.response) for side in sides]
    prompts = None
    if with_prompts:  # a prompt's row is that of an empty response: its last token
        alone = {turns: len(sides) + i for i, turns in enumerate(dict.fromkeys(side.turns for side in sides))}
        read += [(Side(turns=turns, response="").messages, "") for turns in alone]
        prompts = [alone[side.turns] for side in sides]
    texts = tokenise_responses(encoder.body, encoder.tokenizer, [before for before, _ in read], [said for _, said in read])
    return Reading([(row_of[pair.a], row_of[pair.b]) for pair in pairs], lambda epoch: texts, prompts)


def _prepare(features: Sequence[Tensor], pairs: Sequence[Pair], rows: Sequence[tuple[int, int]], **options: Any) -> FitData:
    table = judgments_table(pairs, [(str(a), str(b)) for a, b in rows])
    by_id = {str(row): value for row, value in enumerate(features)}
    data = prepare(by_id, table, **options)
    return replace(data, observations=replace(data.observations, rankings=_rankings(pairs)))


def _rankings(pairs: Sequence[Pair]) -> Rankings | None:
    """Which pairs are of one ranking, responses numbered as they first appear, which are the rows where single ones are read.

    A ranking in which two responses have the same text is read as pairs.
    """
    number = {side: str(i) for i, side in enumerate(dict.fromkeys(side for pair in pairs for side in (pair.a, pair.b)))}
    doubled = {pair.ranking for pair in pairs if pair.a == pair.b}
    rows = [
        {
            "response_a_id": number[pair.a],
            "response_b_id": number[pair.b],
            "verdict": pair.verdict,
            "ranking_id": None if pair.ranking in doubled else pair.ranking,
        }
        for pair in pairs
    ]
    return read_rankings(rows, {name: int(name) for name in number.values()}, VERDICT_SIGN)


def _fit_tuned(
    model: TextModel,
    encoder: Encoder,
    reading: Reading,
    data: FitData,
    tuning: Tuning,
    num_heads: int,
    progress: Callable[[str], None],
) -> tuple[TunedBody | None, FittedPreference, Tensor]:
    """One backbone per fold tells how many epochs help unseen prompts; the last one is trained so long on all of them."""
    ridge = choose_ridge(model.family, data)
    epochs = range(tuning.epochs + 1)
    logits = torch.zeros(len(epochs), len(data.observations))
    answers: list[list[Nuisance]] = [[] for _ in epochs]
    texts = reading.texts_at(0)
    for fold in range(data.num_folds):
        held = (data.fold == fold).nonzero()[:, 0]

        def record(epoch: int, heads: FittedHeads, body: TunedBody, held: Tensor = held) -> None:
            logits[epoch, held] = _held_out_logits(heads, body, texts, data, held)
            answers[epoch].append(heads.nuisance)

        progress(f"{model.name}: backbone for fold {fold + 1} of {data.num_folds}")
        weights = (data.fold != fold).float()[None]
        body = TunedBody(encoder.body, encoder.layer, tuning, data.seed)
        tune(body, reading.texts_at, model.family, data, weights, ridge, tuning, epochs=tuning.epochs, on_epoch=record)
    predictions = [_predictions(logits[epoch], answers[epoch], data) for epoch in epochs]
    scores = [float(prediction.log_prob(prediction.logits).mean()) for prediction in predictions]
    best = max(epochs, key=scores.__getitem__)
    progress(f"{model.name}: held-out answers are likeliest after {best} of {tuning.epochs} epochs; training on all prompts")
    everything = torch.ones(len(data.observations), dtype=torch.bool)
    weights = bootstrap_weights(data.observations.prompt, everything, num_heads, stream(data.seed, "bootstrap"))
    body = TunedBody(encoder.body, encoder.layer, tuning, data.seed)
    heads = tune(body, reading.texts_at, model.family, data, weights, ridge, tuning, epochs=best)
    fitted, losses = calibrate(heads.model, heads.nuisance, predictions[best], ridge, data)
    report = {**fitted.report, "epochs": best, "log_prob_by_epoch": scores}
    return (body if best else None), replace(fitted, report=report), losses


def _held_out_logits(heads: FittedHeads, body: TunedBody, texts: Sequence[TokenisedText], data: FitData, held: Tensor) -> Tensor:
    observations = data.observations
    rows, position = torch.cat([observations.row_a[held], observations.row_b[held]]).unique(return_inverse=True)
    with torch.no_grad():
        features = standardised(body.features([texts[i] for i in rows.tolist()]), data)
        first, second = position.chunk(2)
        return heads.model.pair_logits(features[first], features[second]).mean(0)


def _predictions(logits: Tensor, answers: Sequence[Nuisance], data: FitData) -> HeldOut:
    edges = torch.cat([thresholds(nuisance.gaps, data.observations.has_ties) for nuisance in answers])
    bias = torch.cat([nuisance.bias for nuisance in answers])
    return held_out_answers(logits, edges, bias, torch.cat([nuisance.flip_rates for nuisance in answers]), data)
