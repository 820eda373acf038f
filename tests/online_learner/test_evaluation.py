"""Win rates, KL and gaps by hand, and against another library."""

import math

import numpy as np
import pytest
from scipy import stats

from online_learner.evaluation import (
    clustered_mean,
    kl_from_samples,
    length_controlled_win_rate,
    response_duality_gap,
    restricted_duality_gap,
    win_rate,
)


def test_win_rate_with_an_interval_over_prompts_by_hand():
    # prompts a: 1, 1; b: 0, .5; c: .5, 0. Mean .5; residual sums 1, -.5, -.5; se = sqrt(3/2 * 1.5) / 6 = .25
    # t with 2 degrees of freedom at .975 is 4.3027: .5 -+ 1.0757, cut to [0, 1]
    outcomes, prompts = [1, 1, 0, 0.5, 0.5, 0], list("aabbcc")
    assert win_rate(outcomes, prompts) == {"mean": 0.5, "low": 0.0, "high": 1.0}
    wide = clustered_mean(outcomes, prompts)
    assert wide == pytest.approx({"mean": 0.5, "low": 0.5 - 4.302653 * 0.25, "high": 0.5 + 4.302653 * 0.25}, abs=1e-6)


def test_with_one_comparison_a_prompt_the_interval_is_the_student_interval():
    values = np.random.default_rng(0).uniform(0.2, 0.9, 40)
    expected = stats.t.interval(0.95, 39, loc=values.mean(), scale=stats.sem(values))
    got = win_rate(values, range(40))
    assert (got["low"], got["high"]) == pytest.approx(expected)


def test_repeating_every_comparison_narrows_nothing():
    values = np.random.default_rng(1).uniform(0, 1, 30)
    once, thrice = win_rate(values, range(30)), win_rate(np.repeat(values, 3), np.repeat(np.arange(30), 3))
    assert thrice == pytest.approx(once)


def test_the_interval_covers_the_truth_in_19_of_20_samples():
    # 40 prompts with 4 comparisons, prompt difficulty Beta(2, 2): mean .5; 1,000 repetitions, se of the coverage .007
    rng, prompts = np.random.default_rng(2), np.repeat(np.arange(40), 4)
    covered = 0
    for _ in range(1000):
        interval = win_rate(rng.random(160) < np.repeat(rng.beta(2, 2, 40), 4), prompts)
        covered += interval["low"] <= 0.5 <= interval["high"]
    assert covered / 1000 == pytest.approx(0.95, abs=0.025)


def test_one_prompt_alone_says_nothing():
    assert win_rate([0.6, 0.7], ["a", "a"]) == pytest.approx({"mean": 0.65, "low": 0.0, "high": 1.0})
    assert length_controlled_win_rate([0.6, 0.6], [1, -1], "aa")["low"] == 0.0
    assert clustered_mean([0.6, 0.7], "aa")["high"] == math.inf


def test_a_clean_sweep_has_the_exact_binomial_limit():
    # 10 prompts, all won: Clopper-Pearson lower limit .025^(1/10) = .6915; all lost: its mirror
    assert win_rate([1.0] * 20, np.repeat(np.arange(10), 2)) == pytest.approx(
        {"mean": 1.0, "low": 0.69150, "high": 1.0}, abs=1e-5
    )
    assert win_rate([0.0] * 10, range(10)) == pytest.approx({"mean": 0.0, "low": 0.0, "high": 0.30850}, abs=1e-5)


@pytest.mark.parametrize(
    ("outcomes", "prompts", "words"),
    [([], [], "B > 0"), ([1, 0], ["a"], "one prompt id each"), ([1.2], ["a"], "in \\[0, 1\\]"), ([math.nan], ["a"], "finite")],
)
def test_win_rate_refuses_what_is_not_a_comparison(outcomes, prompts, words):
    with pytest.raises(ValueError, match=words):
        win_rate(outcomes, prompts)


