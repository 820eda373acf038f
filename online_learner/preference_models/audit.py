"""Are these preferences intransitive? Bradley-Terry against Bradley-Terry plus a cyclic block.

Two looks at the same judgments. Held out: does the cyclic block predict judgments on unseen prompts better? In sample: is
its gain in penalised likelihood larger than in data simulated from the fitted Bradley-Terry model (parametric bootstrap;
the chi-squared limit is wrong here, because the block is penalised and vanishes at the boundary)? A third look needs no
features but several votes on each side of triangles: the Hodge residual (vote_cycles). "No cycles" is said only where cycles
of scale 1, planted into the same judgments, would have been found. Cycles can also come from people who each are consistent
but disagree: ``votes.annotators`` says so where annotators judged whole triads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from online_learner.preference_models.cycle_picture import clearest_circle, judged_rows, plan_logits, planted_circles
from online_learner.preference_models.fit import (
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
from online_learner.preference_models.triads import Votes
from online_learner.preference_models.vote_cycles import audit_votes, labels_needed
from online_learner.seeds import stream, stream_seed

SIGNIFICANT, DECISIVE = 0.05, 0.01
NEGLIGIBLE_NATS = 0.01  # a smaller gain in held-out log loss would hardly move a policy
FIRST_REPLICATES, MORE_REPLICATES = 39, 60  # more only where the first leave it open: none or few above
FAR_OUTSIDE = 4.0  # standard deviations above the mean of the null; a false alarm is rarely more than three
LEAST_DEVIATION = 1.0  # nats; a null that is mostly zero has a deviation that means nothing
NUM_PLANTED, ENOUGH_POWER = 12, 0.8
NOISE_NATS = 1e-3  # rounding of a sum of log likelihoods in single precision


def fit_and_audit(
    features_of: Mapping[str, Tensor],
    judgments: pa.Table,
    *,
    seed: int,
    models: Sequence[str] = ("bradley_terry", "bt_gpm"),
    num_heads: int = 8,
    min_judgments: int = 20,
    position_bias: bool = True,
    label_map: str = "none",
) -> tuple[FittedPreference, dict[str, Any]]:
    """``fit_preference_models`` and the audit of its candidates, without fitting anything twice.

    Judgments that the audit calls cyclic are modelled by bt_gpm, also where held-out loss alone had not chosen it.
    """
    data = prepare(
        features_of, judgments, seed=seed, min_judgments=min_judgments, position_bias=position_bias, label_map=label_map
    )
    candidates = fit_candidates(data, models, num_heads)
    audit = audit_intransitivity(data, candidates, list(features_of))
    return choose(candidates, audit), audit


def choose(candidates: Mapping[str, FittedPreference], audit: Mapping[str, Any]) -> FittedPreference:
    """The candidate that held-out loss selected, or bt_gpm where that has utilities alone and the audit finds cycles."""
    selected = candidates[next(iter(candidates.values())).report["selected"]]
    if audit["cyclic"] and selected.name in ("bradley_terry", "plackett_luce") and "bt_gpm" in candidates:
        return with_selected(candidates["bt_gpm"], f"{selected.report['why']}, but the audit finds cycles")
    return selected


def audit_intransitivity(
    data: FitData, candidates: Mapping[str, FittedPreference], response_ids: Sequence[str] | None = None
) -> dict[str, Any]:
    """{"cyclic": true | false | null, "p_value", "statistic", "sentence", ...}; null means that the data cannot tell.

    votes: the look without features. circle: the clearest circle of three ``response_ids`` where preferences are cyclic.
    labels_per_pair_needed: where it is null, on all pairs of 4 responses to as many prompts as were judged.
    """
    if not {"bradley_terry", "bt_gpm"} <= candidates.keys():
        sentence = "Not audited: the audit compares bradley_terry with bt_gpm and both must be among the candidates."
        return {"cyclic": None, "p_value": None, "statistic": None, "sentence": sentence}
    rng = np.random.default_rng(stream_seed(data.seed, "audit of votes"))
    gain, error = candidates["bt_gpm"].report["gains"]["bt_gpm"]
    statistic, null, planted = _likelihood_ratios(data, candidates, clearly_better(gain, error))
    p_value = (1 + int((null >= statistic - NOISE_NATS).sum())) / (1 + len(null))
    excess = (statistic - float(null.mean())) / max(float(null.std()), LEAST_DEVIATION)
    power = float((planted > null.quantile(1 - SIGNIFICANT) + NOISE_NATS).float().mean())
    votes = audit_votes(votes_of(data.observations), rng)
    by_votes = votes.get("hodge", {}).get("p_value", 1.0) <= DECISIVE
    cyclic = True if by_votes else decide(p_value, gain, error, excess, power)
    needed, num_prompts = (None, 0) if cyclic is not None else _plan(data, candidates, rng)
    sentence = _sentence(cyclic, p_value, gain, error, data.observations.num_decided)
    remarks = [
        votes["hodge"]["sentence"] if by_votes else "",
        votes["annotators"]["sentence"] if cyclic and "annotators" in votes and votes["annotators"]["who"] else "",
        _advice(power, needed, num_prompts) if cyclic is None else "",
    ]
    return {
        "cyclic": cyclic,
        "p_value": p_value,
        "statistic": statistic,
        "null_mean": float(null.mean()),
        "excess_deviations": excess,
        "num_replicates": len(null),
        "heldout_gain_nats": gain,
        "heldout_gain_error": error,
        "power_at_scale_1": power,
        "labels_per_pair_needed": needed,
        "votes": _named(votes, response_ids),
        "circle": _circle(data, candidates["bt_gpm"], response_ids) if cyclic else None,
        "sentence": " ".join([sentence, *filter(None, remarks)]),
    }


def decide(p_value: float, gain: float, error: float, excess: float, power: float) -> bool | None:
    """True: both looks find cycles. False: neither does, and cycles worth having would have been found. None: cannot tell.

    With few judgments cross-validation is the weaker look, so a likelihood ratio far outside its null (``excess`` standard
    deviations) makes up for a gain that is not clear, unless it is clearly a loss.
    """
    if p_value <= SIGNIFICANT and clearly_better(gain, error):
        return True
    if p_value <= DECISIVE and excess >= FAR_OUTSIDE and gain > -error:
        return True
    if p_value > SIGNIFICANT and gain + 2 * error < NEGLIGIBLE_NATS and power >= ENOUGH_POWER:
        return False
    return None


def votes_of(data: Observations) -> Votes:
    """Observations as votes. An annotator who is alone or not known is nobody in particular, -1."""
    columns = (data.prompt, data.row_a, data.row_b, data.verdict, data.annotator - 1)
    return Votes(*(column.numpy() for column in columns))


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


def _likelihood_ratios(data: FitData, candidates: Mapping[str, FittedPreference], clear: bool) -> tuple[float, Tensor, Tensor]:
    """The statistic, its null, and what it would be with planted cycles of scale 1."""
    observations = data.observations
    transitive = candidates["bradley_terry"]
    logits = observed_logits(transitive.model, data.features, observations).mean(0) / transitive.temperature
    generator = stream(data.seed, "audit")
    plants = planted_circles(data.features, generator, NUM_PLANTED)
    cyclic = logits + observed_logits(plants, data.features, observations)
    answers = [
        (observations.low[None], observations.high[None]),
        simulate_answers(logits, transitive, observations, FIRST_REPLICATES, generator),
        *(simulate_answers(row, transitive, observations, 1, generator) for row in cyclic),
    ]
    ratios = _ratio(data, candidates, *(torch.cat(rows) for rows in zip(*answers, strict=True)))
    statistic, null, planted = float(ratios[0]), ratios[1 : 1 + FIRST_REPLICATES], ratios[1 + FIRST_REPLICATES :]
    if (null >= statistic - NOISE_NATS).sum() <= 5 and not (clear and (null < statistic - NOISE_NATS).all()):
        more = simulate_answers(logits, transitive, observations, MORE_REPLICATES, generator)
        null = torch.cat([null, _ratio(data, candidates, *more)])
    return statistic, null, planted


def _plan(data: FitData, candidates: Mapping[str, FittedPreference], rng: np.random.Generator) -> tuple[int | None, int]:
    """Labels per pair with which cycles of scale 1 on the fitted utilities would be found, and on how many prompts."""
    prompts = judged_rows(data.observations)
    transitive = candidates["bradley_terry"]
    logits = plan_logits(transitive.model, transitive.temperature, data.features, prompts)
    if not len(logits):  # no prompt has four judged responses: plan with utilities that differ by noise
        utility = rng.standard_normal((min(len(prompts), 100), 4))
        logits = utility[:, :, None] - utility[:, None, :]
    x, y = rng.standard_normal((2, *logits.shape[:2]))
    logits = logits + x[:, :, None] * y[:, None, :] - y[:, :, None] * x[:, None, :]
    return labels_needed(logits, rng), len(logits)


def _circle(data: FitData, fitted: FittedPreference, response_ids: Sequence[str] | None) -> dict[str, Any] | None:
    if response_ids is None:
        return None
    prompts = judged_rows(data.observations)
    return clearest_circle(fitted.model, fitted.temperature, data.features, prompts, response_ids)


def _named(votes: dict[str, Any], response_ids: Sequence[str] | None) -> dict[str, Any]:
    if response_ids is None or "curl" not in votes:
        return votes
    return {**votes, "curl": {**votes["curl"], "largest": [response_ids[row] for row in votes["curl"]["largest"]]}}


def _advice(power: float, needed: int | None, num_prompts: int) -> str:
    found = f"Cycles of scale 1 in logits would have been found in {power:.0%} of cases."
    if needed is None:
        return f"{found} Even 15 labels on each pair of 4 responses to {num_prompts} prompts would not tell; judge more prompts."
    return (
        f"{found} {needed} labels on each pair of 4 responses to {num_prompts} prompts ({6 * needed * num_prompts:,} in all) "
        "would tell, by the votes alone, in 4 of 5."
    )


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
    return f"These data cannot tell whether preferences are cyclic ({figures})."
