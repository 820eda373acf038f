"""Leases and judgments in PostgreSQL: decided inside one transaction, whichever replica asks, acknowledged after COMMIT."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from storage.answers import check_answer, check_asked, judgment_of, same_answer
from storage.errors import UserError
from storage.ids import new_id
from storage.leases import Lease
from storage.postgres_connection import Transaction
from storage.postgres_follower import COUNTERS, Known
from storage.postgres_places import Given, TaskPlaces, held_leases, issue, lease_of, lock_tasks, read_tasks, settle
from storage.postgres_state import PostgresState, leased_pairs, training_book, training_of
from storage.records import Judgment, JudgmentInput, LeasedPair, SubmitResult, SubmitStatus
from storage.tables import from_row, to_row
from storage.training import training_status


def lease_pairs(state: PostgresState, annotator_id: str, count: int, *, resume: bool) -> list[LeasedPair]:
    def operation(transaction: Transaction) -> list[Given]:
        known = state.follower.known(_begin(transaction, annotator_id))
        if annotator_id in known.accounts.excluded:
            return []
        now = state.clock()
        status = training_of(transaction, known, annotator_id)
        in_training = status is not None and not status.passed
        given = _resumable(transaction, annotator_id, now, in_training=in_training)[:count] if resume else []
        wanted = count - len(given)
        if in_training:
            return given + _training_leases(state, transaction, known, annotator_id, wanted, now)
        return given + _new_leases(state, transaction, annotator_id, _within_budget(transaction, known, wanted, now), now)

    return leased_pairs(state, state.server.run(operation, pipelined=True))


def _begin(transaction: Transaction, annotator_id: str) -> dict[str, int]:
    """One lease call of an annotator at a time, in whatever tab and replica; the counters as they are now."""
    sql = f"SELECT {COUNTERS} FROM annotators WHERE id = $id FOR NO KEY UPDATE"
    row = transaction.one(sql, {"id": annotator_id})
    if row is None:
        raise UserError(f"annotator {annotator_id!r} is not known. Add the annotator first.")
    return row["counters"]


def renew(state: PostgresState, lease_ids: Sequence[str], annotator_id: str) -> list[str]:
    def operation(transaction: Transaction) -> list[str]:
        asked = {"ids": list(lease_ids), "annotator": annotator_id}
        tasks = transaction.rows("SELECT task_id FROM leases WHERE id = ANY($ids) AND annotator_id = $annotator", asked)
        lock_tasks(transaction, [row["task_id"] for row in tasks])
        now = state.clock()
        until = {"now": now, "until": now + timedelta(seconds=state.lease_seconds)}
        renewed = {row["lease_id"] for row in transaction.rows(_RENEW, asked | until)}
        mine = [lease_id for lease_id in dict.fromkeys(lease_ids) if lease_id in renewed]
        if mine:
            transaction.execute(_RENEW_QUEUE, {"ids": mine})
            for lease_id in mine:
                transaction.append("renewals", [lease_id, now, until["until"]])
        return mine

    return state.server.run(operation, pipelined=True)


def submit(state: PostgresState, answer: JudgmentInput, *, annotator_id: str) -> SubmitResult:
    check_answer(answer)

    def operation(transaction: Transaction) -> SubmitResult:
        row = transaction.one(_LEASE, {"id": answer.lease_id})
        known = state.follower.known(row and row["counters"])
        found = _held(transaction, row)
        if found is None:
            return _submit_again(transaction, known, answer, annotator_id)
        lease, task = found
        if lease.annotator_id != annotator_id:
            return SubmitResult(status="unknown")
        judgment = store_answer(state, transaction, known, lease, task, answer)
        return _result(transaction, known, "stored", judgment, task)

    return state.server.run(operation, pipelined=True)


def _held(transaction: Transaction, row: dict[str, Any] | None) -> Given | None:
    """The lease and its task, both locked, if the lease still holds its place, expired or not."""
    if row is None:
        return None
    task = read_tasks(transaction, [row["task_id"]], row["annotator_id"])[row["task_id"]]
    place = next((p for p in task.places if p.lease_id == row["id"] and not p.filled), None)
    return None if place is None else (lease_of(row), task)


def store_answer(
    state: PostgresState, transaction: Transaction, known: Known, lease: Lease, task: TaskPlaces, answer: JudgmentInput
) -> Judgment:
    check_asked(known.campaign, answer, num_shown=len(lease.shown_ids))
    settle(transaction, lease, skipped=answer.verdict == "skip")
    judgment = judgment_of(lease, answer, prompt_id=task.prompt_id, seq=0, now=state.clock())
    seq = transaction.append("judgments", to_row(judgment, revision=task.num_made))
    return replace(judgment, seq=seq())


def find_judgment(transaction: Transaction, judgment_id: str) -> Judgment | None:
    row = transaction.one("SELECT * FROM judgments WHERE id = $id", {"id": judgment_id})
    return None if row is None else from_row(Judgment, row)


def budget_spent(transaction: Transaction, known: Known, now: datetime) -> bool:
    """Whether labels made and pairs handed out reach the campaign's budget."""
    budget = known.campaign.budget_labels
    return budget is not None and _num_taken(transaction, now) >= budget


