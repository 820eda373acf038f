import json
import math
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from online_learner.preference_models.audit import audit_intransitivity, choose, fit_and_audit, simulate_answers
from online_learner.preference_models.base import LinearPreference
from online_learner.preference_models.calibration import clustered_mean, decided_metrics, fit_temperature
from online_learner.preference_models.fit import fit_candidates, fit_preference_models, prepare
from online_learner.preference_models.fitted import load_preference
from online_learner.preference_models.heads import fit_heads
from online_learner.preference_models.likelihood import interval_log_prob
from online_learner.preference_models.registry import PREFERENCE_MODELS
from online_learner.preference_models.resampling import bootstrap_weights, prompt_folds
from storage.contract.schemas import JUDGMENTS
from storage.errors import UserError

NUM_PROMPTS, K, WIDTH = 128, 4, 64


@dataclass(frozen=True)
class World:
    """Responses with known preferences: features by id, (N, K, d), and the true logit of any two rows."""

    features: dict[str, Tensor]
    grouped: Tensor
    true_logit: Callable[[Tensor, Tensor], Tensor]


def make_world(kind: str, seed: int) -> World:
    """transitive: a utility per class of response. cyclic: three classes, each beating the next 80:20 (logit log 4)."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.tensor({"cyclic": [0.3, 0.3, 0.4], "transitive": [0.25] * 4}[kind])
    kind_of = torch.multinomial(mix, NUM_PROMPTS * K, True, generator=generator)
    centres = torch.randn(len(mix), WIDTH, generator=generator)
    rows = torch.randn(NUM_PROMPTS * K, WIDTH, generator=generator) + centres[kind_of]
    utility = torch.tensor([-1.5, -0.5, 0.5, 1.5])

    def transitive(a: Tensor, b: Tensor) -> Tensor:
        return utility[kind_of[a]] - utility[kind_of[b]]

    def cyclic(a: Tensor, b: Tensor) -> Tensor:
        return torch.tensor([0.0, math.log(4), -math.log(4)])[(kind_of[b] - kind_of[a]) % 3]

    features = {f"r{i}": row for i, row in enumerate(rows)}
    return World(features, rows.view(NUM_PROMPTS, K, -1), {"cyclic": cyclic, "transitive": transitive}[kind])


def judge(
    world: World,
    num: int,
    seed: int,
    *,
    flips: tuple[float, ...] = (0.0,),
    bias: float = 0.0,
    edges: tuple[float, ...] = (0.0,),
    with_strength: bool = False,
) -> pa.Table:
    """Random pairs, answered through the generative story of the likelihood; edges are k0 < k1 < ..."""
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(NUM_PROMPTS, (num,), generator=generator)
    pick = torch.rand(num, K, generator=generator).argsort(1)[:, :2]
    a, b = prompt * K + pick[:, 0], prompt * K + pick[:, 1]
    who = torch.randint(len(flips), (num,), generator=generator)
    logit = world.true_logit(a, b)
    logit = torch.where(torch.rand(num, generator=generator) < torch.tensor(flips)[who], -logit, logit)
    latent = logit + bias + torch.logit(torch.rand(num, generator=generator))
    size = torch.bucketize(latent.abs(), torch.tensor(edges))  # 0 is a tie
    verdict = ["tie" if not s else "a" if z > 0 else "b" for s, z in zip(size.tolist(), latent.tolist(), strict=True)]
    return judgments(
        prompt_id=[f"p{i}" for i in prompt.tolist()],
        response_a_id=[f"r{i}" for i in a.tolist()],
        response_b_id=[f"r{i}" for i in b.tolist()],
        verdict=verdict,
        strength=[s if with_strength and s else None for s in size.tolist()],
        annotator_id=[f"ann{i}" for i in who.tolist()],
    )


def judgments(**columns: list) -> pa.Table:
    num = len(columns["verdict"])
    return pa.table(
        {field.name: pa.array(columns.get(field.name, [None] * num), field.type) for field in JUDGMENTS}, schema=JUDGMENTS
    )


def losses_on_all_pairs(world: World, logits: Tensor) -> tuple[float, float]:
    """Expected log loss of predicted (N, K, K) logits over all pairs, and that of the truth."""
    rows = torch.arange(NUM_PROMPTS * K).view(NUM_PROMPTS, K)
    i, j = torch.triu_indices(K, K, 1)
    true, predicted = world.true_logit(rows[:, i], rows[:, j]), logits[:, i, j]

    def loss(s: Tensor) -> float:
        return float(-(true.sigmoid() * logsigmoid(s) + (-true).sigmoid() * logsigmoid(-s)).mean())

    return loss(predicted), loss(true)


@pytest.fixture(scope="module")
def cyclic_fit():
    world = make_world("cyclic", seed=0)
    return world, *fit_and_audit(world.features, judge(world, 600, seed=1), seed=0)


@pytest.fixture(scope="module")
def transitive_fit():
    world = make_world("transitive", seed=0)
    return world, *fit_and_audit(world.features, judge(world, 400, seed=1), seed=0)


def test_a_planted_utility_is_recovered_and_bradley_terry_chosen(transitive_fit):
    world, fitted, audit = transitive_fit
    predicted, oracle = losses_on_all_pairs(world, fitted.logits(world.grouped))
    assert fitted.name == "bradley_terry" == fitted.report["selected"]
    assert predicted < oracle + 0.06 < math.log(2)
    assert audit["cyclic"] is not True


def test_a_planted_cycle_is_recovered_and_reported(cyclic_fit):
    world, fitted, audit = cyclic_fit
    predicted, oracle = losses_on_all_pairs(world, fitted.logits(world.grouped))
    assert fitted.name == "bt_gpm" == fitted.report["selected"]
    assert predicted < oracle + 0.05 < math.log(2)
    assert audit["cyclic"] is True
    assert audit["p_value"] <= 0.05
    assert "contain cycles" in audit["sentence"]
    models = fitted.report["models"]
    assert models["bt_gpm"]["log_loss"] < models["bradley_terry"]["log_loss"] - 0.02


def test_calibrated_probabilities_mean_what_they_say(cyclic_fit):
    world, fitted, _ = cyclic_fit
    rows = torch.arange(NUM_PROMPTS * K).view(NUM_PROMPTS, K)
    i, j = torch.triu_indices(K, K, 1)
    true = world.true_logit(rows[:, i], rows[:, j]).sigmoid() - 0.5
    predicted = fitted.logits(world.grouped)[:, i, j].sigmoid() - 0.5
    slope = float((true * predicted).sum() / predicted.square().sum())  # 1 where P = p is right on average
    assert 0.75 < slope < 1.3


@pytest.mark.parametrize("name", PREFERENCE_MODELS)
def test_every_model_is_skew_symmetric_to_the_last_bit(name):
    family = PREFERENCE_MODELS[name]
    model = LinearPreference(family, torch.randn(3, 7, family.width, generator=torch.Generator().manual_seed(0)))
    features = torch.randn(5, 4, 7, generator=torch.Generator().manual_seed(1))
    logits = model.logits(features)
    assert logits.shape == (3, 5, 4, 4)
    assert torch.equal(logits, -logits.mT)
    pair = model.pair_logits(features[:, 0], features[:, 1])
    assert torch.equal(pair, -model.pair_logits(features[:, 1], features[:, 0]))
    torch.testing.assert_close(pair, logits[:, :, 0, 1])


def test_general_preference_logit_by_hand():
    # columns u, x, y: a = (1, 2, 3), b = (0.5, -1, 4): (1 - .5) + 2 * 4 - 3 * (-1) = 11.5
    family = PREFERENCE_MODELS["bt_gpm"]
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, -1.0, 4.0])
    assert family.compare(a, b).item() == 11.5
    assert PREFERENCE_MODELS["bradley_terry"].compare(a[:1], b[:1]).item() == 0.5


def test_the_ensemble_is_skew_symmetric_and_its_mean_is_the_prediction(cyclic_fit):
    world, fitted, _ = cyclic_fit
    ensemble = fitted.ensemble_logits(world.grouped)
    assert ensemble.shape == (8, NUM_PROMPTS, K, K)
    assert torch.equal(ensemble, -ensemble.mT)
    assert torch.equal(fitted.logits(world.grouped), ensemble.mean(0))
    assert ensemble.std(0)[:, 0, 1].min() > 0
    pair = fitted.pair_logits(world.grouped[:, 0], world.grouped[:, 1])
    torch.testing.assert_close(pair, fitted.logits(world.grouped)[:, 0, 1], rtol=1e-4, atol=1e-5)


def test_saved_models_predict_identically(cyclic_fit, tmp_path):
    world, fitted, _ = cyclic_fit
    fitted.save(tmp_path / "model")
    loaded = load_preference(tmp_path / "model")
    assert torch.equal(loaded.ensemble_logits(world.grouped), fitted.ensemble_logits(world.grouped))
    assert loaded.answers == fitted.answers
    assert loaded.report == json.loads(json.dumps(fitted.report))


def test_the_same_seed_gives_the_same_bits(transitive_fit):
    world, fitted, _ = transitive_fit
    again = fit_preference_models(world.features, judge(world, 400, seed=1), seed=0)
    assert torch.equal(again.model.weights, fitted.model.weights)
    assert again.report == fitted.report


def test_a_missing_model_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="holds no preference model"):
        load_preference(tmp_path)


def test_position_bias_and_flip_rates_are_recovered():
    world = make_world("transitive", seed=3)
    planted = (0.02, 0.02, 0.4)
    fitted = fit_preference_models(world.features, judge(world, 3000, seed=4, flips=planted, bias=0.6), seed=0)
    assert fitted.report["position_bias"] == pytest.approx(0.6, abs=0.15)
    flips = fitted.report["annotator_flips"]
    assert flips["ann2"] == pytest.approx(0.4, abs=0.1)
    assert max(flips["ann0"], flips["ann1"]) < 0.12


def test_ties_and_strengths_are_recovered():
    world = make_world("transitive", seed=5)
    table = judge(world, 3000, seed=6, edges=(0.5, 1.5), with_strength=True)
    fitted = fit_preference_models(world.features, table, seed=0, models=["bradley_terry"])
    # thresholds are in units of the uncalibrated logits, which the penalty shrinks a little
    assert fitted.report["thresholds"] == pytest.approx([0.5, 1.5], abs=0.2)
    assert fitted.report["num_ties"] == table["verdict"].to_pylist().count("tie")
    predicted, oracle = losses_on_all_pairs(world, fitted.logits(world.grouped))
    assert predicted < oracle + 0.02


def test_one_annotator_has_no_flip_rate():
    world = make_world("transitive", seed=0)
    data = prepare(world.features, judge(world, 100, seed=1), seed=0)
    assert data.observations.annotators == ()


def test_both_bad_and_skip_change_nothing():
    world = make_world("transitive", seed=0)
    table = judge(world, 60, seed=1)
    noise = table.set_column(table.schema.get_field_index("verdict"), "verdict", pa.array(["both_bad", "skip"] * 30, pa.string()))
    plain = fit_preference_models(world.features, table, seed=0)
    mixed = fit_preference_models(world.features, pa.concat_tables([table, noise]), seed=0)
    assert torch.equal(plain.model.weights, mixed.model.weights)


def test_too_few_decided_judgments_are_refused_with_their_number():
    world = make_world("transitive", seed=0)
    with pytest.raises(UserError, match="Only 19 decided judgments"):
        fit_preference_models(world.features, judge(world, 19, seed=1), seed=0)


def test_judgments_on_one_prompt_are_refused():
    world = make_world("transitive", seed=0)
    table = judge(world, 30, seed=1)
    one = table.set_column(table.schema.get_field_index("prompt_id"), "prompt_id", pa.array(["p0"] * 30))
    with pytest.raises(UserError, match="on 1 prompt"):
        fit_preference_models(world.features, one, seed=0)


def test_features_that_are_not_numbers_are_refused():
    world = make_world("transitive", seed=0)
    broken = {**world.features, "r7": torch.full((WIDTH,), torch.nan)}
    with pytest.raises(UserError, match="1 of 512 responses are not finite"):
        fit_preference_models(broken, judge(world, 30, seed=1), seed=0)


def test_an_unknown_verdict_is_refused_by_name():
    world = make_world("transitive", seed=0)
    table = judge(world, 30, seed=1)
    wrong = table.set_column(table.schema.get_field_index("verdict"), "verdict", pa.array(["left"] * 30))
    with pytest.raises(UserError, match="'left'"):
        fit_preference_models(world.features, wrong, seed=0)


def test_an_unknown_model_is_refused_by_name():
    world = make_world("transitive", seed=0)
    with pytest.raises(UserError, match=r"'elo'.*Choose from"):
        fit_preference_models(world.features, judge(world, 30, seed=1), seed=0, models=["elo"])


def test_a_small_fit_still_works():
    world = make_world("transitive", seed=0)
    fitted = fit_preference_models(world.features, judge(world, 20, seed=1), seed=0)
    assert fitted.logits(world.grouped).isfinite().all()


def test_folds_and_bootstraps_never_split_a_prompt():
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(37, (500,), generator=generator)
    prompt = prompt.unique(return_inverse=True)[1]
    fold = prompt_folds(prompt, 5, generator)
    weights = bootstrap_weights(prompt, fold != 2, 6, generator)
    assert all(len(fold[prompt == p].unique()) == 1 for p in prompt.unique())
    assert all(len(weights[:, prompt == p].unique(dim=1)[0]) == 1 for p in prompt.unique())
    assert (weights[:, fold == 2] == 0).all()
    assert sorted(fold[[int((prompt == p).nonzero()[0]) for p in range(37)]].bincount().tolist()) == [7, 7, 7, 8, 8]


def test_heads_are_stationary_points_of_their_objective():
    # Bradley-Terry is concave: compare with scipy's independent optimiser on the same penalised likelihood.
    from scipy.optimize import minimize

    world = make_world("transitive", seed=0)
    data = prepare(world.features, judge(world, 200, seed=1), seed=0, position_bias=False)
    family = PREFERENCE_MODELS["bradley_terry"]
    heads = fit_heads(
        family,
        data.features,
        data.observations,
        torch.ones(1, 200),
        torch.tensor([[0.06]]),
        torch.Generator().manual_seed(0),
    )
    difference = (data.features[data.observations.row_a] - data.features[data.observations.row_b]).double().numpy()
    sign = data.observations.verdict.double().numpy()

    def objective(u):  # 400 / 200 labels doubles the penalty
        return float(torch.nn.functional.softplus(torch.tensor(-sign * (difference @ u))).mean()) + 0.12 * u @ u

    best = minimize(objective, torch.zeros(WIDTH).double().numpy(), method="L-BFGS-B", options={"maxfun": 200_000}).x
    torch.testing.assert_close(heads.model.weights[0, :, 0].double(), torch.tensor(best), rtol=0, atol=3e-3)


def test_metrics_by_hand():
    # right with .9, wrong with .7, right with .6 for b: -(ln .9 + ln .3 + ln .6) / 3 = .6067
    scores = decided_metrics(torch.tensor([0.9, 0.7, 0.4]), torch.tensor([1.0, 0.0, 0.0]), num_bins=3)
    assert scores["log_loss"] == pytest.approx(0.60672, abs=1e-5)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["brier"] == pytest.approx((0.01 + 0.49 + 0.16) / 3)
    assert scores["ece"] == pytest.approx((0.1 + 0.7 + 0.4) / 3)  # one judgment a bin
    assert [count for _, _, count in scores["reliability"]] == [1, 1, 1]


def test_temperature_undoes_a_planted_scale():
    generator = torch.Generator().manual_seed(0)
    true = 2 * torch.randn(20_000, generator=generator)
    won = torch.rand(20_000, generator=generator) < true.sigmoid()
    low = torch.where(won, 0.0, -torch.inf)
    high = torch.where(won, torch.inf, 0.0)
    assert fit_temperature(3 * true, lambda s: interval_log_prob(s, low, high)) == pytest.approx(3.0, rel=0.05)


def test_clustered_error_by_hand():
    # values 1, 3 | 5, 7: mean 4, cluster sums of deviations -4 and 4: sqrt((16 + 16) / 16 * 2 / 1) = 2
    mean, error = clustered_mean(torch.tensor([1.0, 3.0, 5.0, 7.0]), torch.tensor([9, 9, 4, 4]))
    assert (mean, error) == pytest.approx((4.0, 2.0))


def test_preferences_called_cyclic_are_modelled_as_cyclic(transitive_fit):
    world, fitted, _ = transitive_fit
    candidates = fit_candidates(prepare(world.features, judge(world, 400, seed=1), seed=0), ["bradley_terry", "bt_gpm"], 8)
    assert choose(candidates, {"cyclic": None}).report == fitted.report
    cyclic = choose(candidates, {"cyclic": True})
    assert cyclic.name == "bt_gpm" == cyclic.report["selected"]
    assert cyclic.report["ridge"] == cyclic.report["models"]["bt_gpm"]["ridge"]
    assert cyclic.report["why"].endswith("but the audit finds cycles")


def test_the_audit_refuses_to_judge_one_model(transitive_fit):
    world, _, _ = transitive_fit
    data = prepare(world.features, judge(world, 60, seed=1), seed=0)
    audit = audit_intransitivity(data, fit_candidates(data, ["bradley_terry"], 2))
    assert audit["cyclic"] is None
    assert "Not audited" in audit["sentence"]


def test_simulated_answers_have_the_fitted_probabilities():
    world = make_world("transitive", seed=5)
    table = judge(world, 600, seed=6, edges=(0.5, 1.5), with_strength=True)
    data = prepare(world.features, table, seed=0)
    fitted = fit_candidates(data, ["bradley_terry"], 2)["bradley_terry"]
    logits = torch.full((len(data.observations),), 0.8)
    low, high = simulate_answers(logits, fitted, data.observations, 50, torch.Generator().manual_seed(0))
    k0, k1 = fitted.answers.thresholds
    edges = torch.tensor([-torch.inf, -k1, -k0, k0, k1, torch.inf])
    seen = logits + fitted.answers.position_bias
    for index in range(5):  # 30,000 draws: standard error below .003
        expected = float(interval_log_prob(seen[:1], edges[index : index + 1], edges[index + 1 : index + 2]).exp())
        assert float((low == index).float().mean()) == pytest.approx(expected, abs=0.015)
    assert ((high - low) == 1).all()


def test_simulated_answers_keep_missing_strengths_missing():
    world = make_world("transitive", seed=0)
    data = prepare(world.features, judge(world, 200, seed=1), seed=0)
    fitted = fit_candidates(data, ["bradley_terry"], 2)["bradley_terry"]
    low, high = simulate_answers(torch.zeros(200), fitted, data.observations, 20, torch.Generator().manual_seed(0))
    answers = {tuple(pair) for pair in torch.stack([low, high], -1).flatten(0, 1).tolist()}
    assert answers == {(2, 3), (0, 1)}  # vector -inf, 0, 0, inf: a is (k0, inf), b is (-inf, -k0)


@pytest.mark.slow
def test_the_audit_finds_most_cycles_and_few_that_are_not_there():
    found = {
        kind: [
            fit_and_audit((w := make_world(kind, seed)).features, judge(w, 600, seed + 50), seed=seed)[1]["cyclic"]
            for seed in range(10)
        ]
        for kind in ("cyclic", "transitive")
    }
    assert found["cyclic"].count(True) >= 8
    assert found["transitive"].count(True) <= 1
