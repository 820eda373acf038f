"""Are these preferences intransitive? Bradley-Terry against Bradley-Terry plus a cyclic block.

Two looks at the same judgments. Held out: does the cyclic block predict judgments on unseen prompts better? In sample: is
its gain in penalised likelihood larger than in data simulated from the fitted Bradley-Terry model (parametric bootstrap;
the chi-squared limit is wrong here, because the block is penalised and vanishes at the boundary)? Cycles can also come
from people who each are consistent but disagree: repeat the audit within annotators before blaming one of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from online_learner.preference_models.fit import (
    MIN_GAIN_NATS,
    FitData,
    clearly_better,
    fit_candidates,
    prepare,
    with_selected,
)
from online_learner.preference_models.fitted import FittedPreference
from online_learner.preference_models.heads import fit_heads, observed_logits
from online_learner.preference_models.likelihood import Observations
from online_learner.preference_models.registry import PREFERENCE_MODELS
from online_learner.seeds import stream

SIGNIFICANT, DECISIVE = 0.05, 0.01
NEGLIGIBLE_NATS = 0.01  # a smaller gain in held-out log loss would hardly move a policy
FIRST_REPLICATES, MORE_REPLICATES = 39, 60  # more only where the first leave it open: none or few above


def fit_and_audit(
    features_of: Mapping[str, Tensor],
    judgments: pa.Table,
    *,
    seed: int,
    models: Sequence[str] = ("bradley_terry", "bt_gpm"),
    num_heads: int = 8,
    min_judgments: int = 20,
    position_bias: bool = True,
) -> tuple[FittedPreference, dict[str, Any]]:
    """``fit_preference_models`` and the audit of its candidates, without fitting anything twice.

    Judgments that the audit calls cyclic are modelled by bt_gpm, also where held-out loss alone had not chosen it.
    """
    data = prepare(features_of, judgments, seed=seed, min_judgments=min_judgments, position_bias=position_bias)
    candidates = fit_candidates(data, models, num_heads)
    audit = audit_intransitivity(data, candidates)
    return choose(candidates, audit), audit


def choose(candidates: Mapping[str, FittedPreference], audit: Mapping[str, Any]) -> FittedPreference:
    """The candidate that held-out loss selected, or bt_gpm where that was bradley_terry and the audit finds cycles."""
    selected = candidates[next(iter(candidates.values())).report["selected"]]
    if audit["cyclic"] and selected.name == "bradley_terry":
        return with_selected(candidates["bt_gpm"], f"{selected.report['why']}, but the audit finds cycles")
    return selected


def audit_intransitivity(data: FitData, candidates: Mapping[str, FittedPreference]) -> dict[str, Any]:
    """{"cyclic": true | false | null, "p_value", "statistic", "sentence", ...}; null means that the data cannot tell."""
    if not {"bradley_terry", "bt_gpm"} <= candidates.keys():
        sentence = "Not audited: the audit compares bradley_terry with bt_gpm and both must be among the candidates."
        return {"cyclic": None, "p_value": None, "statistic": None, "sentence": sentence}
    gain, error = candidates["bt_gpm"].report["gains"]["bt_gpm"]
    statistic, null = _likelihood_ratios(data, candidates, clearly_better(gain, error))
    p_value = (1 + int((null >= statistic).sum())) / (1 + len(null))
    cyclic = decide(p_value, gain, error)
    return {
        "cyclic": cyclic,
        "p_value": p_value,
        "statistic": statistic,
        "null_mean": float(null.mean()),
        "num_replicates": len(null),
        "heldout_gain_nats": gain,
        "heldout_gain_error": error,
        "sentence": _sentence(cyclic, p_value, gain, error, data.observations.num_decided),
    }


def decide(p_value: float, gain: float, error: float) -> bool | None:
    """True: both looks find cycles. False: neither does, and a gain worth having is excluded. None: cannot tell.

    With few judgments cross-validation is the weaker look, so a decisive p-value makes up for a gain that is not clear.
    """
    if p_value <= SIGNIFICANT and clearly_better(gain, error):
        return True
    if p_value <= DECISIVE and gain > MIN_GAIN_NATS:
        return True
    if p_value > SIGNIFICANT and gain + 2 * error < NEGLIGIBLE_NATS:
        return False
    return None


def simulate_answers(
    logits: Tensor, fitted: FittedPreference, data: Observations, num_samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Answers drawn from logits (n,) as the same people would give them: threshold indices low, high (num_samples, n).

    A judgment that came without a strength is simulated without one.
    """
    answers = fitted.answers
    rates = torch.tensor([0.0, *(answers.flip_rates[name] for name in data.annotators)])
    shape = (num_samples, len(data))
    flipped = torch.rand(shape, generator=generator) < rates[data.annotator]
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    latent = torch.where(flipped, -logits, logits) + answers.position_bias + torch.logit(uniform)
    upper = torch.tensor(answers.thresholds, dtype=torch.float64)
    low = torch.bucketize(latent, torch.cat([-upper.flip(0), upper]))  # number of thresholds below, 0 .. 2 L
    high = low + 1
    first = len(upper) + 1  # index of k0, the centre of the threshold vector
    coarse = (data.verdict != 0) & (data.high - data.low > 1)
    without_strength = coarse & (low != first - 1)
    low = torch.where(without_strength, torch.where(low >= first, first, 0), low)
    high = torch.where(without_strength, torch.where(low >= first, 2 * first - 1, first - 1), high)
    return low, high


