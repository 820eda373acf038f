"""The laboratory: rates of averaged and last iterates, sampled labels, and the commands that print them."""

import json
import math

import numpy as np
import pytest
import torch

from online_learner.__main__ import main
from online_learner.game_labels import bernoulli_fit, group_fit, weighted_fit
from online_learner.game_rates import Labels, draw_games, measure, read_method, slope
from online_learner.games import FitInputs, exact_fit, play, regularised_gaps, start_state
from online_learner.update_rule import RuleSettings
from online_learner.update_rules import UPDATE_RULES

torch.set_num_threads(1)  # tables of a few thousand numbers: more threads only wait for each other

RPS = np.array([[0.5, 0.2, 0.8], [0.8, 0.5, 0.2], [0.2, 0.8, 0.5]])


def measured(game: str, method: str, rounds: int = 10_000, **options) -> dict:
    values = {"repeats": 4, "seed": 0, "labels": Labels(), "settings": RuleSettings(), "regularised": False} | options
    return measure(game, read_method(method), rounds=rounds, **values)


@pytest.mark.parametrize("game", ["rps-3", "uniform-10", "mixed-50"])
def test_the_average_of_optimistic_play_falls_like_one_over_t(game):
    assert -1.15 <= measured(game, "onpo@0.5")["average_slope"] <= -0.90


@pytest.mark.parametrize("game", ["rps-11", "uniform-10"])
def test_the_average_of_plain_play_falls_like_one_over_root_t(game):
    assert -0.65 <= measured(game, "omd@horizon")["average_slope"] <= -0.35


def test_the_last_policy_of_optimistic_play_reaches_the_nash_policy_and_that_of_plain_play_does_not():
    assert measured("rps-3", "onpo@0.5", repeats=8)["last_gap"] < 1e-9
    assert measured("rps-3", "omd@0.5", rounds=2000)["last_gap"] > 0.1


def test_the_last_policy_of_iterative_dpo_stays_far_from_nash():
    assert measured("rps-3", "iterative_dpo@1", rounds=60, repeats=2, settings=RuleSettings(beta=2.0))["last_gap"] > 0.1


@pytest.mark.parametrize("num_actions", [3, 10])
def test_the_tight_game_attains_the_bound_of_averages(num_actions):
    # regret of optimistic play with step 1/2 is at most 2 D, D = log A from the uniform start, so the gap is at most 4 D / T
    found = measured(f"tight-{num_actions}", "onpo@0.5", repeats=1)
    bound = 4 * math.log(num_actions)
    assert 0.97 * bound < found["average_gap"] * 10_000 <= bound


def test_a_power_law_has_its_exponent_as_slope():
    ts = [100, 200, 400, 800]
    assert slope(ts, [3.0 * t**-0.7 for t in ts]) == pytest.approx(-0.7)
    assert slope([10, 50, 100], [1.0, 1.0, 1.0]) is None  # only one point from 100 on


def test_regularised_gaps_by_hand():
    # two actions, P = .8, tau = 1, uniform reference and policy: best answer has log-sum-exp of (log .5 + .65, log .5 + .35)
    prefs = torch.tensor([[0.5, 0.8], [0.2, 0.5]], dtype=torch.float64)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    expected = 2 * math.log(0.5 * math.exp(0.65) + 0.5 * math.exp(0.35)) - 1
    assert float(regularised_gaps(prefs, half, half.log(), 1.0)) == pytest.approx(expected)


def test_many_games_at_once_are_played_as_each_alone():
    prefs, start = draw_games("uniform-5", 3, seed=1)
    found = measured("uniform-5", "egpo@0.5", rounds=200, repeats=3, seed=1, settings=RuleSettings(kl_coef=0.05))
    settings = RuleSettings(step_size=0.5, kl_coef=0.05)
    alone = [play(UPDATE_RULES["egpo"], prefs[k], start_state(start[k]), settings, 200)[-1].last_gap for k in range(3)]
    assert found["last_gap"] == pytest.approx(math.prod(alone) ** (1 / 3))


