"""``nashloop bench``: measurements of the product itself. ``learner-quality`` compares update rules in simulated worlds."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_app.commands.bench_export import export
from annotate_app.commands.bench_gate import gate
from annotate_app.commands.bench_label import label
from annotate_app.commands.bench_live import live
from annotate_app.commands.bench_selection import selection
from annotate_app.commands.bench_trust import trust
from annotate_app.commands.learner import PASS_ON, bench_learner
from annotate_app.commands.options import JsonOption, note
from storage.errors import UserError

group = typer.Typer(help="Measure the product: how fast people are served, how well update rules learn.", no_args_is_help=True)

DEFAULT_RULES = "onpo_ref,onpo,inpo,egpo,omd,iterative_dpo,apo,best_worst"
WORLDS = ("cyclic", "transitive")
MODELS = ("auto", "bradley_terry", "bt_gpm")


@group.callback()
def _bench() -> None:
    """Measure the product."""


group.command("label")(label)
group.command("export")(export)
group.command("live")(live)
group.command("selection")(selection)
group.command("trust")(trust)
group.command("learner", context_settings=PASS_ON, add_help_option=False)(bench_learner)
group.command("gate")(gate)


@group.command("learner-quality")
def learner_quality(
    world: Annotated[str, typer.Option("--world", help="cyclic, transitive or both.")] = "cyclic",
    rules: Annotated[
        str, typer.Option("--rules", help="Update rules; best_worst is onpo_ref on best-versus-worst pairs.")
    ] = DEFAULT_RULES,
    models: Annotated[
        str, typer.Option("--models", help="Preference models: bradley_terry, bt_gpm, or auto: both compete.")
    ] = "bradley_terry,bt_gpm",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, such as 0-4 or 0,2,7.")] = "0-4",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of each run.")] = 8,
    labels: Annotated[int, typer.Option("--labels", min=1, help="Labels before each round.")] = 400,
    tune: Annotated[bool, typer.Option("--tune", help="First choose every rule's settings from the same grid.")] = False,
    tune_seed: Annotated[int, typer.Option("--tune-seed", min=0, help="Seed that settings are chosen on.")] = 1000,
    grid: Annotated[
        str, typer.Option("--grid", help="Factors on the step and on the learning rate 3e-3 that --tune tries.")
    ] = "0.5,1,2 x 0.333,1",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at once, one core each.")] = 2,
    out: Annotated[Path, typer.Option("--out", help="Directory of finished runs; those in it are not repeated.")] = Path(
        "bench-learner-quality"
    ),
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG file for the curves.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare update rules: true duality gap, win rate, text quality and KL by round, over seeds.

    Every cell is a `nashloop simulate` run; rules meet the same annotators, prompts and first responses. Stopped at any time, the
    same command goes on. A lone preference model is not audited for cycles: it is given the step that auto takes in that world.
    """
    from annotate_app import bench_quality as bench
    from annotate_app import bench_report as shown
    from annotate_app.rounds import learner_rules
    from annotate_app.server import stop_cleanly_on_sigterm

    if plot is not None and (plot.suffix.lower() != ".png" or not plot.parent.is_dir()):
        raise UserError(f"--plot {plot} is refused: name a .png file in a folder that exists.")
    points = read_grid(grid)
    chosen_seeds = read_seeds(seeds)
    if tune and tune_seed in chosen_seeds:
        raise UserError(f"--tune-seed {tune_seed} is one of --seeds {seeds}: results on it would be flattered. Name another.")
    rows = learner_rules(sys.executable)
    known = [row["name"] for row in rows] + [bench.BEST_WORST]
    methods = bench.find_methods(_names(rules, known, "--rules"), rows)
    worlds = WORLDS if world == "both" else _names(world, WORLDS, "--world")
    model_names = _names(models, MODELS, "--models")
    stop_cleanly_on_sigterm()

    kinds = [
        bench.Cell(world=w, method=method, model=model, seed=tune_seed, rounds=rounds, labels=labels)
        for w in worlds
        for model in model_names
        for method in methods
    ]
    picked = bench.tune(kinds, points, out, jobs=jobs, say=note) if tune else {}
    if tune:
        kinds = [kind for kind in kinds if kind in picked]
    cells = [_cell_of(bench, kind, seed, picked.get(kind)) for seed in chosen_seeds for kind in kinds]
    finished = bench.run_cells(cells, out, jobs=jobs, say=note)
    summary = shown.summarise(finished)
    refused = {f"{f.cell.method.name} with {f.cell.model}": f.refused for f in finished if f.refused}
    if summary and plot is not None:
        shown.save_plot(summary, plot)
    picks = [{"world": k.world, "rule": k.method.name, "model": k.model, "settings": v} for k, v in picked.items()]
    result = {"rounds": rounds, "labels": labels, "tuned": picks, "results": summary, "refused": refused}
    _show(result, shown.as_table(summary), as_json=as_json)


def read_seeds(text: str) -> list[int]:
    """``0-4`` or ``0,2,7`` as numbers; UserError where it is neither."""
    try:
        ends = [part.partition("-") for part in text.split(",")]
        found = [seed for low, dash, high in ends for seed in range(int(low), int(high if dash else low) + 1)]
    except ValueError:
        found = []
    if not found:
        raise UserError(f"--seeds {text!r} is refused. Write a range such as 0-4, or numbers such as 0,2,7.")
    return list(dict.fromkeys(found))


def read_grid(text: str) -> list[tuple[float, float]]:
    """``0.5,1,2 x 0.3,1`` as all pairs of step factor and learning rate factor; UserError where it is not two lists."""
    try:
        steps, rates = ([float(value) for value in side.split(",")] for side in text.split("x"))
    except ValueError:
        steps, rates = [], []
    if not steps or min(*steps, *rates, 1.0) <= 0:
        raise UserError(f"--grid {text!r} is refused. Write step factors x learning rate factors, such as '0.5,1,2 x 0.3,1'.")
    return [(step, rate) for step in steps for rate in rates]


def _names(text: str, known: Any, option: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(f"{option} {text!r} is refused: {unknown or 'nothing named'}. Choose from: {', '.join(known)}.")
    return names


def _cell_of(bench: Any, kind: Any, seed: int, picked: dict[str, float] | None) -> Any:
    """The tuned settings, or those of the world for a lone model, or everything on auto."""
    from dataclasses import replace

    settings = picked or ({} if kind.model == bench.AUTOMATIC_MODELS else bench.base_settings(kind.method, kind.world))
    return bench.with_settings(replace(kind, seed=seed), settings)


def _show(result: dict[str, Any], table: Any, *, as_json: bool) -> None:
    for pick in result["tuned"]:
        settings = ", ".join(f"{name} {value:g}" for name, value in pick["settings"].items())
        note(f"tuned {pick['world']}, {pick['rule']}, {pick['model']}: {settings}")
    for what, reason in result["refused"].items():
        note(f"skipped {what}: {reason}")
    if as_json:
        print(json.dumps(result))
        return
    from rich.console import Console

    Console(width=max(Console().width, 150)).print(table)
