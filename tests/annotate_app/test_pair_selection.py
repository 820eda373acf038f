import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from annotate_app.pair_selection import (
    PAIR_RULES,
    SELECTIONS,
    Pair,
    bald,
    build_pool,
    d_optimal,
    double_thompson,
    expect_answer,
    information,
    information_per_second,
    near_tie,
)
from annotate_app.selection_draws import UNIFORM_SHARE, draw_mix, select_pairs

LOG3 = math.log(3)  # odds of 3/4


def pair(prompt: str, name: str, logit: float = 0.0, ensemble: tuple[float, ...] = (0.0, 0.0)) -> Pair:
    return Pair(prompt_id=prompt, response_1_id=name + "1", response_2_id=name + "2", mean_logit=logit, ensemble_logits=ensemble)


def of_utilities(prompt: str, members: list[list[float]]) -> list[Pair]:
    """All pairs of one prompt's responses; ``members``: each one's utility of each response."""
    table = np.array(members)
    return [
        Pair(
            prompt_id=prompt,
            response_1_id=f"{prompt}{i}",
            response_2_id=f"{prompt}{j}",
            mean_logit=float((table[:, i] - table[:, j]).mean()),
            ensemble_logits=tuple(table[:, i] - table[:, j]),
        )
        for i in range(table.shape[1])
        for j in range(i + 1, table.shape[1])
    ]


def test_near_tie_scores_by_hand():
    pool = build_pool([pair("p", "x", 0.0), pair("p", "y", LOG3), pair("p", "z", -800.0)])
    # 4 * 1/2 * 1/2; p = 3/4: 4 * 3/4 * 1/4; no overflow
    assert near_tie(pool) == pytest.approx([1.0, 0.75, 0.0])


def test_bald_scores_by_hand():
    agree, apart = pair("p", "x", ensemble=(0.0, 0.0)), pair("p", "y", ensemble=(LOG3, -LOG3))
    pool = replace(build_pool([agree, apart]), flip_rate=0.0)
    # members agree on a coin flip: noise, nothing to learn; 3/4 and 1/4: H(1/2) - H(1/4) = 1 - (2 - 3/4 log2 3)
    assert bald(pool) == pytest.approx([0.0, 0.75 * math.log2(3) - 1])


def test_flipped_answers_tell_less():
    # a flip rate of 1/4 makes 3/4 and 1/4 to 5/8 and 3/8: 1 - H(3/8)
    told = 1 + 3 / 8 * math.log2(3 / 8) + 5 / 8 * math.log2(5 / 8)
    assert information(np.array([[LOG3, -LOG3]]), flip_rate=0.25) == pytest.approx([told])
    assert information(np.array([[LOG3, -LOG3]]), flip_rate=0.5) == pytest.approx([0.0], abs=1e-9)


def test_thompson_counts_who_is_named_best():
    # members name responses 0, 0, 1 as the best; drawn twice with replacement: P(0 and 1) = 2 * 2/3 * 1/3, and no other two
    pool = build_pool(of_utilities("p", [[2, 0, -1], [3, 1, 0], [0, 1, -5]]))
    assert double_thompson(pool) == pytest.approx([4 / 9, 0.0, 0.0])


def test_thompson_has_no_opinion_where_members_agree_and_shares_ties():
    agreed = build_pool(of_utilities("p", [[2, 0], [3, 1]]))
    assert double_thompson(agreed) == pytest.approx([0.0])
    tied = build_pool(of_utilities("p", [[0, 0], [0, 0]]))  # each response is named with chance 1/2: 2 * 1/2 * 1/2
    assert double_thompson(tied) == pytest.approx([0.5])


def test_d_optimal_scores_by_hand():
    # sample variance of (1, -1) is 2: log(1 + 1/4 * 2); at mean log 3 and no variance 0
    pool = build_pool([pair("p", "x", 0.0, (1.0, -1.0)), pair("p", "y", LOG3, (LOG3, LOG3))])
    assert d_optimal(pool) == pytest.approx([math.log(1.5), 0.0])


def test_information_per_second_prefers_the_quick_of_two_alike():
    quick, slow = (replace(pair("p", name, 0.0, (1.0, -1.0)), seconds=s) for name, s in (("x", 10.0), ("y", 40.0)))
    told = information_per_second(build_pool([quick, slow]))
    assert told[0] == pytest.approx(4 * told[1])


def test_an_expected_answer_shrinks_the_variance_as_a_gaussian_posterior_does():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 6))
    pool = build_pool([pair("p", str(k), 0.0, tuple(row)) for k, row in enumerate(logits)], flip_rate=0.0)
    after = expect_answer(pool, 0)
    prior = np.cov(logits)
    gain = prior[0] / (prior[0, 0] + 4)  # an answer at p = 1/2 is an observation with variance 1 / (1/4)
    assert np.cov(after.ensemble) == pytest.approx(prior - np.outer(gain, prior[0]))  # Kalman's update
    assert after.ensemble.mean(1) == pytest.approx(logits.mean(1))


def test_every_prompt_is_asked_once_before_any_is_asked_twice():
    pairs = [pair(prompt, f"{prompt}{n}") for prompt in "uvwxyz" for n in range(6)]
    order = select_pairs(pairs, "random", rng=random.Random(1), per_prompt=3)
    assert [s.rank for s in order] == [0] * 6 + [1] * 6 + [2] * 6
    assert all(len({s.pair.prompt_id for s in order[6 * r : 6 * r + 6]}) == 6 for r in range(3))
    assert len({s.pair for s in order}) == 18


