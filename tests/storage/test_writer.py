"""The writer: groups, neighbours, what happens when a commit fails."""

import threading

import duckdb
import pytest

from storage.database import IN_MEMORY, Database
from storage.errors import UserError
from storage.writer import Transaction, Writer


@pytest.fixture
def database():
    database = Database(IN_MEMORY)
    yield database
    database.close()


def event_row(name):
    return [name, 1, "2026-01-01T00:00:00Z", "actor", "kind", "subject", "{}"]


def event_ids(database):
    return [row["id"] for row in database.rows("SELECT id FROM events ORDER BY id")]


def run_together(writer, operations):
    """Run operations in one group: the first waits until all are in the queue."""
    outcomes = [None] * len(operations)
    queued = threading.Event()

    def hold(transaction):
        queued.wait(10)

    def run(i, operation):
        try:
            outcomes[i] = writer.run(operation)
        except Exception as error:
            outcomes[i] = error

    threads = [threading.Thread(target=writer.run, args=(hold,))]
    threads[0].start()
    while writer.waiting():
        pass
    for i, operation in enumerate(operations):
        threads.append(threading.Thread(target=run, args=(i, operation)))
        threads[-1].start()
        while writer.waiting() <= i:
            pass
    queued.set()
    for thread in threads:
        thread.join()
    return outcomes


def insert(name):
    def operation(transaction: Transaction):
        transaction.insert("events", [event_row(name)])
        return name

    return operation


def test_an_operation_that_raises_leaves_its_neighbours_alone(database):
    writer = Writer(database)

    def fail(transaction):
        transaction.insert("events", [event_row("never")])
        raise UserError("no")

    outcomes = run_together(writer, [insert("before"), fail, insert("after")])
    assert [outcomes[0], outcomes[2]] == ["before", "after"]
    assert str(outcomes[1]) == "no"
    assert event_ids(database) == ["after", "before"]
    writer.close()


def test_a_row_that_the_engine_refuses_leaves_its_neighbours_alone(database):
    writer = Writer(database)
    undone = []

    def twice(transaction):
        transaction.undo(lambda: undone.append("twice"))
        transaction.insert("events", [event_row("same"), event_row("same")])

    outcomes = run_together(writer, [insert("before"), twice, insert("after")])
    assert [outcomes[0], outcomes[2]] == ["before", "after"]
    assert isinstance(outcomes[1], duckdb.ConstraintException)
    assert event_ids(database) == ["after", "before"]
    assert undone == ["twice", "twice"]  # with the group, and alone
    writer.close()


def test_an_operation_that_fails_after_flushing_leaves_its_neighbours_alone(database):
    writer = Writer(database)

    def look_then_fail(transaction):
        transaction.insert("events", [event_row("flushed")])
        assert len(transaction.rows("SELECT id FROM events WHERE id = 'flushed'")) == 1
        raise UserError("no")

    outcomes = run_together(writer, [insert("before"), look_then_fail, insert("after")])
    assert [outcomes[0], outcomes[2]] == ["before", "after"]
    assert event_ids(database) == ["after", "before"]
    writer.close()


def test_a_fatal_engine_error_stops_acknowledging(database):
    writer = Writer(database)

    def break_down(transaction):
        raise duckdb.FatalException("the engine is gone")

    with pytest.raises(UserError, match="the engine is gone"):
        writer.run(break_down)
    assert not writer.alive()
    with pytest.raises(UserError, match="restart nashloop"):
        writer.run(insert("late"))
    assert event_ids(database) == []
    writer.close()


def test_closing_writes_what_waits_and_refuses_what_comes_later(database):
    writer = Writer(database)
    writer.run(insert("first"))
    writer.close()
    with pytest.raises(UserError, match="closed"):
        writer.run(insert("second"))
    assert event_ids(database) == ["first"]
