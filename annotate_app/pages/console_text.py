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


def overview_cards(stats: Mapping[str, Any], serving: Policy | None, since_last_round: int) -> list[tuple[str, str, str]]:
    """(number, label, remark) of each card on the overview."""
    first = stats.get("first_shown_wins")
    pace = stats.get("median_seconds_per_judgment")
    return [
        (f"{stats['judgments']:,}", "judgments", f"{since_last_round:,} since the last round"),
        (f"{stats['tasks_open']:,}", "pairs waiting", f"{stats.get('leases_open', 0)} on somebody's screen"),
        (str(stats.get("annotators_active_1h", 0)), "annotators active", "in the last hour"),
        (duration(pace), "per judgment", "median"),
        (policy_name(serving), "serving", "answers the next prompts"),
        (DASH if first is None else f"{first:.0%}", "first shown wins", "50 % means no position bias"),
    ]


def annotators_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Who judged how much and how fast."""
    if not rows:
        return "Nobody has judged a pair yet. Invite annotators under *People*, or [label a pair yourself](/)."
    columns = ["annotator", "judgments", "skips", "median time", "last judgment (UTC)"]
    shown = [
        (row["handle"] + ("" if row["kind"] == "human" else f" ({row['kind']})"), row["judgments"], row["skips"],
         duration(row["median_seconds"]), str(row["last_at"])[:16].replace("T", " "))
        for row in rows
    ]  # fmt: skip
    return "### Annotators\n\n" + table(columns, shown)


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
    return "### History\n\n" + table(["when (UTC)", "began to serve", "by", "reason"], rows) if rows else ""


def log_text(tail: str) -> str:
    """The last lines of a job's log, as they are."""
    return f"#### Last lines of its log\n\n```text\n{tail.replace('```', '')}\n```" if tail.strip() else ""


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


def progress_text(progress: Any) -> str:
    """Stage, bar and time left of a running job; why it stopped, of another."""
    head = f"**{plain(progress.kind.capitalize())} {progress.number}** · "
    if progress.status != "running":
        ended = "finished" if progress.status == "done" else str(progress.status)
        return head + ended + (f" · {plain(progress.message)}" if progress.message else "")
    stage = STAGE_NAMES.get(progress.stage or "", plain(progress.stage or "starting"))
    left = f" · about {duration(progress.remaining_s)} left" if progress.remaining_s is not None else ""
    bar = f'<progress max="1" value="{progress.fraction:.3f}"></progress>'
    where = f"stage {progress.stage_index} of {progress.num_stages}: {stage}" if progress.stage_index else "starting"
    return f"{head}{where} · {progress.fraction:.0%}{left}\n\n{bar}\n\n{plain(progress.message or '')}"


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
