"""The lease book as the tables tell it: read once, at start."""

import json
from typing import Any

import duckdb

from storage.database import fetch_rows
from storage.leases import FILLED, Lease, LeaseBook, TaskBook
from storage.training import KnownAnswer, TrainingBook, oriented

_TASKS = """
    SELECT id, seq, prompt_id, response_1_id, response_2_id, nullif(more_response_ids, []) AS more_response_ids, -- few have any
           purpose, priority, wanted,
           id IN (SELECT subject FROM events WHERE kind = 'task.closed') AS closed
    FROM tasks ORDER BY seq
"""
# The last lease of each slot, what became of it, and until when it was renewed.
_HOLDERS = """
    WITH renewed AS (SELECT lease_id, max(expires_at) AS expires_at FROM renewals GROUP BY lease_id)
    SELECT leases.* EXCLUDE (expires_at) REPLACE (nullif(leases.more_response_ids, []) AS more_response_ids),
           greatest(leases.expires_at, renewed.expires_at) AS expires_at, judgments.verdict
    FROM leases LEFT JOIN judgments USING (id) LEFT JOIN renewed ON renewed.lease_id = leases.id
    QUALIFY row_number() OVER (PARTITION BY leases.task_id, leases.slot ORDER BY leases.seq DESC) = 1
    ORDER BY leases.seq
"""
_MADE = """
    SELECT judgments.task_id, judgments.annotator_id, count(*) AS num_made, count(standing.id) AS num_standing
    FROM judgments LEFT JOIN standing USING (id) GROUP BY ALL
"""
_IMPORTED = """
    SELECT task_id, count(*) AS num_filled FROM standing
    WHERE verdict <> 'skip' AND id NOT IN (SELECT id FROM leases) GROUP BY task_id
"""


_LABELS = """
    SELECT count(*) AS n FROM standing JOIN tasks ON tasks.id = standing.task_id
    WHERE verdict <> 'skip' AND purpose <> 'gold' AND standing.id IN (SELECT id FROM leases)
"""
_GIVEN = """
    SELECT annotator_id, task_id, verdict, response_a_id, response_1_id FROM judgments JOIN tasks ON tasks.id = judgments.task_id
    WHERE purpose = 'gold' AND verdict <> 'skip' ORDER BY judgments.seq
"""


def load_lease_book(connection: duckdb.DuckDBPyConnection) -> LeaseBook:
    book = LeaseBook()
    book.add(_task(row) for row in fetch_rows(connection, _TASKS))
    for row in fetch_rows(connection, _MADE):
        task = book.tasks[row["task_id"]]
        task.num_made[row["annotator_id"]] = row["num_made"]
        if row["num_standing"]:
            task.done.add(row["annotator_id"])
    for row in fetch_rows(connection, _HOLDERS):
        verdict = row.pop("verdict")
        row.pop("seq")
        lease = Lease(more_response_ids=tuple(row.pop("more_response_ids") or ()), **row)
        if verdict is None:
            book.issue(lease)
        elif verdict != "skip":
            task = book.tasks[lease.task_id]
            task.reach(lease.slot)
            task.slots[lease.slot] = FILLED
    for row in fetch_rows(connection, _IMPORTED):
        slots = book.tasks[row["task_id"]].slots
        free = [i for i, holder in enumerate(slots) if holder is None]
        for i in free[: row["num_filled"]]:
            slots[i] = FILLED
    book.num_labels = fetch_rows(connection, _LABELS)[0]["n"]
    return book


def load_training(connection: duckdb.DuckDBPyConnection) -> TrainingBook:
    """Known answers, the last one of each pair, and the verdicts given on training pairs in their order."""
    book = TrainingBook()
    for row in fetch_rows(connection, "SELECT subject, data FROM events WHERE kind = 'task.answer' ORDER BY seq"):
        book.answers[row["subject"]] = KnownAnswer(**json.loads(row["data"]))
    for row in fetch_rows(connection, _GIVEN):
        verdict = oriented(row["verdict"], row["response_a_id"], row["response_1_id"])
        book.given.setdefault(row["annotator_id"], []).append((row["task_id"], verdict))
    return book


def _task(row: dict[str, Any]) -> TaskBook:
    return TaskBook(
        id=row["id"],
        order=row["seq"],
        prompt_id=row["prompt_id"],
        response_1_id=row["response_1_id"],
        response_2_id=row["response_2_id"],
        more_response_ids=tuple(row["more_response_ids"] or ()),
        purpose=row["purpose"],
        priority=row["priority"],
        slots=[None] * row["wanted"],
        reserved=row["wanted"] == 0,
        closed=row["closed"],
    )
