"""What ``nashloop simulate`` shows: one JSON object for machines, a table for people, a picture of the curves."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from annotate_app.simulate import Plan, RoundTruth
from annotate_app.worlds import WORLDS, gap_name


def as_json(plan: Plan, rows: Sequence[RoundTruth], seconds_total: float) -> dict[str, Any]:
    """The object that DESIGN 5 fixes."""
    return {
        "world": plan.world,
        "model": plan.model,
        "seed": plan.seed,
        "rounds": [asdict(row) for row in rows],
        "labels_total": sum(row.labels for row in rows),
        "seconds_total": seconds_total,
    }


def title_of(plan: Plan) -> str:
    """What was run, in a line."""
    return f"{plan.world} world, model {Path(plan.model).name}, seed {plan.seed}"


def as_table(plan: Plan, rows: Sequence[RoundTruth]) -> Any:
    """A rich table of the rounds; round 0 is the base policy."""
    from rich import box
    from rich.table import Table

    gap = gap_name(WORLDS[plan.world]())
    caption = (
        "Win rates against the base policy are true ones, over all pairs of samples on held-out prompts; 95 % intervals "
        f"treat prompts as the sample. Duality gap: {gap}; 'average' is that of all rounds' policies as one mixture. "
        "KL to the base policy in nats."
    )
    table = Table(title=title_of(plan), caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    for name in ("round", "win rate", "95 %", "gap", "average", "KL", "text quality", "labels", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.round),
            f"{row.win_rate_vs_base:.3f}",
            f"{row.win_rate_low:.3f} to {row.win_rate_high:.3f}",
            f"{row.true_duality_gap:.3f}",
            f"{row.average_gap:.3f}",
            f"{row.kl_to_base_nats:.2f}",
            "" if row.text_quality is None else f"{row.text_quality:.2f}",
            str(row.labels),
            f"{row.seconds:.0f}",
        )
    return table


def save_plot(plan: Plan, rows: Sequence[RoundTruth], path: Path) -> None:
    """Curves by round: win rate with its interval, true duality gap, and text quality where it is known."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    rounds = [row.round for row in rows]
    low, high = [row.win_rate_low for row in rows], [row.win_rate_high for row in rows]
    axes.fill_between(rounds, low, high, color="#2a6fdb", alpha=0.18, linewidth=0)
    curves = [
        ("win rate against the base policy", "#2a6fdb", "o", [row.win_rate_vs_base for row in rows]),
        (f"true duality gap ({gap_name(WORLDS[plan.world]())})", "#c2571a", "s", [row.true_duality_gap for row in rows]),
        ("the same of all policies as one mixture", "#8a4fbf", "d", [row.average_gap for row in rows]),
    ]
    if all(row.text_quality is not None for row in rows):
        curves.append(("text quality", "#3d8b40", "^", [row.text_quality or 0.0 for row in rows]))
    for label, color, marker, values in curves:
        axes.plot(rounds, values, marker=marker, color=color, label=label, linewidth=2, markersize=5)
    axes.axhline(0.5, color="#888888", linewidth=0.8, linestyle=":")
    axes.set(xlabel="round", ylim=(0, 1.02), xticks=rounds, title=title_of(plan))
    axes.grid(alpha=0.25, linewidth=0.6)
    figure.legend(loc="outside lower left", frameon=False, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path)
