"""Leases under any order of events: no double assignment, k of n, and the book in memory equals the one from the tables."""

import random
import threading
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage.duckdb_store import open_store
from storage.lease_tables import load_lease_book
from storage.leases import FILLED, Lease, LeaseBook, TaskBook
from storage.records import JudgmentInput
from tests.storage.builders import START, Clock, fill, judge

LEASE_SECONDS = 100
ANNOTATORS = ["ann0", "ann1", "ann2"]
people = st.sampled_from(ANNOTATORS)


class Labelling(RuleBasedStateMachine):
    """A model of its own: open leases by id, and for each task who has judged or skipped it."""

    @initialize(num_tasks=st.integers(1, 4), wanted=st.integers(1, 2))
    def start(self, num_tasks, wanted):
        self.clock, self.wanted = Clock(), wanted
        self.store = self.open()
        self.tasks = [f"t{i}" for i in range(num_tasks)]
        fill(self.store, num_tasks=num_tasks, num_annotators=3, wanted=wanted)
        self.given = {}  # lease id -> (pair, expires_at), unanswered
        self.judged = {}  # judgment id -> (task, annotator, verdict), standing
        self.closed = set()

    def open(self):
        return open_store(clock=self.clock, rng=random.Random(0), lease_seconds=LEASE_SECONDS)

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()

    def held(self, task_id):
        return [p for p, until in self.given.values() if p.task_id == task_id and until > self.clock()]

    def done_by(self, task_id):
        return [annotator for task, annotator, _ in self.judged.values() if task == task_id]

    @rule(annotator=people, count=st.integers(1, 3), resume=st.booleans())
    def lease(self, annotator, count, resume):
        mine = [i for i, (p, until) in self.given.items() if p.annotator_id == annotator and until > self.clock()]
        pairs = self.store.lease(annotator, count, resume=resume)
        open_still = [i for i in mine if self.given[i][0].supersedes or self.given[i][0].task_id not in self.closed]
        again = open_still[:count] if resume else []
        assert [p.lease_id for p in pairs[: len(again)]] == again
        for pair in pairs[len(again) :]:
            assert pair.lease_id not in self.given
            assert pair.task_id not in self.closed
            assert annotator not in self.done_by(pair.task_id)
            assert annotator not in [p.annotator_id for p in self.held(pair.task_id)]
            self.given[pair.lease_id] = (pair, pair.expires_at)
        if len(pairs) < count:  # nothing may be left for them
            for task in self.store.open_tasks():
                holders = [p.annotator_id for p in self.held(task.id)]
                filled = [a for t, a, verdict in self.judged.values() if t == task.id and verdict != "skip"]
                nothing = len(filled) + len(holders) >= self.wanted
                assert nothing or annotator in holders or annotator in self.done_by(task.id)

    @precondition(lambda self: self.given)
    @rule(data=st.data(), verdict=st.sampled_from(["a", "tie", "skip"]))
    def submit(self, data, verdict):
        lease_id = data.draw(st.sampled_from(list(self.given)))  # in order of issue: ids differ from run to run
        pair, until = self.given[lease_id]
        answer = JudgmentInput(lease_id=lease_id, verdict=verdict)
        result = self.store.submit(answer, annotator_id=pair.annotator_id)
        assert result.status == "stored" or until <= self.clock()
        assert result.status in ("stored", "expired")
        del self.given[lease_id]
        if result.status == "stored":
            self.judged[lease_id] = (pair.task_id, pair.annotator_id, verdict)
            assert self.store.submit(answer, annotator_id=pair.annotator_id).status == "duplicate"

    @precondition(lambda self: self.judged)
    @rule(data=st.data())
    def withdraw(self, data):
        judgment_id = data.draw(st.sampled_from(list(self.judged)))
        task_id, annotator, verdict = self.judged[judgment_id]
        pair = self.store.withdraw(judgment_id, annotator_id=annotator)
        assert pair is not None or verdict == "skip"
        if pair is not None:
            assert (pair.task_id, pair.supersedes) == (task_id, judgment_id)
            del self.judged[judgment_id]
            self.given[pair.lease_id] = (pair, pair.expires_at)

    @precondition(lambda self: self.judged)
    @rule(data=st.data(), verdict=st.sampled_from(["b", "skip"]))
    def correct(self, data, verdict):
        judgment_id = data.draw(st.sampled_from(list(self.judged)))
        task_id, annotator, before = self.judged[judgment_id]
        answer = JudgmentInput(lease_id=judgment_id, verdict=verdict)
        result = self.store.correct(answer, annotator_id=annotator)
        assert result.status == "stored" or (result.status, before) == ("unknown", "skip")  # its place was given away
        if result.status == "stored":
            del self.judged[judgment_id]
            self.judged[result.judgment.id] = (task_id, annotator, verdict)
            again = self.store.correct(answer, annotator_id=annotator)
            assert (again.status, again.judgment) == ("duplicate", result.judgment)

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def renew(self, data):
        lease_id = data.draw(st.sampled_from(list(self.given)))
        pair, until = self.given[lease_id]
        kept = self.store.renew([lease_id], pair.annotator_id)
        assert kept == [lease_id] or until <= self.clock()
        if kept:
            self.given[lease_id] = (pair, self.clock() + timedelta(seconds=LEASE_SECONDS))

    @rule(seconds=st.sampled_from([1, 60, 101]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(task=st.sampled_from(["t0", "t1"]))
    def close_task(self, task):
        if task in self.tasks:
            self.store.close_tasks([task], actor="system", reason="test")
            self.closed.add(task)

    @invariant()
    def never_more_than_wanted(self):
        if not hasattr(self, "store"):
            return
        filled = Counter(task for task, _, verdict in self.judged.values() if verdict != "skip")
        for task in self.tasks:
            people_on_it = [p.annotator_id for p in self.held(task)]
            assert len(people_on_it) == len(set(people_on_it))
            assert filled[task] + len(people_on_it) <= self.wanted

    @invariant()
    def the_tables_tell_the_same_book(self):
        if not hasattr(self, "store"):
            return
        live = self.store._state.book
        database = self.store._state.database
        with database.cursor() as cursor:
            read = load_lease_book(database, cursor)
        assert {task_id: read.tasks[task_id] for task_id in live.tasks} == live.tasks  # those that are settled on demand
        assert read.leases == live.leases
        assert read.num_labels == live.num_labels == sum(verdict != "skip" for *_, verdict in self.judged.values())


Labelling.TestCase.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
test_labelling_in_any_order = Labelling.TestCase


def make_book(*wanted):
    book = LeaseBook()
    book.add(
        TaskBook(id=f"t{i}", order=i, prompt_id="q", response_1_id="x", response_2_id="y", priority=0, slots=[None] * k)
        for i, k in enumerate(wanted)
    )
    return book


def make_lease(name, task_id, annotator, slot=0):
    return Lease(
        id=name, task_id=task_id, annotator_id=annotator, slot=slot, response_a_id="x", response_b_id="y", issued_at=START,
        expires_at=START + timedelta(seconds=10),
    )  # fmt: skip


def test_every_change_of_the_book_can_be_undone():
    book = make_book(2, 1)
    book.issue(make_lease("held", "t0", "ann0"))
    before = {task.id: (list(task.slots), dict(task.num_made), set(task.done)) for task in book.tasks.values()}
    changes = [
        lambda: book.issue(make_lease("new", "t0", "ann1", slot=1)),
        lambda: book.issue(make_lease("instead", "t0", "ann1", slot=0)),
        lambda: book.settle(book.leases["held"], skipped=False),
        lambda: book.settle(book.leases["held"], skipped=True),
        lambda: book.renew(book.leases["held"], START + timedelta(seconds=99)),
        lambda: book.fill("t1", "ann1", skipped=False),
        lambda: book.close(["t1"]),
    ]
    for change in changes:
        change()()
        after = {task.id: (list(task.slots), dict(task.num_made), set(task.done)) for task in book.tasks.values()}
        assert after == before
        assert book.leases == {"held": make_lease("held", "t0", "ann0")}
        assert book.next_task("ann1", START) is not None
        assert book.held("ann0", START) == [make_lease("held", "t0", "ann0")]


def test_a_filled_task_is_offered_to_nobody():
    book = make_book(1)
    book.fill("t0", "somebody", skipped=False)
    assert book.tasks["t0"].slots == [FILLED]
    assert book.next_task("ann0", START) is None


def test_eight_threads_get_every_task_exactly_as_often_as_wanted():
    store = open_store()
    fill(store, num_tasks=60, num_annotators=8, wanted=3)
    made = []

    def work(annotator):
        while pairs := store.lease(annotator, 2):
            for pair in pairs:
                result = store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a"), annotator_id=annotator)
                assert result.status == "stored"
                made.append((pair.task_id, annotator))

    threads = [threading.Thread(target=work, args=(f"ann{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(set(made)) == 180
    assert Counter(task for task, _ in made) == {f"t{i}": 3 for i in range(60)}
    assert store.count_judgments() == 180
    store.close()


def test_a_settled_task_is_fetched_once_and_only_when_asked_for():
    book, asked = LeaseBook(), []

    def fetch(task_ids):
        asked.append(task_ids)
        return make_book(1, 1).tasks.values() if "t1" in task_ids else ()

    book.tasks.fetch = fetch
    assert "unknown" not in book.tasks
    book.tasks.need(["t1", "t1"])
    assert book.tasks["t1"] is book.tasks["t1"] and "t1" in book.tasks
    assert asked == [["unknown"], ["t1"]]
    with pytest.raises(KeyError):
        book.tasks["unknown"]


def test_after_a_restart_a_settled_task_can_still_be_taken_back_closed_and_imported_to(tmp_path):
    store = open_store(tmp_path / "db")
    fill(store, num_tasks=3)
    first, second = judge(store, "ann0"), judge(store, "ann0")
    store.close()
    store = open_store(tmp_path / "db")
    assert set(dict.keys(store._state.book.tasks)) == {"t2"}  # the other two are settled
    again = store.withdraw(first, annotator_id="ann0")
    assert again is not None and again.task_id == "t0"
    store.close_tasks(["t1", "t2"], actor="test", reason="test")
    late = replace(store.get_judgment(second), id="late", annotator_id="ann1")
    assert store.add_imported_judgments([late]) == 1
    assert [task.id for task in store.open_tasks()] == ["t0"]
    assert store.lease("ann2", 3) == []
    store.close()
