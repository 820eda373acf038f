"""Leases and judgments: the hot path. Decided in memory by the writer thread, acknowledged after COMMIT."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from storage.answers import check_answer, check_asked, judgment_of, same_answer
from storage.errors import UserError
from storage.ids import new_id
from storage.leases import Lease, TaskBook
from storage.records import Judgment, JudgmentInput, LeasedPair, Message, Purpose, SubmitResult, SubmitStatus, TrainingStatus
from storage.state import State
from storage.tables import SCHEMAS, from_row, messages_of, to_row
from storage.training import oriented, training_status
from storage.writer import Transaction


def lease_pairs(state: State, annotator_id: str, count: int, *, resume: bool) -> list[LeasedPair]:
    def operation(transaction: Transaction) -> list[Lease]:
        if annotator_id not in state.accounts.annotators:
            raise UserError(f"annotator {annotator_id!r} is not known. Add the annotator first.")
        now = state.clock()
        in_training = (status := training_of(state, annotator_id)) is not None and not status.passed
        leases = state.book.resumable(annotator_id, now, in_training=in_training)[:count] if resume else []
        while len(leases) < count:
            lease = _next_lease(state, annotator_id, now)
            if lease is None:
                break
            issue(state, transaction, lease)
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
    check_answer(answer)

    def operation(transaction: Transaction) -> SubmitResult:
        lease = state.book.leases.get(answer.lease_id)
        if lease is None:
            return _submit_again(state, transaction, answer, annotator_id)
        if lease.annotator_id != annotator_id:
            return SubmitResult(status="unknown")
        return _result(state, "stored", store_answer(state, transaction, lease, answer))

    return state.writer.run(operation)


def find_judgment(state: State, judgment_id: str, reader: "Transaction | None" = None) -> Judgment | None:
    recent = state.judgments.get(judgment_id)
    if recent is not None:
        return recent
    rows = (reader or state.database).rows("SELECT * FROM judgments WHERE id = $id", {"id": judgment_id})
    return from_row(Judgment, rows[0]) if rows else None


def leased_pair(state: State, lease: Lease) -> LeasedPair:
    return pair_of(lease, state.book.tasks[lease.task_id].purpose, *_contents(state, lease))


def pair_of(lease: Lease, purpose: Purpose, messages: tuple[Message, ...], texts: dict[str, str]) -> LeasedPair:
    """The lease with what is shown; ``texts`` by response id."""
    return LeasedPair(
        lease_id=lease.id,
        task_id=lease.task_id,
        annotator_id=lease.annotator_id,
        prompt=messages,
        response_a_id=lease.response_a_id,
        response_b_id=lease.response_b_id,
        response_a=texts[lease.response_a_id],
        response_b=texts[lease.response_b_id],
        more_response_ids=lease.more_response_ids,
        more_responses=tuple(texts[response_id] for response_id in lease.more_response_ids),
        purpose=purpose,
        issued_at=lease.issued_at,
        expires_at=lease.expires_at,
        supersedes=lease.supersedes,
    )


def training_of(state: State, annotator_id: str) -> TrainingStatus | None:
    """How far an annotator's training is; None where the campaign has none, or no training pairs."""
    campaign = state.campaign
    if campaign.pass_mark is None:
        return None
    num_training = min(campaign.num_training, len(state.book.training_tasks(state.training.answers)))
    if num_training == 0:
        return None
    return training_status(state.training.outcomes(annotator_id), num_training, campaign.pass_mark)


def budget_spent(state: State, now: datetime) -> bool:
    """Whether labels made and pairs handed out reach the campaign's budget."""
    budget, book = state.campaign.budget_labels, state.book
    if budget is None or book.num_labels + len(book.leases) < budget:
        return False
    return book.num_labels + book.num_live(now) >= budget


def _next_task(state: State, annotator_id: str, now: datetime) -> tuple[TaskBook, int] | None:
    """Training pairs until they are passed, never more than their round still needs; real pairs after that."""
    status = training_of(state, annotator_id)
    if status is None or status.passed:
        return None if budget_spent(state, now) else state.book.next_task(annotator_id, now)
    done = 0 if status.passed is False else status.done
    held = [lease for lease in state.book.held(annotator_id, now) if state.book.tasks[lease.task_id].purpose == "gold"]
    if done + len(held) >= status.total:
        return None
    return state.book.next_training_task(state.book.training_tasks(state.training.answers), annotator_id, now)


