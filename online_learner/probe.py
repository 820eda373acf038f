"""The learning rate for a model nobody has tuned: a few short fits, thrown away, judged on prompts they did not see.

Too small a rate leaves the margins where they were; too large a one moves them on the training prompts and breaks the text
elsewhere, which shows first as responses of the old policy becoming much less likely than the step asks for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from online_learner.policy.adapters import TrainedAdapter
from online_learner.policy.groups import Groups
from online_learner.policy.train import Objective, Schedule, fit, group_logps

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
PROBE_STEPS = 8
DRIFT_ALLOWANCE = 1.5  # times the drift that the exact step has


class Probed(NamedTuple):
    """One short fit: loss on held-out groups, and mean fall of the log-probability of their responses, nats."""

    learning_rate: float
    loss: float
    drift: float


def probe_learning_rate(
    adapter: TrainedAdapter,
    objective: Objective,
    train: Groups,
    held_out: Groups,
    anchors: tuple[Tensor, Tensor],
    schedule: Schedule,
    rates: Sequence[float] = RATES,
    on_rate: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[float, str]:
    """The rate and one sentence that says why; the adapter is left as it was. ``anchors``: those of train and of held_out."""
    state = adapter.state()
    with torch.no_grad():
        before = group_logps(adapter.model, held_out).cpu()
    results = []
    for i, rate in enumerate(rates):
        fit(adapter, objective, train, anchors[0], replace(schedule, learning_rate=rate), max_steps=PROBE_STEPS)
        with torch.no_grad():
            after = group_logps(adapter.model, held_out).cpu()
        drift = float((before - after)[held_out.members >= 0].mean())
        results.append(Probed(rate, float(objective.loss(held_out, after, anchors[1])), drift))
        adapter.restore(state)
        on_rate(i + 1, len(rates))
    loss_before = float(objective.loss(held_out, before, anchors[1]))
    return choose_rate(results, loss_before, _drift_of_the_exact_step(objective, held_out))


def choose_rate(results: Sequence[Probed], loss_before: float, exact_drift: float) -> tuple[float, str]:
    """The rate with the lowest held-out loss among those whose drift stays near what the exact step needs; pure."""
    limit = DRIFT_ALLOWANCE * exact_drift + 0.1
    safe = [r for r in results if math.isfinite(r.loss) and r.drift <= limit]
    if not safe:
        smallest = min(results, key=lambda r: r.learning_rate)
        return smallest.learning_rate, "every probed rate moved the policy too far, so the smallest was taken"
    best = min(safe, key=lambda r: (r.loss, r.learning_rate))
    return best.learning_rate, (
        f"of {len(results)} probed rates it had the lowest held-out loss ({best.loss:.2f}, {loss_before:.2f} before) among the "
        f"{len(safe)} that kept the old responses within {limit:.2f} nats"
    )


def _drift_of_the_exact_step(objective: Objective, groups: Groups) -> float:
    """KL(old || new) of the exact mirror step, by the second-order expansion var(g) / 2 of its log-ratios g.

    Logistic rules have no target margin; a nat is what their first rounds move in practice.
    """
    if objective.rule.pair_loss != "square":
        return 1.0
    rates = groups.preferences.mean(-1)
    ratios = objective.rule.target(objective.step_size, objective.kl_coef) * (rates - rates.mean(-1, keepdim=True))
    return float(ratios.pow(2).mean() / 2)
