"""What the rules are for: where they converge on tabular games, and the controls that do not."""

import math

import pytest
import torch

from online_learner.games import GAMES, duality_gap, play, start_state, step, win_rates
from online_learner.update_rule import RuleSettings
from online_learner.update_rules import UPDATE_RULES

RPS = torch.tensor([[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]], dtype=torch.float64)
START = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)


@pytest.mark.parametrize(
    ("policy", "gap"),
    [
        ([1 / 3, 1 / 3, 1 / 3], 0.0),  # the Nash policy
        ([1.0, 0.0, 0.0], 1.0),  # always rock: paper always wins, 2 * 1 - 1
        ([0.5, 0.5, 0.0], 0.5),  # paper wins 1/2 + 1/2 * 1/2 = 3/4, 2 * 3/4 - 1
    ],
)
def test_duality_gap_by_hand(policy, gap):
    assert duality_gap(RPS, torch.tensor(policy, dtype=torch.float64)) == pytest.approx(gap)


@pytest.mark.parametrize("name", list(GAMES))
def test_preferences_of_a_game_are_complementary_probabilities(name):
    prefs = GAMES[name](7, torch.Generator().manual_seed(3))
    torch.testing.assert_close(prefs + prefs.T, torch.ones(7, 7, dtype=torch.float64))
    assert prefs.min() >= 0
    assert prefs.max() <= 1


def test_rock_paper_scissors_has_no_best_action_and_bradley_terry_has_one():
    generator = torch.Generator().manual_seed(3)
    cyclic, transitive = GAMES["rps"](7, generator), GAMES["bt"](7, generator)
    assert (cyclic > 0.5).sum(-1).tolist() == [3] * 7
    assert cyclic[cyclic > 0.5].min() >= 0.6  # edges are at least 0.1
    assert sorted((transitive > 0.5).sum(-1).tolist()) == list(range(7))


def last_gap(name: str, rounds: int = 1000, **settings: float) -> float:
    return play(UPDATE_RULES[name], RPS, start_state(START), RuleSettings(**settings), rounds)[-1].last_gap


@pytest.mark.parametrize("name", ["onpo", "onpo_two_fit"])
def test_optimism_is_what_makes_the_last_iterate_converge(name):
    assert last_gap(name, step_size=0.5) < 1e-4
    assert last_gap("omd", step_size=0.5) > 0.9  # plain mirror descent spirals out to the boundary


def test_iterative_dpo_grows_worse_on_cyclic_preferences():
    prefs = 0.5 + 0.6 * (RPS - 0.5)  # 80:20, so that the logistic minimiser is finite; no gap is above 2 * .8 - 1 = .6
    start = start_state(torch.tensor([0.4, 0.33, 0.27], dtype=torch.float64))
    trace = play(UPDATE_RULES["iterative_dpo"], prefs, start, RuleSettings(beta=0.5), 60)
    assert trace[0].last_gap < 0.1
    assert trace[-1].last_gap > 0.5


@pytest.mark.parametrize("name", ["rps", "uniform", "mixed"])
def test_the_average_policy_keeps_the_bound_of_optimistic_mirror_descent(name):
    # regret <= D / eta for eta = 1/2 gives gap <= 4 D / T with D = max KL(pi || start) = log(1 / least start probability)
    generator = torch.Generator().manual_seed(5)
    prefs = GAMES[name](11, generator)
    start = torch.softmax(torch.randn(11, generator=generator, dtype=torch.float64), -1)
    divergence = math.log(1 / start.min().item())
    trace = play(UPDATE_RULES["onpo"], prefs, start_state(start), RuleSettings(step_size=0.5), 1000)
    assert all(point.average_gap <= 4 * divergence / point.t for point in trace)


def test_play_reports_gaps_from_the_start_to_the_last_round():
    trace = play(UPDATE_RULES["omd"], RPS, start_state(START), RuleSettings(step_size=0.5), 100)
    assert [trace[0].t, trace[-1].t] == [1, 100]
    # start (.6, .3, .1): paper wins .6 + .3 / 2 = .75, so the gap is .5; one policy is its own average
    assert trace[0] == pytest.approx((1, 0.5, 0.5))


# Two responses, P(first over second) = 0.8: win rates always differ by 0.3, so the Nash policy of the game with a KL penalty tau
# is reference * exp(r / tau) whatever the opponent.
PREFS = torch.tensor([[0.5, 0.8], [0.2, 0.5]], dtype=torch.float64)
REFERENCE = torch.tensor([0.25, 0.75], dtype=torch.float64)
PULLED = RuleSettings(step_size=1.0, kl_coef=0.1)
NASH = torch.softmax(REFERENCE.log() + torch.tensor([0.3, 0.0]) / PULLED.kl_coef, -1)


@pytest.mark.parametrize("name", ["onpo_ref", "inpo"])
def test_the_regularised_nash_policy_is_a_fixed_point(name):
    state = step(UPDATE_RULES[name], PREFS, start_state(NASH, REFERENCE), PULLED)
    torch.testing.assert_close(state.policy.exp(), NASH)
    torch.testing.assert_close(state.auxiliary.exp(), NASH)


@pytest.mark.parametrize("name", ["onpo_ref", "inpo"])
def test_the_regularised_nash_policy_is_reached_from_afar(name):
    state = start_state(torch.tensor([0.01, 0.99], dtype=torch.float64), REFERENCE)
    for _ in range(200):
        state = step(UPDATE_RULES[name], PREFS, state, PULLED)
    torch.testing.assert_close(state.policy.exp(), NASH)


def regularised_residual(name: str, kl_coef: float) -> float:
    """How far the last policy of a cyclic game is from satisfying log pi = log ref + r_pi / tau, at eta 2."""
    prefs = GAMES["rps"](3, torch.Generator().manual_seed(1))
    reference = torch.softmax(torch.randn(3, generator=torch.Generator().manual_seed(2), dtype=torch.float64), -1)
    state = start_state(reference)
    for _ in range(4000):
        state = step(UPDATE_RULES[name], prefs, state, RuleSettings(step_size=2.0, kl_coef=kl_coef))
    expected = torch.softmax(reference.log() + win_rates(prefs, state.policy.exp()) / kl_coef, -1)
    return (state.policy.exp() - expected).abs().max().item()


def test_with_a_small_pull_only_the_optimistic_rule_reaches_the_regularised_nash_policy_of_a_cycle():
    assert regularised_residual("onpo_ref", 0.01) < 1e-9
    assert regularised_residual("inpo", 0.01) > 0.01
