"""Adding records in PostgreSQL. Adding one whose id is already there changes nothing, so every caller may try again."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from storage.content import REFERENCES, UNIQUE, Record, check_exist, check_unique, ids_of, new_only
from storage.ids import new_id
from storage.postgres_connection import Transaction
from storage.postgres_places import NEW_QUEUE, NEW_SLOTS, lock_tasks, update_queue
from storage.records import Event, Judgment, Task
from storage.tables import TABLE_OF, from_row, to_row


def add_records(transaction: Transaction, groups: Sequence[Sequence[Record]], judgments: Sequence[Judgment] = ()) -> int:
    """All groups and the imported judgments, in the given order; the number of rows that were new."""
    lock_tasks(transaction, list({judgment.task_id for judgment in judgments}))
    tables = {TABLE_OF[type(group[0])] for group in groups if group} | ({"judgments"} if judgments else set())
    transaction.hold(tables)
    added = sum(_add(transaction, list(group)) for group in groups if group)
    return added + (_add_judgments(transaction, judgments) if judgments else 0)


def write_events(
    transaction: Transaction, now: datetime, *, actor: str, kind: str, subjects: Sequence[str], data: dict[str, Any] | None
) -> list[Event]:
    """The same event about each subject; what it means for the queue follows at once."""
    if not subjects:
        return []
    if kind == "task.closed":
        lock_tasks(transaction, subjects)
        transaction.execute("UPDATE queue SET closed = true WHERE task_id = ANY($ids)", {"ids": list(subjects)})
    events = [
        Event(id=new_id(), seq=seq, at=now, actor=actor, kind=kind, subject=subject, data=data or {})
        for seq, subject in zip(transaction.take("events", len(subjects)), subjects, strict=True)
    ]
    transaction.insert("events", [to_row(event) for event in events])
    return events


def append_event(
    transaction: Transaction, now: datetime, *, actor: str, kind: str, subject: str, data: dict[str, Any] | None, once: bool
) -> Event:
    """``once``: the very same event that is there already is answered instead of a second one."""
    if once:
        transaction.hold(["events"])
        same = "SELECT * FROM events WHERE kind = $kind AND actor = $actor AND subject = $subject ORDER BY seq"
        made = [from_row(Event, row) for row in transaction.rows(same, {"kind": kind, "actor": actor, "subject": subject})]
        if found := next((event for event in made if event.data == (data or {})), None):
            return found
    return write_events(transaction, now, actor=actor, kind=kind, subjects=[subject], data=data)[0]


def close_tasks(transaction: Transaction, now: datetime, task_ids: Sequence[str], *, actor: str, reason: str) -> None:
    wanted = list(dict.fromkeys(task_ids))
    lock_tasks(transaction, wanted)
    found = transaction.rows("SELECT task_id, closed FROM queue WHERE task_id = ANY($ids)", {"ids": wanted})
    closed = {row["task_id"]: row["closed"] for row in found}
    unknown = [task_id for task_id in wanted if task_id not in closed]
    if unknown:
        raise ValueError(f"unknown tasks {unknown[:3]}")
    closing = [task_id for task_id in wanted if not closed[task_id]]
    write_events(transaction, now, actor=actor, kind="task.closed", subjects=closing, data={"reason": reason})


def find(transaction: Transaction, table: str, record_id: str, make: Callable[[dict[str, Any]], Any]) -> Any:
    row = transaction.one(f"SELECT * FROM {table} WHERE id = $id", {"id": record_id})
    return None if row is None else make(row)


def _add(transaction: Transaction, records: list[Any]) -> int:
    kind = type(records[0])
    table = TABLE_OF[kind]
    new = new_only(transaction, table, records)
    if not new:
        return 0
    for names, referred in REFERENCES.get(kind, ()):
        check_exist(transaction, referred, {i for record in new for name in names for i in ids_of(getattr(record, name))})
    if kind in UNIQUE:
        check_unique(transaction, table, new, *UNIQUE[kind])
    seqs = transaction.take(table, len(new))
    transaction.insert(table, [to_row(record, seq=seq) for record, seq in zip(new, seqs, strict=True)])
    if kind is Task:
        for statement in (NEW_QUEUE, NEW_SLOTS):
            transaction.execute(statement, {"after": seqs[0] - 1})
    return len(new)


def _add_judgments(transaction: Transaction, judgments: Sequence[Judgment]) -> int:
    new = new_only(transaction, "judgments", judgments)
    for table, ids in (("tasks", {j.task_id for j in new}), ("annotators", {j.annotator_id for j in new})):
        known = {row["id"] for row in transaction.rows(f"SELECT id FROM {table} WHERE id = ANY($ids)", {"ids": list(ids)})}
        if ids - known:
            raise ValueError(f"{table} {sorted(ids - known)[:3]} of judgments were not added before")
    check_exist(transaction, "responses", {i for j in new for i in (j.response_a_id, j.response_b_id)})
    if not new:
        return 0
    made = _made(transaction, new)
    free = _free_places(transaction, new)
    rows, filled = [], []
    for judgment, seq in zip(new, transaction.take("judgments", len(new)), strict=True):
        key = (judgment.task_id, judgment.annotator_id)
        rows.append(to_row(judgment, seq=seq, revision=made.get(key, 0)))
        made[key] = made.get(key, 0) + 1
        if judgment.verdict != "skip" and free.get(judgment.task_id):
            filled.append((judgment.task_id, free[judgment.task_id].pop(0)))
    transaction.insert("judgments", rows)
    _fill(transaction, filled, {key: made[key] for key in {(j.task_id, j.annotator_id) for j in new}})
    return len(rows)


def _made(transaction: Transaction, judgments: Sequence[Judgment]) -> dict[tuple[str, str], int]:
    ids = list({judgment.task_id for judgment in judgments})
    rows = transaction.rows("SELECT task_id, annotator_id, num_made FROM answered WHERE task_id = ANY($ids)", {"ids": ids})
    return {(row["task_id"], row["annotator_id"]): row["num_made"] for row in rows}


def _free_places(transaction: Transaction, judgments: Sequence[Judgment]) -> dict[str, list[int]]:
    ids = list({judgment.task_id for judgment in judgments})
    sql = "SELECT task_id, slot FROM slots WHERE task_id = ANY($ids) AND free_at = '-infinity' ORDER BY task_id, slot"
    free: dict[str, list[int]] = {}
    for row in transaction.rows(sql, {"ids": ids}):
        free.setdefault(row["task_id"], []).append(row["slot"])
    return free


def _fill(transaction: Transaction, filled: list[tuple[str, int]], made: dict[tuple[str, str], int]) -> None:
    """Imported judgments take free places, and count for their annotators."""
    tasks, slots = [task_id for task_id, _ in filled], [slot for _, slot in filled]
    transaction.execute(_FILL, {"tasks": tasks, "slots": slots})
    who = {"tasks": [task for task, _ in made], "annotators": [annotator for _, annotator in made], "made": list(made.values())}
    transaction.execute(_COUNT, who)
    update_queue(transaction, list(dict.fromkeys(tasks)))


_FILL = """
    UPDATE slots SET free_at = 'infinity' FROM unnest($tasks::text[], $slots::int[]) AS taken(task_id, slot)
    WHERE slots.task_id = taken.task_id AND slots.slot = taken.slot
"""
_COUNT = """
    INSERT INTO answered SELECT *, true FROM unnest($tasks::text[], $annotators::text[], $made::int[])
    ON CONFLICT (task_id, annotator_id) DO UPDATE SET num_made = excluded.num_made, standing = true
"""