def test_random_draws_are_uniform_and_say_their_probability():
    pairs = [pair("p", str(n)) for n in range(3)]
    first = Counter()
    for seed in range(3000):
        order = select_pairs(pairs, "random", rng=random.Random(seed), per_prompt=3)
        assert [s.probability for s in order] == pytest.approx([1 / 3, 1 / 2, 1])  # given the draws before
        first[order[0].pair] += 1
    assert all(abs(count - 1000) < 5 * math.sqrt(3000 * 2 / 9) for count in first.values())  # five standard errors


def test_a_scored_rule_draws_with_the_probability_it_stores():
    sure, tie = pair("p", "sure", 6.0), pair("p", "tie", 0.0)
    score = near_tie(build_pool([sure]))[0]
    expected = UNIFORM_SHARE / 2 + (1 - UNIFORM_SHARE) * 1 / (1 + score)
    firsts = [select_pairs([sure, tie], "near_tie", rng=random.Random(s), per_prompt=1)[0] for s in range(2000)]
    share = sum(s.pair is tie for s in firsts) / 2000
    assert [s.probability for s in firsts if s.pair is tie] == pytest.approx([expected] * sum(s.pair is tie for s in firsts))
    assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / 2000)


def test_no_pair_ever_has_probability_zero():
    pairs = [pair("p", "a", 0.0), pair("p", "b", -800.0)]
    drawn = [select_pairs(pairs, "near_tie", rng=random.Random(s), per_prompt=1)[0] for s in range(200)]
    (unlikely,) = {s.probability for s in drawn if s.pair is pairs[1]}
    assert unlikely == pytest.approx(UNIFORM_SHARE / 2)


@pytest.mark.parametrize("rule", PAIR_RULES)
def test_one_seed_gives_one_order(rule):
    pairs = [pair(prompt, f"{prompt}{n}", n - 1.0, (n * 1.0, -n * 0.5)) for prompt in "abc" for n in range(4)]
    orders = [select_pairs(pairs, rule, rng=random.Random(7), per_prompt=2) for _ in range(2)]
    assert orders[0] == orders[1]
    assert {s.rule for s in orders[0]} == {rule}


@pytest.mark.parametrize("rule", [name for name in PAIR_RULES if name != "random"])
def test_rules_that_need_the_preference_model_refuse_to_guess(rule):
    unscored = Pair(prompt_id="p", response_1_id="1", response_2_id="2")
    with pytest.raises(ValueError, match="needs"):
        select_pairs([unscored], rule, rng=random.Random(0), per_prompt=1)


def test_every_rule_is_explained_in_words():
    assert PAIR_RULES.keys() <= SELECTIONS.keys()


def a_pool(num_prompts: int = 5):
    rng = np.random.default_rng(3)
    return build_pool([p for k in range(num_prompts) for p in of_utilities(f"p{k}-", rng.normal(size=(4, 3)).tolist())])


def test_first_draws_of_a_mix_come_as_often_as_their_stored_probability_says():
    pool, shares = a_pool(2), {"random": 0.3, "bald": 0.7}
    drawn = [draw_mix(pool, shares, rng=random.Random(seed), count=1)[0] for seed in range(4000)]
    chance = {draw.index: draw.probability for draw in drawn}
    assert sum(chance.values()) == pytest.approx(1.0)  # all six pairs came up, and one pair's chance does not depend on the rule
    for index, p in chance.items():
        assert abs(sum(draw.index == index for draw in drawn) / 4000 - p) < 5 * math.sqrt(p * (1 - p) / 4000)
    assert abs(sum(draw.rule == "random" for draw in drawn) / 4000 - 0.3) < 5 * math.sqrt(0.21 / 4000)


def test_one_over_the_probability_averages_to_the_number_of_pairs_left():
    """E[1 / p] = sum of p / p = the pairs that can be drawn, here 6 at the first place and 5 at the second."""
    pool, shares = a_pool(2), {"random": 0.3, "d_optimal": 0.7}
    drawn = [draw_mix(pool, shares, rng=random.Random(seed), count=2) for seed in range(4000)]
    for place, left in enumerate((6, 5)):
        weights = np.array([1 / draws[place].probability for draws in drawn])
        assert abs(weights.mean() - left) < 5 * weights.std() / math.sqrt(4000)


def test_a_mix_draws_no_pair_twice_and_ends_when_nothing_is_free():
    pool = a_pool()
    free = np.ones(len(pool), dtype=bool)
    free[:2] = False
    drawn = draw_mix(pool, {"random": 0.2, "bald": 0.8}, rng=random.Random(0), count=50, free=free)
    indices = [draw.index for draw in drawn]
    assert sorted(indices) == np.flatnonzero(free).tolist()
    assert drawn[-1].probability == pytest.approx(1.0)  # one pair was left


def test_a_mix_does_not_ask_the_same_thing_twice_in_a_batch():
    """Two copies of the most telling pair: after one is drawn, a less telling one of another prompt is likelier than its copy."""
    # Variances 24 and 10.7 over members. An answer at p = 1/2 with a tenth flipped has precision (.8 / 4)^2 / (1/4) = .16, so the
    # copy's falls to 24 / (1 + .16 * 24) = 5.
    loud, quiet = (6.0, -6.0, 0.0, 0.0), (0.0, 0.0, 4.0, -4.0)
    pool = build_pool([pair("p", "x", 0.0, loud), pair("q", "y", 0.0, loud), pair("r", "z", 0.0, quiet)])
    second = Counter()
    for seed in range(200):
        first, then = draw_mix(pool, {"d_optimal": 1.0}, rng=random.Random(seed), count=2)
        second[then.index == 2] += first.index != 2
    assert second[True] > second[False]
