"""What ``nashloop bench learner-quality`` shows: figures over seeds as JSON, a table for people, learning curves as a picture."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from annotate_app.bench_quality import LAST_ROUNDS, Finished

CURVES = ("true_duality_gap", "average_gap", "win_rate_vs_base", "text_quality", "kl_to_base_nats")
PANELS = (
    ("true_duality_gap", "true duality gap"),
    ("win_rate_vs_base", "win rate against the base"),
    ("text_quality", "text quality"),
)
COLORS = ("#2a6fdb", "#c2571a", "#3d8b40", "#8a4fbf", "#b8860b", "#d6336c", "#0f8b8d", "#6c757d", "#495057", "#7a5230")


def summarise(finished: Sequence[Finished]) -> list[dict[str, Any]]:
    """One row for each world, method, model and setting: curves over its seeds, and where they end."""
    groups: dict[tuple, list[Finished]] = defaultdict(list)
    for found in finished:
        if not found.refused:
            cell = found.cell
            groups[cell.world, cell.method.name, cell.model, cell.chosen].append(found)
    return [_row(runs) for runs in groups.values()]


def _row(runs: Sequence[Finished]) -> dict[str, Any]:
    cell = runs[0].cell
    curves = {name: [run.curve(name) for run in runs] for name in CURVES}
    last_gaps = [mean(curve[1:][-LAST_ROUNDS:] or curve) for curve in curves["true_duality_gap"]]
    return {
        "world": cell.world,
        "rule": cell.method.name,
        "model": cell.model,
        "settings": dict(cell.chosen) or "auto",
        "seeds": [run.cell.seed for run in runs],
        "start": {name: _spread([c[0] for c in found if c]) for name, found in curves.items()},
        "final": {name: _spread([c[-1] for c in found if c]) for name, found in curves.items()},
        f"mean_gap_of_last_{LAST_ROUNDS}": _spread(last_gaps),
        "curves": curves,
        "seconds": sum(sum(run.curve("seconds")) for run in runs),
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    return {"mean": mean(values), "low": min(values), "high": max(values)} if values else None


def as_table(rows: Sequence[dict[str, Any]]) -> Any:
    """A rich table; the smallest gap, or in transitive worlds the largest win rate, first."""
    from rich import box
    from rich.table import Table

    caption = (
        "Mean over seeds, lowest to highest. Gap and win rate are true ones on held-out prompts; "
        f"'last {LAST_ROUNDS}' is the mean gap of the last {LAST_ROUNDS} rounds, "
        "'average' that of all rounds' policies as one mixture; KL to the base policy in nats."
    )
    table = Table(caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    for name in ("world", "rule", "model", "settings"):
        table.add_column(name, no_wrap=name != "settings")
    for name in ("gap at start", "gap at end", f"last {LAST_ROUNDS}", "average", "win rate", "text", "KL", "seeds"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in sorted(rows, key=_rank):
        final, settings = row["final"], row["settings"]
        table.add_row(
            row["world"],
            row["rule"],
            row["model"],
            settings if settings == "auto" else ", ".join(f"{name} {value:g}" for name, value in settings.items()),
            f"{row['start']['true_duality_gap']['mean']:.2f}",
            _cell(final["true_duality_gap"]),
            _cell(row[f"mean_gap_of_last_{LAST_ROUNDS}"]),
            _cell(final["average_gap"]),
            _cell(final["win_rate_vs_base"]),
            _cell(final["text_quality"]),
            _cell(final["kl_to_base_nats"]),
            str(len(row["seeds"])),
        )
    return table


def _rank(row: dict[str, Any]) -> tuple[str, float]:
    if row["world"] == "cyclic":
        return row["world"], row[f"mean_gap_of_last_{LAST_ROUNDS}"]["mean"]
    return row["world"], -row["final"]["win_rate_vs_base"]["mean"]


def _cell(spread: dict[str, float] | None) -> str:
    if spread is None:
        return ""
    if spread["low"] == spread["high"]:
        return f"{spread['mean']:.3f}"
    return f"{spread['mean']:.3f} ({spread['low']:.2f}–{spread['high']:.2f})"


def save_plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A row of panels for each world and preference model; the mean over seeds as a line, every seed a thin one."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row["world"], row["model"]) for row in rows))
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    color = {rule: COLORS[i % len(COLORS)] for i, rule in enumerate(rules)}
    figure = Figure(figsize=(12, 3.2 * len(panels) + 0.6), dpi=140, layout="constrained")
    axes = figure.subplots(len(panels), len(PANELS), squeeze=False)
    for line, (world, model) in zip(axes, panels, strict=True):
        for axis, (name, title) in zip(line, PANELS, strict=True):
            for row in rows:
                if (row["world"], row["model"]) == (world, model):
                    _draw(axis, row["curves"][name], color[row["rule"]])
            axis.set_title(f"{world} world, {model}: {title}", fontsize=9)
            axis.set(xlabel="round", ylim=(0, 1.02 if name != "true_duality_gap" else None))
            axis.grid(alpha=0.25, linewidth=0.6)
            for side in ("top", "right"):
                axis.spines[side].set_visible(False)
    handles = [axes[0][0].plot([], [], color=color[rule], linewidth=2.2, label=rule)[0] for rule in rules]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(rules), 8), frameon=False, fontsize=9)
    figure.savefig(path)


def _draw(axis: Any, curves: Sequence[Sequence[float]], color: str) -> None:
    curves = [curve for curve in curves if curve]
    if not curves:
        return
    for curve in curves:
        axis.plot(range(len(curve)), curve, color=color, linewidth=0.7, alpha=0.35)
    axis.plot(range(len(curves[0])), [mean(values) for values in zip(*curves, strict=True)], color=color, linewidth=2.2)