def longer_wins(num: int, effect: float, skill: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outcomes of logit skill + effect * tanh(d / rms), length differences d (mostly longer) and prompts, four a prompt."""
    rng = np.random.default_rng(3)
    differences = rng.normal(20, 20, num)
    logit = skill + effect * np.tanh(differences / np.sqrt(np.mean(differences**2)))
    return rng.random(num) < 1 / (1 + np.exp(-logit)), differences, np.repeat(np.arange(num // 4), 4)


def test_length_control_takes_away_what_length_alone_won():
    outcomes, differences, prompts = longer_wins(8000, effect=2.0, skill=0.0)
    assert win_rate(outcomes, prompts)["low"] > 0.65
    controlled = length_controlled_win_rate(outcomes, differences, prompts)
    assert controlled["low"] < 0.5 < controlled["high"]
    assert controlled["high"] - controlled["low"] < 0.08


def test_length_controlled_win_rate_agrees_with_statsmodels():
    sm = pytest.importorskip("statsmodels.api", reason="statsmodels is not installed")
    outcomes, differences, prompts = longer_wins(400, effect=1.0, skill=0.4)
    design = sm.add_constant(np.tanh(differences / np.sqrt(np.mean(differences**2))))
    fit = sm.Logit(outcomes.astype(float), design).fit(
        disp=0, cov_type="cluster", cov_kwds={"groups": prompts, "df_correction": True}
    )
    got = length_controlled_win_rate(outcomes, differences, prompts)
    expected = 1 / (1 + np.exp(-fit.params[0]))
    assert got["mean"] == pytest.approx(expected, abs=1e-3)
    half_logit = (math.log(got["high"] / (1 - got["high"])) - math.log(got["low"] / (1 - got["low"]))) / 2
    # statsmodels also multiplies the variance by (n - 1) / (n - 2)
    assert half_logit == pytest.approx(stats.t.ppf(0.975, 99) * fit.bse[0] / math.sqrt(399 / 398), rel=1e-3)


def test_without_length_differences_the_controlled_rate_is_the_plain_rate():
    outcomes = [1, 1, 1, 0, 1, 0, 1, 1]  # 6 of 8
    assert length_controlled_win_rate(outcomes, [0] * 8, range(8))["mean"] == pytest.approx(0.75, abs=2e-3)


def test_fully_separated_outcomes_give_finite_limits():
    got = length_controlled_win_rate([1] * 10, range(10), range(10))
    assert 0.9 < got["mean"] < 1
    assert 0 <= got["low"] <= got["mean"] <= got["high"] <= 1


def test_kl_of_two_gaussians_from_samples():
    # KL(N(1, 1) || N(0, 1)) = 1/2; the log-ratio x - 1/2 has variance 1, so se = 1 / sqrt(4000) = .016
    x = np.random.default_rng(4).normal(1, 1, 4000)
    got = kl_from_samples(stats.norm.logpdf(x, 1), stats.norm.logpdf(x, 0), np.arange(4000))
    assert got["low"] < 0.5 < got["high"]
    assert got["high"] - got["low"] == pytest.approx(2 * 1.96 / math.sqrt(4000), rel=0.05)


def test_kl_of_a_policy_to_itself_is_zero():
    logps = [-3.0, -10.0, -4.0]
    assert kl_from_samples(logps, logps, "abc") == {"mean": 0.0, "low": 0.0, "high": 0.0}
    with pytest.raises(ValueError, match=r"share one shape, got \(3,\) and \(2,\)"):
        kl_from_samples(logps, [-1.0, -2.0], "abc")


ROCK_PAPER_SCISSORS = [[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]]


@pytest.mark.parametrize(
    ("weights", "gap", "best"),
    [
        ([1, 0, 0], 1.0, "paper"),  # always rock: paper always wins
        ([0.5, 0.5, 0], 0.5, "paper"),  # paper wins 1/2 + 1/2 * 1/2 = 3/4
        ([1 / 3, 1 / 3, 1 / 3], 0.0, "rock"),
    ],
)
def test_restricted_gap_by_hand(weights, gap, best):
    names = ["rock", "paper", "scissors"]
    got = restricted_duality_gap(ROCK_PAPER_SCISSORS, names, weights)
    assert got["value"] == pytest.approx(gap)
    assert got["search_set"] == names
    assert got["best_response"] == best


def test_restricted_gap_refuses_what_is_not_a_preference():
    with pytest.raises(ValueError, match=r"got \(3, 3\), 2, \(2,\)"):
        restricted_duality_gap(ROCK_PAPER_SCISSORS, ["rock", "paper"], [0.5, 0.5])
    with pytest.raises(ValueError, match="distribution"):
        restricted_duality_gap(ROCK_PAPER_SCISSORS, ["rock", "paper", "scissors"], [1, 1, 1])
    with pytest.raises(ValueError, match=r"P\(b beats a\) = 1"):
        restricted_duality_gap([[0.5, 0.9], [0.9, 0.5]], ["a", "b"], [1, 0])


def test_response_gap_by_hand():
    # prompt 1: best of two wins (.8 + .6) / 2 = .7 -> .4; prompt 2: best wins .5 -> 0; mean .2
    assert response_duality_gap([[[0.8, 0.6], [0.1, 0.2]], [[0.5, 0.5], [0.4, 0.4]]]) == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"\(N, M, K\)"):
        response_duality_gap([[0.5]])
