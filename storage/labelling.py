"""Leases and judgments: the hot path. Decided in memory by the writer thread, acknowledged after COMMIT."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from storage.content import write_events
from storage.errors import UserError
from storage.ids import new_id
from storage.leases import Lease
from storage.records import VERDICTS, Judgment, JudgmentInput, LeasedPair, Message, SubmitResult
from storage.state import State
from storage.tables import SCHEMAS, from_row, messages_of, to_row
from storage.writer import Transaction

# What makes two submissions of one lease the same answer: all but the time at which the pair was shown.
_ANSWER = ("verdict", "strength", "aspects", "rationale", "reasons", "edited_text")


def lease_pairs(state: State, annotator_id: str, count: int, *, resume: bool) -> list[LeasedPair]:
    def operation(transaction: Transaction) -> list[Lease]:
        if annotator_id not in state.accounts.annotators:
            raise UserError(f"annotator {annotator_id!r} is not known. Add the annotator first.")
        now = state.clock()
        leases = state.book.resumable(annotator_id, now)[:count] if resume else []
        while len(leases) < count:
            lease = _next_lease(state, annotator_id, now)
            if lease is None:
                break
            _issue(state, transaction, lease)
            leases.append(lease)
        return leases

    return [leased_pair(state, lease) for lease in state.writer.run(operation)]


def renew(state: State, lease_ids: Sequence[str], annotator_id: str) -> list[str]:
    def operation(transaction: Transaction) -> list[str]:
        now = state.clock()
        expires_at = now + timedelta(seconds=state.lease_seconds)
        held = [state.book.leases[i] for i in dict.fromkeys(lease_ids) if i in state.book.leases]
        mine = [lease for lease in held if lease.annotator_id == annotator_id]
        for lease in mine:
            transaction.undo(state.book.renew(lease, expires_at))
        transaction.insert("renewals", [[lease.id, now, expires_at] for lease in mine])
        return [lease.id for lease in mine]

    return state.writer.run(operation)


def submit(state: State, answer: JudgmentInput, *, annotator_id: str) -> SubmitResult:
    _check(answer)

    def operation(transaction: Transaction) -> SubmitResult:
        lease = state.book.leases.get(answer.lease_id)
        if lease is None:
            return _submit_again(state, transaction, answer, annotator_id)
        if lease.annotator_id != annotator_id:
            return SubmitResult(status="unknown")
        return SubmitResult(status="stored", judgment=_store(state, transaction, lease, answer))

    return state.writer.run(operation)


def withdraw(state: State, judgment_id: str, *, annotator_id: str) -> LeasedPair | None:
    """Event plus a new lease of the same slot. Asked again while that lease is unanswered: the same lease (a retry)."""

    def operation(transaction: Transaction) -> Lease | None:
        judgment = find_judgment(state, judgment_id, transaction)
        if judgment is None or judgment.annotator_id != annotator_id:
            return None
        taken_back = "SELECT 1 AS yes FROM events WHERE kind = 'judgment.withdrawn' AND subject = $id"
        if transaction.rows(taken_back, {"id": judgment_id}):
            held = (lease for lease in state.book.held(annotator_id, state.clock()) if lease.supersedes == judgment_id)
            return next(held, None)
        return _take_back(state, transaction, judgment)

    lease = state.writer.run(operation)
    return None if lease is None else leased_pair(state, lease)


def find_judgment(state: State, judgment_id: str, reader: "Transaction | None" = None) -> Judgment | None:
    recent = state.judgments.get(judgment_id)
    if recent is not None:
        return recent
    rows = (reader or state.database).rows("SELECT * FROM judgments WHERE id = $id", {"id": judgment_id})
    return from_row(Judgment, rows[0]) if rows else None


def leased_pair(state: State, lease: Lease) -> LeasedPair:
    messages, texts = _contents(state, lease)
    return LeasedPair(
        lease_id=lease.id,
        task_id=lease.task_id,
        annotator_id=lease.annotator_id,
        prompt=messages,
        response_a_id=lease.response_a_id,
        response_b_id=lease.response_b_id,
        response_a=texts[lease.response_a_id],
        response_b=texts[lease.response_b_id],
        issued_at=lease.issued_at,
        expires_at=lease.expires_at,
        supersedes=lease.supersedes,
    )


def _next_lease(state: State, annotator_id: str, now: datetime) -> Lease | None:
    found = state.book.next_task(annotator_id, now)
    if found is None:
        return None
    task, slot = found
    sides = [task.response_1_id, task.response_2_id]
    if state.rng.random() < 0.5:
        sides.reverse()
    return Lease(
        id=new_id(),
        task_id=task.id,
        annotator_id=annotator_id,
        slot=slot,
        response_a_id=sides[0],
        response_b_id=sides[1],
        issued_at=now,
        expires_at=now + timedelta(seconds=state.lease_seconds),
    )


def _issue(state: State, transaction: Transaction, lease: Lease) -> None:
    transaction.undo(state.book.issue(lease))
    (seq,) = state.counters.take(transaction, "leases")
    names = SCHEMAS["leases"].names
    transaction.insert("leases", [[seq if name == "seq" else getattr(lease, name) for name in names]])


def _store(state: State, transaction: Transaction, lease: Lease, answer: JudgmentInput) -> Judgment:
    task = state.book.tasks[lease.task_id]
    revision = task.num_made.get(lease.annotator_id, 0)
    (seq,) = state.counters.take(transaction, "judgments")
    judgment = Judgment(
        id=lease.id,
        seq=seq,
        task_id=lease.task_id,
        annotator_id=lease.annotator_id,
        prompt_id=task.prompt_id,
        response_a_id=lease.response_a_id,
        response_b_id=lease.response_b_id,
        verdict=answer.verdict,
        strength=answer.strength,
        aspects=dict(answer.aspects),
        rationale=answer.rationale,
        reasons=tuple(answer.reasons),
        edited_text=answer.edited_text,
        shown_at=answer.shown_at,
        submitted_at=state.clock(),
        supersedes=lease.supersedes,
    )
    transaction.undo(state.book.settle(lease, skipped=answer.verdict == "skip"))
    transaction.insert("judgments", [to_row(judgment, revision=revision)])
    state.judgments.put([(judgment.id, judgment)])
    transaction.undo(lambda: state.judgments.forget(judgment.id))
    return judgment


def _submit_again(state: State, transaction: Transaction, answer: JudgmentInput, annotator_id: str) -> SubmitResult:
    """The lease is not held: it was answered before, lost its slot, or never was."""
    judgment = find_judgment(state, answer.lease_id, transaction)
    if judgment is not None and judgment.annotator_id == annotator_id:
        same = all(getattr(judgment, name) == getattr(answer, name) for name in _ANSWER)
        return SubmitResult(status="duplicate" if same else "conflict", judgment=judgment)
    owned = "SELECT 1 AS yes FROM leases WHERE id = $id AND annotator_id = $annotator"
    known = transaction.rows(owned, {"id": answer.lease_id, "annotator": annotator_id})
    return SubmitResult(status="expired" if known else "unknown")


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
        issued_at=now,
        expires_at=now + timedelta(seconds=state.lease_seconds),
        supersedes=judgment.id,
    )
    actor = judgment.annotator_id
    write_events(state, transaction, actor=actor, kind="judgment.withdrawn", subjects=[judgment.id], data=None)
    _issue(state, transaction, lease)
    return lease


def _contents(state: State, lease: Lease) -> tuple[tuple[Message, ...], dict[str, str]]:
    """The prompt's messages and the texts of both responses by id, from memory or else from the tables."""
    prompt_id = state.book.tasks[lease.task_id].prompt_id
    messages = state.prompts.get(prompt_id)
    if messages is None:
        [(found,)] = state.database.tuples("SELECT messages FROM prompts WHERE id = $id", {"id": prompt_id})
        messages = messages_of(found)
        state.prompts.put([(prompt_id, messages)])
    kept = {i: state.responses.get(i) for i in (lease.response_a_id, lease.response_b_id)}
    texts = {response_id: text for response_id, text in kept.items() if text is not None}
    if len(texts) < len(kept):
        sides = {"a": lease.response_a_id, "b": lease.response_b_id}
        texts = dict(state.database.tuples("SELECT id, text FROM responses WHERE id IN ($a, $b)", sides))
        state.responses.put(texts.items())
    return messages, texts


def _check(answer: JudgmentInput) -> None:
    if answer.verdict not in VERDICTS:
        raise UserError(f"verdict {answer.verdict!r} is not one of {', '.join(VERDICTS)}.")
    if answer.strength is not None and answer.strength not in range(4):
        raise UserError(f"strength {answer.strength!r} is not one of 0, 1, 2, 3.")