def _within_budget(transaction: Transaction, known: Known, count: int, now: datetime) -> int:
    """How many of ``count`` new pairs the budget allows. With a budget, replicas hand out one after the other."""
    budget = known.campaign.budget_labels
    if budget is None or count <= 0:
        return count
    transaction.execute("SELECT pg_advisory_xact_lock(hashtext('nashloop budget'))")
    return max(0, min(count, budget - _num_taken(transaction, now)))


def _num_taken(transaction: Transaction, now: datetime) -> int:
    """Labels made here that stand, and leases of real pairs that may still be answered in time."""
    counted = "SELECT count(*) AS n FROM slots WHERE lease_id IS NOT NULL AND NOT gold AND free_at > $now"
    return transaction.rows(counted, {"now": now})[0]["n"]


def _resumable(transaction: Transaction, annotator_id: str, now: datetime, *, in_training: bool) -> list[Given]:
    """Held leases that are still worth an answer, as in leases.py."""
    leases = [
        lease
        for lease, closed, purpose in held_leases(transaction, annotator_id, now)
        if lease.supersedes or (not closed and (purpose == "gold") == in_training)
    ]
    tasks = read_tasks(transaction, [lease.task_id for lease in leases], annotator_id)
    return [(lease, tasks[lease.task_id]) for lease in leases]


def _new_leases(state: PostgresState, transaction: Transaction, annotator_id: str, count: int, now: datetime) -> list[Given]:
    """Pairs in order of priority. Tasks that another transaction is changing are passed over, unless nothing else is left."""
    given: list[Given] = []
    passed_over: list[str] = []
    waits = False
    while len(given) < count:
        asked = {"annotator": annotator_id, "now": now, "count": 1 if waits else count - len(given), "passed": passed_over}
        found = transaction.rows(_PICK + ("" if waits else " SKIP LOCKED"), asked)
        if not found and (waits or given):
            break
        waits = not found
        task_ids = [row["task_id"] for row in found]
        tasks = read_tasks(transaction, task_ids, annotator_id) if found else {}
        leases = []
        for task in tasks.values():  # as they are now that they are locked
            slot = task.slot_for(annotator_id, now)
            if slot is not None:
                leases.append(make_lease(state, task, slot, annotator_id, now))
        issue(transaction, leases)
        passed_over += task_ids
        given += [(lease, tasks[lease.task_id]) for lease in leases]
    return given


def _training_leases(
    state: PostgresState, transaction: Transaction, known: Known, annotator_id: str, count: int, now: datetime
) -> list[Given]:
    """Training pairs until they are passed, never more than their round still needs; those answered least often first."""
    book, num_open = training_book(transaction, known, annotator_id)
    total = min(known.campaign.num_training, num_open)
    status = training_status(book.outcomes(annotator_id), total, known.campaign.pass_mark or 0)
    busy = {lease.task_id for lease, _, purpose in held_leases(transaction, annotator_id, now) if purpose == "gold"}
    needed = min(count, total - (0 if status.passed is False else status.done) - len(busy))
    asked = {"known": [task_id for task_id in book.answers if task_id not in busy], "annotator": annotator_id}
    chosen = [row["task_id"] for row in transaction.rows(_TRAINING, asked)][: max(needed, 0)]
    lock_tasks(transaction, chosen)
    given: list[Given] = []
    for task in read_tasks(transaction, chosen, annotator_id).values():
        lease = make_lease(state, task, task.training_slot(annotator_id), annotator_id, now)
        issue(transaction, [lease])
        given.append((lease, task))
    return given


