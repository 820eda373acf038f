"""Reading: every query of the store that is not an export. Readers have cursors of their own and never wait for the writer."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pyarrow as pa

from storage.database import Database, fetch_table
from storage.records import VERDICTS, Event, Judgment, Policy, Prompt, Response, Round, Task, TrainingStatus
from storage.tables import from_row


class Readable(Protocol):
    """Where DuckDB finds the records: its own file, or the reading copy of another engine."""

    @property
    def database(self) -> Database: ...
    @property
    def clock(self) -> Callable[[], datetime]: ...


def list_prompts(state: Readable, split: str | None) -> list[Prompt]:
    sql = "SELECT * FROM prompts WHERE $split IS NULL OR split = $split ORDER BY seq"
    return [from_row(Prompt, row) for row in state.database.rows(sql, {"split": split})]


def list_policies(state: Readable, *, policy_id: str | None = None, status: str | None = None) -> list[Policy]:
    sql = """SELECT * FROM policy_status WHERE ($id IS NULL OR id = $id) AND ($status IS NULL OR status = $status)
             ORDER BY number"""
    return [from_row(Policy, row) for row in state.database.rows(sql, {"id": policy_id, "status": status})]


def list_responses(state: Readable, *, policy_id: str | None, role: str | None) -> list[Response]:
    sql = """SELECT * FROM responses WHERE ($policy IS NULL OR policy_id = $policy) AND ($role IS NULL OR role = $role)
             ORDER BY seq"""
    return [from_row(Response, row) for row in state.database.rows(sql, {"policy": policy_id, "role": role})]


def open_tasks(state: Readable) -> list[Task]:
    rows = state.database.rows("SELECT * FROM task_status WHERE NOT closed AND num_made < wanted ORDER BY seq")
    return [from_row(Task, row) for row in rows]


def list_judgments(state: Readable, *, annotator_id: str | None, limit: int | None) -> list[Judgment]:
    sql = "SELECT * FROM standing WHERE $annotator IS NULL OR annotator_id = $annotator ORDER BY seq DESC"
    if limit is not None:
        sql += f" LIMIT {int(limit)}"
    return [from_row(Judgment, row) for row in state.database.rows(sql, {"annotator": annotator_id})]


def count_judgments(state: Readable, *, since_seq: int, decided_only: bool) -> int:
    sql = "SELECT count(*) AS n FROM judged_pairs WHERE seq > $since AND (NOT $decided OR verdict IN ('a', 'b'))"
    return state.database.rows(sql, {"since": since_seq, "decided": decided_only})[0]["n"]


def list_rounds(state: Readable, number: int | None = None) -> list[Round]:
    sql = "SELECT * FROM round_status WHERE $number IS NULL OR number = $number ORDER BY number DESC"
    return [from_row(Round, row) for row in state.database.rows(sql, {"number": number})]


def list_events(state: Readable, *, kind_prefix: str, since_seq: int, limit: int) -> list[Event]:
    sql = "SELECT * FROM events WHERE starts_with(kind, $prefix) AND seq > $since ORDER BY seq LIMIT $limit"
    rows = state.database.rows(sql, {"prefix": kind_prefix, "since": since_seq, "limit": limit})
    return [from_row(Event, row) for row in rows]


def query(state: Readable, sql: str, params: dict[str, Any] | None) -> pa.Table:
    """Run SQL in a transaction in which the engine refuses to write."""
    with state.database.cursor() as cursor:
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        try:
            return fetch_table(cursor, sql, params)
        finally:
            cursor.execute("ROLLBACK")


def stats(state: Readable, *, num_leases: int, training_of: Callable[[str], TrainingStatus | None]) -> dict[str, Any]:
    now = state.clock()
    [counts] = state.database.rows(_COUNTS, {"hour_ago": now - timedelta(hours=1)})
    verdicts = {row["verdict"]: row["n"] for row in state.database.rows(_VERDICTS)}
    hours = state.database.rows(_PER_HOUR, {"since": now - timedelta(days=7)})
    return counts | {
        "judgments": sum(verdicts.values()),
        "leases_open": num_leases,
        "verdicts": {verdict: verdicts.get(verdict, 0) for verdict in VERDICTS},
        "judgments_per_hour": [[_iso(row["hour"]), row["n"]] for row in hours],
        "by_annotator": [_person(row, training_of(row["annotator_id"])) for row in state.database.rows(_BY_ANNOTATOR)],
    }


def _person(row: dict[str, Any], training: TrainingStatus | None) -> dict[str, Any]:
    return row | {"last_at": _iso(row["last_at"]), "training": None if training is None else asdict(training)}


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


# Times and sides of imported judgments are not ours: they are counted, but not timed. A ranking counts as its pairs, timed once.
_COUNTS = """
    WITH ours AS MATERIALIZED (SELECT judged_pairs.* FROM judged_pairs SEMI JOIN annotators
                  ON annotators.id = judged_pairs.annotator_id AND annotators.kind <> 'imported')
    SELECT (SELECT count(*) FROM prompts) AS prompts,
           (SELECT count(*) FROM responses) AS responses,
           (SELECT count(*) FROM task_status WHERE NOT closed AND num_made < wanted) AS tasks_open,
           (SELECT count(DISTINCT annotator_id) FROM ours WHERE submitted_at > $hour_ago) AS annotators_active_1h,
           (SELECT median(epoch(submitted_at) - epoch(shown_at)) FROM ours
            WHERE ranking_id IS NULL OR id = ranking_id || '-1-2') AS median_seconds_per_judgment,
           (SELECT avg(CAST(verdict = 'a' AS INTEGER)) FROM ours WHERE verdict IN ('a', 'b')) AS first_shown_wins
"""
_VERDICTS = "SELECT verdict, count(*) AS n FROM judged_pairs GROUP BY verdict"
_PER_HOUR = """
    SELECT date_trunc('hour', submitted_at) AS hour, count(*) AS n FROM judged_pairs
    WHERE submitted_at > $since GROUP BY hour ORDER BY hour
"""
_BY_ANNOTATOR = """
    SELECT annotators.id AS annotator_id, annotators.handle, annotators.kind,
           count(*) FILTER (real AND verdict <> 'skip') AS judgments, count(*) FILTER (real AND verdict = 'skip') AS skips,
           median(epoch(submitted_at) - epoch(shown_at)) FILTER (real) AS median_seconds, max(submitted_at) AS last_at
    FROM standing JOIN annotators ON annotators.id = standing.annotator_id
    JOIN (SELECT id, purpose <> 'gold' AS real FROM tasks) tasks ON tasks.id = standing.task_id
    GROUP BY ALL ORDER BY judgments DESC, handle
"""
