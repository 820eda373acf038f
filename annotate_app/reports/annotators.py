"""What is known of each annotator: labels, agreement, consistency, pull of the first place, flips, scale, time. Pure functions.

Rows are those of the raw export. Verdicts are compared in one order of the two responses, not in the order shown.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import sqrt
from statistics import median
from typing import Any

from annotate_app.reports.dawid_skene import dawid_skene
from annotate_app.reports.long_table import MIRRORED

Row = Mapping[str, Any]
CLASSES = ("a", "b", "tie")  # of a pair's true answer, in one order of its responses


def annotators_report(rows: Sequence[Row], last_report: Mapping[str, Any] | None) -> dict[str, Any]:
    """{"annotators": [...] by number of labels, "position_bias_logit": of the last preference model or None}.

    Of each: right, probability of saying what is true (Dawid and Skene); flip_rate and scale, how often their answers are the
    wrong way round and how sharp they are beside the others' (the last preference model).
    """
    standing = [row for row in rows if row["standing"]]
    agreement = agreement_with_others(standing)
    preference = (last_report or {}).get("preference", {})
    fitted = {name: preference.get(f"annotator_{name}s") or {} for name in ("flip", "scale")}
    ids = dict.fromkeys(row["annotator_id"] for row in standing)
    right = right_by_consensus(standing)
    people = []
    for who in ids:
        told = {"right": right.get(who), "flip_rate": fitted["flip"].get(who), "scale": fitted["scale"].get(who)}
        people.append(_person([row for row in standing if row["annotator_id"] == who], agreement[who]) | told)
    return {
        "annotators": sorted(people, key=lambda person: (-person["labels"], person["annotator"])),
        "position_bias_logit": preference.get("position_bias"),
    }


def agreement_with_others(rows: Sequence[Row]) -> dict[str, list[int]]:
    """For each annotator id, [agreeing, all] comparisons with labels of others on the same pair; one label per person."""
    labels_of: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row["verdict"] != "skip":
            labels_of[_pair(row)].setdefault(row["annotator_id"], _verdict(row))
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for labels in labels_of.values():
        for (first, label), (second, other) in combinations(labels.items(), 2):
            for who in (first, second):
                counts[who][0] += label == other
                counts[who][1] += 1
    return counts


def right_by_consensus(rows: Sequence[Row]) -> dict[str, float]:
    """Annotator id -> how often they say what is true, by Dawid and Skene, on pairs that several people judged."""
    labels_of: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for row in rows:
        if _verdict(row) in CLASSES:
            labels_of[_pair(row)].setdefault(row["annotator_id"], CLASSES.index(_verdict(row)))
    shared = [labels for labels in labels_of.values() if len(labels) > 1]
    people = list(dict.fromkeys(who for labels in shared for who in labels))
    triples = [(item, people.index(who), label) for item, labels in enumerate(shared) for who, label in labels.items()]
    if not triples:
        return {}
    accuracy = dawid_skene(triples, num_classes=len(CLASSES)).accuracy()
    return {who: float(value) for who, value in zip(people, accuracy, strict=True)}


def repeat_consistency(rows: Sequence[Row]) -> list[int]:
    """[same, all] pairs of labels that one annotator gave to the same two responses."""
    labels_of: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if row["verdict"] != "skip":
            labels_of[_pair(row)].append(_verdict(row))
    pairs = [pair for labels in labels_of.values() for pair in combinations(labels, 2)]
    return [sum(a == b for a, b in pairs), len(pairs)]


def share(count: float, total: int) -> dict[str, float] | None:
    """A share with its 95 % Wilson interval, None of nothing."""
    if total == 0:
        return None
    z = 1.959964
    mean, width = count / total, 1 + z**2 / total
    centre = (mean + z**2 / (2 * total)) / width
    half = z * sqrt(mean * (1 - mean) / total + z**2 / (4 * total**2)) / width
    return {"mean": mean, "low": max(0.0, centre - half), "high": min(1.0, centre + half), "n": total}


def _person(rows: Sequence[Row], agreement: Sequence[int]) -> dict[str, Any]:
    labelled = [row for row in rows if row["verdict"] != "skip"]
    ours = [row for row in labelled if row["annotator_kind"] != "imported"]  # sides and times of others are not known
    decided = [row["verdict"] for row in ours if row["verdict"] in MIRRORED]
    seconds = [(row["submitted_at"] - row["shown_at"]).total_seconds() for row in ours if row["shown_at"] is not None]
    same, repeats = repeat_consistency(labelled)
    return {
        "annotator_id": rows[0]["annotator_id"],
        "annotator": rows[0]["annotator"],
        "kind": rows[0]["annotator_kind"],
        "labels": len(labelled),
        "skips": len(rows) - len(labelled),
        "agreement_with_others": share(*agreement),
        "repeat_consistency": share(same, repeats),
        "first_shown_wins": share(decided.count("a"), len(decided)),
        "median_seconds": median(seconds) if seconds else None,
    }


def _pair(row: Row) -> tuple[str, str]:
    a, b = sorted((row["response_a_id"], row["response_b_id"]))
    return a, b


def _verdict(row: Row) -> str:
    verdict: str = row["verdict"]
    return MIRRORED.get(verdict, verdict) if row["response_a_id"] > row["response_b_id"] else verdict