def _order_shown(state: PostgresState, task: TaskPlaces) -> list[str]:
    shown = task.shown_ids
    if len(shown) > 2:
        state.rng.shuffle(shown)
    elif state.rng.random() < 0.5:
        shown.reverse()
    return shown


def make_lease(
    state: PostgresState, task: TaskPlaces, slot: int, annotator_id: str, now: datetime, *, shown: Sequence[str] = ()
) -> Lease:
    """``shown``: response ids in this order; else drawn."""
    shown = shown or _order_shown(state, task)
    return Lease(
        id=new_id(),
        task_id=task.id,
        annotator_id=annotator_id,
        slot=slot,
        response_a_id=shown[0],
        response_b_id=shown[1],
        more_response_ids=tuple(shown[2:]),
        issued_at=now,
        expires_at=now + timedelta(seconds=state.lease_seconds),
    )


def _result(transaction: Transaction, known: Known, status: SubmitStatus, judgment: Judgment, task: TaskPlaces) -> SubmitResult:
    """With what is told about a training pair."""
    if task.purpose != "gold" or status == "conflict":
        return SubmitResult(status=status, judgment=judgment)
    book, _ = training_book(transaction, known, judgment.annotator_id)
    feedback = book.feedback(judgment, task.response_1_id)
    training = training_of(transaction, known, judgment.annotator_id)
    return SubmitResult(status=status, judgment=judgment, feedback=feedback, training=training)


def _submit_again(transaction: Transaction, known: Known, answer: JudgmentInput, annotator_id: str) -> SubmitResult:
    """The lease is not held: it was answered before, lost its place, or never was."""
    judgment = find_judgment(transaction, answer.lease_id)
    if judgment is not None and judgment.annotator_id == annotator_id:
        task = read_tasks(transaction, [judgment.task_id], annotator_id)[judgment.task_id]
        return _result(transaction, known, "duplicate" if same_answer(judgment, answer) else "conflict", judgment, task)
    owned = "SELECT 1 AS yes FROM leases WHERE id = $id AND annotator_id = $annotator"
    given = transaction.rows(owned, {"id": answer.lease_id, "annotator": annotator_id})
    return SubmitResult(status="expired" if given else "unknown")


_LEASE = f"SELECT l.*, {COUNTERS} FROM leases l JOIN queue q ON q.task_id = l.task_id WHERE l.id = $id FOR UPDATE OF q"
_PICK = """
    SELECT q.task_id FROM queue q
    WHERE q.free_at <= $now AND q.free_at < 'infinity' AND NOT q.closed AND NOT q.task_id = ANY($passed)
      AND NOT EXISTS (SELECT FROM answered a WHERE a.task_id = q.task_id AND a.annotator_id = $annotator AND a.standing)
      AND NOT EXISTS (SELECT FROM slots s WHERE s.task_id = q.task_id AND s.annotator_id = $annotator
                      AND s.free_at > $now AND s.free_at < 'infinity')
      AND (NOT q.reserved OR EXISTS (SELECT FROM slots s WHERE s.task_id = q.task_id AND s.annotator_id = $annotator))
    ORDER BY q.priority DESC, q.seq LIMIT $count FOR UPDATE OF q"""
_TRAINING = """
    SELECT q.task_id FROM queue q LEFT JOIN answered a ON a.task_id = q.task_id AND a.annotator_id = $annotator
    WHERE q.purpose = 'gold' AND NOT q.closed AND q.task_id = ANY($known)
    ORDER BY coalesce(a.num_made, 0), q.seq
"""
_RENEW = """
    UPDATE slots SET free_at = $until WHERE lease_id = ANY($ids) AND annotator_id = $annotator AND isfinite(free_at)
    RETURNING lease_id
"""
_RENEW_QUEUE = """
    UPDATE queue SET free_at = (SELECT min(free_at) FROM slots WHERE slots.task_id = queue.task_id)
    WHERE purpose <> 'gold' AND task_id IN (SELECT task_id FROM slots WHERE lease_id = ANY($ids))
"""