def _next_lease(state: State, annotator_id: str, now: datetime) -> Lease | None:
    found = _next_task(state, annotator_id, now)
    if found is None:
        return None
    task, slot = found
    shown = _order_shown(state, task)
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


def _order_shown(state: State, task: TaskBook) -> list[str]:
    shown = [task.response_1_id, task.response_2_id, *task.more_response_ids]
    if task.more_response_ids:
        state.rng.shuffle(shown)
    elif state.rng.random() < 0.5:
        shown.reverse()
    return shown


def issue(state: State, transaction: Transaction, lease: Lease) -> None:
    transaction.undo(state.book.issue(lease))
    (seq,) = state.counters.take(transaction, "leases")
    given = {"seq": seq, "more_response_ids": list(lease.more_response_ids)}
    transaction.insert("leases", [[given[n] if n in given else getattr(lease, n) for n in SCHEMAS["leases"].names]])


def store_answer(state: State, transaction: Transaction, lease: Lease, answer: JudgmentInput) -> Judgment:
    check_asked(state.campaign, answer, num_shown=len(lease.shown_ids))
    task = state.book.tasks[lease.task_id]
    revision = task.num_made.get(lease.annotator_id, 0)
    (seq,) = state.counters.take(transaction, "judgments")
    judgment = judgment_of(lease, answer, prompt_id=task.prompt_id, seq=seq, now=state.clock())
    transaction.undo(state.book.settle(lease, skipped=answer.verdict == "skip"))
    transaction.insert("judgments", [to_row(judgment, revision=revision)])
    if task.purpose == "gold" and judgment.verdict != "skip":
        given = state.training.given.setdefault(judgment.annotator_id, [])
        given.append((task.id, oriented(judgment.verdict, judgment.response_a_id, task.response_1_id)))
        transaction.undo(given.pop)
    state.judgments.put([(judgment.id, judgment)])
    transaction.undo(lambda: state.judgments.forget(judgment.id))
    return judgment


def _result(state: State, status: SubmitStatus, judgment: Judgment) -> SubmitResult:
    """With what is told about a training pair."""
    task = state.book.tasks[judgment.task_id]
    if task.purpose != "gold" or status == "conflict":
        return SubmitResult(status=status, judgment=judgment)
    feedback = state.training.feedback(judgment, task.response_1_id)
    return SubmitResult(status=status, judgment=judgment, feedback=feedback, training=training_of(state, judgment.annotator_id))


def _submit_again(state: State, transaction: Transaction, answer: JudgmentInput, annotator_id: str) -> SubmitResult:
    """The lease is not held: it was answered before, lost its slot, or never was."""
    judgment = find_judgment(state, answer.lease_id, transaction)
    if judgment is not None and judgment.annotator_id == annotator_id:
        return _result(state, "duplicate" if same_answer(judgment, answer) else "conflict", judgment)
    owned = "SELECT 1 AS yes FROM leases WHERE id = $id AND annotator_id = $annotator"
    known = transaction.rows(owned, {"id": answer.lease_id, "annotator": annotator_id})
    return SubmitResult(status="expired" if known else "unknown")


def _contents(state: State, lease: Lease) -> tuple[tuple[Message, ...], dict[str, str]]:
    """The prompt's messages and the texts of the responses by id, from memory or else from the tables."""
    prompt_id = state.book.tasks[lease.task_id].prompt_id
    messages = state.prompts.get(prompt_id)
    if messages is None:
        [(found,)] = state.database.tuples("SELECT messages FROM prompts WHERE id = $id", {"id": prompt_id})
        messages = messages_of(found)
        state.prompts.put([(prompt_id, messages)])
    kept = {i: state.responses.get(i) for i in lease.shown_ids}
    texts = {response_id: text for response_id, text in kept.items() if text is not None}
    if len(texts) < len(kept):
        marks = ", ".join("?" * len(kept))
        texts = dict(state.database.tuples(f"SELECT id, text FROM responses WHERE id IN ({marks})", list(kept)))
        state.responses.put(texts.items())
    return messages, texts
