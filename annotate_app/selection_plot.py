"""A picture of ``nashloop bench selection``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLORS = ("#777777", "#c2571a", "#2a6fdb", "#3d8b40", "#8a4fbf", "#b58900", "#111111")
NAMES = {"regret": "best-of-4 regret, log odds", "log_loss": "log loss, nats"}


def save_plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A column for each world, regret above log loss; random selection dashed, the default mix bold."""
    from matplotlib.figure import Figure

    worlds, rules = (list(dict.fromkeys(row[name] for row in rows)) for name in ("world", "rule"))
    figure = Figure(figsize=(1.2 + 4.2 * len(worlds), 7.2), dpi=130, layout="constrained")
    axes = figure.subplots(2, len(worlds), squeeze=False, sharex=True)
    for row in rows:
        style = {"random": {"linestyle": "--"}, "mix": {"linewidth": 3.0}}.get(row["rule"], {})
        for name, of_name in zip(NAMES, axes, strict=True):
            panel = of_name[worlds.index(row["world"])]
            color = COLORS[rules.index(row["rule"]) % len(COLORS)]
            label = row["rule"] if row["world"] == worlds[0] and name == "regret" else None
            panel.plot(row["labels"], row[name], color=color, label=label, **{"linewidth": 1.6, **style})
            if row[f"{name}_error"] is not None and row["rule"] in ("random", "mix"):
                pairs = list(zip(row[name], row[f"{name}_error"], strict=True))
                low, high = [v - 2 * e for v, e in pairs], [v + 2 * e for v, e in pairs]
                panel.fill_between(row["labels"], low, high, color=color, alpha=0.12, linewidth=0)
    for name, of_name in zip(NAMES, axes, strict=True):
        of_name[0].set_ylabel(NAMES[name])
        for world, panel in zip(worlds, of_name, strict=True):
            panel.set_title(f"{world} world" if name == "regret" else "")
            panel.grid(alpha=0.25, linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
    for panel in axes[1]:
        panel.set_xlabel("labels")
    figure.legend(loc="outside lower center", ncols=len(rules), frameon=False, fontsize=9)
    figure.savefig(path)