def _likelihood_ratios(data: FitData, candidates: Mapping[str, FittedPreference], clear: bool) -> tuple[float, Tensor]:
    observations = data.observations
    transitive = candidates["bradley_terry"]
    logits = observed_logits(transitive.model, data.features, observations).mean(0) / transitive.temperature
    generator = stream(data.seed, "audit")
    recorded = observations.low[None], observations.high[None]
    simulated = simulate_answers(logits, transitive, observations, FIRST_REPLICATES, generator)
    ratios = _ratio(data, candidates, *(torch.cat(pair) for pair in zip(recorded, simulated, strict=True)))
    statistic, null = float(ratios[0]), ratios[1:]
    if (null >= statistic).sum() <= 5 and not (clear and (null < statistic).all()):
        more = simulate_answers(logits, transitive, observations, MORE_REPLICATES, generator)
        null = torch.cat([null, _ratio(data, candidates, *more)])
    return statistic, null


def _ratio(data: FitData, candidates: Mapping[str, FittedPreference], low: Tensor, high: Tensor) -> Tensor:
    """(M, n) answers -> (M,): log posterior of the cyclic model minus that of the transitive one nested in it, nats."""
    weights = torch.ones(low.shape)
    penalty = torch.tensor(candidates["bt_gpm"].report["models"]["bt_gpm"]["ridge"]).expand(len(low), -1)
    objectives = [
        fit_heads(
            PREFERENCE_MODELS[name],
            data.features,
            data.observations,
            weights,
            penalty[:, :width],
            stream(data.seed, "start"),
            low,
            high,
        ).objective
        for name, width in (("bradley_terry", 1), ("bt_gpm", penalty.shape[1]))
    ]
    return (objectives[0] - objectives[1]) * len(data.observations)


def _sentence(cyclic: bool | None, p_value: float, gain: float, error: float, num_decided: int) -> str:
    figures = (
        f"held-out gain {gain:+.4f} nats per judgment, standard error {error:.4f}; p = {p_value:.3f} "
        f"against simulated transitive data; {num_decided} decided judgments"
    )
    if cyclic:
        return f"These preferences contain cycles: some responses beat each other in a circle ({figures})."
    if cyclic is False:
        return f"No sign of cycles: one utility per response explains these judgments as well ({figures})."
    if p_value <= SIGNIFICANT:
        return (
            "These data cannot tell whether preferences are cyclic: one utility per response fits them worse than it fits "
            f"simulated transitive judgments, yet a cyclic model predicts unseen prompts no better ({figures})."
        )
    return f"These data cannot tell whether preferences are cyclic ({figures}). More judgments would."
