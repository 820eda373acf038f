"""Rankings of policies against closed forms and simulated votes with known effects."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from annotate_app.policy_table import balanced_rate, max_entropy_nash, nash_average, ratings, strengths_of_rates, win_matrix
from annotate_app.style_control import FEATURES, Votes, connected, fit_strengths, style_of

MT_BENCH = Path(__file__).parents[3] / "shared" / "data" / "multi_annotator" / "mt_bench_votes_dev.parquet"


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def simulated(seed: int, n: int = 600, *, strengths=(0.0, 0.5, 1.0), position=0.0, length=0.0, people=8) -> Votes:
    """Votes between random policies by the model that is fitted; the length of a response grows with its policy's number."""
    rng = np.random.default_rng(seed)
    first = rng.integers(len(strengths), size=n)
    second = (first + rng.integers(1, len(strengths), size=n)) % len(strengths)
    sizes = [rng.gamma(4, 100, n) * (1 + who) for who in (first, second)]
    style = [np.stack([size, np.zeros(n), np.zeros(n), np.zeros(n)], axis=1) for size in sizes]
    worth = np.array(strengths)
    logit = worth[first] - worth[second] + position + length * (sizes[0] - sizes[1]) / (sizes[0] + sizes[1])
    return Votes(
        first=first,
        second=second,
        score=(rng.random(n) < sigmoid(logit)).astype(float),
        style_first=style[0],
        style_second=style[1],
        annotator=[f"ann{k % people}" for k in range(n)],
        prompt=[f"q{k}" for k in range(n)],
    )


def votes_of(rows: list[tuple[int, int, float]]) -> Votes:
    first, second, score = (np.array(column) for column in zip(*rows, strict=True))
    style, names = np.zeros((len(rows), 4)), [str(k) for k in range(len(rows))]
    return Votes(first=first, second=second, score=score, style_first=style, style_second=style, annotator=names, prompt=names)


def test_style_counts_characters_and_markdown_outside_code():
    text = "# Title\n\nSome **bold** and __more__.\n\n- one\n* two\n1. three\n\n```\n# no title\n- no item\n```"
    assert style_of(text).tolist() == [len(text), 1, 3, 2]
    assert style_of("").tolist() == [0, 0, 0, 0]


def test_strengths_position_and_length_are_found_together():
    strengths = fit_strengths(simulated(0, 4000, position=0.4, length=1.5), ("length",))
    assert strengths is not None
    for policy, opponent, true in ((1, 0, 0.5), (2, 0, 1.0), (2, 1, 0.5)):
        logit, error = strengths.difference(policy, opponent)
        assert abs(logit - true) < 3 * error
        assert error < 0.2
    for name, true in (("position", 0.4), ("length", 1.5)):
        effect = strengths.effects[name]
        assert effect["low"] < true < effect["high"]


def test_who_wins_by_length_alone_is_even_at_equal_length():
    votes = simulated(1, 3000, strengths=(0.0, 0.0), length=4.0)
    plain, controlled = fit_strengths(votes), fit_strengths(votes, ("length",))
    assert plain is not None
    assert controlled is not None
    assert plain.win_rate(1, 0)["low"] > 0.6
    even = controlled.win_rate(1, 0)
    assert even["low"] < 0.5 < even["high"]


def test_intervals_of_controlled_win_rates_cover_the_truth_at_their_rate():
    covered = 0
    for seed in range(200):
        strengths = fit_strengths(simulated(seed, 300, strengths=(0.0, 0.5), position=0.3, length=1.0, people=300), ("length",))
        assert strengths is not None
        rate = strengths.win_rate(1, 0)
        covered += rate["low"] <= sigmoid(0.5) <= rate["high"]
    assert 182 <= covered <= 199  # of 200 at 95 %: 190, standard deviation 3.1


def test_a_policy_that_won_every_vote_has_a_finite_strength():
    strengths = fit_strengths(votes_of([(1, 0, 1.0), (0, 1, 0.0)] * 10))
    assert strengths is not None
    rate = strengths.win_rate(1, 0)
    assert 0.9 < rate["mean"] < 1
    assert rate["low"] > 0.5


def test_style_that_always_goes_with_winning_or_with_other_style_has_finite_effects():
    votes = simulated(3, 200, strengths=(0.0, 0.2))
    marks = (votes.score == 1).astype(float)  # who wins has headings and as many lists
    votes.style_first[:, 1] = votes.style_first[:, 2] = marks
    votes.style_second[:, 1] = votes.style_second[:, 2] = 1 - marks
    strengths = fit_strengths(votes, FEATURES)
    assert strengths is not None
    assert strengths.effects["headers"]["mean"] == pytest.approx(strengths.effects["lists"]["mean"])
    assert 1 < strengths.effects["headers"]["mean"] < 20
    assert "bold" not in strengths.effects  # nobody used any


def test_only_policies_that_votes_connect_are_compared_and_style_needs_enough_votes():
    votes = votes_of([(1, 0, 1.0), (2, 0, 0.0), (0, 1, 0.5), (8, 7, 1.0)])
    assert connected(votes.pairs) == (0, 1, 2)
    strengths = fit_strengths(votes)
    assert strengths is not None
    assert strengths.policies == (0, 1, 2)
    assert fit_strengths(votes, FEATURES) is None
    assert connected(np.empty((0, 2), int)) == ()


