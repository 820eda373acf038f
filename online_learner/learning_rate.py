"""The learning rate for a model nobody has tuned: start from its width, fit, look at what the fitted policy says, back off.

Too large a rate reaches the margins on the training prompts and breaks the text: the policy's own samples become unlikely under
the policy it started from. The exact step's KL to the parent is known from its targets, so a fit that moved much further
than that did something else than the step, and is repeated more slowly. Pure functions; update_stage runs the loop.
"""

import torch

from online_learner.policy.groups import Groups
from online_learner.policy.objective import Objective
from online_learner.targets import potentials

LARGEST_RATE, WIDTH_OF_LARGEST = 3e-3, 128  # measured: suits widths up to 128 with rank 8; wider models need proportionally less
BACK_OFF = 3.0
MAX_FITS = 4
ALLOWED_FACTOR, ALLOWED_NATS = 2.0, 0.5
LOGISTIC_KL_NATS = 1.0  # logistic rules have no target margin; a nat is what their first rounds move in practice


def starting_rate(hidden_size: int) -> float:
    """Rate of the first fit of a lineage."""
    return LARGEST_RATE * min(1.0, WIDTH_OF_LARGEST / hidden_size)


def exact_step_kl(objective: Objective, groups: Groups) -> float:
    """Mean KL(step || parent) over groups, nats, had the step been exact on each group's K responses.

    The step tilts the K samples, equally likely under the parent, by exp(c r_i): KL = log K - entropy of softmax(c r). It is a
    little low, because K samples cannot be tilted by more than log K.
    """
    rule = objective.rule
    if rule.pair_loss != "square":
        return LOGISTIC_KL_NATS
    in_pairs = rule.target_kind == "pair"
    values = groups.preferences.mean(-1) if in_pairs else potentials(rule, groups.preferences, groups.facts)
    tilted = torch.softmax(rule.target(objective.settings) * values, dim=-1)
    entropy = -(tilted * tilted.clamp_min(1e-12).log()).sum(-1)
    return float((torch.log(torch.tensor(float(groups.preferences.shape[-1]))) - entropy).mean())


def allowed_kl(exact_kl: float) -> float:
    """KL to the parent, nats, up to which a fit counts as the step that was asked for."""
    return ALLOWED_FACTOR * exact_kl + ALLOWED_NATS
