"""One round of every rule, by minimising the objective that trains the language model, against closed forms written out here."""

from dataclasses import replace

import pytest
import torch

from online_learner.games import (
    FitInputs,
    GameState,
    bradley_terry_game,
    exact_fit,
    minimise_objective,
    numeric_fit,
    start_state,
    step,
    uniform_game,
)
from online_learner.mirror_descent import rule_objective
from online_learner.update_rule import RuleSettings
from online_learner.update_rules import UPDATE_RULES

ETA, TAU, BETA = 0.7, 0.1, 0.5
SETTINGS = RuleSettings(step_size=ETA, kl_coef=TAU, beta=BETA)
Q = 1 - ETA * TAU
SQUARE_RULES = [name for name, rule in UPDATE_RULES.items() if rule.pair_loss == "square"]
LOGISTIC_RULES = [name for name, rule in UPDATE_RULES.items() if rule.pair_loss == "logistic"]

# log of the new policy up to a constant, from log-probabilities of parent, auxiliary and reference, the win rates r against the
# parent and r_ref against the reference (which made the judged data)
CLOSED_FORMS = {
    # two pulled half steps: pi'_{t+1} from pi'_t, then pi_{t+1} from pi'_{t+1}, both with r_t
    "onpo_ref": lambda pi, aux, ref, r, r_ref: Q * (Q * aux + (1 - Q) * ref + ETA * r) + (1 - Q) * ref + ETA * r,
    "onpo": lambda pi, aux, ref, r, r_ref: (aux + ETA * r) + ETA * r,
    "onpo_two_fit": lambda pi, aux, ref, r, r_ref: (aux + ETA * r) + ETA * r,
    "inpo": lambda pi, aux, ref, r, r_ref: (1 - ETA * TAU) * pi + ETA * TAU * ref + ETA * r,
    "omd": lambda pi, aux, ref, r, r_ref: pi + ETA * r,
    "ipo": lambda pi, aux, ref, r, r_ref: ref + r_ref / TAU,
}
# the auxiliary policy of the next round, for the rules whose anchor it is
NEXT_AUXILIARY = {
    "onpo_ref": lambda aux, ref, r: Q * aux + (1 - Q) * ref + ETA * r,
    "onpo": lambda aux, ref, r: aux + ETA * r,
    "onpo_two_fit": lambda aux, ref, r: aux + ETA * r,
}


def random_policy(num_actions: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(num_actions, generator=generator, dtype=torch.float64).log_softmax(-1)


def random_round(make_game=uniform_game, num_actions: int = 12):
    generator = torch.Generator().manual_seed(0)
    prefs = make_game(num_actions, generator)
    policy, auxiliary, reference, previous = (random_policy(num_actions, generator) for _ in range(4))
    return prefs, GameState(policy=policy, auxiliary=auxiliary, reference=reference, previous=previous)


def inputs_of(prefs: torch.Tensor, state: GameState) -> FitInputs:
    return FitInputs(prefs=prefs, anchor=state.auxiliary, sampler=state.policy, opponent=state.policy)


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.log_softmax(-1) - b.log_softmax(-1)).abs().max().item()


@pytest.mark.parametrize("name", SQUARE_RULES)
def test_the_minimiser_of_the_objective_is_the_closed_form(name):
    prefs, state = random_round()
    r, r_ref = prefs @ state.policy.exp(), prefs @ state.reference.exp()
    expected = CLOSED_FORMS[name](state.policy, state.auxiliary, state.reference, r, r_ref)
    found = step(UPDATE_RULES[name], prefs, state, SETTINGS, numeric_fit).policy
    assert largest_difference(found, expected) < 1e-7


@pytest.mark.parametrize("name", SQUARE_RULES)
def test_the_exact_fit_used_for_long_plays_is_the_closed_form(name):
    prefs, state = random_round()
    r, r_ref = prefs @ state.policy.exp(), prefs @ state.reference.exp()
    expected = CLOSED_FORMS[name](state.policy, state.auxiliary, state.reference, r, r_ref)
    assert largest_difference(step(UPDATE_RULES[name], prefs, state, SETTINGS, exact_fit).policy, expected) < 1e-12


@pytest.mark.parametrize("name", [name for name, rule in UPDATE_RULES.items() if "auxiliary" in rule.needs])
def test_the_next_auxiliary_mixture_is_one_step_from_the_old_one(name):
    prefs, state = random_round()
    expected = NEXT_AUXILIARY[name](state.auxiliary, state.reference, prefs @ state.policy.exp())
    assert largest_difference(step(UPDATE_RULES[name], prefs, state, SETTINGS, numeric_fit).auxiliary, expected) < 1e-7


