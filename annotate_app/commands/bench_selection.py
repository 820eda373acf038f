"""``nashloop bench selection``: how many labels each pair-selection rule needs, in worlds whose truth is known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_app.commands.options import JsonOption, note, report, table
from storage.errors import UserError

SHOWN = (40, 120, 240, 480)
REFERENCE = 240  # labels of random selection whose quality is to be matched


def selection(
    worlds: Annotated[str, typer.Option("--worlds", help="transitive, cyclic, crowd; some of them.")] = "transitive,cyclic,crowd",
    rules: Annotated[str | None, typer.Option("--rules", help="Pair-selection rules, or mix: the default queue.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of every rule in every world.")] = 20,
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG file for the curves.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what every pair-selection rule learns from 40 to 480 labels: best-of-4 regret and log loss on new prompts."""
    from annotate_app import bench_selection as bench
    from annotate_app.selection_worlds import SELECTION_WORLDS

    names = _names("--worlds", worlds, SELECTION_WORLDS)
    compared = list(dict.fromkeys(["random", *_names("--rules", rules or ",".join(bench.RULES), bench.RULES)]))
    if plot is not None and not plot.parent.is_dir():
        raise UserError(f"--plot {plot}: there is no directory {plot.parent}. Create it or name another file.")
    rows = []
    for world in names:
        for rule in compared:
            rows += bench.summarise([bench.run(world, rule, seed) for seed in range(seeds)])
            note(f"{world}, {rule}: regret {rows[-1]['regret'][-1]:.3f} after {rows[-1]['labels'][-1]} labels")
    _add_needed(rows)
    if plot is not None:
        from annotate_app.selection_plot import save_plot

        save_plot(rows, plot)
    report({"results": rows}, _text(rows), as_json=as_json)


def _names(option: str, text: str, known: Mapping[str, Any] | Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(f"{option} {text!r} is refused: {unknown or 'nothing named'}. Choose from: {', '.join(known)}.")
    return names


def _add_needed(rows: list[dict[str, Any]]) -> None:
    """``needed``: labels, and minutes of people's time, after which each rule is as good as random selection after REFERENCE."""
    from annotate_app.bench_selection import reached

    at = {row["world"]: row for row in rows if row["rule"] == "random"}
    for row in rows:
        reference = at[row["world"]]
        place = reference["labels"].index(REFERENCE)
        row["needed"] = {name: reached(row["labels"], row[name], reference[name][place]) for name in ("regret", "log_loss")}
        seconds = reached(row["seconds"], row["regret"], reference["regret"][place])
        row["needed"]["minutes"] = None if seconds is None else seconds / 60


def _text(rows: list[dict[str, Any]]) -> str:
    head = ("world", "rule", *(f"{n} labels" for n in SHOWN), f"as random at {REFERENCE}: regret", "log loss", "minutes, regret")
    body = []
    for row in rows:
        places = [row["labels"].index(n) for n in SHOWN]
        cells = [f"{row['regret'][k]:.3f} / {row['log_loss'][k]:.3f}" for k in places]
        needed = ["never" if n is None else f"{n:.0f}" for n in row["needed"].values()]
        body.append((row["world"], row["rule"], *cells, *needed))
    return "best-of-4 regret / log loss on new prompts\n" + table(head, body, empty="")
