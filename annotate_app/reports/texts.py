"""Reports as text for people: the same figures as the JSON, rounded."""

from collections.abc import Mapping, Sequence
from typing import Any

from annotate_app.commands.options import table


def agreement_text(figures: Mapping[str, Any]) -> str:
    """The main figure first, then what stands beside it."""
    agreed, pairs = figures["agreeing_pairs"]
    rows = [
        ("Krippendorff's alpha, nominal", number(figures["krippendorff_alpha"]), span(figures["krippendorff_alpha_interval"])),
        ("Krippendorff's alpha, ordinal (a, tie, b)", number(figures["krippendorff_alpha_ordinal"]), ""),
        ("pairs of annotators that agree", number(figures["pairwise_agreement"]), f"{agreed} of {pairs}"),
        ("Fleiss' kappa", number(figures["fleiss_kappa"]), ""),
        ("Gwet's AC1", number(figures["gwet_ac1"]), ""),
    ]
    kappas = sorted(figures["cohen_kappa"], key=lambda name: -figures["cohen_kappa_items"][name])
    rows += [
        (f"Cohen's kappa {name}", number(figures["cohen_kappa"][name]), f"{figures['cohen_kappa_items'][name]} items")
        for name in kappas[:10]
    ]
    rows += [
        (f"agreement {name}", number(row["share"]), f"{row['agree']} of {row['pairs']}")
        for name, row in figures["by_group"].items()
    ]
    lines = [
        f"{figures['num_labels']} labels by {figures['num_annotators']} annotators on {figures['num_items']} items; "
        f"{figures['num_items_shared']} items have two labels or more, {figures['num_unanimous']} of these are unanimous.",
        table(("figure", "value", "95 % interval, or counts"), rows, empty=""),
    ]
    lines += [f"{len(kappas) - 10} more pairs of annotators: see --json."] if len(kappas) > 10 else []
    return "\n".join([*lines, *filter(None, [figures["undefined"]])])


def number(value: float | None) -> str:
    """Three digits, or that there is no value."""
    return "undefined" if value is None else f"{value:.3f}"


def span(bounds: Sequence[float] | None) -> str:
    """An interval."""
    return "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
