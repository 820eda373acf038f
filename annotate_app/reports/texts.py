"""Reports as text for people: the same figures as the JSON, rounded."""

from collections.abc import Mapping, Sequence
from typing import Any

from annotate_app.commands.options import table


def agreement_text(figures: Mapping[str, Any]) -> str:
    """The main figure first, then what stands beside it."""
    agreed, pairs = figures["agreeing_pairs"]

    def beside(name: str) -> str:
        return figures["undefined_figures"].get(name) or span(figures[f"{name}_interval"])

    rows = [
        ("Krippendorff's alpha, nominal", number(figures["krippendorff_alpha"]), span(figures["krippendorff_alpha_interval"])),
        (
            "Krippendorff's alpha, ordinal (a, tie, b)",
            number(figures["krippendorff_alpha_ordinal"]),
            beside("krippendorff_alpha_ordinal"),
        ),
        ("pairs of annotators that agree", number(figures["pairwise_agreement"]), f"{agreed} of {pairs}"),
        ("Fleiss' kappa", number(figures["fleiss_kappa"]), beside("fleiss_kappa")),
        ("Gwet's AC1", number(figures["gwet_ac1"]), beside("gwet_ac1")),
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


def annotators_text(figures: Mapping[str, Any]) -> str:
    """One line per annotator, then what to look at."""
    columns = (
        "annotator", "labels", "skips", "agrees with others", "right, by consensus", "known answers", "flips", "repeats alike",
        "first wins", "seconds", "too fast",
    )  # fmt: skip
    names = (
        "agreement_with_others", "right", "accuracy_known", "flip_rate", "repeat_consistency", "first_shown_wins",
        "median_seconds", "too_fast",
    )  # fmt: skip
    people = figures["annotators"]
    rows = [
        (
            f"{person['annotator']}{' (excluded)' if person['excluded'] is not None else ''}", person["labels"], person["skips"],
            *(estimate(person[name]) for name in names),
        )
        for person in people
    ]  # fmt: skip
    said = [f"{person['annotator']}: {remark['sentence']}" for person in people for remark in person["remarks"]]
    lines = ["", "To look at:", *said] if said else []
    return "\n".join([table(columns, rows, empty="No judgments yet."), *lines])


def policies_text(figures: Mapping[str, Any]) -> str:
    """Policies, then votes between them."""
    columns = ("policy", "status", "lineage", "round", "expected against parent", "against base", "text quality")
    rows = [
        (
            policy["number"], policy["status"], " < ".join(map(str, policy["lineage"])), policy["round"],
            estimate(policy["win_rate_vs_parent"]), estimate(policy["win_rate_vs_base"]), _plain(policy["text_quality"]),
        )
        for policy in figures["policies"]
    ]  # fmt: skip
    votes = [
        (f"{v['policy']} against {v['opponent']}", v["wins"], v["ties"], v["losses"], estimate(v["win_rate"]), v["gate"])
        for v in figures["votes"]
    ]
    counted = table(("votes", "wins", "ties", "losses", "win rate", "for a gate"), votes, empty="No votes between policies yet.")
    by_people = _ranking("By people's votes", figures["people"])
    if figures["people"]:
        by_people += f"\nThese are {figures['people']['method']}."
    by_model = _ranking("As preference models expect, no votes", figures["model"])
    return "\n\n".join(filter(None, (table(columns, rows, empty="No policies yet."), counted, by_people, by_model)))


def _ranking(source: str, found: Mapping[str, Any] | None) -> str:
    """Ratings, Nash averaging, and win rates against the first policy: as voted, at equal length, at equal style."""
    if found is None:
        return ""
    first = found["opponent"]
    columns = ("policy", "rating", "in Nash mixture", "wins against it", f"wins against {first}", "equal length", "equal style")
    rows = [
        (
            row["policy"],
            "1000" if row["policy"] == first else "{mean:.0f} ({low:.0f} to {high:.0f})".format(**row["rating"]),
            f"{row['nash']['weight']:.2f}",
            f"{row['nash']['win_rate']:.2f}",
            *(estimate(row["against"][name]) for name in ("votes", "length", "style")),
        )
        for row in sorted(found["table"], key=lambda row: -row["rating"]["mean"])
    ]
    return f"{source}:\n{table(columns, rows, empty='')}"


def estimate(value: Mapping[str, float] | None) -> str:
    """A share or mean with its interval."""
    return "" if value is None else f"{value['mean']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def number(value: float | None) -> str:
    """Three digits, or that there is no value."""
    return "undefined" if value is None else f"{value:.3f}"


def span(bounds: Sequence[float] | None) -> str:
    """An interval."""
    return "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