def fit_inputs(seed: int = 2) -> FitInputs:
    prefs, start = draw_games("uniform-5", 1, seed)
    return FitInputs(prefs=prefs[0], anchor=start[0].log(), sampler=start[0].log(), opponent=start[0].log())


def test_all_pairs_in_proportion_give_the_closed_form():
    inputs, rule, settings = fit_inputs(), UPDATE_RULES["omd"], RuleSettings(step_size=0.7)
    weights = 1e12 * torch.outer(inputs.sampler.exp(), inputs.sampler.exp())  # so many that the ridge is lost
    found = weighted_fit(rule, settings, inputs.anchor, weights, inputs.prefs)
    torch.testing.assert_close(found, exact_fit(rule, settings, inputs), atol=1e-9, rtol=0)


def test_drawn_labels_come_near_the_closed_form_and_best_worst_pairs_do_not():
    inputs, rule, settings = fit_inputs(), UPDATE_RULES["omd"], RuleSettings(step_size=0.7)
    exact = exact_fit(rule, settings, inputs)
    generator = torch.Generator().manual_seed(0)
    drawn = bernoulli_fit(200_000, generator)(rule, settings, inputs)
    groups = group_fit(50_000, 4, "all", False, generator)(rule, settings, inputs)
    chosen = group_fit(50_000, 4, "best_worst", True, generator)(rule, settings, inputs)
    assert float((drawn - exact).abs().max()) < 0.03
    assert float((groups - exact).abs().max()) < 0.03
    assert float((chosen - exact).abs().max()) > 0.1


def test_run_prints_one_json_object_with_the_trace(tmp_path, capsys):
    np.save(tmp_path / "p.npy", RPS)
    np.save(tmp_path / "start.npy", np.array([0.6, 0.3, 0.1]))
    arguments = ["--prefs", str(tmp_path / "p.npy"), "--start", str(tmp_path / "start.npy"), "--step-size", "0.5"]
    picture = tmp_path / "curves.png"
    assert main(["games", "run", *arguments, "--rule", "onpo", "--rounds", "50", "--json", "--plot", str(picture)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"rule", "rounds", "step_size", "average_gap", "last_gap", "trace"} == set(found)
    assert found["trace"][-1] == [50, found["average_gap"], found["last_gap"]]
    # against (.6, .3, .1) the second action wins .8 * .6 + .5 * .3 + .2 * .1 = .65, so the first gap is .3
    assert found["trace"][0] == pytest.approx([1, 0.3, 0.3])
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.ones((2, 3)) / 2, "shape (2, 3)"),
        (np.array([[0.5, 1.2], [-0.2, 0.5]]), "entry [0, 1] is 1.2"),
        (np.array([[0.5, 0.6], [0.6, 0.5]]), "[0, 1] and [1, 0] are 0.6 and 0.6"),
        (np.array([[0.5, np.nan], [0.5, 0.5]]), "entry [0, 1] is nan"),
        (np.array([["a", "b"], ["c", "d"]]), "no NumPy file of numbers"),
    ],
)
def test_a_matrix_that_is_no_preferences_is_refused_by_entry(array, part, tmp_path, capsys):
    np.save(tmp_path / "p.npy", array)
    assert main(["games", "run", "--prefs", str(tmp_path / "p.npy"), "--json"]) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert part in caught.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run", "--rule", "nope"], "unknown update rule 'nope'"),
        (["run", "--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["run", "--rule", "spin"], "which a table does not have"),
        (["run", "--game", "rps-4"], "rps needs an odd number"),
        (["rates", "--methods", "onpo"], "write RULE@STEP"),
        (["rates", "--regularised"], "needs a positive --kl-coef"),
        (["run", "--plot", "curves.pdf"], "name a .png file"),
    ],
)
def test_wrong_arguments_are_named(arguments, part, capsys):
    assert main(["games", *arguments]) == 2
    assert part in capsys.readouterr().err


def test_rates_print_a_row_for_each_game_and_method(capsys):
    assert (
        main(
            ["games", "rates", "--games", "rps-3,bt-4", "--methods", "onpo@0.5,omd@anytime", "--rounds", "300", "--repeats", "2"]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [[g, m] for g in ("rps-3", "bt-4") for m in ("onpo@0.5", "omd@anytime")]