@pytest.mark.parametrize("name", LOGISTIC_RULES)
def test_logistic_rules_recover_the_utility_of_a_transitive_game(name):
    # logit P(i over j) = u_i - u_j, so the cross-entropy is least at beta h = u_i - u_j: log pi = log anchor + u / beta
    prefs, state = random_round(bradley_terry_game, num_actions=6)
    utility = torch.logit(prefs)[:, 0]
    anchor = {"dpo": state.reference, "iterative_dpo": state.policy}[name]
    found = step(UPDATE_RULES[name], prefs, state, SETTINGS).policy
    assert largest_difference(found, anchor + utility / BETA) < 1e-7


def play_three_rounds(name: str, settings: RuleSettings, fit=numeric_fit) -> list[torch.Tensor]:
    prefs, state = random_round()
    state = start_state(state.policy.exp(), state.reference.exp())
    policies = []
    for _ in range(3):
        state = step(UPDATE_RULES[name], prefs, state, settings, fit)
        policies.append(state.policy)
    return policies


@pytest.mark.parametrize(
    ("name", "same_as", "kl_coef"),
    [
        ("onpo", "onpo_two_fit", 0.1),  # one fit with target 2 eta is the two fits with target eta
        ("onpo_ref", "onpo", 0.0),  # without a pull the extension is the paper's rule
        ("inpo", "omd", 0.0),
    ],
)
def test_two_rules_play_the_same_policies(name, same_as, kl_coef):
    settings = RuleSettings(step_size=ETA, kl_coef=kl_coef, beta=BETA)
    for a, b in zip(play_three_rounds(name, settings), play_three_rounds(same_as, settings), strict=True):
        assert largest_difference(a, b) < 1e-7


def test_optimism_is_the_single_sequence_with_twice_the_newest_win_rates():
    # log pi_{t+1} = log pi_t + 2 eta r_t - eta r_{t-1}, from the second update on
    prefs, _ = random_round()
    first, second, third = play_three_rounds("onpo", SETTINGS)
    expected = second + 2 * ETA * (prefs @ second.exp()) - ETA * (prefs @ first.exp())
    assert largest_difference(third, expected) < 1e-7


def test_without_predictor_the_rules_differ():
    assert largest_difference(play_three_rounds("onpo", SETTINGS)[-1], play_three_rounds("omd", SETTINGS)[-1]) > 0.01


@pytest.mark.parametrize("name", list(UPDATE_RULES))
def test_hard_labels_have_the_minimiser_of_soft_labels(name):
    # expectation over a Bernoulli(p) label: weight p on label 1 and 1 - p on label 0, as two groups of the same responses
    prefs, state = random_round(bradley_terry_game, num_actions=6)
    rule, sampler = UPDATE_RULES[name], state.policy.exp()
    soft = numeric_fit(rule, SETTINGS, inputs_of(prefs, state))
    logits = soft.clone().requires_grad_()
    labels = torch.stack([torch.ones_like(prefs), torch.zeros_like(prefs)])
    weights = torch.outer(sampler, sampler) * torch.stack([prefs, 1 - prefs])
    logps, anchor = logits.log_softmax(-1).expand(2, -1), state.auxiliary.expand(2, -1)
    rule_objective(rule, SETTINGS, logps, anchor, labels, pair_weights=weights).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-10  # the objectives are convex: a stationary point is the minimiser


def test_pairs_of_another_policy_give_another_policy():
    prefs, state = random_round()
    other = state.reference.exp()
    rule = UPDATE_RULES["onpo"]
    found = minimise_objective(rule, SETTINGS, inputs_of(prefs, state), torch.outer(other, other))
    expected = exact_fit(rule, SETTINGS, inputs_of(prefs, state))
    assert largest_difference(found, expected) > 0.05


def test_with_a_win_rate_target_the_pairs_may_come_from_any_policy():
    prefs, state = random_round()
    other = state.reference.exp()
    rule, sampler = replace(UPDATE_RULES["onpo"], target_kind="win_rate"), state.policy.exp()
    found = minimise_objective(rule, SETTINGS, inputs_of(prefs, state), torch.outer(other, other))
    assert largest_difference(found, state.auxiliary + 2 * ETA * (prefs @ sampler)) < 1e-7
