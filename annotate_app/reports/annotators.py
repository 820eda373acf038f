"""What is known of each annotator, with intervals: labels, agreement, known answers, flips, consistency, side, time. Pure.

Rows are those of the raw export with ``known`` (trust.py), or of a table of labels. Verdicts are compared in one order of the two
responses, not in the order shown.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from annotate_app import trust_estimates as estimates
from annotate_app.reports.dawid_skene import dawid_skene
from annotate_app.reports.long_table import MIRRORED, Label
from annotate_app.trust import in_order, known_answers, pair_of, remarks, stands_for_itself, trust_everybody
from annotate_app.trust_estimates import share

Row = Mapping[str, Any]
CLASSES = ("a", "b", "tie")  # of a pair's true answer, in one order of its responses


def annotators_report(
    rows: Sequence[Row], last_report: Mapping[str, Any] | None, excluded: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """{"annotators": [...] by number of labels, "position_bias_logit": of the last preference model or None}.

    ``excluded``: annotator id -> why; they are described, but nobody is compared with them. Training pairs count where ``known``
    says so and nowhere else. Every estimate is {"mean", "low", "high", "n"} with a 95 % interval, or None. flip_rate and right:
    how often somebody answers the wrong way round beside the others, and says what is true (Dawid and Skene). flip_rate_model
    and scale come from the last preference model.
    """
    excluded, preference = excluded or {}, (last_report or {}).get("preference", {})
    standing = [row for row in rows if row["standing"]]
    real = [row for row in standing if row.get("known") is None]
    counted = [row for row in real if row["annotator_id"] not in excluded]
    shared = {"agreement": agreement_with_others(counted), "right": right_by_consensus(counted), "known": known_answers(standing)}
    trust = trust_everybody(standing, set(excluded))
    people = []
    for who, own in _by_annotator(standing).items():
        person = _person(own, {name: values.get(who) for name, values in shared.items()})
        evidence = trust.get(who)
        person |= {
            "flip_rate": evidence.flip_rate if evidence else None,
            "flip_rate_model": (preference.get("annotator_flips") or {}).get(who),
            "scale": (preference.get("annotator_scales") or {}).get(who),
            "evidence": {name: v for name, v in asdict(evidence).items() if name != "flip_rate"} if evidence else None,
            "remarks": remarks(person, evidence),
            "excluded": excluded.get(who),
        }
        people.append(person)
    return {
        "annotators": sorted(people, key=lambda person: (-person["labels"], person["annotator"])),
        "position_bias_logit": preference.get("position_bias"),
    }


def rows_of_labels(labels: Sequence[Label]) -> list[dict[str, Any]]:
    """A long table of verdicts as rows; nothing is known of sides and times."""
    return [
        {
            "annotator_id": label.annotator, "annotator": label.annotator, "annotator_kind": "imported", "standing": True,
            "response_a_id": f"{label.item}|1", "response_b_id": f"{label.item}|2", "verdict": label.label, "shown_at": None,
        }
        for label in labels
    ]  # fmt: skip


def agreement_with_others(rows: Sequence[Row]) -> dict[str, list[int]]:
    """For each annotator id, [agreeing, all] comparisons with labels of others on the same pair; one label per person."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for labels in _labels_by_pair(rows).values():
        for (first, label), (second, other) in combinations(labels.items(), 2):
            for who in (first, second):
                counts[who][0] += label == other
                counts[who][1] += 1
    return counts


def right_by_consensus(rows: Sequence[Row]) -> dict[str, estimates.Estimate | None]:
    """Annotator id -> how often they say what is true, by Dawid and Skene, on pairs that several people judged.

    The truth that somebody is measured by is what the others' labels tell of it.
    """
    known = [{who: v for who, v in labels.items() if v in CLASSES} for labels in _labels_by_pair(rows).values()]
    shared = [labels for labels in known if len(labels) > 1]
    people = list(dict.fromkeys(who for labels in shared for who in labels))
    number = {who: k for k, who in enumerate(people)}
    triples = [(i, number[who], CLASSES.index(label)) for i, labels in enumerate(shared) for who, label in labels.items()]
    if not triples:
        return {}
    by_others = dawid_skene(triples, num_classes=len(CLASSES)).truth_by_others(triples)
    _, who, said = (np.array(column) for column in zip(*triples, strict=True))
    return {name: estimates.accuracy_by_consensus(by_others[who == k], said[who == k]) for k, name in enumerate(people)}


def repeat_consistency(rows: Sequence[Row]) -> list[int]:
    """[same, all] pairs of labels that one annotator gave to the same two responses."""
    labels_of: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if row["verdict"] != "skip":
            labels_of[pair_of(row)].append(_verdict(row))
    pairs = [pair for labels in labels_of.values() for pair in combinations(labels, 2)]
    return [sum(a == b for a, b in pairs), len(pairs)]


def _person(rows: Sequence[Row], shared: Mapping[str, Any]) -> dict[str, Any]:
    real = [row for row in rows if row.get("known") is None]
    labelled = [row for row in real if row["verdict"] != "skip"]
    ours = [row for row in labelled if row["annotator_kind"] != "imported"]  # sides and times of others are not known
    decided = [row["verdict"] for row in ours if row["verdict"] in MIRRORED]
    timed = [row for row in ours if row["shown_at"] is not None and stands_for_itself(row)]
    seconds = [(row["submitted_at"] - row["shown_at"]).total_seconds() for row in timed]
    undecided = sum(row["verdict"] not in MIRRORED for row in labelled)
    return {
        "annotator_id": rows[0]["annotator_id"],
        "annotator": rows[0]["annotator"],
        "kind": rows[0]["annotator_kind"],
        "labels": len(labelled),
        "skips": len(real) - len(labelled),
        "agreement_with_others": share(*(shared["agreement"] or (0, 0))),
        "right": shared["right"],
        "known_right": shared["known"],
        "accuracy_known": estimates.accuracy(*(shared["known"] or (0, 0))),
        "repeat_consistency": share(*repeat_consistency(labelled)),
        "first_shown_wins": share(decided.count("a"), len(decided)),
        "undecided": share(undecided, len(labelled)),
        "median_seconds": estimates.median_seconds(seconds),
        "too_fast": estimates.too_fast(seconds, [row.get("num_words") or 0 for row in timed]),
    }


def _by_annotator(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["annotator_id"]].append(row)
    return found


def _labels_by_pair(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, str]]:
    """What each person said first of each pair, skips left out."""
    labels_of: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row["verdict"] != "skip":
            labels_of[pair_of(row)].setdefault(row["annotator_id"], _verdict(row))
    return labels_of


def _verdict(row: Row) -> str:
    verdict: str = row["verdict"]
    return verdict if in_order(row) else MIRRORED.get(verdict, verdict)
