"""Second thoughts: a judgment taken back, or replaced by another. Nothing is edited; what replaces says what it supersedes."""

from datetime import timedelta

from storage.answers import check_answer, same_answer
from storage.content import write_events
from storage.ids import new_id
from storage.labelling import find_judgment, issue, leased_pair, store_answer
from storage.leases import Lease
from storage.records import Judgment, JudgmentInput, LeasedPair, SubmitResult
from storage.state import State
from storage.tables import from_row
from storage.writer import Transaction


def withdraw(state: State, judgment_id: str, *, annotator_id: str) -> LeasedPair | None:
    """Event plus a new lease of the same slot. Asked again while that lease is unanswered: the same lease (a retry)."""

    def operation(transaction: Transaction) -> Lease | None:
        judgment = _own(state, transaction, judgment_id, annotator_id)
        if judgment is None:
            return None
        if _taken_back(transaction, judgment_id):
            held = (lease for lease in state.book.held(annotator_id, state.clock()) if lease.supersedes == judgment_id)
            return next(held, None)
        return _take_back(state, transaction, judgment)

    lease = state.writer.run(operation)
    return None if lease is None else leased_pair(state, lease)


def correct(state: State, answer: JudgmentInput, *, annotator_id: str) -> SubmitResult:
    """Taking back and answering anew in one transaction; ``lease_id`` names the judgment to replace."""
    check_answer(answer)

    def operation(transaction: Transaction) -> SubmitResult:
        judgment = _own(state, transaction, answer.lease_id, annotator_id)
        if judgment is None:
            return SubmitResult(status="unknown")
        if _taken_back(transaction, judgment.id):
            later = transaction.rows("SELECT * FROM judgments WHERE supersedes = $id", {"id": judgment.id})
            made = [from_row(Judgment, row) for row in later]
            if made and same_answer(made[0], answer):
                return SubmitResult(status="duplicate", judgment=made[0])
            return SubmitResult(status="unknown")
        lease = _take_back(state, transaction, judgment)
        if lease is None:
            return SubmitResult(status="unknown")
        return SubmitResult(status="stored", judgment=store_answer(state, transaction, lease, answer))

    return state.writer.run(operation)


def _own(state: State, transaction: Transaction, judgment_id: str, annotator_id: str) -> Judgment | None:
    """The annotator's own judgment; None for others', and on training pairs, whose answer they have been told."""
    judgment = find_judgment(state, judgment_id, transaction)
    if judgment is None or judgment.annotator_id != annotator_id:
        return None
    return None if state.book.tasks[judgment.task_id].purpose == "gold" else judgment


def _taken_back(transaction: Transaction, judgment_id: str) -> bool:
    said = "SELECT 1 AS yes FROM events WHERE kind = 'judgment.withdrawn' AND subject = $id"
    return bool(transaction.rows(said, {"id": judgment_id}))


def _take_back(state: State, transaction: Transaction, judgment: Judgment) -> Lease | None:
    """None for imported judgments (they have no lease), and for a skip whose place somebody else has taken meanwhile."""
    now = state.clock()
    task = state.book.tasks[judgment.task_id]
    given = transaction.rows("SELECT slot FROM leases WHERE id = $id", {"id": judgment.id})
    slot = state.book.free_slot(task, now) if judgment.verdict == "skip" else given[0]["slot"] if given else None
    if not given or slot is None:
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
    write_events(state, transaction, actor=actor, kind="judgment.withdrawn", subjects=[judgment.id], data=None)
    issue(state, transaction, lease)
    return lease
