"""Policies side by side: lineage, how people voted between them, and, apart from that, what preference models expect. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from annotate_app.policy_table import Rates, nash_average, ratings, strengths_of_rates, win_matrix
from annotate_app.style_control import FEATURES, Strengths, Votes, fit_strengths, style_of

EXPECTED = ("win_rate_vs_parent", "win_rate_vs_base", "kl_to_parent_nats", "kl_to_base_nats", "text_quality")
CONTROLS = {"votes": (), "length": ("length",), "style": FEATURES}
EVENLY = (
    "plain averages of votes between policies, whose pairs are drawn evenly; pairs chosen to teach the model are not among them"
)
Row = Mapping[str, Any]


def policies_report(policies: Sequence[Row], reports: Mapping[int, Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, Any]:
    """{"policies": [{number, parent, round, status, lineage, what its round measured}], "votes": [...], "people", "model"}.

    reports: by number of the round. rows: the raw export. ``people`` and ``model`` are tables of the same form, from votes and
    from what each round's preference model expects: {"matrix": [{policy, opponent, win_rate}], "table": [{policy, rating,
    nash, against}], "effects"}; None where nothing was compared.
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
    votes, counted = _votes({p["id"]: p["number"] for p in policies}, rows)
    people = by_people(votes)
    if people is not None:
        people["method"] = EVENLY
    return {"policies": listed, "votes": counted, "people": people, "model": by_model(policies, reports)}


def lineage(number: int, parents: Mapping[int, int | None]) -> list[int]:
    """The policy and its ancestors back to the base."""
    line, parent = [number], parents.get(number)
    while parent is not None and parent not in line:
        line.append(parent)
        parent = parents.get(parent)
    return line


def by_people(votes: Votes) -> dict[str, Any] | None:
    """What votes say: all of it corrected for the place on the screen, ``against`` also at equal length and style."""
    fitted = {name: fit_strengths(votes, controls) for name, controls in CONTROLS.items()}
    plain = fitted["votes"]
    if plain is None:
        return None
    effects = (fitted["style"] or fitted["length"] or plain).effects
    return _table(win_matrix(votes), plain, fitted) | {"effects": effects, "num_votes": len(votes.score)}


def by_model(policies: Sequence[Row], reports: Mapping[int, Mapping[str, Any]]) -> dict[str, Any] | None:
    """What each round's preference model expects of its policy against its parent and the base."""
    rates: dict[tuple[int, int], dict[str, float]] = {}
    at_length: dict[tuple[int, int], dict[str, float]] = {}
    for policy in policies:
        measured = reports.get(policy["round"], {}).get("evaluation", {})
        for opponent, name, into in (
            (0, "win_rate_vs_base", rates),
            (policy["parent"], "win_rate_vs_parent", rates),
            (policy["parent"], "length_controlled_vs_parent", at_length),
        ):
            rate = measured.get(name)
            if rate and opponent is not None and None not in rate.values():
                into[policy["number"], opponent] = rate
    plain = strengths_of_rates(rates)
    if plain is None:
        return None
    both = rates | {(b, a): {"mean": 1 - r["mean"], "low": 1 - r["high"], "high": 1 - r["low"]} for (a, b), r in rates.items()}
    return _table(both, plain, {"votes": plain, "length": strengths_of_rates(at_length), "style": None})


def _table(matrix: Rates, plain: Strengths, fitted: Mapping[str, Strengths | None]) -> dict[str, Any]:
    """``against``: win rates against the first policy compared, the base as a rule: as voted, at equal length, at equal style."""
    rated, nash, first = ratings(plain), nash_average(matrix, plain), plain.policies[0]
    return {
        "matrix": [{"policy": a, "opponent": b, "win_rate": rate} for (a, b), rate in sorted(matrix.items())],
        "opponent": first,
        "table": [
            {
                "policy": policy,
                "rating": rated[policy],
                "nash": nash[policy],
                "against": {name: _against(found, policy, first) for name, found in fitted.items()},
            }
            for policy in plain.policies
        ],
    }


def _against(found: Strengths | None, policy: int, opponent: int) -> dict[str, float] | None:
    if found is None or policy == opponent or policy not in found.policies or opponent not in found.policies:
        return None
    return found.win_rate(policy, opponent)


def _votes(number_of: Mapping[str, int], rows: Sequence[Row]) -> tuple[Votes, list[dict[str, Any]]]:
    """Standing votes on pairs of two policies' responses, and their counts: wins of the later policy, ties, losses."""
    across = [row for row in rows if row["standing"] and row["verdict"] != "skip"]
    met = [(number_of.get(row["policy_a_id"]), number_of.get(row["policy_b_id"]), row) for row in across]
    known = [(a, b, row) for a, b, row in met if a is not None and b is not None and a != b]
    counts: dict[tuple[int, int], dict[str, int]] = defaultdict(lambda: {"wins": 0, "ties": 0, "losses": 0, "gate": 0})
    for a, b, row in known:
        tally = counts[max(a, b), min(a, b)]
        won = {"a": a > b, "b": b > a}.get(row["verdict"])
        tally["ties" if won is None else "wins" if won else "losses"] += 1
        tally["gate"] += row["purpose"] == "gate"
    votes = Votes(
        first=np.array([a for a, _, _ in known], int),
        second=np.array([b for _, b, _ in known], int),
        score=np.array([{"a": 1.0, "b": 0.0}.get(row["verdict"], 0.5) for _, _, row in known]),
        style_first=np.array([style_of(row.get("response_a") or "") for _, _, row in known]).reshape(-1, len(FEATURES)),
        style_second=np.array([style_of(row.get("response_b") or "") for _, _, row in known]).reshape(-1, len(FEATURES)),
        annotator=[row["annotator_id"] for _, _, row in known],
        prompt=[row.get("prompt_id") or "" for _, _, row in known],
    )
    rates = win_matrix(votes)
    return votes, [
        {"policy": policy, "opponent": opponent, **tally, "win_rate": rates[policy, opponent]}
        for (policy, opponent), tally in sorted(counts.items())
    ]