def test_a_rate_weighs_both_orders_of_showing_alike():
    # shown first 16 of 20 won, shown second 2 of 5: (.8 + .4) / 2, while 18 of 25 would be .72
    scores, first = np.array([1.0] * 16 + [0.0] * 4 + [1.0] * 2 + [0.0] * 3), np.array([True] * 20 + [False] * 5)
    rate = balanced_rate(scores, first)
    assert rate["mean"] == pytest.approx(0.6)
    assert rate["low"] < 0.6 < rate["high"]
    assert rate["n"] == 25
    few = balanced_rate(scores[:21], first[:21])  # one vote of the other order: the plain share
    assert few["mean"] == pytest.approx(17 / 21)


def test_both_orders_of_a_pair_are_in_the_matrix():
    matrix = win_matrix(votes_of([(1, 0, 1.0), (0, 1, 0.0), (1, 0, 0.5)]))
    assert matrix[1, 0]["mean"] == pytest.approx(2.5 / 3)  # two wins and half a tie
    assert matrix[0, 1]["mean"] == pytest.approx(0.5 / 3)
    assert matrix[0, 1]["low"] == pytest.approx(1 - matrix[1, 0]["high"])


def test_expected_rates_become_strengths_and_elo_points():
    rate = {"mean": 10 / 11, "low": 0.88, "high": 0.93}  # odds 10 to 1 are 400 points
    chain = {"mean": 0.6, "low": 0.55, "high": 0.65}
    strengths = strengths_of_rates({(1, 0): rate, (2, 1): chain})
    assert strengths is not None
    rated = ratings(strengths)
    assert (rated[0]["mean"], rated[0]["low"]) == (1000, 1000)
    assert rated[1]["mean"] == pytest.approx(1400)
    assert rated[2]["mean"] == pytest.approx(1400 + 400 * np.log10(1.5))
    assert strengths.win_rate(2, 1)["low"] == pytest.approx(0.55, abs=0.002)  # the interval is symmetric in logits
    assert strengths_of_rates({}) is None


def test_the_nash_mixture_of_a_circle_is_its_closed_form():
    # x beats y by a, y beats z by b, z beats x by c: weights b, c, a by their sum
    a, b, c = 0.1, 0.2, 0.3
    payoff = np.array([[0, a, -c], [-a, 0, b], [c, -b, 0]])
    assert max_entropy_nash(payoff) == pytest.approx([b / 0.6, c / 0.6, a / 0.6], abs=1e-4)


def test_clones_share_the_weight_and_a_best_policy_takes_all():
    assert max_entropy_nash(np.zeros((4, 4))) == pytest.approx([0.25] * 4, abs=1e-4)
    best_twice = np.array([[0, 0, 0.2], [0, 0, 0.2], [-0.2, -0.2, 0]])
    assert max_entropy_nash(best_twice) == pytest.approx([0.5, 0.5, 0], abs=1e-3)
    assert max_entropy_nash(np.array([[0, -0.4], [0.4, 0]])) == pytest.approx([0, 1], abs=1e-3)


def test_nash_averaging_tells_a_circle_where_ratings_say_all_are_equal():
    wins = [(1, 0), (2, 1), (0, 2)]
    votes = votes_of([row for a, b in wins for row in [(a, b, 1.0), (b, a, 0.0)] * 20])
    strengths = fit_strengths(votes)
    assert strengths is not None
    assert [rating["mean"] for rating in ratings(strengths).values()] == pytest.approx([1000] * 3, abs=1)
    found = nash_average(win_matrix(votes), strengths)
    assert [found[policy]["weight"] for policy in range(3)] == pytest.approx([1 / 3] * 3, abs=1e-3)
    assert [found[policy]["win_rate"] for policy in range(3)] == pytest.approx([0.5] * 3, abs=1e-3)


@pytest.mark.skipif(not MT_BENCH.exists(), reason="needs the public votes in ../shared/data/multi_annotator")
def test_people_rank_the_models_of_mt_bench_as_published():
    rows = [r for r in pq.read_table(MT_BENCH).to_pylist() if r["annotator_kind"] != "gpt4"]
    models = ["llama-13b", "alpaca-13b", "vicuna-13b-v1.2", "claude-v1", "gpt-3.5-turbo", "gpt-4"]
    style = np.zeros((len(rows), 4))
    votes = Votes(
        first=np.array([models.index(r["model_a"]) for r in rows]),
        second=np.array([models.index(r["model_b"]) for r in rows]),
        score=np.array([{"a": 1, "b": 0, "tie": 0.5}[r["label"]] for r in rows]),
        style_first=style,
        style_second=style,
        annotator=[r["annotator_id"] for r in rows],
        prompt=[str(r["question_id"]) for r in rows],
    )
    strengths = fit_strengths(votes)
    assert strengths is not None
    rated = [ratings(strengths)[k] for k in range(6)]
    means = [rating["mean"] for rating in rated]
    # arXiv:2306.05685, figure 3: GPT-4, then Claude and GPT-3.5, which people hardly tell apart, Vicuna, Alpaca, LLaMA
    assert means[0] < means[1] < means[2] < min(means[3:5])
    assert means[5] == max(means)
    assert rated[2]["high"] < rated[5]["low"]
    assert rated[3]["low"] < rated[4]["high"] and rated[4]["low"] < rated[3]["high"]
    nash = nash_average(win_matrix(votes), strengths)
    assert max(nash, key=lambda k: nash[k]["weight"]) == 5
