"""The optimiser loop of one fit: AdamW on the LoRA weights until the rule's objective is small.

The objective is mirror_descent.rule_objective, the function that tests/games prove. Shapes as in groups.py.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from online_learner.extras import EXTRAS, ExtraInputs
from online_learner.logps import response_logps
from online_learner.mirror_descent import (
    achieved_fraction,
    margin_r2,
    pairwise_margins,
    potential_fraction,
    rule_objective,
)
from online_learner.policy.adapters import TrainedAdapter
from online_learner.policy.degree_head import DegreeHead
from online_learner.policy.groups import Groups, given_facts
from online_learner.targets import PairFacts, pairwise_targets
from online_learner.update_rule import RuleSettings, UpdateRule

WARM_UP_STEPS = 3
FINAL_RATE = 0.1  # of the peak, at the end of the cosine
CLIP_NORM = 1.0
DEGREE = "preference_degree"
MEMBERS_OF_EXTRA = {"nll_rationale": "rationales", "logp_samples": "samples", "kl_ref": "samples"}  # see Groups.members_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A rule with the values of its settings."""

    rule: UpdateRule
    settings: RuleSettings

    def loss(self, groups: Groups, logps: Tensor, anchor_logps: Tensor) -> Tensor:
        """Mean loss of the chosen pairs and the rule's extra terms, scalar; logps and anchor_logps (N, K)."""
        own, anchor = self.measured(groups, logps), self.measured(groups, anchor_logps)
        preferences, weights = groups.preferences.to(logps), groups.pair_weights.to(logps)
        facts = PairFacts(**{name: value.to(logps) for name, value in given_facts(groups.facts).items()})
        loss = rule_objective(self.rule, self.settings, own, anchor, preferences, pair_weights=weights, facts=facts)
        for name, coefficient in self.rule.extras(self.settings).items():
            inputs = None if name == DEGREE else _extra_inputs(name, groups, logps, anchor_logps)
            if inputs is not None:
                loss = loss + coefficient * EXTRAS[name](inputs)
        return loss

    def degree_loss(self, head: DegreeHead, model: object, groups: Groups) -> Tensor | float:
        """The term that reads hidden states, times its coefficient; 0 where it has nothing to read."""
        inputs = head.inputs(model, groups)
        return 0.0 if inputs is None else self.rule.extras(self.settings)[DEGREE] * EXTRAS[DEGREE](inputs)

    def measured(self, groups: Groups, logps: Tensor) -> Tensor:
        """Log-probabilities (N, K) as the rule measures them: sums over tokens, or means."""
        return logps / groups.lengths().to(logps) if self.rule.length_normalised else logps

    def targets(self, groups: Groups) -> Tensor:
        """Target margins (N, K, K), nats."""
        return pairwise_targets(self.rule, self.settings, groups.preferences, groups.facts)


def _extra_inputs(name: str, groups: Groups, logps: Tensor, anchor_logps: Tensor) -> ExtraInputs | None:
    """What an extra term reads of these groups; None where they hold nothing of it."""
    if name == "nll_winner":
        return ExtraInputs(logps=logps, preferences=groups.preferences.to(logps), pair_weights=groups.pair_weights)
    wanted = groups.members_of.get(MEMBERS_OF_EXTRA[name])
    if wanted is None or not wanted.any():
        return None
    chosen = wanted > 0
    if name == "nll_rationale":
        return ExtraInputs(rationale_logps=logps[chosen.to(logps.device)])
    num_samples = int(chosen.sum(-1).max())
    whole = chosen.sum(-1) == num_samples  # prompts with fewer samples would not fit into one tensor
    where = (chosen & whole.unsqueeze(-1)).to(logps.device)
    shape = (-1, num_samples)
    return ExtraInputs(
        sample_logps=logps[where].reshape(shape), sample_reference_logps=anchor_logps.to(logps)[where].reshape(shape)
    )


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
) -> None:
    """Minimise the objective over the adapter's weights; anchor_logps (N, K) on the CPU. The norm is that before clipping."""
    head = DegreeHead(adapter.model) if DEGREE in objective.rule.extras(objective.settings) else None
    parameters = adapter.parameters() + (list(head.linear.parameters()) if head else [])
    optimiser = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=0.0)
    num_steps = schedule.num_steps(len(groups))
    for step, rows in enumerate(_steps(len(groups), schedule)):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step, num_steps)
        batch = groups.select(rows)
        logps = group_logps(adapter.model, batch)
        loss = objective.loss(batch, logps, anchor_logps[rows].to(logps))
        if head:
            loss = loss + objective.degree_loss(head, adapter.model, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimiser.step()
        on_step(step + 1, num_steps, float(loss.detach()), float(norm))


def group_logps(model: object, groups: Groups) -> Tensor:
    """Summed log-probabilities of the groups' responses, (N, K); each response is forwarded once."""
    used = sorted({int(row) for row in groups.members.flatten() if row >= 0})
    place = {row: i for i, row in enumerate(used)}
    logps = response_logps(model, [groups.sequences[row] for row in used])
    index = torch.tensor([[place.get(int(row), 0) for row in rows] for rows in groups.members])
    return logps[index.to(logps.device)]


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
