"""Second thoughts in PostgreSQL: a judgment taken back, or replaced by another; the rules are those of corrections.py."""

from datetime import timedelta

from storage.answers import check_answer, same_answer
from storage.ids import new_id
from storage.leases import Lease
from storage.postgres_connection import Transaction
from storage.postgres_content import write_events
from storage.postgres_labelling import find_judgment, store_answer
from storage.postgres_places import Given, TaskPlaces, held_leases, issue, lock_tasks, read_tasks
from storage.postgres_state import PostgresState, leased_pairs
from storage.records import Judgment, JudgmentInput, LeasedPair, SubmitResult
from storage.tables import from_row


def withdraw(state: PostgresState, judgment_id: str, *, annotator_id: str) -> LeasedPair | None:
    """Event plus a new lease of the same place. Asked again while that lease is unanswered: the same lease (a retry)."""

    def operation(transaction: Transaction) -> list[Given]:
        own = _own(transaction, judgment_id, annotator_id)
        if own is None:
            return []
        judgment, task = own
        if _taken_back(transaction, judgment_id):
            held = held_leases(transaction, annotator_id, state.clock())
            return [(lease, task) for lease, _, _ in held if lease.supersedes == judgment_id][:1]
        lease = _take_back(state, transaction, judgment, task)
        return [] if lease is None else [(lease, task)]

    return next(iter(leased_pairs(state, state.server.run(operation))), None)


def correct(state: PostgresState, answer: JudgmentInput, *, annotator_id: str) -> SubmitResult:
    """Taking back and answering anew in one transaction; ``lease_id`` names the judgment to replace."""
    check_answer(answer)
    known = state.follower.known()

    def operation(transaction: Transaction) -> SubmitResult:
        own = _own(transaction, answer.lease_id, annotator_id)
        if own is None:
            return SubmitResult(status="unknown")
        judgment, task = own
        if _taken_back(transaction, judgment.id):
            later = transaction.rows("SELECT * FROM judgments WHERE supersedes = $id", {"id": judgment.id})
            made = [from_row(Judgment, row) for row in later]
            if made and same_answer(made[0], answer):
                return SubmitResult(status="duplicate", judgment=made[0])
            return SubmitResult(status="unknown")
        lease = _take_back(state, transaction, judgment, task)
        if lease is None:
            return SubmitResult(status="unknown")
        return SubmitResult(status="stored", judgment=store_answer(state, transaction, known, lease, task, answer))

    return state.server.run(operation)


def _own(transaction: Transaction, judgment_id: str, annotator_id: str) -> tuple[Judgment, TaskPlaces] | None:
    """The annotator's own judgment and its task, locked; None for others', and on training pairs, whose answer was told."""
    judgment = find_judgment(transaction, judgment_id)
    if judgment is None or judgment.annotator_id != annotator_id:
        return None
    lock_tasks(transaction, [judgment.task_id])
    task = read_tasks(transaction, [judgment.task_id], annotator_id)[judgment.task_id]
    return None if task.purpose == "gold" else (judgment, task)


def _taken_back(transaction: Transaction, judgment_id: str) -> bool:
    said = "SELECT 1 AS yes FROM events WHERE kind = 'judgment.withdrawn' AND subject = $id"
    return bool(transaction.rows(said, {"id": judgment_id}))


def _take_back(state: PostgresState, transaction: Transaction, judgment: Judgment, task: TaskPlaces) -> Lease | None:
    """None for imported judgments (they have no lease), and for a skip whose place somebody else has taken meanwhile."""
    now = state.clock()
    given = transaction.one("SELECT slot FROM leases WHERE id = $id", {"id": judgment.id})
    slot = task.free_slot(now) if judgment.verdict == "skip" else given["slot"] if given else None
    if given is None or slot is None:
        return None
    lease = Lease(
        id=new_id(),
        task_id=judgment.task_id,
        annotator_id=judgment.annotator_id,
        slot=slot,
        response_a_id=judgment.response_a_id,
        response_b_id=judgment.response_b_id,
        more_response_ids=judgment.more_response_ids,
        issued_at=now,
        expires_at=now + timedelta(seconds=state.lease_seconds),
        supersedes=judgment.id,
    )
    actor = judgment.annotator_id
    write_events(transaction, now, actor=actor, kind="judgment.withdrawn", subjects=[judgment.id], data=None)
    issue(transaction, [lease])
    return lease
