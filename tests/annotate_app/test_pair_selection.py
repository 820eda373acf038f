import math
import random
from collections import Counter

import pytest

from annotate_app.pair_selection import PAIR_RULES, UNIFORM_SHARE, Pair, bald, near_tie, select_pairs


def pair(prompt: str, name: str, logit: float = 0.0, ensemble: tuple[float, ...] = (0.0, 0.0)) -> Pair:
    return Pair(prompt_id=prompt, response_1_id=name + "1", response_2_id=name + "2", mean_logit=logit, ensemble_logits=ensemble)


def test_near_tie_scores_by_hand():
    assert near_tie(pair("p", "x", 0.0)) == 1.0  # 4 * 1/2 * 1/2
    assert near_tie(pair("p", "x", math.log(3))) == pytest.approx(0.75)  # p = 3/4: 4 * 3/4 * 1/4
    assert near_tie(pair("p", "x", -800.0)) == pytest.approx(0.0)  # no overflow


def test_bald_scores_by_hand():
    assert bald(pair("p", "x", ensemble=(0.0, 0.0))) == 0.0  # members agree on a coin flip: noise, nothing to learn
    # members say 3/4 and 1/4: H(1/2) - H(1/4) = 1 - (2 - 3/4 log2 3) = 0.75 log2(3) - 1
    assert bald(pair("p", "x", ensemble=(math.log(3), -math.log(3)))) == pytest.approx(0.75 * math.log2(3) - 1)


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
    score = near_tie(sure)
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


@pytest.mark.parametrize("rule", ["near_tie", "bald"])
def test_rules_that_need_the_preference_model_refuse_to_guess(rule):
    unscored = Pair(prompt_id="p", response_1_id="1", response_2_id="2")
    with pytest.raises(ValueError, match="needs"):
        select_pairs([unscored], rule, rng=random.Random(0), per_prompt=1)
