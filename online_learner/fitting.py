"""The fit of a round: as often as the learning rate needs, each fit kept at the epoch that suits unseen prompts best."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from online_learner.jobs import Job, read_json
from online_learner.learning_rate import BACK_OFF, MAX_FITS, allowed_kl, exact_step_kl, starting_rate
from online_learner.logps import response_logps
from online_learner.policy.adapters import PolicyScorer, TrainedAdapter
from online_learner.policy.groups import Groups
from online_learner.policy.memory import plan_memory
from online_learner.policy.objective import Objective
from online_learner.policy.step import Room, group_logps
from online_learner.policy.train import Schedule, diagnostics, fit
from online_learner.responses import sample_responses, split_rows, tokenised_responses
from online_learner.seeds import stream_seed

NUM_PROMPTS_FOR_KL = 96
TRAINING_FACTS = "nashloop.json"  # beside an adapter: what later rounds reuse


@dataclass(frozen=True, slots=True, kw_only=True)
class FitInput:
    """What a fit minimises and on what: anchor_logps (N, K); rows of the groups to train on and rows to watch."""

    objective: Objective
    groups: Groups
    anchor_logps: Tensor
    split: tuple[list[int], list[int]]


def fit_at_a_suitable_rate(
    job: Job, adapter: TrainedAdapter, fit_input: FitInput, parent: Path | None
) -> tuple[float, str, Tensor]:
    """Fit, and again at a third of the rate while the policy moves further than the step asks for (learning_rate.py).

    Returns the rate, why it was taken (empty where a person chose it), and the anchor (N, K) of the last fit.
    """
    wanted = job.settings.update.learning_rate
    earlier = read_json(parent / TRAINING_FACTS).get("learning_rate") if parent else None
    config: Any = job.base.model.config
    width = config.get_text_config().hidden_size
    rate = float(wanted) if wanted != "auto" else earlier or starting_rate(width)
    rule = fit_input.objective.rule
    exact = exact_step_kl(fit_input.objective, fit_input.groups)
    start = adapter.state()
    plan = plan_memory(adapter.model, fit_input.groups)
    logging.getLogger(__name__).info(plan.sentence())
    room = Room(plan.tokens)
    attempt, kl, last = 0, 0.0, fit_input
    while True:
        adapter.restore(start)
        last = fit_input
        num_fits = 1 if rule.opponent == "half_step" else rule.fits  # each of its fits is a stage of its own
        for index in range(num_fits):
            if index == 1:  # the second fit is anchored at what the first one reached
                with torch.no_grad():
                    last = replace(fit_input, anchor_logps=group_logps(adapter.model, fit_input.groups).cpu())
            _fit(job, adapter, last, rate, (index, num_fits), room)
        kl = _kl_to_parent(job, adapter)
        job.progress.tell(1.0, f"moved {kl:.2f} nats", {"update/kl_to_parent_nats": kl})
        if wanted != "auto":
            return rate, "", last.anchor_logps
        if kl <= allowed_kl(exact) or attempt == MAX_FITS - 1:
            break
        rate, attempt = rate / BACK_OFF, attempt + 1
    source = "of the parent's round" if earlier else f"for a model of width {width}"
    backed_off = f", divided by {BACK_OFF:g} {attempt} times because the policy moved too far" if attempt else ""
    why = f"automatic: the rate {source}{backed_off}; the policy moved {kl:.2f} nats, up to {allowed_kl(exact):.2f} suit the step"
    return rate, why, last.anchor_logps


def _kl_to_parent(job: Job, adapter: TrainedAdapter) -> float:
    """Mean log-ratio of the trained policy to its parent on its own samples, one for each of some training prompts."""
    scorer, parent = PolicyScorer(job.base.model), job.lineage["parent"]
    trained = scorer.use(adapter.deltas())
    prompts = split_rows(job, "train")[:NUM_PROMPTS_FOR_KL]
    rows = sample_responses(job, trained, policy_id="trained", prompts=prompts, num_responses=1, role="probe")
    sequences = list(tokenised_responses(job, rows).values())
    with torch.no_grad():
        own = response_logps(trained, sequences)
        return float((own - response_logps(scorer.use(job.deltas(parent)), sequences)).mean())


def _schedule(job: Job, rate: float, index: int) -> Schedule:
    update = job.settings.update
    seed = stream_seed(job.settings.seed, f"order/{index}") % 2**62
    return Schedule(epochs=update.epochs, groups_per_step=update.prompts_per_step, learning_rate=rate, seed=seed)


def _fit(job: Job, adapter: TrainedAdapter, fit_input: FitInput, rate: float, place: tuple[int, int], room: Room) -> None:
    """One fit, ended where the loss on the watched groups was lowest: a model that only learns responses by heart stops early."""
    objective, groups, anchor = fit_input.objective, fit_input.groups, fit_input.anchor_logps
    (train, held_out), (index, fits) = fit_input.split, place
    schedule = _schedule(job, rate, index)
    steps_per_epoch = schedule.num_steps(len(train)) // schedule.epochs
    best: tuple[float, list[Tensor]] | None = None

    def on_step(step: int, num_steps: int, loss: float, gradient_norm: float) -> None:
        nonlocal best
        metrics: dict[str, Any] = {"update/loss": loss, "update/gradient_norm": gradient_norm}
        if held_out and step % steps_per_epoch == 0:
            found = _on_groups(adapter, objective, groups.select(held_out), anchor[held_out])
            metrics |= {"update/heldout_loss": found["loss"], "update/heldout_r2": found["r2"]}
            if best is None or found["loss"] < best[0]:
                best = found["loss"], adapter.state()
        share = 0.9 * (index + step / num_steps) / fits
        fit_name = f"fit {index + 1} of {fits}, " if fits > 1 else ""
        job.progress.tell(share, f"{fit_name}step {step} of {num_steps}", metrics)

    fit(adapter, objective, groups.select(train), anchor[train], schedule, on_step, room=room)
    if best is not None:
        adapter.restore(best[1])


def _on_groups(adapter: TrainedAdapter, objective: Objective, groups: Groups, anchor: Tensor) -> dict[str, Any]:
    with torch.no_grad():
        return diagnostics(objective, groups, group_logps(adapter.model, groups).cpu(), anchor)
