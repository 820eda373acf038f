"""What the console says in words: records in, Markdown out. Pure; everything from a model or a person is escaped.

Gradio renders this Markdown through its own sanitiser; escaping first keeps hostile text from becoming markup at all.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from storage.records import Event, Policy, Round

DASH = "\u2013"  # nothing was measured
STAGE_NAMES = {
    "labels": "Judgments",
    "preference_model": "Preference model",
    "samples": "Reference responses",
    "anchors": "Anchors",
    "half_step": "Half step",
    "update": "Policy update",
    "evaluation": "Evaluation",
    "candidates": "New responses",
    "seal": "Seal",
}
BAD_ROWS_SHOWN = 20
FORMAT_NAMES = {
    "raw": "raw: every judgment as it was made",
    "trl": "TRL preference, explicit prompt",
    "trl-implicit": "TRL preference, implicit prompt",
    "unpaired": "TRL unpaired preference",
    "arena": "arena battles",
    "hf": "dataset folder with a card (zip)",
}


def plain(text: object) -> str:
    """Text that Markdown shows as it stands: HTML and Markdown characters are made inert, lines are joined."""
    escaped = html.escape(" ".join(str(text).split()), quote=False)
    return "".join("\\" + char if char in "\\`*_{}[]#!|~$" else char for char in escaped)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells are escaped."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(plain(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def interval(value: Mapping[str, float | None] | None, *, percent: bool = True) -> str:
    """``63 % (57 to 69)``; a dash where nothing was measured or, of a single prompt, a limit is unknown."""
    if not value:
        return DASH
    scale, digits, unit = (100, 0, " %") if percent else (1, 2, "")
    numbers = (value[key] for key in ("mean", "low", "high"))
    mean, low, high = (DASH if number is None else f"{number * scale:.{digits}f}" for number in numbers)
    return f"{mean}{unit} ({low} to {high})"


def duration(seconds: float | None) -> str:
    """``40 s``, ``3 min``, ``2 h``: one unit, as people say it."""
    if seconds is None:
        return DASH
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def promotions_table(events: Sequence[Event], policies: Sequence[Policy], names: Mapping[str, str]) -> str:
    """Who let which policy serve, when and why; newest first."""
    by_id = {policy.id: policy for policy in policies}
    rows = [
        (
            f"{event.at:%Y-%m-%d %H:%M}",
            policy_name(by_id.get(event.subject)),
            names.get(event.actor, event.actor),
            event.data.get("reason") or "",
        )
        for event in reversed(events)
    ]
    return "## History\n\n" + table(["when (UTC)", "began to serve", "by", "reason"], rows) if rows else ""


def imported_text(what: str, result: Mapping[str, Any]) -> str:
    """What an import did, rows that were left out with their reasons."""
    bad = result["bad_rows"]
    known = f" {result['known']:,} were known already." if result["known"] else ""
    named = "\n".join(f"- {plain(row)}" for row in bad[:BAD_ROWS_SHOWN])
    left_out = f" {len(bad):,} rows were left out:\n\n{named}" if bad else ""
    return f"**{result[what]:,} {what} added** from {result['rows']:,} rows ({plain(result['format'])}).{known}{left_out}"


def policy_name(policy: Policy | None) -> str:
    """``base`` for number 0, ``policy 3`` otherwise."""
    if policy is None:
        return "none"
    return "base" if policy.number == 0 else f"policy {policy.number}"


def jobs_table(rounds: Sequence[Round]) -> str:
    """The newest jobs with their state."""
    if not rounds:
        return "No job has run yet."
    rows = [(r.number, r.kind, r.status, f"{r.created_at:%Y-%m-%d %H:%M} UTC", r.message or "") for r in rounds[:12]]
    return table(["job", "kind", "state", "started", "remark"], rows)


def policies_rows(policies: Sequence[Policy], reports: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Rows of the policy table, newest first: name, status, parent, win rates, KL, made at."""
    by_id = {policy.id: policy for policy in policies}
    rows = []
    for policy in sorted(policies, key=lambda p: -p.number):
        evaluation = reports.get(policy.id, {}).get("evaluation", {})
        parent = by_id.get(policy.parent_id or "")
        rows.append(
            [
                policy_name(policy),
                policy.status,
                policy_name(parent) if parent else DASH,
                interval(evaluation.get("win_rate_vs_parent")),
                interval(evaluation.get("win_rate_vs_base")),
                interval(evaluation.get("kl_to_base_nats"), percent=False),
                f"{policy.created_at:%Y-%m-%d %H:%M}",
            ]
        )
    return rows


POLICY_COLUMNS = ["policy", "status", "parent", "win rate vs parent", "win rate vs base", "KL to base", "made (UTC)"]
