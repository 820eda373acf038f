"""The worlds of the simulation: preferences by hand arithmetic, answers against the probabilities they claim."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate_app.worlds import (
    CLASSES,
    MAJORITY,
    WORLDS,
    Person,
    answer_pair,
    class_gap,
    class_shares,
    crowd,
    cyclic,
    latent_shift,
    read_features,
    response_class,
    transitive,
    true_duality_gap,
    true_win_rate,
    utility,
)

SHORT = "Rinse the rice first."
STEPS = "1. Rinse the rice.\n2. Boil the water.\n3. Let the pot rest."
CHATTY = "Great question! My favorite trick is to rinse the rice until the water runs clear. Will you tell me how it goes?"
HEDGED = "It depends on the rice. You might want to rinse it. Perhaps you could let it rest."
STORY = (
    'Tim ran to the lake. "Look!" he said. "A fish!" His mom smiled and they went home to tell everyone about the fish they saw.'
)

texts = st.sampled_from([SHORT, STEPS, CHATTY, HEDGED, STORY, "", "word " * 300])


def test_features_of_a_list_do_not_count_its_numbers():
    features = read_features(STEPS)
    assert (features.num_words, features.is_list) == (10, True)  # 3 + 3 + 4
    assert features.sentence_words == pytest.approx(10 / 3)


def test_features_of_speech_and_doubt():
    assert read_features(STORY).num_quotes == 2
    assert read_features(HEDGED).num_hedges == 3  # depends, might, perhaps
    assert read_features(CHATTY).num_exclamations == 1


def test_an_empty_text_has_no_features():
    assert read_features("").num_words == 0
    assert read_features("").sentence_words == 0.0


def test_utility_is_the_sum_of_its_terms():
    # 10 words at -.02, a list at 2.2, sentences of 3.3 words below the limit of 6
    assert utility(STEPS, MAJORITY) == pytest.approx(-0.2 + 2.2)
    # 17 words, sentences of 5.7; the cap counts two of three hedges at -1.2
    assert utility(HEDGED, MAJORITY) == pytest.approx(-0.02 * 17 - 2.4)


def test_the_transitive_world_is_bradley_terry_in_the_utility():
    gain = utility(STEPS, MAJORITY) - utility(HEDGED, MAJORITY)
    assert transitive().win_probability(STEPS, HEDGED) == pytest.approx(1 / (1 + math.exp(-gain)))


def test_classes_partition_short_steps_and_chatty():
    assert [CLASSES[response_class(text)] for text in (SHORT, STEPS, CHATTY, STORY)] == ["short", "steps", "chatty", "steps"]


@pytest.mark.parametrize(("winner", "loser"), [(SHORT, STEPS), (STEPS, CHATTY), (CHATTY, SHORT)])
def test_each_class_beats_the_next_eighty_to_twenty(winner, loser):
    assert cyclic().win_probability(winner, loser) == pytest.approx(0.8)
    assert cyclic().win_probability(loser, winner) == pytest.approx(0.2)
    assert cyclic().win_probability(winner, winner) == pytest.approx(0.5)


def test_the_crowd_prefers_as_its_sub_populations_do_in_their_shares():
    logits = crowd().logits
    expected = sum(w / (1 + math.exp(-f(STEPS, CHATTY))) for w, f in zip((2 / 3, 1 / 3), logits, strict=True))
    assert crowd().win_probability(STEPS, CHATTY) == pytest.approx(expected)


@pytest.mark.parametrize("name", WORLDS)
@given(x=texts, y=texts)
def test_swapping_complements_every_preference(name, x, y):
    world = WORLDS[name]()
    assert world.win_probability(x, y) + world.win_probability(y, x) == pytest.approx(1.0)


@given(st.floats(-8, 8))
def test_the_latent_shift_keeps_the_win_rate_with_ties_one_half(logit):
    width, shift = 0.15, latent_shift(logit, 0.15)

    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    wins, ties = sigmoid(shift - width), sigmoid(shift + width) - sigmoid(shift - width)
    assert wins + ties / 2 == pytest.approx(sigmoid(logit), abs=1e-9)


def answers(world, person, a, b, num=20_000):
    rng = random.Random(3)
    return [answer_pair(world, person, a, b, rng) for _ in range(num)]


def share_of_a(given_answers):
    """Win rate of the side shown first, ties one half; standard error below .004 for 20,000 answers."""
    scores = [{"a": 1.0, "tie": 0.5, "b": 0.0}[x.verdict] for x in given_answers if x.verdict in ("a", "b", "tie")]
    return sum(scores) / len(scores)


def test_answers_come_at_the_rate_the_world_states():
    assert share_of_a(answers(cyclic(), Person(), STEPS, CHATTY)) == pytest.approx(0.8, abs=0.015)


def test_answers_have_ties_strengths_skips_and_both_bad():
    given_answers = answers(cyclic(), Person(), STEPS, CHATTY)
    verdicts = [answer.verdict for answer in given_answers]
    assert verdicts.count("skip") / len(verdicts) == pytest.approx(0.01, abs=0.004)
    assert verdicts.count("both_bad") / len(verdicts) == pytest.approx(0.02, abs=0.005)
    assert 0.02 < verdicts.count("tie") / len(verdicts) < 0.08
    assert {answer.strength for answer in given_answers if answer.verdict in "ab"} == {1, 2, 3}
    assert {answer.strength for answer in given_answers if answer.verdict not in "ab"} == {None}


def test_a_position_bias_pulls_to_the_side_shown_first():
    # logit 0 within a class, bias 1: sigma(1) = .731, ties moved by half a point at most
    assert share_of_a(answers(cyclic(), Person(first_bias=1.0), SHORT, SHORT)) == pytest.approx(0.731, abs=0.02)


def test_a_flipping_annotator_is_wrong_in_that_share():
    # (1 - e) .8 + e .2 with e = .25
    assert share_of_a(answers(cyclic(), Person(flip_rate=0.25), SHORT, STEPS)) == pytest.approx(0.65, abs=0.015)


def test_the_crowd_fills_its_sub_populations_and_differs_from_annotator_to_annotator():
    people = crowd().people(9, seed=1)
    assert [person.taste for person in people] == [0] * 6 + [1] * 3
    assert len({person.first_bias for person in people}) == 9
    assert people == crowd().people(9, seed=1)
    assert people != crowd().people(9, seed=2)


def test_true_win_rate_averages_all_cross_pairs_and_clusters_by_prompt():
    # prompt 1: STEPS against CHATTY .8 and SHORT .2 -> .5; prompt 2: SHORT against STEPS .8
    rate = true_win_rate(cyclic(), [[STEPS], [SHORT]], [[CHATTY, SHORT], [STEPS]])
    assert rate.mean == pytest.approx(0.65)
    half = 1.96 * math.sqrt(((0.15**2) * 2 / 1) / 2)  # sd of two values .5 and .8 over sqrt(2)
    assert (rate.low, rate.high) == (pytest.approx(0.65 - half), pytest.approx(0.65 + half))


def test_a_policy_against_itself_wins_one_half_exactly():
    samples = [[STEPS, CHATTY, SHORT], [HEDGED, SHORT]]
    assert true_win_rate(transitive(), samples, samples).mean == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("shares", "gap"),
    [
        ([1 / 3, 1 / 3, 1 / 3], 0.0),  # the Nash mix
        ([0.0, 0.0, 1.0], 0.6),  # all chatty: steps win .8
        ([0.5, 0.5, 0.0], 0.3),  # short wins .25 + .4 = .65
        ([0.19, 0.12, 0.69], 0.30),  # steps win .06 + .552 + .038 = .65
    ],
)
def test_class_gap_by_hand(shares, gap):
    assert class_gap(shares) == pytest.approx(gap)


def test_the_gap_of_the_cyclic_world_is_that_of_its_class_mix():
    samples = [[SHORT, STEPS], [CHATTY]]
    assert class_shares(samples) == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert true_duality_gap(cyclic(), samples, samples) == pytest.approx(0.0)


def test_the_restricted_gap_searches_the_given_responses():
    best = max((STEPS, HEDGED), key=lambda text: utility(text, MAJORITY))
    expected = 2 * transitive().win_probability(best, HEDGED) - 1
    assert true_duality_gap(transitive(), [[HEDGED]], [[STEPS, HEDGED]]) == pytest.approx(expected)
    assert true_duality_gap(transitive(), [[STEPS]], [[STEPS, HEDGED]]) == pytest.approx(0.0)
