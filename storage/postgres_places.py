"""Whose turn it is, in PostgreSQL: the places (slots) of tasks, changed only under the lock of their row in ``queue``.

The same rules as leases.py, which says them for one process: a place is free, held until a time, or filled; a lapsed lease keeps
its place until somebody else is given it. Locks are taken in one order: annotator, queue rows by task, counters by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import groupby
from typing import Any

from storage.leases import Lease
from storage.postgres_connection import Transaction
from storage.records import Purpose
from storage.tables import SCHEMAS


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One slot. ``free`` and ``filled`` exclude each other; neither: held by ``lease_id`` until ``expires_at``."""

    slot: int
    lease_id: str | None
    annotator_id: str | None
    free: bool
    filled: bool
    expires_at: datetime | None

    def lapsed(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlaces:
    """What an annotator's next step needs of a task: its records, its places, and what they did before."""

    id: str
    prompt_id: str
    response_1_id: str
    response_2_id: str
    more_response_ids: tuple[str, ...]
    purpose: Purpose
    closed: bool
    reserved: bool
    num_made: int
    done: bool
    places: tuple[Place, ...]

    @property
    def shown_ids(self) -> list[str]:
        return [self.response_1_id, self.response_2_id, *self.more_response_ids]

    def slot_for(self, annotator_id: str, now: datetime) -> int | None:
        """Their own lapsed place first, then untouched ones, then those whose lease has expired; None if it is not for them."""
        if self.closed or self.done:
            return None
        own = next((p for p in self.places if p.annotator_id == annotator_id and p.expires_at is not None), None)
        if own is not None:
            return own.slot if own.lapsed(now) else None
        return None if self.reserved else self.free_slot(now)

    def free_slot(self, now: datetime) -> int | None:
        free = next((p.slot for p in self.places if p.free), None)
        return free if free is not None else next((p.slot for p in self.places if p.lapsed(now)), None)

    def training_slot(self, annotator_id: str) -> int:
        """Everybody has a place of their own: the lapsed one, or a new one."""
        own = (p.slot for p in self.places if p.annotator_id == annotator_id and p.expires_at is not None)
        return next(own, len(self.places))


Given = tuple[Lease, TaskPlaces]  # a lease and its task


def lock_tasks(transaction: Transaction, task_ids: Sequence[str]) -> None:
    """Nobody else changes the places of these tasks before COMMIT."""
    sql = "SELECT 1 FROM queue WHERE task_id = ANY($ids) ORDER BY task_id FOR UPDATE"
    transaction.rows(sql, {"ids": list(task_ids)})


def read_tasks(transaction: Transaction, task_ids: Sequence[str], annotator_id: str) -> dict[str, TaskPlaces]:
    """Tasks as this annotator finds them; read after they were locked. In the order asked for."""
    if not task_ids:
        return {}
    found: dict[str, TaskPlaces] = {}
    rows = transaction.rows(_TASKS, {"ids": list(task_ids), "annotator": annotator_id})
    for task_id, of_task in groupby(rows, key=lambda row: row["id"]):
        first, *_ = several = list(of_task)
        places = tuple(Place(**{name: row[name] for name in _PLACE}) for row in several if row["slot"] is not None)
        task = {name: first[name] for name in _TASK}
        found[task_id] = TaskPlaces(**task, more_response_ids=tuple(first["more_response_ids"]), places=places)
    return {task_id: found[task_id] for task_id in task_ids if task_id in found}


def held_leases(transaction: Transaction, annotator_id: str, now: datetime) -> list[tuple[Lease, bool, Purpose]]:
    """Open leases of an annotator in order of issue, each with whether its task is closed and the task's purpose."""
    rows = transaction.rows(_HELD, {"annotator": annotator_id, "now": now})
    return [(lease_of(row), row["closed"], row["purpose"]) for row in rows]


def lease_of(row: dict[str, Any]) -> Lease:
    names = (name for name in SCHEMAS["leases"].names if name not in ("seq", "more_response_ids"))
    return Lease(more_response_ids=tuple(row["more_response_ids"]), **{name: row[name] for name in names})


def issue(transaction: Transaction, leases: Sequence[Lease]) -> None:
    """Give each lease its place; whoever held it loses it. The tasks are locked."""
    if not leases:
        return
    given = {"ids": [x.id for x in leases], "tasks": [x.task_id for x in leases], "slots": [x.slot for x in leases]}
    holders = {"annotators": [x.annotator_id for x in leases], "until": [x.expires_at for x in leases]}
    transaction.execute(_ISSUE, given | holders)
    replaced = [lease for lease in leases if lease.supersedes is not None]
    for lease in replaced:
        undone = "UPDATE answered SET standing = false WHERE task_id = $task AND annotator_id = $annotator"
        transaction.execute(undone, {"task": lease.task_id, "annotator": lease.annotator_id})
    update_queue(transaction, given["tasks"])
    for lease in leases:
        own = {"seq": None, "more_response_ids": list(lease.more_response_ids)}
        transaction.append("leases", [own[name] if name in own else getattr(lease, name) for name in SCHEMAS["leases"].names])


def settle(transaction: Transaction, lease: Lease, *, skipped: bool) -> None:
    """The lease was answered: its place is filled, or free for somebody else after a skip."""
    freed = "UPDATE slots SET lease_id = NULL, annotator_id = NULL, free_at = '-infinity' WHERE lease_id = $id"
    filled = "UPDATE slots SET free_at = 'infinity' WHERE lease_id = $id"
    transaction.execute(freed if skipped else filled, {"id": lease.id})
    made = {"task": lease.task_id, "annotator": lease.annotator_id}
    transaction.execute(_ANSWERED, made)
    update_queue(transaction, [lease.task_id])


def update_queue(transaction: Transaction, task_ids: Sequence[str]) -> None:
    """When each task next has a place, after its places changed."""
    transaction.execute(_UPDATE_QUEUE, {"ids": list(task_ids)})


def rebuild(transaction: Transaction) -> None:
    """Make ``queue``, ``slots`` and ``answered`` from the records, as after bringing records in from elsewhere."""
    for table in ("queue", "slots", "answered"):
        transaction.execute(f"DELETE FROM {table}")
    for statement in _REBUILD:
        transaction.execute(statement)


# The places that new tasks begin with: rows of ``tasks`` whose seq is above $after.
NEW_QUEUE = """
    INSERT INTO queue SELECT id, seq, priority, purpose, wanted = 0 AND purpose <> 'gold', false,
        CASE WHEN purpose = 'gold' OR wanted = 0 THEN 'infinity'::timestamptz ELSE '-infinity' END
    FROM tasks WHERE seq > $after
"""
NEW_SLOTS = """
    INSERT INTO slots SELECT id, generate_series(0, wanted - 1), purpose = 'gold', NULL, NULL, '-infinity'
    FROM tasks WHERE seq > $after
"""
_TASKS = """
    SELECT t.id, t.prompt_id, t.response_1_id, t.response_2_id, t.more_response_ids, t.purpose, q.closed, q.reserved,
           coalesce(a.num_made, 0) AS num_made, coalesce(a.standing, false) AS done,
           s.slot, s.lease_id, s.annotator_id, s.free_at = '-infinity' AS free, s.free_at = 'infinity' AS filled,
           CASE WHEN isfinite(s.free_at) THEN s.free_at END AS expires_at
    FROM tasks t JOIN queue q ON q.task_id = t.id LEFT JOIN slots s ON s.task_id = t.id
    LEFT JOIN answered a ON a.task_id = t.id AND a.annotator_id = $annotator
    WHERE t.id = ANY($ids) ORDER BY t.id, s.slot
"""
_PLACE = [field.name for field in fields(Place)]
_TASK = [field.name for field in fields(TaskPlaces) if field.name not in ("places", "more_response_ids")]
_HELD = """
    SELECT l.id, l.task_id, l.annotator_id, l.slot, l.response_a_id, l.response_b_id, l.issued_at, s.free_at AS expires_at,
           l.supersedes, l.more_response_ids, q.closed, q.purpose
    FROM slots s JOIN leases l ON l.id = s.lease_id JOIN queue q ON q.task_id = s.task_id
    WHERE s.annotator_id = $annotator AND s.free_at > $now AND s.free_at < 'infinity' AND s.free_at > '-infinity'
    ORDER BY l.seq
"""
_ISSUE = """
    INSERT INTO slots (task_id, slot, gold, lease_id, annotator_id, free_at)
    SELECT task_id, slot, (SELECT purpose = 'gold' FROM queue WHERE queue.task_id = new.task_id), lease_id, annotator_id, until
    FROM unnest($tasks::text[], $slots::int[], $ids::text[], $annotators::text[], $until::timestamptz[])
        AS new(task_id, slot, lease_id, annotator_id, until)
    ON CONFLICT (task_id, slot) DO UPDATE
        SET lease_id = excluded.lease_id, annotator_id = excluded.annotator_id, free_at = excluded.free_at
"""
_ANSWERED = """
    INSERT INTO answered VALUES ($task, $annotator, 1, true)
    ON CONFLICT (task_id, annotator_id) DO UPDATE SET num_made = answered.num_made + 1, standing = true
"""
_UPDATE_QUEUE = """
    UPDATE queue SET free_at = (SELECT min(free_at) FROM slots WHERE slots.task_id = queue.task_id)
    WHERE task_id = ANY($ids) AND purpose <> 'gold'
"""
# As lease_tables.py tells it for DuckDB: the last lease of each slot, what became of it, and until when it was renewed.
_REBUILD = (
    NEW_QUEUE.replace("$after", "0"),
    NEW_SLOTS.replace("$after", "0"),
    "UPDATE queue SET closed = true WHERE task_id IN (SELECT subject FROM events WHERE kind = 'task.closed')",
    """
    WITH renewed AS (SELECT lease_id, max(expires_at) AS expires_at FROM renewals GROUP BY lease_id),
    holders AS (
        SELECT DISTINCT ON (l.task_id, l.slot) l.task_id, l.slot, l.id AS lease_id, l.annotator_id, j.verdict,
               greatest(l.expires_at, r.expires_at) AS expires_at
        FROM leases l LEFT JOIN judgments j USING (id) LEFT JOIN renewed r ON r.lease_id = l.id
        ORDER BY l.task_id, l.slot, l.seq DESC)
    INSERT INTO slots
    SELECT task_id, slot, (SELECT purpose = 'gold' FROM tasks WHERE tasks.id = task_id), lease_id, annotator_id,
           CASE WHEN verdict IS NULL THEN expires_at ELSE 'infinity' END
    FROM holders WHERE verdict IS DISTINCT FROM 'skip'
    ON CONFLICT (task_id, slot) DO UPDATE
        SET lease_id = excluded.lease_id, annotator_id = excluded.annotator_id, free_at = excluded.free_at
    """,
    """
    WITH standing AS (
        SELECT id, task_id FROM judgments j WHERE verdict <> 'skip'
        AND NOT EXISTS (SELECT FROM events WHERE kind = 'judgment.withdrawn' AND subject = j.id)
        AND NOT EXISTS (SELECT FROM judgments later WHERE later.supersedes = j.id)
        AND NOT EXISTS (SELECT FROM leases WHERE leases.id = j.id)),
    made AS (SELECT task_id, count(*) AS n FROM standing GROUP BY task_id),
    free AS (SELECT task_id, slot, row_number() OVER (PARTITION BY task_id ORDER BY slot) AS place
             FROM slots WHERE free_at = '-infinity')
    UPDATE slots SET free_at = 'infinity' FROM free JOIN made USING (task_id)
    WHERE slots.task_id = free.task_id AND slots.slot = free.slot AND free.place <= made.n
    """,
    """
    INSERT INTO answered
    SELECT task_id, annotator_id, count(*), bool_or(
        NOT EXISTS (SELECT FROM events WHERE kind = 'judgment.withdrawn' AND subject = j.id)
        AND NOT EXISTS (SELECT FROM judgments later WHERE later.supersedes = j.id))
    FROM judgments j GROUP BY task_id, annotator_id
    """,
    """
    UPDATE queue SET free_at = best.free_at
    FROM (SELECT task_id, min(free_at) AS free_at FROM slots GROUP BY task_id) best
    WHERE best.task_id = queue.task_id AND purpose <> 'gold'
    """,
)
