"""The bench of pair selection: its heads, its worlds and its curves, checked against what can be known."""

import json
import random

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from typer.testing import CliRunner

from annotate_app import bench_selection as bench
from annotate_app.cli import app
from annotate_app.selection_heads import PENALTIES, fit_heads
from annotate_app.selection_mix import AUDIT_JUDGMENTS, MIX, draw_places
from annotate_app.selection_worlds import FIRST, SECOND, SELECTION_WORLDS
from annotate_app.worlds import CYCLE_LOGIT


def make(world: str, num: int = 50, seed: int = 0):
    return SELECTION_WORLDS[world](num, np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2]))


def test_heads_without_resampling_are_the_penalised_optimum():
    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(80, 3)), np.array([1.0, -2.0, 0.5])
    answers = rng.random(80) < 0.1 + 0.8 * expit(features @ weights)

    class Even:  # every prompt counts once in every head
        def exponential(self, size):
            return np.ones(size)

    fitted = fit_heads(features, answers, np.arange(80), flip_rate=0.1, rng=Even(), start=None)  # pyright: ignore

    def loss(w, penalty):
        chance = 0.1 + 0.8 * expit(features @ w)
        return -np.log(np.where(answers, chance, 1 - chance)).sum() + penalty / 2 * w @ w

    optima = [minimize(loss, np.zeros(3), args=(penalty,)).x for penalty in PENALTIES]
    assert min(np.abs(fitted[0] - optimum).max() for optimum in optima) < 1e-2
    assert np.ptp(fitted, axis=0).max() == 0


def test_the_cyclic_world_goes_in_circles_and_is_linear_in_its_features():
    world = make("cyclic", 400)
    assert set(np.round(world.logits, 9).ravel()) == {0.0, round(CYCLE_LOGIT, 9), round(-CYCLE_LOGIT, 9)}
    wins = np.sign(world.logits)
    i, j = (np.flatnonzero((a == FIRST) & (b == SECOND))[0] for a, b in ((0, 1), (1, 2)))
    k = np.flatnonzero((FIRST == 0) & (SECOND == 2))[0]
    circles = (wins[:, i] == wins[:, j]) & (wins[:, i] == -wins[:, k]) & (wins[:, i] != 0)
    assert circles.any()  # a beats b beats c beats a
    flat = world.features.reshape(-1, world.features.shape[2])
    told = {}
    for name, columns in (("utilities", flat[:, :8]), ("products", flat)):
        fitted, *_ = np.linalg.lstsq(columns, world.logits.ravel(), rcond=None)
        told[name] = np.corrcoef(columns @ fitted, world.logits.ravel())[0, 1]
    assert told["utilities"] < 0.4 and told["products"] > 0.8  # not 1: the model sees the classes blurred


def test_utilities_add_up_in_the_transitive_world_and_not_in_the_crowd():
    ab, bc, ac = (np.flatnonzero((x == FIRST) & (y == SECOND))[0] for x, y in ((0, 1), (1, 2), (0, 2)))
    excess = {
        name: np.abs(w.logits[:, ab] + w.logits[:, bc] - w.logits[:, ac])
        for name, w in ((n, make(n)) for n in ("transitive", "crowd"))
    }
    assert excess["transitive"].max() < 1e-9 < 0.1 < excess["crowd"].max()


def test_the_truth_has_no_regret_and_the_lowest_log_loss():
    world = make("transitive")
    flat = world.features.reshape(-1, 16)
    weights, *_ = np.linalg.lstsq(flat, world.logits.ravel(), rcond=None)
    regret, log_loss = bench.measure(world, weights[None])
    p = expit(world.logits)
    assert regret == pytest.approx(0.0, abs=1e-9)
    assert log_loss == pytest.approx(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(), abs=1e-4)
    assert bench.measure(world, -weights[None])[0] > 1  # the worst of four


def test_where_a_curve_reaches_a_quality():
    assert bench.reached([40, 80, 120], [1.0, 0.6, 0.2], 0.4) == pytest.approx(100)  # halfway from .6 to .2
    assert bench.reached([40, 80], [1.0, 0.6], 0.5) is None
    assert bench.reached([40, 80], [1.0, 0.6], 1.5) == 40


def test_audits_finish_a_prompt_before_the_next_and_repeats_ask_what_was_asked_once():
    world = make("transitive", 6)
    pool = bench.build_pool(world, np.ones((3, 16)) * [[1.0], [0.5], [-1.0]], np.ones(36))
    num_asked = np.zeros(36, dtype=int)
    for seed in range(200):
        for place in draw_places(pool, num_asked, rng=random.Random(seed), count=10):
            if place.purpose == "label":
                assert num_asked[place.index] == 0 and place.rule in MIX
            if place.purpose == "repeat":
                assert num_asked[place.index] == 1
            if place.purpose == "audit":
                unfinished = [k for k in range(6) if 0 < num_asked[pool.prompt == k].min() < AUDIT_JUDGMENTS]
                assert not unfinished or pool.prompt[place.index] in unfinished
            num_asked[place.index] += place.judgments
    assert (num_asked >= 1).all()


@pytest.mark.slow
def test_the_default_mix_halves_the_labels_of_random_selection():
    """Four seeds here; docs/experiments.md has twenty."""
    runs = {rule: bench.summarise([bench.run("transitive", rule, seed) for seed in range(4)])[0] for rule in ("random", "mix")}
    quality = runs["random"]["regret"][runs["random"]["labels"].index(240)]
    needed = bench.reached(runs["mix"]["labels"], runs["mix"]["regret"], quality)
    assert needed is not None and needed < 160


def test_the_command_refuses_unknown_names_in_a_sentence():
    result = CliRunner().invoke(app, ["bench", "selection", "--worlds", "flat"])
    assert result.exit_code != 0 and "transitive" in str(result.exception or result.output)


def test_the_command_reports_curves_and_draws_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "MARKS", (40, 120, 240, 480))
    path = tmp_path / "curves.png"
    command = [
        "bench",
        "selection",
        "--worlds",
        "transitive",
        "--rules",
        "near_tie",
        "--seeds",
        "1",
        "--plot",
        str(path),
        "--json",
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["results"]
    assert [row["rule"] for row in rows] == ["random", "near_tie"] and rows[0]["labels"] == [40, 120, 240, 480]
    assert rows[0]["needed"]["regret"] <= 240 and path.read_bytes().startswith(b"\x89PNG")
