"""One round of every rule, by minimising the objective that trains the language model, against closed forms written out here."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

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
from online_learner.targets import PairFacts
from online_learner.update_rule import RuleSettings, UpdateRule
from online_learner.update_rules import UPDATE_RULES

ETA, TAU, BETA, ALPHA, FLIPS = 0.7, 0.1, 0.5, 0.3, 0.2
SETTINGS = RuleSettings(
    step_size=ETA, kl_coef=TAU, beta=BETA, momentum=ALPHA, flip_rate=FLIPS, margin_coef=0.4, extra_coef=0.1, main_weight=0.6
)
Q = 1 - ETA * TAU
SQUARE_RULES = [name for name, rule in UPDATE_RULES.items() if rule.pair_loss == "square"]
PAIRWISE_RULES = [name for name in SQUARE_RULES if UPDATE_RULES[name].unit == "pair"]


@dataclass
class Table:
    """A game and the log-probabilities of the policies that a rule may name."""

    prefs: Tensor
    pi: Tensor
    aux: Tensor
    ref: Tensor
    prev: Tensor

    def wins(self, logps: Tensor) -> Tensor:
        """Win rate of each action against a policy; logps up to a constant."""
        return self.prefs @ logps.softmax(-1)

    @property
    def pulled(self) -> Tensor:
        return (1 - ETA * TAU) * self.pi + ETA * TAU * self.ref


def extragradient(t: Table) -> Tensor:
    half = t.pulled + ETA * t.wins(t.pi)
    return t.pulled + ETA * t.wins(half)


def mirror_prox(t: Table) -> Tensor:
    # argmax <pi, r> - tau KL(pi || ref) - KL(pi || pi_t) / eta: (1 + eta tau) log pi = log pi_t + eta tau log ref + eta r
    half = (t.pi + ETA * TAU * t.ref + ETA * t.wins(t.pi)) / (1 + ETA * TAU)
    return (t.pi + ETA * TAU * t.ref + ETA * t.wins(half)) / (1 + ETA * TAU)


# log of the new policy up to a constant; judged data sets were made by the reference
CLOSED_FORMS = {
    # two pulled half steps: pi'_{t+1} from pi'_t, then pi_{t+1} from pi'_{t+1}, both with r_t
    "onpo_ref": lambda t: Q * (Q * t.aux + (1 - Q) * t.ref + ETA * t.wins(t.pi)) + (1 - Q) * t.ref + ETA * t.wins(t.pi),
    "onpo": lambda t: (t.aux + ETA * t.wins(t.pi)) + ETA * t.wins(t.pi),
    "onpo_two_fit": lambda t: (t.aux + ETA * t.wins(t.pi)) + ETA * t.wins(t.pi),
    "inpo": lambda t: t.pulled + ETA * t.wins(t.pi),
    "omd": lambda t: t.pi + ETA * t.wins(t.pi),
    "spo": lambda t: t.pi + ETA * t.wins(t.pi),
    "nash_md": lambda t: t.pulled + ETA * t.wins(t.pulled),
    "egpo": extragradient,
    "nash_mp": mirror_prox,
    "ipo": lambda t: t.ref + t.wins(t.ref) / TAU,
    "online_ipo": lambda t: t.ref + t.wins(t.pi) / TAU,
    "rebel": lambda t: t.pi + ETA * (t.prefs / t.prefs.T).log() @ t.pi.exp(),
    "sppo": lambda t: t.pi + ETA * (t.wins(t.pi) - 0.5),
    "gpo": lambda t: t.pi + ETA * (t.prefs / t.prefs.T).log() @ t.pi.exp(),
}
# the auxiliary policy of the next round, for the rules whose anchor it is
NEXT_AUXILIARY = {
    "onpo_ref": lambda t: Q * t.aux + (1 - Q) * t.ref + ETA * t.wins(t.pi),
    "onpo": lambda t: t.aux + ETA * t.wins(t.pi),
    "onpo_two_fit": lambda t: t.aux + ETA * t.wins(t.pi),
}


def random_policy(num_actions: int, generator: torch.Generator) -> Tensor:
    return torch.randn(num_actions, generator=generator, dtype=torch.float64).log_softmax(-1)


def random_table(make_game=uniform_game, num_actions: int = 12) -> Table:
    generator = torch.Generator().manual_seed(0)
    return Table(make_game(num_actions, generator), *(random_policy(num_actions, generator) for _ in range(4)))


def state_of(table: Table) -> GameState:
    return GameState(policy=table.pi, auxiliary=table.aux, reference=table.ref, previous=table.prev)


def inputs_of(table: Table) -> FitInputs:
    return FitInputs(prefs=table.prefs, anchor=table.aux, sampler=table.pi, opponent=table.pi)


def largest_difference(a: Tensor, b: Tensor) -> float:
    return (a.log_softmax(-1) - b.log_softmax(-1)).abs().max().item()


def test_every_square_loss_rule_has_its_closed_form_written_out_here():
    assert set(CLOSED_FORMS) == set(SQUARE_RULES)


@pytest.mark.parametrize("name", PAIRWISE_RULES)
def test_the_minimiser_of_the_objective_is_the_closed_form(name):
    table = random_table()
    found = step(UPDATE_RULES[name], table.prefs, state_of(table), SETTINGS, numeric_fit).policy
    assert largest_difference(found, CLOSED_FORMS[name](table)) < 1e-7


@pytest.mark.parametrize("name", sorted(set(SQUARE_RULES) - set(PAIRWISE_RULES)))
def test_the_objective_on_responses_is_stationary_where_each_log_ratio_is_its_target(name):
    # log-probabilities are free here: the paper puts the value of a tie where the log-normaliser was, so nothing is normalised
    table = random_table()
    logps = CLOSED_FORMS[name](table).requires_grad_()
    objective_of(name, logps, table.pi, table.pi, table.prefs).backward()
    assert logps.grad is not None
    assert logps.grad.abs().max() < 1e-12
    shifted = (logps.detach() + 0.1).requires_grad_()  # margins of pairs would not notice
    objective_of(name, shifted, table.pi, table.pi, table.prefs).backward()
    assert shifted.grad is not None
    assert shifted.grad.min() > 0


@pytest.mark.parametrize("name", SQUARE_RULES)
def test_the_exact_fit_used_for_long_plays_is_the_closed_form(name):
    table = random_table()
    found = step(UPDATE_RULES[name], table.prefs, state_of(table), SETTINGS, exact_fit).policy
    assert largest_difference(found, CLOSED_FORMS[name](table)) < 1e-12


@pytest.mark.parametrize("name", [name for name, rule in UPDATE_RULES.items() if "auxiliary" in rule.needs])
def test_the_next_auxiliary_mixture_is_one_step_from_the_old_one(name):
    table = random_table()
    found = step(UPDATE_RULES[name], table.prefs, state_of(table), SETTINGS, numeric_fit).auxiliary
    assert largest_difference(found, NEXT_AUXILIARY[name](table)) < 1e-7


def objective_of(
    name: str, logps: Tensor, anchor: Tensor, sampler: Tensor, prefs: Tensor, scores: Tensor | None = None
) -> Tensor:
    """The objective with both responses of a pair drawn from the sampler, who is the opponent too."""
    weights = torch.outer(sampler.exp(), sampler.exp()).unsqueeze(0)
    given = None if scores is None else scores.unsqueeze(0)
    facts = PairFacts(opponent_weights=sampler.exp().unsqueeze(0), scores=given)
    rule, rows = UPDATE_RULES[name], (logps.unsqueeze(0), anchor.unsqueeze(0), prefs.unsqueeze(0))
    return rule_objective(rule, SETTINGS, *rows, pair_weights=weights, facts=facts)


SCORES = torch.tensor([0.3, -1.0, 0.8, 0.0, 0.4, -0.2], dtype=torch.float64)
# preferences p = sigma(u_i - u_j) as the rule's data show them, anchor, and log policy up to a constant; cross-entropy is least
# where beta h - m is the logit of the label
UTILITY_FORMS = {
    "dpo": lambda t, u: (t.prefs, t.ref, t.ref + u / BETA),
    "iterative_dpo": lambda t, u: (t.prefs, t.pi, t.pi + u / BETA),
    "apo": lambda t, u: (t.prefs, 1.3 * t.pi - 0.3 * t.prev, 1.3 * t.pi - 0.3 * t.prev + u / BETA),
    "rso": lambda t, u: (t.prefs, t.ref, t.ref + u / BETA),
    "multi_step_rejection": lambda t, u: (t.prefs, t.ref, t.ref + u / BETA),
    # the known share of flipped labels is undone
    "rdpo": lambda t, u: ((1 - FLIPS) * t.prefs + FLIPS * (1 - t.prefs), t.ref, t.ref + u / BETA),
    # the policy that maximises w u + (1 - w) s less beta KL
    "modpo": lambda t, u: (t.prefs, t.ref, t.ref + (0.6 * u + 0.4 * SCORES) / BETA),
    # the reward less the uncertainty
    "pessimistic_dpo": lambda t, u: (t.prefs, t.ref, t.ref + (u - 0.4 * SCORES) / BETA),
}


@pytest.mark.parametrize("name", list(UTILITY_FORMS))
def test_logistic_rules_recover_the_utility_of_a_transitive_game(name):
    table = random_table(bradley_terry_game, num_actions=6)
    prefs, anchor, expected = UTILITY_FORMS[name](table, torch.logit(table.prefs)[:, 0])
    logps = expected.requires_grad_()
    scores = SCORES if UPDATE_RULES[name].target_kind == "score" else None
    objective_of(name, logps, anchor, table.pi, prefs, scores).backward()
    assert logps.grad is not None
    assert logps.grad.abs().max() < 1e-12  # the objectives are convex: a stationary point is the minimiser


@pytest.mark.parametrize("name", ["dpo", "iterative_dpo", "apo"])
def test_a_step_of_a_logistic_rule_in_a_game_is_that_minimiser(name):
    table = random_table(bradley_terry_game, num_actions=6)
    _, _, expected = UTILITY_FORMS[name](table, torch.logit(table.prefs)[:, 0])
    assert largest_difference(step(UPDATE_RULES[name], table.prefs, state_of(table), SETTINGS).policy, expected) < 1e-7


def test_softened_labels_have_a_finite_minimiser_for_certain_verdicts():
    # cDPO with p = 1: beta h = logit(1 - e) = log((1 - e) / e); DPO would push the margin to infinity
    logps = torch.tensor([[math.log((1 - FLIPS) / FLIPS) / BETA, 0.0]], dtype=torch.float64, requires_grad=True)
    certain = torch.tensor([[[0.5, 1.0], [0.0, 0.5]]], dtype=torch.float64)
    rule_objective(UPDATE_RULES["cdpo"], SETTINGS, logps, torch.zeros_like(logps), certain).backward()
    assert logps.grad is not None
    assert logps.grad.abs().max() < 1e-12


def play_three_rounds(row: str | UpdateRule, settings: RuleSettings, fit=numeric_fit) -> list[Tensor]:
    rule = UPDATE_RULES[row] if isinstance(row, str) else row
    table = random_table()
    state = start_state(table.pi.exp(), table.ref.exp())
    policies = []
    for _ in range(3):
        state = step(rule, table.prefs, state, settings, fit)
        policies.append(state.policy)
    return policies


@pytest.mark.parametrize(
    ("name", "same_as", "kl_coef"),
    [
        ("onpo", "onpo_two_fit", 0.1),  # one fit with target 2 eta is the two fits with target eta
        ("onpo_ref", "onpo", 0.0),  # without a pull the extension is the paper's rule
        ("inpo", "omd", 0.0),
        ("spo", "omd", 0.0),  # the mean preference against one's own samples is the win rate of the pair's expectation
        ("sppo", "omd", 0.0),
        ("gpo", "rebel", 0.0),
        ("nash_md", "omd", 0.0),
        ("nash_mp", "egpo", 0.0),
    ],
)
def test_two_rules_play_the_same_policies(name, same_as, kl_coef):
    settings = RuleSettings(step_size=ETA, kl_coef=kl_coef, beta=BETA)
    fit = exact_fit if UPDATE_RULES[name].unit == "response" else numeric_fit
    for a, b in zip(play_three_rounds(name, settings, fit), play_three_rounds(same_as, settings), strict=True):
        assert largest_difference(a, b) < 1e-7


def test_optimism_is_the_single_sequence_with_twice_the_newest_win_rates():
    # log pi_{t+1} = log pi_t + 2 eta r_t - eta r_{t-1}, from the second update on
    prefs = random_table().prefs
    first, second, third = play_three_rounds("onpo", SETTINGS)
    expected = second + 2 * ETA * (prefs @ second.exp()) - ETA * (prefs @ first.exp())
    assert largest_difference(third, expected) < 1e-7


def test_optimism_without_its_predictor_is_plain_self_play():
    # the played policy is then the auxiliary one: anchored at it, one eta, carried on alone
    plain = replace(UPDATE_RULES["onpo"], target=lambda s: s.step_size, next_auxiliary=lambda s: {"policy": 1.0})
    assert largest_difference(play_three_rounds(plain, SETTINGS)[-1], play_three_rounds("omd", SETTINGS)[-1]) < 1e-7
    assert largest_difference(play_three_rounds("onpo", SETTINGS)[-1], play_three_rounds("omd", SETTINGS)[-1]) > 0.01


LINEAR_IN_LABELS = [
    name for name, rule in UPDATE_RULES.items() if rule.target_kind in ("pair", "winner", "score") and rule.labels != "ranking"
]


@pytest.mark.parametrize("name", LINEAR_IN_LABELS)
def test_hard_labels_have_the_gradient_of_soft_labels_in_expectation(name):
    # expectation over a Bernoulli(p) label: weight p on label 1 and 1 - p on label 0, as two groups of the same responses
    table = random_table(bradley_terry_game, num_actions=6)
    rule, sampler = UPDATE_RULES[name], table.pi.exp()
    logps = random_policy(6, torch.Generator().manual_seed(1)).requires_grad_()
    logits = torch.logit(table.prefs)

    def gradient(labels: Tensor, weights: Tensor) -> Tensor:
        num = len(labels)
        facts = PairFacts(scores=SCORES.expand(num, -1), strengths=2 + 0 * labels, model_logits=logits.expand(num, -1, -1))
        facts = replace(facts, certainty=torch.sigmoid(logits + logits.T).expand(num, -1, -1))
        rows = (logps.expand(num, -1), table.aux.expand(num, -1), labels)
        loss = rule_objective(rule, SETTINGS, *rows, pair_weights=torch.outer(sampler, sampler) * weights, facts=facts)
        return torch.autograd.grad(loss, logps)[0]

    soft = gradient(table.prefs.unsqueeze(0), torch.ones(1, 6, 6))
    hard = gradient(
        torch.stack([torch.ones_like(table.prefs), torch.zeros_like(table.prefs)]), torch.stack([table.prefs, 1 - table.prefs])
    )
    torch.testing.assert_close(soft, hard, rtol=0, atol=1e-12)


def test_a_known_flip_rate_is_undone_for_the_square_loss_by_a_larger_target():
    # label map p -> (p - e) / (1 - 2e) before the target c (p - 1/2): the same as c / (1 - 2e) and no map
    table = random_table()
    corrected = replace(UPDATE_RULES["omd"], label_map=UPDATE_RULES["rdpo"].label_map)
    larger = replace(UPDATE_RULES["omd"], target=lambda s: s.step_size / (1 - 2 * s.flip_rate))
    rows = (table.pi.unsqueeze(0), table.aux.unsqueeze(0), table.prefs.unsqueeze(0))
    torch.testing.assert_close(rule_objective(corrected, SETTINGS, *rows), rule_objective(larger, SETTINGS, *rows))
    flipped = (1 - FLIPS) * table.prefs + FLIPS * (1 - table.prefs)
    undone = rule_objective(corrected, SETTINGS, *rows[:2], flipped.unsqueeze(0))
    torch.testing.assert_close(undone, rule_objective(UPDATE_RULES["omd"], SETTINGS, *rows))


def test_momentum_adds_up_all_earlier_rewards():
    # arXiv:2410.06293, Theorem 4.1, three rounds: log hat = log ref + sum_i (1 - alpha^(3 - i)) / (1 - alpha) u / beta
    table = random_table(bradley_terry_game, num_actions=6)
    state, utility = start_state(table.ref.exp()), torch.logit(table.prefs)[:, 0]
    settings = replace(SETTINGS, beta=4.0)  # small steps: all six responses stay likely enough to be fitted
    for _ in range(3):
        state = step(UPDATE_RULES["apo"], table.prefs, state, settings)
    total = sum((1 - ALPHA ** (3 - i)) / (1 - ALPHA) for i in range(3))
    assert largest_difference(state.policy, table.ref + total * utility / 4.0) < 1e-7


def test_pairs_of_another_policy_give_another_policy():
    table = random_table()
    other = table.ref.exp()
    rule = UPDATE_RULES["onpo"]
    found = minimise_objective(rule, SETTINGS, inputs_of(table), torch.outer(other, other))
    assert largest_difference(found, exact_fit(rule, SETTINGS, inputs_of(table))) > 0.05


def test_with_a_win_rate_target_the_pairs_may_come_from_any_policy():
    table = random_table()
    other = table.ref.exp()
    rule = replace(UPDATE_RULES["onpo"], target_kind="win_rate")
    found = minimise_objective(rule, SETTINGS, inputs_of(table), torch.outer(other, other))
    assert largest_difference(found, table.aux + 2 * ETA * table.wins(table.pi)) < 1e-7


def test_a_table_refuses_pairs_that_it_cannot_make():
    table = random_table(num_actions=3)
    with pytest.raises(ValueError, match="spin takes pairs from demonstrations"):
        step(UPDATE_RULES["spin"], table.prefs, state_of(table), SETTINGS)
