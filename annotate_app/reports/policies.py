"""Policies side by side: lineage, what their rounds expected, and how people voted between them. Pure functions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from annotate_app.reports.annotators import share

EXPECTED = ("win_rate_vs_parent", "win_rate_vs_base", "kl_to_parent_nats", "kl_to_base_nats", "text_quality")


def policies_report(
    policies: Sequence[Mapping[str, Any]], reports: Mapping[int, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """{"policies": [{number, parent, round, status, lineage, what its round measured}], "votes": [...]}.

    reports: by number of the round. rows: the raw export.
    """
    parents = {policy["number"]: policy["parent"] for policy in policies}
    listed = [
        {
            **{key: policy[key] for key in ("number", "parent", "round", "status")},
            "lineage": lineage(policy["number"], parents),
            **{key: reports.get(policy["round"], {}).get("evaluation", {}).get(key) for key in EXPECTED},
        }
        for policy in policies
    ]
    return {"policies": listed, "votes": votes_between({p["id"]: p["number"] for p in policies}, rows)}


def lineage(number: int, parents: Mapping[int, int | None]) -> list[int]:
    """The policy and its ancestors back to the base."""
    line, parent = [number], parents.get(number)
    while parent is not None and parent not in line:
        line.append(parent)
        parent = parents.get(parent)
    return line


def votes_between(number_of: Mapping[str, int], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Standing votes on pairs of two policies' responses: wins of the later policy, ties one half, with a 95 % interval."""
    counts: dict[tuple[int, int], dict[str, float]] = defaultdict(lambda: {"wins": 0, "ties": 0, "losses": 0, "gate": 0})
    for row in rows:
        a, b = number_of.get(row["policy_a_id"]), number_of.get(row["policy_b_id"])
        if not row["standing"] or row["verdict"] == "skip" or a is None or b is None or a == b:
            continue
        tally = counts[max(a, b), min(a, b)]
        won = {"a": a > b, "b": b > a}.get(row["verdict"])
        tally["ties" if won is None else "wins" if won else "losses"] += 1
        tally["gate"] += row["purpose"] == "gate"
    return [
        {"policy": policy, "opponent": opponent, **tally, "win_rate": share(tally["wins"] + tally["ties"] / 2, _votes(tally))}
        for (policy, opponent), tally in sorted(counts.items())
    ]


def _votes(tally: Mapping[str, float]) -> int:
    return int(tally["wins"] + tally["ties"] + tally["losses"])
