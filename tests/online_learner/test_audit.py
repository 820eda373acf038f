"""The intransitivity audit: arithmetic on hand-made triangles, closed forms, and planted preferences."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from online_learner.preference_models.audit import decide, fit_and_audit
from online_learner.preference_models.hodge import (
    draw_wins,
    harmonic_share,
    hodge_test,
    log_odds,
    residual_share,
    utilities,
)
from online_learner.preference_models.triads import (
    Votes,
    count_wins,
    curl_scores,
    kendall_circular_triads,
    majority_triads,
    who_is_cyclic,
)
from online_learner.preference_models.vote_cycles import audit_votes, labels_needed
from storage.contract.schemas import JUDGMENTS

DATA = Path(__file__).parents[3] / "shared" / "data" / "multi_annotator"


def wins_of(num_responses: int, *beats: tuple[int, int, float]) -> np.ndarray:
    wins = np.zeros((1, num_responses, num_responses))
    for winner, loser, times in beats:
        wins[0, winner, loser] += times
    return wins


def planted_logits(num_prompts: int, cyclic: float, rng: np.random.Generator) -> np.ndarray:
    """u_i - u_j + cyclic (x_i y_j - y_i x_j) with standard normal u, x, y."""
    u, x, y = rng.standard_normal((3, num_prompts, 4))
    return u[:, :, None] - u[:, None] + cyclic * (x[:, :, None] * y[:, None] - y[:, :, None] * x[:, None])


def complete(num_prompts: int, labels: int) -> np.ndarray:
    return np.where(np.eye(4, dtype=bool), 0, labels) * np.ones((num_prompts, 1, 1), dtype=int)


def test_hodge_parts_of_a_hand_made_triangle():
    # 0 beats 1, 1 beats 2, 2 beats 0, each 4 : 0. Every edge has Y = log(4.5 / .5) = log 9 and the same weight: utilities
    # are all equal, all of the flow is left over, and all of it runs around the triangle.
    circle = wins_of(3, (0, 1, 4), (1, 2, 4), (2, 0, 4))
    flow, weights = log_odds(circle)
    assert flow[0, 0, 1] == pytest.approx(np.log(9))
    assert weights[0, 0, 1] == pytest.approx(1 / (1 / 4.5 + 1 / 0.5))
    assert utilities(flow, weights) == pytest.approx(np.zeros((1, 3)), abs=1e-6)
    assert residual_share(circle) == pytest.approx(1.0)
    assert harmonic_share(circle) == pytest.approx(0.0, abs=1e-9)
    # The other way round between 0 and 2: Y = (c, c, c) for 01, 12, 02 with c = log 9. Least squares: s = (2c/3, 0, -2c/3),
    # residuals c/3, c/3, -c/3: share 3 (c/3)^2 / 3 c^2 = 1/9.
    assert residual_share(wins_of(3, (0, 1, 4), (1, 2, 4), (0, 2, 4))) == pytest.approx(1 / 9)


def test_a_circle_of_four_without_diagonals_is_harmonic():
    square = wins_of(4, (0, 1, 3), (1, 2, 3), (2, 3, 3), (3, 0, 3))
    assert residual_share(square) == pytest.approx(1.0)
    assert harmonic_share(square) == pytest.approx(1.0)
    assert residual_share(wins_of(4, (0, 1, 3), (1, 2, 3), (2, 3, 3))) == pytest.approx(0.0, abs=1e-9)  # a tree has no loop


def test_triads_of_complete_tournaments_are_kendalls_closed_form():
    rng = np.random.default_rng(0)
    tournaments = np.zeros((30, 7, 7))
    for i, j in combinations(range(7), 2):
        first = rng.random(30) < 0.5
        tournaments[:, i, j], tournaments[:, j, i] = first, ~first
    no_ties = np.zeros_like(tournaments)
    circular, decided = majority_triads(tournaments, no_ties)
    assert circular.tolist() == [kendall_circular_triads(beats) for beats in tournaments]
    assert (decided == 35).all()  # C(7, 3)
    # the regular tournament on 7 (i beats i+1, i+2, i+4): the most there can be, (n^3 - n) / 24 = 14
    regular = np.array([[float((j - i) % 7 in (1, 2, 4)) for j in range(7)] for i in range(7)])
    assert kendall_circular_triads(regular) == 14 == majority_triads(regular[None], no_ties[:1])[0][0]


def test_curl_of_one_triangle_by_hand():
    # three edges of Y = log(20.5 / .5) = 3.714, variance 1/20.5 + 1/.5 = 2.0488: z = 3 * 3.714 / sqrt(3 * 2.0488) = 4.494
    scores = curl_scores(wins_of(3, (1, 0, 20), (2, 1, 20), (0, 2, 20)))
    assert scores["largest_z"] == pytest.approx(4.494, abs=1e-3)
    assert (scores["num_triangles"], scores["num_significant"]) == (1, 1)
    assert scores["largest"] == [0, 0, 2, 1]  # in prompt 0, 0 beats 2 beats 1 beats 0


def people(orders: list[list[tuple[int, int]]], num_prompts: int) -> Votes:
    """Everybody judges all pairs of responses 0, 1, 2 of every prompt; ``orders`` says who beats whom for each person."""
    rows = [
        (prompt, 3 * prompt + a, 3 * prompt + b, 1 if prompt % 2 else -1, person)
        for prompt in range(num_prompts)
        for person, beats in enumerate(orders)
        for a, b in ([pair if prompt % 2 else pair[::-1] for pair in beats])
    ]
    return Votes(*np.array(rows).T)


def test_a_condorcet_majority_of_consistent_people_is_named_so():
    # x > y > z, y > z > x, z > x > y: everybody is transitive, and two of three prefer x to y, y to z and z to x
    condorcet = [[(0, 1), (1, 2), (0, 2)], [(1, 2), (2, 0), (1, 0)], [(2, 0), (0, 1), (2, 1)]]
    votes = people(condorcet, 20)
    circular, decided = majority_triads(*count_wins(votes)[:2])
    assert (circular.sum(), decided.sum()) == (20, 20)
    found = who_is_cyclic(votes, np.random.default_rng(0))
    assert (found["who"], found["share"], found["num_triads"]) == ("population", 0.0, 60)
    # dealt anew: each edge of a triad is with the majority 2 times in 3: (2/3)^3 + (1/3)^3 = 1/3
    assert found["share_if_shuffled"] == pytest.approx(1 / 3, abs=0.03)
    assert "consistent individuals" in found["sentence"]


def test_people_who_prefer_in_circles_are_named_so():
    found = who_is_cyclic(people([[(0, 1), (1, 2), (2, 0)]] * 3, 20), np.random.default_rng(0))
    assert (found["who"], found["share"]) == ("individuals", 1.0)
    transitive = who_is_cyclic(people([[(0, 1), (1, 2), (0, 2)]] * 3, 20), np.random.default_rng(0))
    assert (transitive["who"], transitive["share"]) == (None, 0.0)
    few = who_is_cyclic(people([[(0, 1), (1, 2), (2, 0)]], 3), np.random.default_rng(0))
    assert few["who"] is None and "3 triads" in few["sentence"]


def test_the_hodge_test_finds_cycles_and_few_that_are_not_there():
    rng = np.random.default_rng(0)

    def p_values(cyclic: float, labels: int) -> np.ndarray:
        worlds = [draw_wins(planted_logits(40, cyclic, rng), complete(40, labels), rng, 1)[0] for _ in range(20)]
        return np.array([hodge_test(wins, rng, 99)["p_value"] for wins in worlds])

    assert (p_values(0.0, 5) <= 0.05).mean() <= 0.1
    assert (p_values(1.5, 5) <= 0.05).mean() >= 0.8
    assert (p_values(1.5, 1) <= 0.05).mean() <= 0.1  # one vote a pair cannot tell, however strong the cycles


def test_labels_needed_fall_with_the_strength_of_cycles():
    rng = np.random.default_rng(0)
    strong, weak = labels_needed(planted_logits(60, 2.0, rng), rng), labels_needed(planted_logits(60, 1.0, rng), rng)
    assert strong is not None and weak is not None and 2 <= strong < weak <= 10
    assert labels_needed(planted_logits(5, 0.1, rng), rng) is None


@pytest.mark.skipif(not DATA.exists(), reason="needs the public judgments in ../shared/data/multi_annotator")
def test_circular_triads_of_real_votes():
    rows = [row for row in pq.read_table(DATA / "mt_bench_votes_dev.parquet").to_pylist() if row["annotator_kind"] != "gpt4"]
    sides = [[(row["question_id"], row["turn"], row[side]) for row in rows] for side in ("model_a", "model_b")]
    number = {side: i for i, side in enumerate(dict.fromkeys(sides[0] + sides[1]))}
    sign = {"a": 1, "tie": 0, "b": -1}
    votes = Votes(
        prompt=np.array([10 * row["question_id"] + row["turn"] for row in rows]),
        a=np.array([number[side] for side in sides[0]]),
        b=np.array([number[side] for side in sides[1]]),
        verdict=np.array([sign[row["label"]] for row in rows]),
        annotator=np.full(len(rows), -1),
    )
    circular, decided = majority_triads(*count_wins(votes)[:2])
    assert (circular.sum(), decided.sum()) == (20, 399)  # computed with independent code


def test_votes_without_triangles_say_so():
    pairs = Votes(*np.array([(0, 1, 2, 1, 0), (0, 2, 3, -1, 0), (1, 4, 5, 0, 1)]).T)
    found = audit_votes(pairs, np.random.default_rng(0))
    assert found["num_triangles"] == 0 and "all compared" in found["sentence"]


def test_the_audit_says_when_it_cannot_tell():
    inside, outside = 1.5, 5.0
    assert decide(0.03, gain=0.03, error=0.01, excess=inside, power=0.5) is True
    assert decide(0.01, gain=0.006, error=0.009, excess=outside, power=0.5) is True  # few judgments, decisive in sample
    assert decide(0.01, gain=-0.003, error=0.004, excess=outside, power=1.0) is True  # no gain yet, and no clear loss
    assert decide(0.01, gain=-0.008, error=0.004, excess=outside, power=1.0) is None
    assert decide(0.01, gain=0.003, error=0.009, excess=3.0, power=0.5) is None  # chance does this once in a hundred
    assert decide(0.03, gain=0.006, error=0.009, excess=inside, power=1.0) is None
    assert decide(0.6, gain=-0.01, error=0.005, excess=0.0, power=0.9) is False
    assert decide(0.6, gain=-0.01, error=0.005, excess=0.0, power=0.4) is None  # too few to have found any
    assert decide(0.3, gain=0.02, error=0.03, excess=0.5, power=1.0) is None  # a real gain is not excluded
    assert decide(0.03, gain=-0.01, error=0.01, excess=inside, power=1.0) is None  # the two looks disagree


def planted_world(seed: int, cyclic: float, num_prompts: int, labels: int) -> tuple[dict[str, torch.Tensor], pa.Table]:
    """All pairs of 4 responses; u, x, y of variance 1 are linear in 64 features; sides are shuffled, three people answer."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_prompts * 4, 64, generator=generator)
    u, x, y = (rows @ torch.randn(64, 3, generator=generator) / 8).T
    pairs = [(4 * p + i, 4 * p + j) for p in range(num_prompts) for i, j in combinations(range(4), 2) for _ in range(labels)]
    a, b = torch.tensor(pairs).T
    swap = torch.rand(len(a), generator=generator) < 0.5
    a, b = torch.where(swap, b, a), torch.where(swap, a, b)
    logits = u[a] - u[b] + cyclic * (x[a] * y[b] - y[a] * x[b])
    won = torch.rand(len(a), generator=generator) < logits.sigmoid()
    columns = {
        "prompt_id": [f"p{i // 4}" for i in a.tolist()],
        "response_a_id": [f"r{i}" for i in a.tolist()],
        "response_b_id": [f"r{i}" for i in b.tolist()],
        "verdict": ["a" if w else "b" for w in won.tolist()],
        "annotator_id": [f"ann{i % 3}" for i in range(len(a))],
    }
    empty = [None] * len(a)
    table = pa.table({field.name: pa.array(columns.get(field.name, empty), field.type) for field in JUDGMENTS})
    return {f"r{i}": row for i, row in enumerate(rows)}, table


