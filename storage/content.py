"""Adding records. Adding one whose id is already there changes nothing, so every caller may try again."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from storage.campaign import Campaign, build_campaign, campaign_values
from storage.errors import UserError
from storage.ids import new_id
from storage.leases import TaskBook
from storage.records import Annotator, Credential, Event, Judgment, Policy, Prompt, Response, Round, Task, Token, User
from storage.state import State
from storage.tables import TABLE_OF, from_row, to_row
from storage.training import KnownAnswer
from storage.writer import Transaction

Record = Prompt | Policy | Response | Task | Annotator | User | Token | Credential | Round


class Reads(Protocol):
    """A transaction of either engine."""

    def rows(self, sql: str, params: Any = None) -> list[dict[str, Any]]: ...


# field that no two records share -> what to say about it
UNIQUE: dict[type, tuple[str, str]] = {
    Policy: ("number", "policy number"),
    Round: ("number", "job number"),
    Annotator: ("handle", "annotator handle"),
    User: ("name", "user name"),
    Token: ("sha256", "token hash"),
    Credential: ("secret", "sign-in identity"),
}
# record -> (fields, table in which each of their values must exist)
REFERENCES: dict[type, list[tuple[tuple[str, ...], str]]] = {
    Response: [(("prompt_id",), "prompts")],
    Task: [(("prompt_id",), "prompts"), (("response_1_id", "response_2_id", "more_response_ids"), "responses")],
}


def add_records(state: State, groups: Sequence[Sequence[Record]], judgments: Sequence[Judgment] = ()) -> int:
    """All groups and the imported judgments in one transaction, in the given order; the number of rows that were new."""

    def operation(transaction: Transaction) -> int:
        added = sum(add_in(state, transaction, list(group)) for group in groups if group)
        return added + (_add_judgments(state, transaction, judgments) if judgments else 0)

    added = state.writer.run(operation)
    for group in groups:
        state.prompts.put((record.id, record.messages) for record in group if isinstance(record, Prompt))
        state.responses.put((record.id, record.text) for record in group if isinstance(record, Response))
    return added


def append_event(state: State, *, actor: str, kind: str, subject: str, data: dict[str, Any] | None, once: bool = False) -> Event:
    """``once``: the very same event that is there already is answered instead of a second one."""

    def operation(transaction: Transaction) -> Event:
        if once:
            same = "SELECT * FROM events WHERE kind = $kind AND actor = $actor AND subject = $subject ORDER BY seq"
            rows = transaction.rows(same, {"kind": kind, "actor": actor, "subject": subject})
            made = [from_row(Event, row) for row in rows]
            if found := next((event for event in made if event.data == (data or {})), None):
                return found
        return write_events(state, transaction, actor=actor, kind=kind, subjects=[subject], data=data)[0]

    return state.writer.run(operation)


def close_tasks(state: State, task_ids: Sequence[str], *, actor: str, reason: str) -> None:
    def operation(transaction: Transaction) -> None:
        state.book.tasks.need(task_ids)
        unknown = [task_id for task_id in task_ids if task_id not in state.book.tasks]
        if unknown:
            raise ValueError(f"unknown tasks {unknown[:3]}")
        closing = [task_id for task_id in dict.fromkeys(task_ids) if not state.book.tasks[task_id].closed]
        transaction.undo(state.book.close(closing))
        write_events(state, transaction, actor=actor, kind="task.closed", subjects=closing, data={"reason": reason})

    state.writer.run(operation)


def write_events(
    state: State, transaction: Transaction, *, actor: str, kind: str, subjects: Sequence[str], data: dict[str, Any] | None
) -> list[Event]:
    """The same event about each subject, and what it means for the mirrors in memory."""
    now = state.clock()
    seqs = state.counters.take(transaction, "events", len(subjects))
    events = [
        Event(id=new_id(), seq=seq, at=now, actor=actor, kind=kind, subject=subject, data=data or {})
        for seq, subject in zip(seqs, subjects, strict=True)
    ]
    for event in events:
        transaction.undo(state.accounts.apply(kind, event.subject))
        if kind == "campaign.changed":
            _apply_campaign(state, transaction, event.data)
        if kind == "task.answer":
            _apply_answer(state, transaction, event)
        if kind == "task.closed" and event.subject in state.book.tasks:
            transaction.undo(state.book.close([event.subject]))
    transaction.insert("events", [to_row(event) for event in events])
    return events


def set_campaign(state: State, campaign: Campaign, *, actor: str) -> None:
    """Keep the record as the current one; nothing is written if it is that already."""

    def operation(transaction: Transaction) -> None:
        if campaign != state.campaign:
            values = campaign_values(campaign)
            write_events(state, transaction, actor=actor, kind="campaign.changed", subjects=["campaign"], data=values)

    state.writer.run(operation)


def _apply_campaign(state: State, transaction: Transaction, data: dict[str, Any]) -> None:
    before = state.campaign
    transaction.undo(lambda: setattr(state, "campaign", before))
    state.campaign = build_campaign(data)


def _apply_answer(state: State, transaction: Transaction, event: Event) -> None:
    answers, before = state.training.answers, state.training.answers.get(event.subject)
    transaction.undo(lambda: answers.pop(event.subject) if before is None else answers.update({event.subject: before}))
    answers[event.subject] = KnownAnswer(**event.data)


def add_in(state: State, transaction: Transaction, records: list[Any]) -> int:
    """Records of one kind, those that are new; their number."""
    kind = type(records[0])
    table = TABLE_OF[kind]
    new = new_only(transaction, table, records)
    if not new:
        return 0
    for names, referred in REFERENCES.get(kind, ()):
        check_exist(transaction, referred, {i for record in new for name in names for i in ids_of(getattr(record, name))})
    if kind in UNIQUE:
        check_unique(transaction, table, new, *UNIQUE[kind])
    seqs = state.counters.take(transaction, table, len(new))
    transaction.insert(table, [to_row(record, seq=seq) for record, seq in zip(new, seqs, strict=True)])
    if kind is Task:
        books = [_task_book(task, seq) for task, seq in zip(new, seqs, strict=True)]
        transaction.undo(state.book.add(books))
    elif kind in (Annotator, User, Token, Credential):
        for account in new:
            transaction.undo(state.accounts.add(account))
    return len(new)


def _add_judgments(state: State, transaction: Transaction, judgments: Sequence[Judgment]) -> int:
    new = new_only(transaction, "judgments", judgments)
    state.book.tasks.need(judgment.task_id for judgment in new)
    missing = [j for j in new if j.task_id not in state.book.tasks or j.annotator_id not in state.accounts.annotators]
    if missing:
        raise ValueError(f"judgment {missing[0].id}: its task or annotator was not added before")
    check_exist(transaction, "responses", {i for j in new for i in (j.response_a_id, j.response_b_id)})
    rows = []
    for judgment, seq in zip(new, state.counters.take(transaction, "judgments", len(new)), strict=True):
        revision = state.book.tasks[judgment.task_id].num_made.get(judgment.annotator_id, 0)
        skipped = judgment.verdict == "skip"
        transaction.undo(state.book.fill(judgment.task_id, judgment.annotator_id, skipped=skipped))
        rows.append(to_row(judgment, seq=seq, revision=revision))
    transaction.insert("judgments", rows)
    return len(rows)


def new_only(transaction: Reads, table: str, records: Iterable[Any]) -> list[Any]:
    by_id: dict[str, Any] = {}
    for record in records:
        by_id.setdefault(record.id, record)
    known = transaction.rows(f"SELECT id FROM {table} WHERE id IN (SELECT unnest(CAST($ids AS VARCHAR[])))", {"ids": list(by_id)})
    for row in known:
        del by_id[row["id"]]
    return list(by_id.values())


def check_exist(transaction: Reads, table: str, ids: set[str]) -> None:
    missing = f"""SELECT id FROM (SELECT unnest(CAST($ids AS VARCHAR[])) AS id) AS wanted
                  WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {table}.id = wanted.id) ORDER BY id LIMIT 3"""
    rows = transaction.rows(missing, {"ids": list(ids)})
    if rows:
        raise ValueError(f"unknown {table}: {[row['id'] for row in rows]}; add them before what refers to them")


def ids_of(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def check_unique(transaction: Reads, table: str, records: list[Any], name: str, words: str) -> None:
    values = [getattr(record, name) for record in records]
    taken = transaction.rows(f"SELECT {name} FROM {table} WHERE {name} IN (SELECT unnest($values))", {"values": values})
    repeated = [value for value in values if values.count(value) > 1]
    for value in [row[name] for row in taken] + repeated:
        raise UserError(f"{words} {value!r} is already taken. Use another one.")


def _task_book(task: Task, seq: int) -> TaskBook:
    return TaskBook(
        id=task.id,
        order=seq,
        prompt_id=task.prompt_id,
        response_1_id=task.response_1_id,
        response_2_id=task.response_2_id,
        more_response_ids=task.more_response_ids,
        purpose=task.purpose,
        priority=task.priority,
        slots=[None] * task.wanted,
        reserved=task.wanted == 0,
    )
