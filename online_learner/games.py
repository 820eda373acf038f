"""Tabular preference games: the ground truth of every claim about an update rule. Pure tensors, float64.

A actions; prefs[i, j] = P(i preferred to j), so prefs + prefs.T == 1. A step can be taken by the closed form or by minimising
rule_objective, the function that trains the language model. Closed forms take any number of games at once: prefs (..., A, A),
policies (..., A).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from online_learner.mirror_descent import mix_logps, rule_objective
from online_learner.targets import PairFacts, mean_logits
from online_learner.update_rule import RuleSettings, UpdateRule


def win_rates(prefs: Tensor, policy: Tensor) -> Tensor:
    """P(action preferred to a response drawn from policy), per action, (..., A)."""
    return torch.matmul(prefs, policy.unsqueeze(-1)).squeeze(-1)


def mirror_step(anchor: Tensor, q: Tensor, step_size: float) -> Tensor:
    """Entropic mirror step: anchor * exp(step_size * q), normalised, (A,)."""
    return torch.softmax(anchor.log() + step_size * q, dim=-1)


def duality_gaps(prefs: Tensor, policies: Tensor) -> Tensor:
    """Gap of self-play (policy, policy) in each game, in [0, 1], (...); by symmetry 2 * max_i P(i beats policy) - 1."""
    return 2.0 * win_rates(prefs, policies).amax(-1) - 1.0


def duality_gap(prefs: Tensor, policy: Tensor) -> float:
    """duality_gaps of one game."""
    return float(duality_gaps(prefs, policy))


def regularised_gaps(prefs: Tensor, policies: Tensor, reference_logps: Tensor, kl_coef: float) -> Tensor:
    """Gap of the game in which each player pays kl_coef * KL(own policy || reference), (...); zero at its Nash policy only.

    2 (max_pi pi.P policy - tau KL(pi || ref) + tau KL(policy || ref) - 1/2); the best answer is ref * exp(P policy / tau).
    """
    best = kl_coef * torch.logsumexp(reference_logps + win_rates(prefs, policies) / kl_coef, -1)
    paid = kl_coef * (policies * (policies.clamp_min(1e-300).log() - reference_logps)).sum(-1)
    return 2.0 * (best + paid) - 1.0


def rock_paper_scissors(num_actions: int, generator: torch.Generator) -> Tensor:
    """Generalised rock-paper-scissors, (A, A): each action beats the (A - 1) / 2 before it, by a random edge in [0.1, 0.5]."""
    if num_actions < 3 or num_actions % 2 == 0:
        raise ValueError(f"num_actions must be odd and at least 3, got {num_actions}")
    index = torch.arange(num_actions)
    beats = (index.unsqueeze(-1) - index) % num_actions
    strength = 0.1 + 0.4 * torch.rand(num_actions, num_actions, generator=generator, dtype=torch.float64)
    edges = torch.where((beats >= 1) & (beats <= (num_actions - 1) // 2), strength, 0.0)
    return 0.5 + edges - edges.T


def tight_game(num_actions: int, generator: torch.Generator) -> Tensor:
    """The first action is preferred to each other with .505, the others tie, (A, A): no bound on averages below 4 D / T holds.

    The smaller the edge, the closer T * gap of optimistic play with step 1/2 comes to 4 log A (derived here).
    """
    prefs = torch.full((num_actions, num_actions), 0.5, dtype=torch.float64)
    prefs[0, 1:], prefs[1:, 0] = 0.505, 0.495
    return prefs


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
    previous: Tensor
    """The policy before this one; this one before the first round."""


def start_state(start: Tensor, reference: Tensor | None = None) -> GameState:
    """State of the first round, from probabilities (A,); the reference is the start unless given."""
    reference = start if reference is None else reference
    return GameState(policy=start.log(), auxiliary=start.log(), reference=reference.log(), previous=start.log())


@dataclass(frozen=True, slots=True, kw_only=True)
class FitInputs:
    """What one fit on a table reads: log-probabilities (A,) of anchor, of the maker of both responses, and of the opponent."""

    prefs: Tensor
    anchor: Tensor
    sampler: Tensor
    opponent: Tensor


Fit = Callable[[UpdateRule, RuleSettings, FitInputs], Tensor]


def exact_fit(rule: UpdateRule, settings: RuleSettings, inputs: FitInputs) -> Tensor:
    """Closed form of one square-loss fit, anchor * exp(c v), log-probabilities (A,); v are win rates or mean logits.

    Against the sampler where the target is the preference inside the pair, elsewhere against the opponent. For a rule on single
    responses this is the update that its loss stands for, whose log-normaliser the loss replaces by the value of a tie.
    """
    if rule.pair_loss != "square":
        raise ValueError(f"update rule {rule.name} has no closed form on general preferences; use numeric_fit")
    opponent = (inputs.sampler if rule.target_kind == "pair" else inputs.opponent).exp()
    logits = rule.target_kind == "logit"
    values = mean_logits(inputs.prefs, opponent) if logits else win_rates(inputs.prefs, opponent)
    return torch.log_softmax(inputs.anchor + rule.target(settings) * values, dim=-1)


def numeric_fit(rule: UpdateRule, settings: RuleSettings, inputs: FitInputs) -> Tensor:
    """Minimiser of rule_objective over all policies, both responses of a pair drawn from the sampler, log-probabilities (A,).

    The one prompt has the A actions as its responses.
    """
    sampler = inputs.sampler.exp()
    return minimise_objective(rule, settings, inputs, torch.outer(sampler, sampler))


def minimise_objective(rule: UpdateRule, settings: RuleSettings, inputs: FitInputs, pair_weights: Tensor) -> Tensor:
    """Minimiser of rule_objective for any weights (A, A) of ordered pairs, log-probabilities (A,).

    L-BFGS on logits in float64, then one Newton step: the line search stalls at the rounding of the loss, not of its gradient.
    """
    facts = facts_of(rule, inputs)

    def objective(logits: Tensor) -> Tensor:
        prefs, anchor, weights = inputs.prefs.unsqueeze(0), inputs.anchor.unsqueeze(0), pair_weights.unsqueeze(0)
        return rule_objective(
            rule, settings, logits.log_softmax(-1).unsqueeze(0), anchor, prefs, pair_weights=weights, facts=facts
        )

    logits = inputs.anchor.clone().requires_grad_()
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


def facts_of(rule: UpdateRule, inputs: FitInputs) -> PairFacts:
    """What rule_objective reads beside the preferences: the opponent's weights, or win rates against it."""
    opponent = inputs.opponent.exp()
    outside = rule.opponent != "group"
    scores = win_rates(inputs.prefs, opponent).unsqueeze(0) if outside else None
    return PairFacts(opponent_weights=opponent.unsqueeze(0), scores=scores)


