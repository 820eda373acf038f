"""LoRA on the model that reads the texts, trained with the heads that score them: the same likelihood, folds and calibration.

Heads start where a fit on frozen features ends, so that the first gradients do not spoil the model's features (arXiv:2202.10054,
linear probing before fine-tuning), and LoRA starts at the frozen model: epoch 0 is the fit on frozen features.
Shapes: n judgments, R texts, h width of the model, d = h + 1 features, M heads.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from online_learner.device import mixed_precision
from online_learner.features import TokenisedText, blocks, length_sorted_batches, pooled_states
from online_learner.preference_models.base import LinearPreference, PreferenceFamily
from online_learner.preference_models.fit import FitData
from online_learner.preference_models.heads import RIDGE_LABELS, FittedHeads, fit_heads
from online_learner.preference_models.likelihood import Nuisance, Observations, log_likelihood, log_prior
from online_learner.seeds import stream, stream_seed

HEAD_RATE = 0.01  # Adam's step for head weights, a fifth of that of a fit from zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How the backbone is trained. The number of epochs is the most that is tried; held-out answers choose."""

    rank: int = 8
    alpha: int = 16
    epochs: int = 3
    judgments_per_step: int = 16
    learning_rate: float = 1e-3


class TunedBody:
    """A copy of a model with LoRA on every linear layer up to the one that features are read from. The original never changes."""

    def __init__(self, body: nn.Module, layer: int, tuning: Tuning, seed: int, adapter: Path | None = None) -> None:
        """Starts as the model itself (B = 0), or at a saved ``adapter``."""
        own: Any = copy.deepcopy(body).float().requires_grad_(False)
        self.layer = layer
        if adapter:
            self._peft: Any = PeftModel.from_pretrained(own, adapter, is_trainable=True)
        else:
            used = {id(module) for block in blocks(own)[:layer] for module in block.modules()}
            names = [
                name for name, module in own.named_modules() if id(module) in used and isinstance(module, nn.Linear | Conv1D)
            ]
            torch.manual_seed(stream_seed(seed, "lora") % 2**62)  # peft draws A from the global generator
            config = LoraConfig(r=tuning.rank, lora_alpha=tuning.alpha, target_modules=names, task_type="FEATURE_EXTRACTION")
            self._peft = get_peft_model(own, config)
        self.model: nn.Module = self._peft.base_model.model

    def parameters(self) -> list[nn.Parameter]:
        """The LoRA weights."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def features(self, texts: Sequence[TokenisedText]) -> Tensor:
        """(R, h + 1) on the CPU, with gradients where they are on: as features.read_features."""
        rows: list[Tensor] = [torch.empty(0)] * len(texts)
        for batch in length_sorted_batches(texts):
            with mixed_precision(next(self.model.parameters()).device):
                pooled = pooled_states(self.model, [texts[i] for i in batch], self.layer)
            for i, row in zip(batch, pooled.cpu(), strict=True):
                rows[i] = row
        lengths = torch.tensor([[float(text.length)] for text in texts])
        return torch.cat([torch.stack(rows), lengths.log1p()], dim=1)

    def save(self, directory: Path) -> None:
        """adapter_config.json and adapter_model.safetensors, as peft reads them."""
        self._peft.save_pretrained(directory)
        (directory / "README.md").unlink(missing_ok=True)  # peft's empty model card


TextsAt = Callable[[int], Sequence[TokenisedText]]  # the R texts of an epoch: an annotator's past is drawn anew in each
OnEpoch = Callable[[int, FittedHeads, TunedBody], None]


def tune(
    body: TunedBody,
    texts_at: TextsAt,
    family: PreferenceFamily,
    data: FitData,
    weights: Tensor,
    ridge: Sequence[float],
    tuning: Tuning,
    *,
    epochs: int,
    on_epoch: OnEpoch | None = None,
) -> FittedHeads:
    """Train ``body`` and M heads for judgment weights (M, n) on the first ``epochs`` of the schedule.

    ``on_epoch`` is told of epoch 0 (nothing trained) and of the end of each. ``data.features`` are those of the frozen model.
    """
    penalty = torch.tensor(ridge).expand(len(weights), -1)
    heads = fit_heads(family, data.features, data.observations, weights, penalty, stream(data.seed, "start"))
    weights = weights * data.observations.weight
    start = [heads.model.weights, heads.nuisance.gaps, heads.nuisance.bias]
    parameters = [value.clone().requires_grad_() for value in start]
    optimiser = torch.optim.Adam(
        [{"params": body.parameters(), "lr": tuning.learning_rate}, {"params": parameters, "lr": HEAD_RATE}]
    )
    used = (weights.sum(0) > 0).nonzero()[:, 0]
    per_epoch = -(-len(used) // tuning.judgments_per_step)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(tuning.epochs * per_epoch, 1))
    order = stream(data.seed, "tuning")
    if on_epoch:
        on_epoch(0, heads, body)
    for epoch in range(1, epochs + 1):
        texts = texts_at(epoch)
        for batch in used[torch.randperm(len(used), generator=order)].split(tuning.judgments_per_step):
            now = _heads(family, parameters, data, heads)
            loss = _loss(body, texts, now, data, weights, penalty, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        heads = _detached(_heads(family, parameters, data, heads))
        if on_epoch:
            on_epoch(epoch, heads, body)
    return heads


def standardised(features: Tensor, data: FitData) -> Tensor:
    """Features (R, d) on the scale that heads are fitted on."""
    return (features - data.mean) * data.scale


def _loss(
    body: TunedBody,
    texts: Sequence[TokenisedText],
    heads: FittedHeads,
    data: FitData,
    weights: Tensor,
    penalty: Tensor,
    batch: Tensor,
) -> Tensor:
    """Penalised mean negative log likelihood of a batch of judgments, averaged over heads."""
    observations = data.observations
    rows, position = torch.cat([observations.row_a[batch], observations.row_b[batch]]).unique(return_inverse=True)
    features = standardised(body.features([texts[i] for i in rows.tolist()]), data)
    model, nuisance = heads.model, heads.nuisance
    embedded = model.embed(features)  # (M, rows, w)
    first, second = position.chunk(2)
    logits = model.family.compare(embedded[:, first], embedded[:, second])
    chosen = weights[:, batch]
    likelihood = (chosen * log_likelihood(logits, nuisance, select(observations, batch))).sum(1) / chosen.sum(1).clamp_min(1)
    total = weights.sum(1)
    prior = (penalty * model.weights.square().sum(1)).sum(1) * RIDGE_LABELS / total - log_prior(nuisance) / total
    return (prior - likelihood).mean()


def select(observations: Observations, rows: Tensor) -> Observations:
    """Some of the judgments."""
    names = ("row_a", "row_b", "low", "high", "verdict", "annotator", "prompt")
    return replace(observations, rankings=None, **{name: getattr(observations, name)[rows] for name in names})


def _heads(family: PreferenceFamily, parameters: Sequence[Tensor], data: FitData, before: FittedHeads) -> FittedHeads:
    """The heads as they are; flip rates stay those of the frozen features, which a few epochs would hardly move."""
    head_weights, gaps, bias = parameters
    pull = bias if data.observations.position_bias else torch.zeros_like(bias)
    nuisance = Nuisance(gaps, pull, before.nuisance.flip_rates)
    return FittedHeads(LinearPreference(family, head_weights), nuisance, before.objective)


def _detached(heads: FittedHeads) -> FittedHeads:
    model, nuisance = heads.model, heads.nuisance
    return FittedHeads(
        LinearPreference(model.family, model.weights.detach().clone()),
        Nuisance(nuisance.gaps.detach().clone(), nuisance.bias.detach().clone(), nuisance.flip_rates),
        heads.objective,
    )
