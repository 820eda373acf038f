"""Rankings: probabilities by hand, counted once, planted utilities recovered better than from their pairs."""

import math
from itertools import combinations, permutations

import pyarrow as pa
import pytest
import torch

from online_learner.preference_models.bradley_terry import BRADLEY_TERRY
from online_learner.preference_models.fit import fit_preference_models
from online_learner.preference_models.heads import fit_heads
from online_learner.preference_models.likelihood import Observations
from online_learner.preference_models.observations import encode_judgments
from online_learner.preference_models.plackett_luce import PLACKETT_LUCE, ranking_log_prob
from storage.errors import UserError

UTILITIES = torch.tensor([[0.0, 1.0, 2.0, -1.0]], dtype=torch.float64)


def rows(groups, *, name="r", prompt="p", verdict=None):
    """The pairs of a ranking, as the judgments of a job have them; ``groups`` are response ids, best first."""
    place = {response: i for i, group in enumerate(groups) for response in group}
    return [
        {
            "prompt_id": prompt,
            "response_a_id": a,
            "response_b_id": b,
            "verdict": verdict or ("tie" if place[a] == place[b] else "a" if place[a] < place[b] else "b"),
            "ranking_id": name,
        }
        for a, b in combinations(sorted(place), 2)
    ]


def encode(found) -> Observations:
    names = sorted({row[side] for row in found for side in ("response_a_id", "response_b_id")})
    return encode_judgments(pa.Table.from_pylist(found), {name: i for i, name in enumerate(names)})


def log_prob(*groups) -> float:
    data = encode(rows(groups))
    assert data.rankings is not None
    return float(ranking_log_prob(UTILITIES[:, : int(data.rankings.sizes)], data.rankings))


def test_a_ranking_of_three_by_hand():
    # utilities a 0, b 1, c 2: c first, then a before b
    e = math.e
    by_hand = (e**2 / (1 + e + e**2)) * (1 / (1 + e))
    assert log_prob("c", "a", "b") == pytest.approx(math.log(by_hand), abs=1e-12)


def test_two_ranked_responses_are_bradley_terry():
    assert log_prob("b", "a") == pytest.approx(-math.log(1 + math.exp(-1)), abs=1e-12)


def test_all_orders_together_are_certain_and_so_is_a_ranking_without_an_order():
    total = sum(math.exp(log_prob(*order)) for order in permutations("abcd"))
    assert total == pytest.approx(1, abs=1e-12)
    assert log_prob("abcd") == pytest.approx(0, abs=1e-12)


def test_a_tie_sums_over_its_orders():
    both = math.exp(log_prob("d", "a", "c", "b")) + math.exp(log_prob("d", "c", "a", "b"))
    assert math.exp(log_prob("d", "ac", "b")) == pytest.approx(both, abs=1e-12)


def test_rankings_of_different_sizes_stand_side_by_side():
    data = encode([*rows(("c", "a", "b"), name="three"), *rows(("d", "c", "b", "a"), name="four")])
    assert data.rankings is not None and data.rankings.sizes.tolist() == [3, 4]
    together = ranking_log_prob(UTILITIES, data.rankings)[0].tolist()
    assert together == pytest.approx([log_prob("c", "a", "b"), log_prob("d", "c", "b", "a")], abs=1e-12)


def test_gradients_are_finite_where_rankings_differ_in_size():
    data = encode([*rows(("c", "a", "b"), name="three"), *rows(("d", "cb", "a"), name="four")])
    utilities = (UTILITIES * 300).requires_grad_()
    assert data.rankings is not None
    ranking_log_prob(utilities, data.rankings).sum().backward()
    assert utilities.grad is not None and utilities.grad.isfinite().all()


