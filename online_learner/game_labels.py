"""Fits of a game from finitely many pairs: what a round does, against the closed form that knows every preference.

A sampled fit is the same square-loss minimiser, on pairs drawn from the sampler instead of on all of them in proportion.
A actions, Q groups, K responses in a group.
"""

import torch
from torch import Tensor

from online_learner.games import Fit, FitInputs
from online_learner.mirror_descent import all_pairs, best_worst_pairs
from online_learner.update_rule import RuleSettings, UpdateRule

RIDGE = 1.0  # pseudo-pairs that hold each action's log-ratio at zero, so that an action never drawn stays where it was


def weighted_fit(rule: UpdateRule, settings: RuleSettings, anchor: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    """Minimiser of sum w_ij (f_i - f_j - c (y_ij - 1/2))^2 + RIDGE |f|^2 as anchor * exp(f), log-probabilities (A,).

    weights (A, A) count ordered pairs, labels (A, A) are their mean labels (read only where the weight is positive).
    ValueError for rules that are not of this form.
    """
    if (rule.pair_loss, rule.target_kind, rule.unit) != ("square", "pair", "pair"):
        raise ValueError(f"update rule {rule.name} is no square loss on the preference inside a pair; play it with exact labels")
    pulls = weights * rule.target(settings) * (labels - 0.5)
    right = (pulls - pulls.T).sum(-1)
    both = weights + weights.T
    left = torch.diag(both.sum(-1) + RIDGE) - both
    return torch.log_softmax(anchor + torch.linalg.solve(left, right), -1)


def bernoulli_fit(pairs_per_round: int, generator: torch.Generator) -> Fit:
    """A fit on that many independent pairs from the sampler, each with one drawn label."""

    def fit(rule: UpdateRule, settings: RuleSettings, inputs: FitInputs) -> Tensor:
        drawn = torch.multinomial(inputs.sampler.exp(), 2 * pairs_per_round, replacement=True, generator=generator)
        first, second = drawn.chunk(2)
        won = torch.rand(pairs_per_round, generator=generator, dtype=torch.float64) < inputs.prefs[first, second]
        weights, wins = torch.zeros_like(inputs.prefs), torch.zeros_like(inputs.prefs)
        weights.index_put_((first, second), torch.ones_like(won, dtype=torch.float64), accumulate=True)
        wins.index_put_((first, second), won.double(), accumulate=True)
        return weighted_fit(rule, settings, inputs.anchor, weights, wins / weights.clamp_min(1.0))

    return fit


def group_fit(num_groups: int, num_responses: int, selection: str, hard: bool, generator: torch.Generator) -> Fit:
    """A fit on pairs chosen from groups of K responses: ``all`` or ``best_worst``; ``hard``: the first of a pair has won.

    all: every pair of a group. best_worst: the two with the highest and lowest win rate in their group, which is what moves
    the fixed point on cyclic preferences.
    """

    def fit(rule: UpdateRule, settings: RuleSettings, inputs: FitInputs) -> Tensor:
        shape = num_groups, num_responses
        drawn = torch.multinomial(inputs.sampler.exp(), num_groups * num_responses, replacement=True, generator=generator)
        members = drawn.view(shape)
        preferences = inputs.prefs[members.unsqueeze(-1), members.unsqueeze(-2)]  # (Q, K, K)
        chosen = (best_worst_pairs(preferences) if selection == "best_worst" else all_pairs(*shape)).double()
        q, i, j = chosen.nonzero(as_tuple=True)
        weights = torch.zeros_like(inputs.prefs)
        weights.index_put_((members[q, i], members[q, j]), chosen[q, i, j], accumulate=True)
        return weighted_fit(rule, settings, inputs.anchor, weights, torch.ones_like(weights) if hard else inputs.prefs)

    return fit
