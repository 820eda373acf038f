"""What a job's report is written from: the learner's report.json, and the names and texts that only the store knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from annotate_app.context import AppContext
from annotate_app.gate import HumanGate
from annotate_app.pages.console_text import policy_name
from storage.errors import UserError
from storage.records import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Circle:
    """Three responses to one prompt that beat each other in turn; ``probabilities`` are P(1 > 2), P(2 > 3), P(3 > 1)."""

    prompt: str
    texts: tuple[str, str, str]
    probabilities: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """Everything a report says something about."""

    campaign: str
    number: int
    kind: str
    started_at: datetime
    report: Mapping[str, Any]
    settings: Mapping[str, Any]  # of the round, as they were asked for
    rule_summary: str
    parent: str
    made: str | None  # name of the new policy
    made_status: str | None  # candidate | serving | retired
    policies: Mapping[str, str]  # name by id
    annotators: Mapping[str, str]  # handle by id
    circle: Circle | None
    gate: HumanGate | None = None  # how people voted on the new policy; None where they were not asked
    people_vote: bool = False  # and still do


def gather_facts(context: AppContext, number: int) -> ReportFacts:
    """The facts of a job; UserError where there is no such job or it has no report yet."""
    round_, report = context.store.get_round(number), context.rounds.report(number)  # the latter refuses unknown numbers
    if round_ is None or not report:
        raise UserError(f"Job {number} has no report yet. It is written when the job finishes.")
    policies = {policy.id: policy for policy in context.store.list_policies()}
    made = policies.get(round_.new_policy_id or "")
    rule = report.get("picked", {}).get("rule")
    voted = context.rounds.comparison_of(made) if made else None
    return ReportFacts(
        campaign=context.campaign,
        number=number,
        kind=round_.kind,
        started_at=round_.created_at,
        report=report,
        settings=round_.settings,
        rule_summary=next((r["summary"] for r in context.rounds.rules() if r["name"] == rule), "") if rule else "",
        parent=_long_name(policies.get(round_.parent_policy_id)),
        made=policy_name(made) if made else None,
        made_status=made.status if made else None,
        policies={policy.id: _long_name(policy) for policy in policies.values()},
        annotators={annotator.id: annotator.handle for annotator in context.store.list_annotators()},
        circle=_circle(context, report.get("audit", {}).get("circle")),
        gate=voted[1] if voted else None,
        people_vote=voted is not None and voted[0].decided is None,
    )


def _long_name(policy: Policy | None) -> str:
    return "the base policy" if policy is not None and policy.number == 0 else policy_name(policy)


def _circle(context: AppContext, found: Mapping[str, Any] | None) -> Circle | None:
    if not found:
        return None
    sql = """SELECT responses.id, text, messages FROM responses JOIN prompts ON prompts.id = prompt_id
             WHERE list_contains($ids, responses.id)"""
    rows = {row["id"]: row for row in context.store.query(sql, {"ids": list(found["responses"])}).to_pylist()}
    if len(rows) < 3:
        return None
    first, second, third = (rows[response] for response in found["responses"])
    return Circle(
        prompt=first["messages"][-1]["content"],
        texts=(first["text"], second["text"], third["text"]),
        probabilities=tuple(found["probabilities"]),
    )
