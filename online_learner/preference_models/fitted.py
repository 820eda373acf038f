"""A fitted, calibrated preference model and its two files: preference.safetensors and preference.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from online_learner.preference_models.base import LinearPreference
from online_learner.preference_models.likelihood import answer_log_prob, decided_probability
from online_learner.preference_models.observations import encode_judgments
from online_learner.preference_models.pessimism import PlausibleUtilities, plausible_utilities
from online_learner.preference_models.registry import PREFERENCE_MODELS, family_named
from storage.errors import UserError

TENSORS, FACTS = "preference.safetensors", "preference.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerModel:
    """How people turn a preference into an answer: the other half of the likelihood."""

    thresholds: tuple[float, ...]  # k0 < k1 < ..., logits; k0 is half the width of a tie
    position_bias: float  # logit of the response shown first winning
    flip_rates: dict[str, float]  # share of answers an annotator gives the wrong way round

    def flip_rate(self, annotator: str | None) -> float:
        """An unknown name flips as often as the average annotator; None never flips."""
        if annotator is None or not self.flip_rates:
            return 0.0
        return self.flip_rates.get(annotator, sum(self.flip_rates.values()) / len(self.flip_rates))


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPreference:
    """An ensemble of H heads on standardised features, calibrated by one temperature. K responses, d features.

    report: models (per candidate: log_loss, accuracy, brier, ece, n, ...), selected, why, temperature, ridge, reliability,
    thresholds, position_bias, annotator_flips, annotator_scales, counts. Held-out figures; folds never share a prompt.
    """

    model: LinearPreference  # weights (H, d, w)
    feature_mean: Tensor
    feature_scale: Tensor
    temperature: float
    answers: AnswerModel
    report: dict[str, Any]

    @property
    def name(self) -> str:
        """Key in PREFERENCE_MODELS."""
        return self.model.family.name

    def logits(self, features: Tensor) -> Tensor:
        """(N, K, d) -> (N, K, K): calibrated log odds that the row's response is preferred to the column's."""
        return self.ensemble_logits(features).mean(0)

    def ensemble_logits(self, features: Tensor) -> Tensor:
        """(N, K, d) -> (H, N, K, K): what each head says; their spread is the model's uncertainty."""
        return self.model.logits(self.standardised(features)) / self.temperature

    def pair_logits(self, features_a: Tensor, features_b: Tensor) -> Tensor:
        """(B, d), (B, d) -> (B,): calibrated mean log odds that a is preferred."""
        a, b = self.standardised(features_a), self.standardised(features_b)
        return self.model.pair_logits(a, b).mean(0) / self.temperature

    def pair_heads(self, features_a: Tensor, features_b: Tensor) -> Tensor:
        """(B, d), (B, d) -> (H, B): calibrated log odds of each head that a is preferred."""
        return self.model.pair_logits(self.standardised(features_a), self.standardised(features_b)) / self.temperature

    def decided_probability(
        self, features_a: Tensor, features_b: Tensor, annotators: Sequence[str | None] | None = None
    ) -> Tensor:
        """(B,): P(the verdict is a, given that it is a or b) with a shown first, as these annotators would answer."""
        logits, flip = self._seen(features_a, features_b, annotators)
        edge = torch.tensor(self.answers.thresholds[0])
        return decided_probability(logits, edge, torch.tensor(self.answers.position_bias), flip)

    def verdict_log_prob(
        self, features_a: Tensor, features_b: Tensor, verdict: Tensor, annotators: Sequence[str | None] | None = None
    ) -> Tensor:
        """(B,): log P(verdict) for verdicts (B,) +1 a, 0 tie, -1 b; where no tie was ever seen, a tie is impossible."""
        logits, flip = self._seen(features_a, features_b, annotators)
        edge = torch.tensor(self.answers.thresholds[0])
        low = torch.where(verdict > 0, edge, torch.where(verdict == 0, -edge, -torch.inf))
        high = torch.where(verdict > 0, torch.inf, torch.where(verdict == 0, edge, -edge))
        return answer_log_prob(logits, low, high, torch.tensor(self.answers.position_bias), flip)

    def plausible_utilities(self, features_of: Mapping[str, Tensor], judgments: pa.Table) -> PlausibleUtilities:
        """What these judgments allow a model of utilities to be, on standardised features; logits are calibrated."""
        row_of = {response: row for row, response in enumerate(features_of)}
        data = encode_judgments(judgments, row_of)
        weights = self.model.weights[..., 0].mean(0) / self.temperature
        flips = torch.tensor([0.0, *(self.answers.flip_rate(name) for name in data.annotators)])
        features = self.standardised(torch.stack(list(features_of.values())))
        return plausible_utilities(weights, self.report["ridge"][0], features, data, flips)

    def save(self, directory: Path) -> None:
        """Write both files into ``directory``, made if missing."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {"weights": self.model.weights, "mean": self.feature_mean, "scale": self.feature_scale}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / TENSORS)
        facts = {
            "model": self.name,
            "temperature": self.temperature,
            "thresholds": self.answers.thresholds,
            "position_bias": self.answers.position_bias,
            "flip_rates": self.answers.flip_rates,
            "report": self.report,
        }
        (directory / FACTS).write_text(json.dumps(facts, indent=2, sort_keys=True))

    def standardised(self, features: Tensor) -> Tensor:
        """Features (..., d) on the scale that the heads read."""
        return (features.to(self.feature_mean) - self.feature_mean) * self.feature_scale

    def _seen(self, features_a: Tensor, features_b: Tensor, annotators: Sequence[str | None] | None) -> tuple[Tensor, Tensor]:
        logits = self.pair_logits(features_a, features_b)
        rates = [self.answers.flip_rate(name) for name in annotators or [None] * len(logits)]
        return logits, torch.tensor(rates, dtype=logits.dtype)


def load_preference(directory: Path) -> FittedPreference:
    """The model that ``FittedPreference.save`` wrote; UserError where it is missing or of an unknown kind."""
    try:
        facts = json.loads((directory / FACTS).read_text())
        tensors = load_file(directory / TENSORS)
        family = family_named(facts["model"])
    except (OSError, json.JSONDecodeError, SafetensorError, KeyError) as error:
        known = ", ".join(PREFERENCE_MODELS)
        raise UserError(
            f"{directory} holds no preference model that this version reads ({type(error).__name__}: {error}). "
            f"It needs {FACTS} and {TENSORS} of one of: {known}. Fit it again."
        ) from error
    return FittedPreference(
        model=LinearPreference(family, tensors["weights"]),
        feature_mean=tensors["mean"],
        feature_scale=tensors["scale"],
        temperature=facts["temperature"],
        answers=AnswerModel(
            thresholds=tuple(facts["thresholds"]),
            position_bias=facts["position_bias"],
            flip_rates=facts["flip_rates"],
        ),
        report=facts["report"],
    )