def test_a_ranking_of_k_counts_as_k_minus_one_judgments():
    single = {"prompt_id": "p", "response_a_id": "a", "response_b_id": "b", "verdict": "a", "ranking_id": None}
    data = encode([*rows(("c", "a", "b")), single, *rows(("d", "c", "b", "a"), name="four")])
    # three pairs of 2 / 3, one of 1, six of 1 / 2
    assert data.weight.tolist() == pytest.approx([2 / 3] * 3 + [1] + [1 / 2] * 6)


def test_ranked_responses_without_features_leave_a_shorter_ranking():
    """Plackett-Luce keeps its form on the responses that remain."""
    data = encode_judgments(pa.Table.from_pylist(rows(("d", "c", "b", "a"))), {"d": 0, "b": 1, "a": 2})
    assert data.rankings is not None and data.rankings.orders.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("wrong", ["circle", "missing"])
def test_pairs_that_are_no_ranking_are_refused(wrong):
    pairs = rows(("a", "b", "c"))
    if wrong == "circle":
        pairs[1]["verdict"] = "b"  # a > b, c > a, b > c
    else:
        del pairs[1]
    with pytest.raises(UserError, match="'r' are not those of one ranking of 3 responses"):
        encode(pairs)


def test_judgments_without_the_column_are_read_as_before():
    old = pa.Table.from_pylist(rows(("a", "b", "c"))).drop(["ranking_id"])
    data = encode_judgments(old, {"a": 0, "b": 1, "c": 2})
    assert data.rankings is None and data.weight.tolist() == [1, 1, 1]


def planted(seed: int, num_prompts: int, k: int = 4, width: int = 6):
    """Features by id, the true weights, and one ranking a prompt, drawn as Plackett-Luce: by utility plus Gumbel noise."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_prompts, k, width, generator=generator)
    truth = torch.randn(width, generator=generator)
    gumbel = -torch.log(torch.empty(num_prompts, k).exponential_(generator=generator))
    orders = (features @ truth + gumbel).argsort(dim=1, descending=True).tolist()
    by_id = {f"p{p:03}r{i}": features[p, i] for p in range(num_prompts) for i in range(k)}
    found = [
        row
        for p, order in enumerate(orders)
        for row in rows([(f"p{p:03}r{i}",) for i in order], name=f"ranking{p}", prompt=f"p{p}")
    ]
    return by_id, truth, found


@pytest.mark.slow
def test_planted_utilities_are_recovered_better_from_rankings_than_from_their_pairs():
    """Mean squared error of the weights over 20 draws; the true likelihood is the more efficient one (arXiv:2301.11270)."""
    errors = {"plackett_luce": 0.0, "bradley_terry": 0.0}
    for seed in range(20):
        features, truth, found = planted(seed, 100)
        data = encode(found)
        stacked = torch.stack([features[name] for name in sorted(features)])
        for family in (PLACKETT_LUCE, BRADLEY_TERRY):
            fits = fit_heads(
                family, stacked, data, torch.ones(1, len(data)), torch.full((1, 1), 1e-6), torch.Generator().manual_seed(0)
            )
            errors[family.name] += float((fits.model.weights[0, :, 0] - truth).square().mean()) / 20
    assert errors["plackett_luce"] < 0.03  # 300 choices, 6 weights: the inverse information is near .02
    assert errors["plackett_luce"] < errors["bradley_terry"]


def test_the_fitted_probabilities_are_those_planted_and_the_report_counts_rankings():
    features, truth, found = planted(0, 200)
    fitted = fit_preference_models(features, pa.Table.from_pylist(found), seed=0, models=("plackett_luce",))
    fresh = torch.randn(500, 2, 6, generator=torch.Generator().manual_seed(1))
    expected = torch.sigmoid((fresh[:, 0] - fresh[:, 1]) @ truth)
    predicted = torch.sigmoid(fitted.pair_logits(fresh[:, 0], fresh[:, 1]))
    assert (predicted - expected).abs().mean() < 0.03
    assert fitted.report["num_rankings"] == 200 and fitted.report["num_decided"] == 1200
