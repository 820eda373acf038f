"""Pairs on which everybody agreed become pairs whose answer is known: training pairs, and checks of who reads."""

import uuid
from datetime import UTC, datetime
from typing import Any

from storage.errors import UserError
from storage.records import Task
from storage.store import Store

NAMESPACE = uuid.UUID("0b2f4f0e-5a5c-5b1e-8d2a-756e616e696d")
FEWEST = 2
RULE = "unanimous"


def promote_unanimous(store: Store, people: int, *, actor: str, limit: int | None = None) -> dict[str, int]:
    """{"unanimous": pairs on which at least so many ``people`` preferred the same response and nobody else, "pairs": new ones}.

    Those with most votes first, at most ``limit``. Excluded people do not count. Doing it again adds nothing; the judgments stay
    what they are.
    """
    if people < FEWEST:
        raise UserError(f"--from-unanimous {people} is refused: one person is always of one mind. Ask for {FEWEST} or more.")
    found = store.query(_UNANIMOUS, {"people": people}).to_pylist()
    known = {row["id"] for row in store.query("SELECT id FROM tasks WHERE purpose = 'gold'").to_pylist()}
    fresh = [row for row in found if _task_id(row) not in known][:limit]
    now = datetime.now(UTC)
    store.add_tasks([_task(row, now) for row in fresh])
    answered = {event.subject for event in store.list_events(kind_prefix="task.answer", limit=1_000_000)}
    for row in found:
        if (_task_id(row) in known or row in fresh) and _task_id(row) not in answered:
            explanation = f"{row['votes']} of {row['votes']} people preferred it."
            store.append_event(
                actor=actor,
                kind="task.answer",
                subject=_task_id(row),
                data={"verdict": row["verdict"], "explanation": explanation},
            )
    return {"unanimous": len(found), "pairs": len(fresh)}


def _task(row: dict[str, Any], now: datetime) -> Task:
    return Task(
        id=_task_id(row),
        prompt_id=row["prompt_id"],
        response_1_id=row["first"],
        response_2_id=row["second"],
        purpose="gold",
        wanted=0,  # everybody answers it; no number of judgments is wanted
        selection_rule=RULE,
        selection_score=float(row["votes"]),
        selection_prob=1.0,
        created_at=now,
    )


def _task_id(row: dict[str, Any]) -> str:
    return str(uuid.uuid5(NAMESPACE, f"{row['first']} {row['second']}"))


# In one order of the two responses; a person counts once per pair, with what they said last.
_UNANIMOUS = """
    WITH said AS (
        SELECT prompt_id, annotator_id, least(response_a_id, response_b_id) AS first,
               greatest(response_a_id, response_b_id) AS second,
               CASE WHEN verdict NOT IN ('a', 'b') OR response_a_id < response_b_id THEN verdict
                    WHEN verdict = 'a' THEN 'b' ELSE 'a' END AS verdict, seq
        FROM judged_pairs WHERE verdict <> 'skip'),
    votes AS (
        SELECT prompt_id, first, second, annotator_id, arg_max(verdict, seq) AS verdict FROM said
        GROUP BY prompt_id, first, second, annotator_id)
    SELECT prompt_id, first, second, min(verdict) AS verdict, count(*) AS votes FROM votes
    GROUP BY prompt_id, first, second
    HAVING count(DISTINCT verdict) = 1 AND min(verdict) IN ('a', 'b') AND count(*) >= $people
    ORDER BY votes DESC, first, second
"""
