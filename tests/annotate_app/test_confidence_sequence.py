import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from annotate_app import confidence_sequence as cs

COUNTS = st.integers(0, 60)


def test_the_capital_after_two_votes_by_hand():
    # against one half, a win multiplies each third of the capital by 1.1, 1.2, 1.4, a loss by .9, .8, .6
    assert np.exp(cs.log_capital(1, 0, 0)) == pytest.approx((1.1 + 1.2 + 1.4) / 3)
    assert np.exp(cs.log_capital(1, 0, 1)) == pytest.approx((0.99 + 0.96 + 0.84) / 3)
    assert cs.log_capital(0, 7, 0) == pytest.approx(0)  # ties say nothing about one half
    # against a mean of .25, a win multiplies by 1 + 3 f, a tie by 1 + f
    assert np.exp(cs.log_capital(1, 1, 0, 0.25)) == pytest.approx((1.3 * 1.1 + 1.6 * 1.2 + 2.2 * 1.4) / 3)


@given(wins=COUNTS, ties=COUNTS, losses=COUNTS)
def test_bounds_contain_the_mean_and_turn_with_the_sides(wins, ties, losses):
    low, high = float(cs.lower_bound(wins, ties, losses)), float(cs.upper_bound(wins, ties, losses))
    mean = (wins + ties / 2) / max(wins + ties + losses, 1)
    assert 0 <= low <= high <= 1
    if wins + ties + losses:
        assert low <= mean + cs.TOLERANCE
        assert high >= mean - cs.TOLERANCE
    assert cs.lower_bound(losses, ties, wins) == pytest.approx(1 - high)


def test_the_lower_bound_is_where_the_evidence_meets_the_level():
    low = cs.lower_bound(40, 10, 15)
    assert cs.log_capital(40, 10, 15, low) == pytest.approx(np.log(20), abs=0.02)


@pytest.mark.parametrize(("mean", "ties"), [(0.3, 0.2), (0.5, 0.5), (0.8, 0.0)])
def test_looking_after_each_of_200_votes_a_bound_is_rarely_ever_wrong(mean, ties):
    # 2,000 runs: with a true rate of .05 more than .066 has probability below 1 in 1,000
    rng = np.random.default_rng(1)
    won = (mean - ties / 2) / (1 - ties)
    votes = rng.choice(3, p=[won * (1 - ties), ties, (1 - won) * (1 - ties)], size=(2000, 200))
    wins, drawn, losses = (np.cumsum(votes == kind, axis=1) for kind in range(3))
    ever_above = (cs.log_capital(wins, drawn, losses, mean) >= np.log(20)).any(axis=1).mean()
    ever_below = (cs.log_capital(losses, drawn, wins, 1 - mean) >= np.log(20)).any(axis=1).mean()
    assert ever_above <= 0.066
    assert ever_below <= 0.066


def test_votes_that_are_all_alike_within_annotators_count_as_one_each():
    # two annotators, two votes each, one always for, one always against: correlation 1, design effect 1 + (2 - 1)
    for_and_against = np.array([2, 0]), np.array([0, 0]), np.array([0, 2])
    assert cs.intraclass_correlation(*for_and_against) == pytest.approx(1)
    assert cs.design_effect(*for_and_against) == pytest.approx(2)


@pytest.mark.parametrize(
    "tallies",
    [
        ([0], [0], [0]),
        ([9], [0], [1]),  # one annotator: how far people differ cannot be known
        ([1, 0, 1], [0, 0, 0], [0, 1, 0]),  # nobody voted twice
        ([3, 3], [0, 0], [3, 3]),  # as alike as can be
        ([4, 4], [0, 0], [0, 0]),
    ],
)
def test_without_a_sign_of_clusters_the_design_effect_is_one(tallies):
    assert cs.design_effect(*map(np.array, tallies)) == pytest.approx(1)


def test_the_intraclass_correlation_is_that_of_an_analysis_of_variance():
    wins, ties, losses = np.array([9, 2, 5, 0]), np.array([2, 1, 0, 0]), np.array([1, 8, 3, 0])
    scores = [(k, s) for k in range(4) for s, n in ((1, wins[k]), (0.5, ties[k]), (0, losses[k])) for _ in range(n)]
    table = anova_lm(ols("score ~ C(who)", {"who": [k for k, _ in scores], "score": [s for _, s in scores]}).fit())
    sizes = np.array([12, 11, 8])
    typical = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / 2
    f = table["F"].iloc[0]
    assert cs.intraclass_correlation(wins, ties, losses) == pytest.approx((f - 1) / (f + typical - 1))
