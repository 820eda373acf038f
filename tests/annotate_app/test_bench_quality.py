import json

import pytest
from typer.testing import CliRunner

from annotate_app.bench_quality import Cell, Finished, Method, find_methods, run_cells, score, tuned_settings, with_settings
from annotate_app.bench_report import as_table, save_plot, summarise
from annotate_app.cli import app
from annotate_app.commands.bench import read_grid, read_seeds
from storage.errors import UserError

ONPO_REF = Method(name="onpo_ref", rule="onpo_ref", reads=("step_size", "kl_coef"))
DPO = Method(name="iterative_dpo", rule="iterative_dpo", reads=("beta",))


def cell(**changes) -> Cell:
    run = {"world": "cyclic", "method": ONPO_REF, "model": "bt_gpm", "seed": 0, "rounds": 2, "labels": 60}
    return Cell(**{**run, **changes})


def rows(gaps, rates=None, text=0.9):
    rates = rates or [0.5] * len(gaps)
    shared = {"text_quality": text, "kl_to_base_nats": 0.1, "labels": 60, "seconds": 2.0}
    return [
        {"round": i, "true_duality_gap": gap, "average_gap": gap / 2, "win_rate_vs_base": rate, **shared}
        for i, (gap, rate) in enumerate(zip(gaps, rates, strict=True))
    ]


def test_seeds_are_ranges_or_numbers():
    assert read_seeds("0-2") == [0, 1, 2]
    assert read_seeds("7,0,1-2") == [7, 0, 1, 2]
    for wrong in ("", "a", "3-1"):
        with pytest.raises(UserError, match="Write a range such as 0-4"):
            read_seeds(wrong)


def test_a_grid_is_every_step_with_every_rate():
    assert read_grid("0.5,1 x 0.3,1") == [(0.5, 0.3), (0.5, 1.0), (1.0, 0.3), (1.0, 1.0)]
    for wrong in ("1,2", "1 x 0", "1 x a", "1 x 1 x 1"):
        with pytest.raises(UserError, match="step factors x learning rate factors"):
            read_grid(wrong)


def test_a_doubled_step_doubles_eta_and_halves_beta():
    assert tuned_settings(ONPO_REF, "cyclic", 2, 0.5) == {"step_size": 8, "kl_coef": 0.05, "learning_rate": 1.5e-3}
    assert tuned_settings(ONPO_REF, "transitive", 2, 1) == {"step_size": 10, "kl_coef": 0.01, "learning_rate": 3e-3}
    assert tuned_settings(DPO, "cyclic", 2, 1) == {"beta": 0.05, "learning_rate": 3e-3}


def test_best_worst_is_the_default_rule_on_other_pairs():
    listed = [{"name": "onpo_ref", "settings": ["step_size", "kl_coef"]}, {"name": "omd", "settings": ["step_size"]}]
    best_worst, omd = find_methods(["best_worst", "omd"], listed)
    assert (best_worst.rule, best_worst.reads, omd.reads) == ("onpo_ref", ("step_size", "kl_coef"), ("step_size",))
    assert "update.for_comparison=true" in cell(method=best_worst).arguments()
    assert "update.for_comparison=true" not in cell(method=omd).arguments()


def test_every_cell_has_a_file_of_its_own():
    cells = [
        cell(),
        cell(seed=1),
        cell(model="auto"),
        cell(method=DPO),
        cell(world="transitive"),
        cell(labels=61),
        cell(rounds=3),
    ]
    cells += [with_settings(cell(), {"step_size": 4}), with_settings(cell(), {"step_size": 8})]
    assert len({c.name for c in cells}) == len(cells)


def test_a_finished_run_is_read_and_not_repeated(tmp_path):
    kept = cell()
    (tmp_path / f"{kept.name}.json").write_text(json.dumps({"rounds": rows([0.3, 0.2, 0.1])}))
    told: list[str] = []
    [found] = run_cells([kept], tmp_path, jobs=2, say=told.append)
    assert found.curve("true_duality_gap") == [0.3, 0.2, 0.1]
    assert "kept; gap 0.30 to 0.10" in told[0] and not list((tmp_path / "logs").iterdir())


def test_what_simulate_refuses_is_told_and_leaves_no_result(tmp_path):
    [found] = run_cells([cell(world="nowhere")], tmp_path, jobs=1, say=lambda text: None)
    assert found.refused is not None and "'nowhere' is unknown" in found.refused
    assert not list(tmp_path.glob("*.json")) and summarise([found]) == []


def test_tuning_prefers_whole_text_then_a_small_gap_or_a_high_win_rate():
    small = Finished(cell=cell(), rows=rows([0.3, 0.2, 0.1, 0.1, 0.1]))
    lucky = Finished(cell=cell(), rows=rows([0.3, 0.2, 0.3, 0.3, 0.0]))  # mean of the last three rounds .2, not .1
    broken = Finished(cell=cell(), rows=rows([0.3, 0.0, 0.0, 0.0, 0.0], text=0.5))
    assert max([lucky, broken, small], key=score) is small
    better = Finished(cell=cell(world="transitive"), rows=rows([0.7, 0.6], rates=[0.5, 0.8]))
    worse = Finished(cell=cell(world="transitive"), rows=rows([0.7, 0.1], rates=[0.5, 0.7]))
    assert max([worse, better], key=score) is better


def test_a_summary_has_means_and_ranges_over_seeds(tmp_path):
    runs = [Finished(cell=cell(seed=seed), rows=rows([0.3, gap, gap])) for seed, gap in ((0, 0.1), (1, 0.3))]
    [row] = summarise(runs)
    assert row["seeds"] == [0, 1]
    assert row["final"]["true_duality_gap"] == {"mean": pytest.approx(0.2), "low": 0.1, "high": 0.3}
    assert row["mean_gap_of_last_3"]["mean"] == pytest.approx(0.2)  # round 0 is the base and does not count
    assert row["seconds"] == 12.0
    assert as_table([row]).row_count == 1
    save_plot([row], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_tuning_seed_must_not_be_used_after():
    result = CliRunner().invoke(app, ["bench", "learner-quality", "--tune", "--tune-seed", "3", "--seeds", "0-4"])
    assert isinstance(result.exception, UserError) and "--tune-seed 3" in str(result.exception)