def test_an_audit_names_the_clearest_circle_and_the_advice():
    audit = fit_and_audit(*planted_world(0, 2.0, 60, 2), seed=0)[1]
    assert audit["cyclic"] is True and "contain cycles" in audit["sentence"]
    prompts = {int(name[1:]) // 4 for name in audit["circle"]["responses"]}
    assert len(prompts) == 1 and min(audit["circle"]["probabilities"]) > 0.5
    few = fit_and_audit(*planted_world(1, 0.0, 10, 1), seed=0)[1]
    assert few["cyclic"] is None and few["power_at_scale_1"] < 0.8
    assert "cannot tell" in few["sentence"] and "labels on each pair" in few["sentence"]


@pytest.mark.slow
@pytest.mark.parametrize(("cyclic", "num_prompts", "labels"), [(0.0, 17, 1), (0.0, 67, 2), (0.0, 100, 3), (1.0, 100, 3)])
def test_the_whole_audit_finds_cycles_of_scale_1_and_raises_few_false_alarms(cyclic, num_prompts, labels):
    found = [fit_and_audit(*planted_world(seed, cyclic, num_prompts, labels), seed=seed)[1]["cyclic"] for seed in range(20)]
    assert found.count(True) >= 18 if cyclic else found.count(True) <= 1
