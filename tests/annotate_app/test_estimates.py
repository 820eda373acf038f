"""Estimates of win rates from chosen pairs: by hand on tiny pools, and by coverage under strongly active selection."""

import math
import random
from itertools import permutations

import numpy as np
import pytest

from annotate_app.estimates import DrawnVotes, by_inverse_probability, by_random_share, estimate_share, naively
from annotate_app.pair_selection import Pool
from annotate_app.selection_draws import draw_mix


def votes(score, probability, is_random=None, num_pairs=10) -> DrawnVotes:
    even = np.zeros(len(score), dtype=bool) if is_random is None else np.array(is_random)
    return DrawnVotes(score=np.array(score), probability=np.array(probability), is_random=even, num_pairs=num_pairs)


def test_even_draws_weigh_alike():
    """p_m = 1 / (N - m + 1) makes every weight 1, so the estimate is the plain mean."""
    drawn = votes([1.0, 0.0, 1.0, 1.0], [1 / 10, 1 / 9, 1 / 8, 1 / 7])
    assert by_inverse_probability(drawn)["mean"] == pytest.approx(0.75)


def test_weights_are_unbiased_over_every_order_of_a_tiny_pool():
    """Three pairs with answers 1, 0, 1 drawn in proportion to 5, 1, 2: the expected weighted sum over both draws is 2/3."""
    truth, liking = [1.0, 0.0, 1.0], [5.0, 1.0, 2.0]
    expected = 0.0
    for first, second, _ in permutations(range(3)):
        p_1 = liking[first] / 8
        p_2 = liking[second] / (8 - liking[first])
        v_1 = 1 + (3 - 2) / (3 - 1) * (1 / (3 * p_1) - 1)
        v_2 = 1 + (3 - 2) / (3 - 2) * (1 / (2 * p_2) - 1)
        expected += p_1 * p_2 * (v_1 * truth[first] + v_2 * truth[second]) / 2
        got = by_inverse_probability(votes([truth[first], truth[second]], [p_1, p_2], num_pairs=3))
        assert got["mean"] == pytest.approx((v_1 * truth[first] + v_2 * truth[second]) / (v_1 + v_2))
    assert expected == pytest.approx(2 / 3)


def test_the_random_share_leaves_chosen_pairs_out_and_too_few_votes_say_nothing():
    drawn = votes([1.0, 0.0, 0.0, 0.0], [0.1] * 4, [True, True, False, False])
    assert by_random_share(drawn)["mean"] == 0.5 and by_random_share(drawn)["n"] == 2
    assert by_inverse_probability(votes([1.0], [0.1])) is None


def test_the_reported_figure_says_how_it_was_made():
    assert estimate_share(votes([1.0, 0.0], [0.1, 0.1], [True, True]))["method"] == "naive average"
    assert estimate_share(votes([1.0, 0.0], [0.1, 0.1], [True, False]))["method"] == "inverse probability"


def campaign(seed: int, num_pairs: int = 1500, count: int = 300) -> tuple[DrawnVotes, float]:
    """Answers to ``count`` of the pairs; the rule likes near ties, and these are won more rarely than other pairs."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(1.0, 1.5, num_pairs)
    chance = np.where(np.abs(logit) < 1, 0.3, 1 / (1 + np.exp(-logit)))  # the model is wrong about the close ones
    numbers = np.arange(num_pairs)
    pool = Pool(
        prompt=numbers // 6, first=numbers * 2, second=numbers * 2 + 1, mean=logit, ensemble=np.zeros((num_pairs, 0)),
        seconds=np.ones(num_pairs),
    )  # fmt: skip
    drawn = draw_mix(pool, {"near_tie": 0.85, "random": 0.15}, rng=random.Random(seed), count=count)
    index = np.array([draw.index for draw in drawn])
    return DrawnVotes(
        score=(rng.random(count) < chance[index]).astype(float),
        probability=np.array([draw.probability for draw in drawn]),
        is_random=np.array([draw.rule == "random" for draw in drawn]),
        num_pairs=num_pairs,
    ), float(chance.mean())


@pytest.mark.slow
def test_intervals_hold_at_their_rate_under_strongly_active_selection_and_the_naive_ones_do_not():
    """200 campaigns; 95 % intervals hold in 190 of them, five standard errors of a count of 200 at .95 are 15."""
    held = {"inverse": 0, "random": 0, "naive": 0}
    for seed in range(200):
        drawn, truth = campaign(seed)
        for name, method in (("inverse", by_inverse_probability), ("random", by_random_share), ("naive", naively)):
            found = method(drawn)
            assert found is not None
            held[name] += found["low"] <= truth <= found["high"]
    tolerance = 5 * math.sqrt(200 * 0.95 * 0.05)
    print(held)
    assert abs(held["inverse"] - 190) < tolerance and held["random"] > 190 - tolerance
    assert held["naive"] < 40


def test_one_campaign_shows_the_bend_of_the_naive_average():
    drawn, truth = campaign(1)
    assert naively(drawn)["high"] < truth < by_inverse_probability(drawn)["high"]
