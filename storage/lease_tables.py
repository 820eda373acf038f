"""The lease book as the tables tell it: what is unsettled at start, the rest when it is asked for."""

import json
from typing import Any

import duckdb

from storage.database import Database, fetch_rows
from storage.leases import FILLED, Lease, LeaseBook, TaskBook
from storage.training import KnownAnswer, TrainingBook, oriented

# Tasks that somebody may still be given, or answer: a large campaign has few of them beside those that are settled.
_UNSETTLED = """
    SELECT id FROM task_status WHERE purpose = 'gold' OR (NOT closed AND num_made < wanted)
    UNION SELECT task_id FROM leases ANTI JOIN judgments USING (id)
"""
_TASKS = """
    SELECT id, seq, prompt_id, response_1_id, response_2_id, nullif(more_response_ids, []) AS more_response_ids, -- few have any
           purpose, priority, wanted,
           id IN (SELECT subject FROM events WHERE kind = 'task.closed') AS closed
    FROM tasks WHERE id IN (SELECT unnest($ids)) ORDER BY seq
"""
# The last lease of each slot, and those of them that wait for an answer, until when they were renewed.
_LAST = """
    WITH last AS (SELECT task_id, slot, arg_max(id, seq) AS id FROM leases WHERE task_id IN (SELECT unnest($ids)) GROUP BY ALL)
"""
_FILLED = f"{_LAST} SELECT last.task_id, slot FROM last JOIN judgments USING (id) WHERE verdict <> 'skip'"
_HOLDERS = f"""
    {_LAST}, renewed AS (SELECT lease_id, max(expires_at) AS expires_at FROM renewals GROUP BY lease_id)
    SELECT leases.* EXCLUDE (expires_at) REPLACE (nullif(leases.more_response_ids, []) AS more_response_ids),
           greatest(leases.expires_at, renewed.expires_at) AS expires_at
    FROM leases SEMI JOIN (SELECT id FROM last ANTI JOIN judgments USING (id)) USING (id)
    LEFT JOIN renewed ON renewed.lease_id = leases.id ORDER BY leases.seq
"""
_MADE = """
    SELECT asked.task_id, asked.annotator_id, count(*) AS num_made, count(standing.id) AS num_standing
    FROM (SELECT * FROM judgments WHERE task_id IN (SELECT unnest($ids))) asked LEFT JOIN standing USING (id) GROUP BY ALL
"""
_IMPORTED = """
    SELECT task_id, count(*) AS num_filled FROM standing
    WHERE task_id IN (SELECT unnest($ids)) AND verdict <> 'skip' AND id NOT IN (SELECT id FROM leases) GROUP BY task_id
"""
_LABELS = """
    SELECT count(*) AS n FROM standing JOIN tasks ON tasks.id = standing.task_id
    WHERE verdict <> 'skip' AND purpose <> 'gold' AND standing.id IN (SELECT id FROM leases)
"""
_GIVEN = """
    SELECT annotator_id, task_id, verdict, response_a_id, response_1_id FROM judgments JOIN tasks ON tasks.id = judgments.task_id
    WHERE purpose = 'gold' AND verdict <> 'skip' ORDER BY judgments.seq
"""


def load_lease_book(database: Database, connection: duckdb.DuckDBPyConnection) -> LeaseBook:
    """What is unsettled, at once; the book fetches any other task when somebody comes back to it."""
    book = LeaseBook()
    _load(connection, book, [row["id"] for row in fetch_rows(connection, _UNSETTLED)])
    book.num_labels = fetch_rows(connection, _LABELS)[0]["n"]

    def fetch(task_ids: list[str]) -> list[TaskBook]:
        apart = LeaseBook()
        with database.cursor() as cursor:
            _load(cursor, apart, task_ids)
        return list(apart.tasks.values())

    book.tasks.fetch = fetch
    return book


def _load(connection: duckdb.DuckDBPyConnection, book: LeaseBook, task_ids: list[str]) -> None:
    """Add these tasks, those of them that exist, as the tables tell about them."""
    asked = {"ids": task_ids}
    book.add(_task(row) for row in fetch_rows(connection, _TASKS, asked))
    if not book.tasks:
        return
    for row in fetch_rows(connection, _MADE, asked):
        task = book.tasks[row["task_id"]]
        task.num_made[row["annotator_id"]] = row["num_made"]
        if row["num_standing"]:
            task.done.add(row["annotator_id"])
    for row in fetch_rows(connection, _FILLED, asked):
        task = book.tasks[row["task_id"]]
        task.reach(row["slot"])
        task.slots[row["slot"]] = FILLED
    for row in fetch_rows(connection, _HOLDERS, asked):
        row.pop("seq")
        book.issue(Lease(more_response_ids=tuple(row.pop("more_response_ids") or ()), **row))
    for row in fetch_rows(connection, _IMPORTED, asked):
        slots = book.tasks[row["task_id"]].slots
        free = [i for i, holder in enumerate(slots) if holder is None]
        for i in free[: row["num_filled"]]:
            slots[i] = FILLED


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
