"""The optimiser loop of one fit: AdamW on the LoRA weights until the rule's objective is small. Shapes as in groups.py."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from online_learner.mirror_descent import achieved_fraction, margin_r2, pairwise_margins, potential_fraction
from online_learner.policy import processes
from online_learner.policy.adapters import TrainedAdapter
from online_learner.policy.degree_head import DegreeHead
from online_learner.policy.groups import Groups
from online_learner.policy.memory import plan_memory
from online_learner.policy.objective import DEGREE, Objective
from online_learner.policy.step import Room, StepLoss, add_gradient

WARM_UP_STEPS = 3
FINAL_RATE = 0.1  # of the peak, at the end of the cosine
CLIP_NORM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast: epochs over the groups, groups in a step, peak learning rate, seed of the order."""

    epochs: int
    groups_per_step: int
    learning_rate: float
    seed: int
    in_order: bool = False
    """Groups are taken as they come, not shuffled: to compare with another trainer."""

    def num_steps(self, num_groups: int) -> int:
        return self.epochs * math.ceil(num_groups / self.groups_per_step)

    def rate(self, step: int, num_steps: int) -> float:
        """Linear warm-up, then cosine to a tenth of the peak; ``step`` counts from 0."""
        if step < WARM_UP_STEPS:
            return self.learning_rate * (step + 1) / WARM_UP_STEPS
        share = (step - WARM_UP_STEPS) / max(1, num_steps - WARM_UP_STEPS)
        return self.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * share)) / 2)


def fit(
    adapter: TrainedAdapter,
    objective: Objective,
    groups: Groups,
    anchor_logps: Tensor,
    schedule: Schedule,
    on_step: Callable[[int, int, float, float], None] = lambda step, num_steps, loss, gradient_norm: None,
    *,
    room: Room | None = None,
) -> None:
    """Minimise the objective over the adapter's weights; anchor_logps (N, K) on the CPU. The norm is that before clipping.

    ``room`` is what memory.plan_memory finds, unless given.
    """
    room = room or Room(plan_memory(adapter.model, groups).tokens)
    team = processes.gather_team(adapter)
    head = DegreeHead(adapter.model) if DEGREE in objective.rule.extras(objective.settings) else None
    parameters = adapter.parameters() + (list(head.linear.parameters()) if head else [])
    optimiser = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=0.0)
    num_steps = schedule.num_steps(len(groups))
    for step, rows in enumerate(_steps(len(groups), schedule)):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step, num_steps)
        batch = groups.select(rows)
        optimiser.zero_grad(set_to_none=True)
        if team:
            loss = team.add_gradient(StepLoss(objective, batch, anchor_logps[rows]), room.tokens)
        else:
            loss = add_gradient(adapter.model, objective, batch, anchor_logps[rows], room)
        if head:
            loss += objective.add_degree_gradient(head, adapter.model, batch)
        norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimiser.step()
        on_step(step + 1, num_steps, loss, float(norm))


def diagnostics(objective: Objective, groups: Groups, logps: Tensor, anchor_logps: Tensor) -> dict[str, float | None]:
    """How well margins reach their targets on these groups: loss, R2, achieved fraction, plain and of the potential part.

    Only the square loss has a target to reach; in the others it is the margin from which a pair begins to count less.
    """
    chosen = groups.pair_weights > 0
    if not chosen.any():
        return {}
    loss = {"loss": float(objective.loss(groups, logps, anchor_logps))}
    if objective.rule.pair_loss != "square":
        return {**loss, "r2": None, "achieved_fraction": None, "potential_fraction": None}
    targets = objective.targets(groups)
    margins = pairwise_margins(objective.measured(groups, logps), objective.measured(groups, anchor_logps))
    full = chosen.sum((-1, -2)) == logps.shape[-1] * (logps.shape[-1] - 1) // 2
    return loss | {
        "r2": margin_r2(margins[chosen], targets[chosen]),
        "achieved_fraction": achieved_fraction(margins[chosen], targets[chosen]),
        "potential_fraction": _potential_fraction(objective, margins[full], groups.preferences[full]) if full.any() else None,
    }


def _potential_fraction(objective: Objective, margins: Tensor, preferences: Tensor) -> float | None:
    rule = objective.rule
    in_group = rule.opponent == "group" and rule.target_kind in ("pair", "win_rate")  # else the group says nothing of the targets
    return potential_fraction(margins, preferences, rule.target(objective.settings)) if in_group else None


def _steps(num_groups: int, schedule: Schedule) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(schedule.seed)
    for _ in range(schedule.epochs):
        order = list(range(num_groups)) if schedule.in_order else torch.randperm(num_groups, generator=generator).tolist()
        for start in range(0, num_groups, schedule.groups_per_step):
            yield order[start : start + schedule.groups_per_step]
