"""Tabular preference games: the ground truth of every claim about an update rule. Pure tensors, float64.

A actions; prefs[i, j] = P(i preferred to j), so prefs + prefs.T == 1. A step can be taken by the closed form or by minimising
rule_objective, the function that trains the language model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from online_learner.mirror_descent import mix_logps, rule_objective
from online_learner.update_rules import UpdateRule


def win_rates(prefs: Tensor, policy: Tensor) -> Tensor:
    """P(action preferred to a response drawn from policy), per action, (A,)."""
    return prefs @ policy


def mirror_step(anchor: Tensor, q: Tensor, step_size: float) -> Tensor:
    """Entropic mirror step: anchor * exp(step_size * q), normalised, (A,)."""
    return torch.softmax(anchor.log() + step_size * q, dim=-1)


def duality_gap(prefs: Tensor, policy: Tensor) -> float:
    """Gap of self-play (policy, policy), in [0, 1]; by symmetry 2 * max_i P(i beats policy) - 1."""
    return float(2.0 * win_rates(prefs, policy).max() - 1.0)


def rock_paper_scissors(num_actions: int, generator: torch.Generator) -> Tensor:
    """Generalised rock-paper-scissors, (A, A): each action beats the (A - 1) / 2 before it, by a random edge in [0.1, 0.5]."""
    if num_actions < 3 or num_actions % 2 == 0:
        raise ValueError(f"num_actions must be odd and at least 3, got {num_actions}")
    index = torch.arange(num_actions)
    beats = (index.unsqueeze(-1) - index) % num_actions
    strength = 0.1 + 0.4 * torch.rand(num_actions, num_actions, generator=generator, dtype=torch.float64)
    edges = torch.where((beats >= 1) & (beats <= (num_actions - 1) // 2), strength, 0.0)
    return 0.5 + edges - edges.T


def uniform_game(num_actions: int, generator: torch.Generator) -> Tensor:
    """Independent preferences, uniform in [0, 1] above the diagonal, (A, A)."""
    upper = (torch.rand(num_actions, num_actions, generator=generator, dtype=torch.float64) - 0.5).triu(1)
    return 0.5 + upper - upper.T


def bradley_terry_game(num_actions: int, generator: torch.Generator) -> Tensor:
    """Transitive preferences, sigmoid(u_i - u_j) with u standard normal, (A, A)."""
    utility = torch.randn(num_actions, generator=generator, dtype=torch.float64)
    return torch.sigmoid(utility.unsqueeze(-1) - utility)


def mixed_game(num_actions: int, generator: torch.Generator) -> Tensor:
    """A weak Bradley-Terry part and a cyclic part of rank 4, sigmoid(0.3 (u_i - u_j) + cyclic), (A, A)."""
    utility = torch.randn(num_actions, generator=generator, dtype=torch.float64)
    a, b = torch.randn(2, num_actions, 2, generator=generator, dtype=torch.float64)
    return torch.sigmoid(0.3 * (utility.unsqueeze(-1) - utility) + a @ b.T - b @ a.T)


@dataclass(frozen=True, slots=True, kw_only=True)
class GameState:
    """Log-probabilities (A,) of the policies that a rule carries between rounds."""

    policy: Tensor
    auxiliary: Tensor
    reference: Tensor


def start_state(start: Tensor, reference: Tensor | None = None) -> GameState:
    """State of the first round, from probabilities (A,); the reference is the start unless given."""
    return GameState(policy=start.log(), auxiliary=start.log(), reference=(start if reference is None else reference).log())


class StepSettings(NamedTuple):
    """Settings of a step, as in the [update] section of a round."""

    step_size: float = 1.0
    kl_coef: float = 0.0
    beta: float = 1.0


Fit = Callable[[UpdateRule, Tensor, Tensor, Tensor, StepSettings], Tensor]


def exact_fit(rule: UpdateRule, prefs: Tensor, anchor_logps: Tensor, sampler_logps: Tensor, settings: StepSettings) -> Tensor:
    """Closed form of one square-loss fit, anchor * exp(c r) with r the win rates against the sampler, log-probabilities (A,)."""
    if rule.pair_loss != "square":
        raise ValueError(f"update rule {rule.name} has no closed form on general preferences; use numeric_fit")
    coefficient = rule.target(settings.step_size, settings.kl_coef)
    return torch.log_softmax(anchor_logps + coefficient * win_rates(prefs, sampler_logps.exp()), dim=-1)


def numeric_fit(rule: UpdateRule, prefs: Tensor, anchor_logps: Tensor, sampler_logps: Tensor, settings: StepSettings) -> Tensor:
    """Minimiser of rule_objective over all policies, both responses of a pair drawn from the sampler, log-probabilities (A,).

    The one prompt has the A actions as its responses.
    """
    sampler = sampler_logps.exp()
    return minimise_objective(rule, prefs, anchor_logps, torch.outer(sampler, sampler), settings, opponents=sampler)


def minimise_objective(
    rule: UpdateRule, prefs: Tensor, anchor_logps: Tensor, pair_weights: Tensor, settings: StepSettings, opponents: Tensor
) -> Tensor:
    """Minimiser of rule_objective for any weights (A, A) of ordered pairs, log-probabilities (A,).

    L-BFGS on logits in float64, then one Newton step: the line search stalls at the rounding of the loss, not of its gradient.
    """
    anchor, preferences = anchor_logps.unsqueeze(0), prefs.unsqueeze(0)
    weights, opponents = pair_weights.unsqueeze(0), opponents.unsqueeze(0)

    def objective(logits: Tensor) -> Tensor:
        logps = logits.log_softmax(-1).unsqueeze(0)
        chosen = {"pair_weights": weights, "opponent_weights": opponents, "total_weight": None}
        return rule_objective(rule, logps, anchor, preferences, **settings._asdict(), **chosen)

    logits = anchor_logps.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([logits], max_iter=2000, tolerance_change=0.0, history_size=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        logits.grad = None
        value = objective(logits)
        value.backward()
        return value

    optimiser.step(closure)
    (gradient,) = torch.autograd.grad(objective(logits), logits)
    hessian = torch.autograd.functional.hessian(objective, logits)
    # pinv: adding a constant to all logits changes nothing
    newton = torch.linalg.pinv(torch.as_tensor(hessian), rtol=1e-12, hermitian=True) @ gradient
    return (logits - newton).detach().log_softmax(-1)


def fit_for(rule: UpdateRule) -> Fit:
    """The closed form where the rule has one, the numeric minimiser elsewhere."""
    return exact_fit if rule.pair_loss == "square" and rule.unit == "pair" else numeric_fit


def step(rule: UpdateRule, prefs: Tensor, state: GameState, settings: StepSettings, fit: Fit | None = None) -> GameState:
    """One round of the rule. Rules for judged data sets take the reference policy as the maker of the data."""
    fit = fit or fit_for(rule)
    sampler = state.policy if rule.sampler == "on_policy" else state.reference
    roles = {"parent": state.policy, "auxiliary": state.auxiliary, "reference": state.reference}
    policy = state.policy
    for _ in range(rule.fits):
        anchor = mix_logps(roles, rule.anchors(settings.step_size, settings.kl_coef))
        policy = fit(rule, prefs, anchor, sampler, settings)
        roles["auxiliary"] = policy
    ends = {"policy": policy, "parent": state.policy, "auxiliary": state.auxiliary, "reference": state.reference}
    auxiliary = mix_logps(ends, rule.next_auxiliary(settings.step_size, settings.kl_coef))
    return GameState(policy=policy, auxiliary=auxiliary.log_softmax(-1), reference=state.reference)


class GapPoint(NamedTuple):
    """Duality gaps after t played policies: of their average, and of the last one."""

    t: int
    average_gap: float
    last_gap: float


def play(rule: UpdateRule, prefs: Tensor, state: GameState, settings: StepSettings, rounds: int) -> list[GapPoint]:
    """Gaps of the policies pi_1 (the start) to pi_rounds, at log-spaced t that include 1 and rounds."""
    rule.check(**settings._asdict())
    shown = {round(rounds ** (n / 39)) for n in range(40)}
    total, trace = torch.zeros_like(state.policy), []
    for t in range(1, rounds + 1):
        total += state.policy.exp()
        if t in shown or t == rounds:
            trace.append(GapPoint(t, duality_gap(prefs, total / t), duality_gap(prefs, state.policy.exp())))
        if t < rounds:
            state = step(rule, prefs, state, settings)
    return trace


GAMES: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "rps": rock_paper_scissors,
    "uniform": uniform_game,
    "mixed": mixed_game,
    "bt": bradley_terry_game,
}
