"""How far annotators agree, beyond chance: Krippendorff's alpha, Cohen's and Fleiss' kappa, Gwet's AC1. Pure functions.

Shapes: I items, Q labels; ``counts`` (I, Q) says how many annotators gave an item each label.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import krippendorff
import numpy as np

from annotate_app.reports.long_table import Label

ORDERED = ("a", "tie", "b")
NUM_RESAMPLES = 500
Counts = np.ndarray


def agreement_report(labels: Sequence[Label]) -> dict[str, Any]:
    """All figures of one long table; a figure that has no value is None and ``undefined`` says why.

    krippendorff_alpha is nominal; intervals are 95 %, of 500 bootstrap samples of prompts, as pairs of one prompt are alike (of
    items, where no prompt is known). pairwise_agreement is over all pairs of annotators of an item; ``by_group`` counts them by
    the kinds of the two.
    """
    counts, names = label_counts(labels)
    prompts = prompts_of_items(labels)
    shared, prompts = counts[counts.sum(1) >= 2], prompts[counts.sum(1) >= 2]
    in_order = _in_order(shared, names)
    kappas = {f"{a}-{b}": cohen_kappa(pairs) for (a, b), pairs in common_labels(labels).items()}
    agreed, num_pairs = agreeing_pairs(shared)
    return {
        "krippendorff_alpha": alpha(shared),
        "krippendorff_alpha_interval": interval(alpha, shared, prompts),
        "krippendorff_alpha_ordinal": None if in_order is None else ordinal_alpha(in_order),
        "krippendorff_alpha_ordinal_interval": None if in_order is None else interval(ordinal_alpha, in_order, prompts),
        "num_prompts": len(set(prompts.tolist())),
        "num_items": len(counts),
        "num_items_shared": len(shared),
        "num_unanimous": int((shared.max(1, initial=0) == shared.sum(1)).sum()),
        "num_annotators": len({row.annotator for row in labels}),
        "num_labels": len(labels),
        "labels": {name: int(n) for name, n in zip(names, counts.sum(0), strict=True)},
        "pairwise_agreement": agreed / num_pairs if num_pairs else None,
        "pairwise_agreement_interval": interval(_share, shared, prompts),
        "agreeing_pairs": [agreed, num_pairs],
        "by_group": by_group(labels),
        "cohen_kappa": dict(sorted(kappas.items())),
        "cohen_kappa_items": {f"{a}-{b}": len(pairs) for (a, b), pairs in sorted(common_labels(labels).items())},
        "fleiss_kappa": fleiss_kappa(shared),
        "fleiss_kappa_interval": interval(fleiss_kappa, shared, prompts),
        "gwet_ac1": gwet_ac1(shared),
        "gwet_ac1_interval": interval(gwet_ac1, shared, prompts),
        "undefined": why_undefined(shared),
        "undefined_figures": why_undefined_figures(shared, names),
    }


def label_counts(labels: Sequence[Label]) -> tuple[Counts, list[str]]:
    """(I, Q) and the Q labels in alphabetical order."""
    items = {item: i for i, item in enumerate(dict.fromkeys(row.item for row in labels))}
    names = sorted({row.label for row in labels})
    counts = np.zeros((len(items), len(names)), dtype=int)
    for row in labels:
        counts[items[row.item], names.index(row.label)] += 1
    return counts, names


def prompts_of_items(labels: Sequence[Label]) -> np.ndarray:
    """(I,): a number for each item's prompt, in the order of ``label_counts``."""
    prompt = {row.item: row.prompt or row.item for row in reversed(labels)}
    number = {name: k for k, name in enumerate(dict.fromkeys(prompt.values()))}
    return np.array([number[prompt[item]] for item in dict.fromkeys(row.item for row in labels)], dtype=int)


def alpha(counts: Counts, level: str = "nominal") -> float | None:
    """Krippendorff's alpha = 1 - D_observed / D_expected; None where no two labels could have differed."""
    counts = counts[counts.sum(1) >= 2]
    if (counts.sum(0) > 0).sum() < 2:
        return None
    domain = np.arange(counts.shape[1])
    return float(krippendorff.alpha(value_counts=counts, value_domain=domain, level_of_measurement=level))  # pyright: ignore[reportArgumentType]


def ordinal_alpha(counts: Counts) -> float | None:
    """Alpha of labels whose columns are in order."""
    return alpha(counts, "ordinal")