def fit_for(rule: UpdateRule) -> Fit:
    """The closed form where the rule has one, the numeric minimiser elsewhere."""
    return exact_fit if rule.pair_loss == "square" else numeric_fit


def step(rule: UpdateRule, prefs: Tensor, state: GameState, settings: RuleSettings, fit: Fit | None = None) -> GameState:
    """One round of the rule. Rules for judged data sets take the reference policy as the maker of the data."""
    fit = fit or fit_for(rule)
    roles = {"parent": state.policy, "auxiliary": state.auxiliary, "reference": state.reference, "previous": state.previous}
    policy = opponent = state.policy
    for _ in range(rule.fits):
        anchor = mix_logps(roles, rule.anchors(settings))
        if rule.opponent == "mixture":
            opponent = anchor.log_softmax(-1)
        makers = {"on_policy": state.policy, "dataset": state.reference, "extrapolated": anchor.log_softmax(-1)}
        if rule.sampler not in makers:
            raise ValueError(f"update rule {rule.name} takes pairs from {rule.sampler}, which a table does not have")
        policy = fit(rule, settings, FitInputs(prefs=prefs, anchor=anchor, sampler=makers[rule.sampler], opponent=opponent))
        if rule.opponent == "half_step":
            opponent = policy
        else:
            roles["auxiliary"] = policy
    ends = {"policy": policy, "parent": state.policy, "auxiliary": state.auxiliary, "reference": state.reference}
    auxiliary = mix_logps(ends, rule.next_auxiliary(settings)).log_softmax(-1)
    return GameState(policy=policy, auxiliary=auxiliary, reference=state.reference, previous=state.policy)


class GapPoint(NamedTuple):
    """Duality gaps after t played policies: of their average, and of the last one."""

    t: int
    average_gap: float
    last_gap: float


class Gaps(NamedTuple):
    """GapPoint of many games, each (...)."""

    t: int
    average: Tensor
    last: Tensor


def log_spaced(rounds: int, count: int = 40) -> list[int]:
    """Up to ``count`` whole numbers from 1 to ``rounds``, both included, evenly spaced on a log scale."""
    return sorted({round(rounds ** (n / (count - 1))) for n in range(count)} | {rounds})


def trace_gaps(
    rule: UpdateRule,
    prefs: Tensor,
    state: GameState,
    settings_at: Callable[[int], RuleSettings],
    shown: Collection[int],
    *,
    fit: Fit | None = None,
    gaps: Callable[[Tensor, Tensor], Tensor] = duality_gaps,
) -> list[Gaps]:
    """Play up to the largest t of ``shown`` and measure there; settings_at(t) are those of the step after t policies."""
    shown, rounds = set(shown), max(shown)
    total, trace = torch.zeros_like(state.policy), []
    for t in range(1, rounds + 1):
        policy = state.policy.exp()
        total += policy
        if t in shown:
            trace.append(Gaps(t, gaps(prefs, total / t), gaps(prefs, policy)))
        if t < rounds:
            state = step(rule, prefs, state, settings_at(t), fit)
    return trace


def play(
    rule: UpdateRule, prefs: Tensor, state: GameState, settings: RuleSettings, rounds: int, *, fit: Fit | None = None
) -> list[GapPoint]:
    """Gaps of the policies pi_1 (the start) to pi_rounds of one game, at log-spaced t that include 1 and rounds."""
    rule.check(settings)
    trace = trace_gaps(rule, prefs, state, lambda t: settings, log_spaced(rounds), fit=fit)
    return [GapPoint(t, float(average), float(last)) for t, average, last in trace]


GAMES: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "rps": rock_paper_scissors,
    "uniform": uniform_game,
    "mixed": mixed_game,
    "bt": bradley_terry_game,
    "tight": tight_game,
}
