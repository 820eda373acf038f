"""Figures of preference models on judged pairs, by source, with intervals; beside them "the longer one wins"."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from online_learner.pairs_file import Pair
from online_learner.preference_models.calibration import decided_metrics
from online_learner.preference_models.fitted import FittedPreference
from online_learner.preference_models.observations import VERDICT_SIGN

FIGURES = ("log_loss", "accuracy", "ece", "brier", "n", "log_loss_with_ties")
FIGURES += ("log_loss_interval", "accuracy_interval", "accuracy_gain_over_longer_wins")
NUM_BOOTSTRAP = 2000


def evaluate(fitted: FittedPreference, pairs: Sequence[Pair], a: Tensor, b: Tensor) -> dict[str, Any]:
    """Figures of one model on n pairs with verdict a, b or tie and their features (n, d), in all and by source."""
    annotators = [pair.annotator for pair in pairs]
    verdict = torch.tensor([VERDICT_SIGN[pair.verdict] for pair in pairs])
    probability = fitted.decided_probability(a, b, annotators)
    log_prob = fitted.verdict_log_prob(a, b, verdict, annotators)
    chosen_probability = torch.where(verdict > 0, probability, 1 - probability)
    losses = -chosen_probability.clamp_min(1e-12).log()
    right = ((chosen_probability - 0.5).sign() + 1) / 2
    longer = _longer_is_right(pairs)
    groups = [pair.group for pair in pairs]

    def figures(chosen: Tensor) -> dict[str, Any]:
        decided = chosen & (verdict != 0)
        scores = decided_metrics(probability[decided], (verdict[decided] > 0).float())
        with_ties = -log_prob[chosen].mean()
        return reported(
            {
                **scores,
                "log_loss_with_ties": float(with_ties) if with_ties.isfinite() else None,
                "log_loss_interval": prompt_interval(losses, groups, decided),
                "accuracy_interval": prompt_interval(right, groups, decided),
                "accuracy_gain_over_longer_wins": prompt_interval(right - longer, groups, decided),
            }
        )

    return {**figures(verdict < 2), "by_source": _by_source(pairs, figures)}


def longer_wins(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Accuracy of "the response with more characters wins" on decided pairs; equal lengths count one half."""
    pairs = [pair for pair in pairs if pair.verdict in ("a", "b")]
    right = _longer_is_right(pairs)
    groups = [pair.group for pair in pairs]

    def figures(chosen: Tensor) -> dict[str, Any]:
        interval = prompt_interval(right, groups, chosen)
        return {"accuracy": float(right[chosen].mean()), "accuracy_interval": interval, "n": int(chosen.sum())}

    return {**figures(torch.ones(len(pairs), dtype=torch.bool)), "by_source": _by_source(pairs, figures)}


def prompt_interval(values: Tensor, groups: Sequence[str], chosen: Tensor) -> list[float] | None:
    """95 % interval of the mean of the chosen values (n,), by bootstrap over prompts; None where fewer than two are there."""
    number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    index = torch.tensor([number[group] for group in groups])[chosen].unique(return_inverse=True)[1]
    if not len(index) or int(index.max()) < 1:
        return None
    num_prompts = int(index.max()) + 1
    sums = torch.zeros(num_prompts).index_add_(0, index, values[chosen].float())
    counts = torch.bincount(index, minlength=num_prompts).float()
    drawn = torch.randint(num_prompts, (NUM_BOOTSTRAP, num_prompts), generator=torch.Generator().manual_seed(0))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return means.quantile(torch.tensor([0.025, 0.975])).tolist()


def _longer_is_right(pairs: Sequence[Pair]) -> Tensor:
    """(n,): 1 where the response with more characters was preferred, 0 where not, one half at equal lengths."""
    difference = torch.tensor([float(len(pair.a.response) - len(pair.b.response)) for pair in pairs])
    won = torch.tensor([float(VERDICT_SIGN[pair.verdict]) for pair in pairs])
    return (difference.sign() * won + 1) / 2


def render_table(result: Mapping[str, Any]) -> str:
    """The comparison for people: one line per model and source."""
    names = [*result["models"], *result["baselines"]]
    rows = {**result["models"], **result["baselines"]}
    sources = sorted({source for row in rows.values() for source in row["by_source"]})
    columns = (("log_loss", "log loss"), ("accuracy", "accuracy"), ("ece", "ECE"), ("brier", "Brier"))
    intervals = (("log_loss_interval", "log loss 95%"), ("accuracy_interval", "accuracy 95%"))
    width = max(len(text) for text in [*names, *sources, "all sources"]) + 2
    lines = [f"{'source':{width}}{'model':{width}}{'decided':>8}" + "".join(f"{title:>10}" for _, title in columns)]
    lines[0] += "".join(f"{title:>14}" for _, title in intervals)
    for source in [*sources, "all sources"]:
        for name in names:
            row = rows[name] if source == "all sources" else rows[name]["by_source"].get(source, {})
            cells = "".join(f"{row[key]:>10.3f}" if row.get(key) is not None else f"{'-':>10}" for key, _ in columns)
            cells += "".join(f"{_range(row.get(key)):>14}" for key, _ in intervals)
            lines.append(f"{source:{width}}{name:{width}}{row.get('n', 0):>8}{cells}")
    lines += [
        "",
        f"selected: {result['selected']} ({result['why']})",
        result["audit"]["sentence"],
        "Decided pairs only, natural logarithm; an even coin has log loss 0.693. Sides were swapped at random.",
        "Intervals are bootstraps over prompts.",
    ]
    return "\n".join(lines)


def _range(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.3f}-{interval[1]:.3f}" if interval else "-"


def _by_source(pairs: Sequence[Pair], figures: Callable[[Tensor], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    sources = sorted({pair.source for pair in pairs})
    return {source: figures(torch.tensor([pair.source == source for pair in pairs])) for source in sources}


def reported(row: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a row that a comparison shows."""
    return {key: row[key] for key in FIGURES if key in row}


def save_reliability(name: str, bins: Sequence[Sequence[float]], path: Path) -> None:
    """A reliability diagram: for each bin of (confidence, share right, count) the share with its 95 % Wilson interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0.5, 1], [0.5, 1], color="#888888", linewidth=1, linestyle=":", label="as often as said")
    for confidence, right, count in bins:
        low, high = wilson(right * count, int(count))
        axes.plot([confidence, confidence], [low, high], color="#2a6fdb", linewidth=2, alpha=0.6)
        axes.plot(confidence, right, "o", color="#2a6fdb", markersize=3 + count**0.5 / 4)
        axes.annotate(f"{count}", (confidence, low), textcoords="offset points", xytext=(0, -11), ha="center", fontsize=7)
    axes.set(xlabel="probability of the likelier response", ylabel="how often it was preferred", title=f"{name}, held-out pairs")
    axes.set(xlim=(0.48, 1.02), ylim=(0, 1.04))
    axes.grid(alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path)


def wilson(successes: float, count: int) -> tuple[float, float]:
    """95 % interval of a share; halves of ties round to the even number."""
    interval = binomtest(round(successes), count).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)