def agreeing_pairs(counts: Counts) -> tuple[int, int]:
    """Pairs of annotators of one item that gave the same label, and all pairs."""
    totals = counts.sum(1)
    return int((counts * (counts - 1)).sum() // 2), int((totals * (totals - 1)).sum() // 2)


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """(p_o - p_e) / (1 - p_e) of two annotators over the items both labelled; None where chance alone agrees always."""
    n = len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = sum(a == b for a, b in pairs) / n
    expected = sum(first[label] * second[label] for label in first) / n**2
    return (observed - expected) / (1 - expected) if expected < 1 else None


def fleiss_kappa(counts: Counts) -> float | None:
    """Fleiss (1971) for items with equally many labels; None where the numbers differ or one label is all there is."""
    totals = counts.sum(1)
    if len(totals) == 0 or (totals != totals[0]).any() or (counts.sum(0) > 0).sum() < 2:
        return None
    observed = _mean_agreement(counts)
    expected = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return (observed - expected) / (1 - expected)


def gwet_ac1(counts: Counts) -> float | None:
    """AC1 (Gwet 2008): chance agreement sum pi (1 - pi) / (Q - 1), which rare labels do not blow up as they do kappa's."""
    if len(counts) == 0 or counts.shape[1] < 2:
        return None
    share = (counts / counts.sum(1, keepdims=True)).mean(0)
    expected = float((share * (1 - share)).sum()) / (counts.shape[1] - 1)
    return (_mean_agreement(counts) - expected) / (1 - expected)


def interval(figure: Callable[[Counts], float | None], counts: Counts, prompts: np.ndarray) -> list[float] | None:
    """95 % percentile interval of a figure over bootstrap samples of ``prompts`` (I,); None where it is undefined too often."""
    items = [np.flatnonzero(prompts == prompt) for prompt in np.unique(prompts)]
    if len(items) < 2:
        return None
    rng = np.random.default_rng(0)
    samples = (rng.integers(len(items), size=len(items)) for _ in range(NUM_RESAMPLES))
    drawn = [figure(counts[np.concatenate([items[k] for k in sample])]) for sample in samples]
    values = [value for value in drawn if value is not None]
    if len(values) < 0.95 * NUM_RESAMPLES:
        return None
    return [float(bound) for bound in np.quantile(values, [0.025, 0.975])]


def common_labels(labels: Sequence[Label]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """For every two annotators with items in common, their two labels of each."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for first, second in _paired(labels):
        found[first.annotator, second.annotator].append((first.label, second.label))
    return found


def by_group(labels: Sequence[Label]) -> dict[str, dict[str, float]]:
    """Pairwise agreement by the kinds of the two annotators, {} where all are of one kind."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for pair in _paired(labels):
        tally = counts["-".join(sorted(row.group for row in pair))]
        tally[0] += pair[0].label == pair[1].label
        tally[1] += 1
    if len({row.group for row in labels}) < 2:
        return {}
    return {name: {"agree": a, "pairs": n, "share": a / n} for name, (a, n) in sorted(counts.items())}


def why_undefined(shared: Counts) -> str | None:
    """A sentence where chance-corrected figures have no value, None where they have one."""
    if len(shared) == 0:
        return "No item was labelled by two annotators, so agreement cannot be measured. Ask for more labels per item."
    if (shared.sum(0) > 0).sum() < 2:
        return (
            "Every shared item got the same label, so chance would agree as well and alpha and kappa have no value. "
            "Include items on which another answer is right."
        )
    return None


def why_undefined_figures(shared: Counts, names: Sequence[str]) -> dict[str, str]:
    """For each figure that needs more than the others do, a sentence where that is missing."""
    found = {}
    if _in_order(shared, names) is None:
        others = ", ".join(sorted(set(names) - set(ORDERED)))
        found["krippendorff_alpha_ordinal"] = f"needs the labels a, tie and b only; there is also {others}"
    totals = shared.sum(1)
    if len(totals) and (totals != totals[0]).any():
        span = f"{totals.min()} to {totals.max()}"
        found["fleiss_kappa"] = f"needs equally many labels of each item; there are {span}, for which alpha is made"
    return found


def _paired(labels: Sequence[Label]) -> list[tuple[Label, Label]]:
    rows: Mapping[str, list[Label]] = defaultdict(list)
    for row in labels:
        rows[row.item].append(row)
    return [pair for found in rows.values() for pair in combinations(sorted(found, key=lambda row: row.annotator), 2)]


def _share(counts: Counts) -> float | None:
    agreed, pairs = agreeing_pairs(counts)
    return agreed / pairs if pairs else None


def _mean_agreement(counts: Counts) -> float:
    totals = counts.sum(1)
    return float(((counts * (counts - 1)).sum(1) / (totals * (totals - 1))).mean())


def _in_order(counts: Counts, names: Sequence[str]) -> Counts | None:
    """Columns a, tie, b: between the two sides lies a tie; None for other labels."""
    if not set(names) <= set(ORDERED):
        return None
    return counts[:, [names.index(name) for name in ORDERED if name in names]]
