"""Leases in PostgreSQL: any order of events by the rules of test_leases.py, and several replicas at once."""

import random
import threading
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant

from storage.campaign import Campaign
from storage.postgres_places import rebuild
from storage.postgres_store import open_postgres
from storage.records import JudgmentInput
from tests.storage.builders import fill, judge, make_prompt, make_response, make_task
from tests.storage.test_leases import LEASE_SECONDS, Labelling

PLACES = (
    "SELECT task_id, slot, gold, lease_id, annotator_id, free_at::text FROM slots ORDER BY task_id, slot",
    "SELECT task_id, priority, purpose, reserved, closed, free_at::text FROM queue ORDER BY task_id",
    "SELECT * FROM answered ORDER BY task_id, annotator_id",
)


def places(store):
    return store._state.server.run(lambda transaction: [transaction.rows(sql) for sql in PLACES], snapshot=True)


def rebuilt(store):
    """The places as the records tell them; nothing stays of the rebuilding."""

    class Undo(Exception):
        pass

    found = []

    def operation(transaction):
        rebuild(transaction)
        found.extend(transaction.rows(sql) for sql in PLACES)
        raise Undo

    with pytest.raises(Undo):
        store._state.server.run(operation)
    return found


class PostgresLabelling(Labelling):
    server = None

    def open(self):
        url = self.server.new_database()
        return open_postgres(url, clock=self.clock, rng=random.Random(0), lease_seconds=LEASE_SECONDS)

    @invariant()
    def the_tables_tell_the_same_book(self):
        if not hasattr(self, "store"):
            return
        assert rebuilt(self.store) == places(self.store)


PostgresLabelling.TestCase.settings = settings(
    max_examples=8, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def test_labelling_in_any_order(postgres_server):
    PostgresLabelling.server = postgres_server
    PostgresLabelling.TestCase("runTest").runTest()


@pytest.fixture
def replicas(postgres_server, tmp_path):
    """Three stores on one database, as three apps would have."""
    url = postgres_server.new_database()
    stores = [open_postgres(url, folder=tmp_path, rng=random.Random(k)) for k in range(3)]
    yield stores
    for store in stores:
        store.close()


def test_three_replicas_give_every_task_exactly_as_often_as_wanted_and_readers_skip_nothing(replicas):
    fill(replicas[0], num_tasks=40, num_annotators=6, wanted=3)
    failures, seen, stop = [], [], threading.Event()

    def work(k):
        store = replicas[k % 2]
        try:
            while pairs := store.lease(f"ann{k}", 2):
                for pair in pairs:
                    verdict = "skip" if pair.lease_id.endswith("0") else "a"
                    result = store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=verdict), annotator_id=f"ann{k}")
                    assert result.status == "stored"
        except Exception as error:
            failures.append(error)

    def read():
        """A reader of the third replica goes on after the last seq it has seen, as exports and learners do."""
        while not stop.is_set():
            after = seen[-1] if seen else 0
            found = replicas[2].query("SELECT seq FROM judgments WHERE seq > $after ORDER BY seq", {"after": after})
            seen.extend(found["seq"].to_pylist())

    reader = threading.Thread(target=read)
    workers = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in (reader, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    reader.join()
    for k in range(6):  # places that a skip freed after somebody had found nothing and gone
        work(k)
    assert not failures
    made = replicas[2].list_judgments()
    assert seen == list(range(1, len(seen) + 1))  # read while it grew: no number was passed over, none came twice
    assert [judgment.seq for judgment in reversed(made)] == list(range(1, len(made) + 1))
    filled = Counter(judgment.task_id for judgment in made if judgment.verdict != "skip")
    assert max(filled.values()) <= 3
    # Six people, three judgments wanted: a task that is left over was skipped by everybody it could still be given to.
    answered = Counter(judgment.task_id for judgment in made)
    assert all(filled[f"t{i}"] == 3 or answered[f"t{i}"] == 6 for i in range(40))
    assert rebuilt(replicas[0]) == places(replicas[0])


def test_a_number_taken_but_not_committed_holds_back_those_that_follow(replicas):
    fill(replicas[0], num_tasks=2)
    [slow], [fast] = replicas[0].lease("ann0", 1), replicas[1].lease("ann1", 1)
    taken, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def hold(transaction):
        transaction.take("judgments")
        taken.set()
        assert go_on.wait(10)
        raise KeyError("it fails after all")

    def fail():
        with pytest.raises(KeyError):
            replicas[0]._state.server.run(hold)

    def follow():
        replicas[1].submit(JudgmentInput(lease_id=fast.lease_id, verdict="a"), annotator_id="ann1")
        done.set()

    threads = [threading.Thread(target=fail), threading.Thread(target=follow)]
    threads[0].start()
    assert taken.wait(10)
    threads[1].start()
    assert not done.wait(0.3)
    assert replicas[2].count_judgments() == 0
    go_on.set()
    for thread in threads:
        thread.join()
    replicas[0].submit(JudgmentInput(lease_id=slow.lease_id, verdict="b"), annotator_id="ann0")
    assert [(j.seq, j.verdict) for j in replicas[2].list_judgments()] == [(2, "b"), (1, "a")]  # no gap where it failed


def test_the_budget_holds_whichever_replica_is_asked(replicas):
    fill(replicas[0], num_tasks=60, num_annotators=6)
    replicas[0].set_campaign(Campaign(budget_labels=20), actor="rosa")
    given = []

    def work(k):
        while pairs := replicas[k % 3].lease(f"ann{k}", 3):
            given.extend(pairs)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 20
    assert all(store.budget_spent() for store in replicas)


def test_what_one_replica_is_told_the_others_know_at_once(replicas):
    first, second, third = replicas
    fill(first, num_tasks=3)
    made = judge(second, "ann0")
    assert third.get_judgment(made) is not None
    assert third.withdraw(made, annotator_id="ann0") is not None
    assert first.count_judgments() == 0
    second.close_tasks(["t1", "t2"], actor="system", reason="test")
    assert first.lease("ann1", 1) == []
    assert first.version() == second.version() == third.version()


def test_a_live_pair_is_its_authors_alone_on_every_replica(replicas):
    first, second, _ = replicas
    fill(first, num_tasks=1)
    prompt, responses = make_prompt("mine", split="live"), [make_response(f"mine-{k}", "mine", role="live") for k in (1, 2)]
    task = make_task("live", "mine", "mine-1", "mine-2", wanted=0, priority=9.0)
    pair = first.add_live_pair(prompt, responses, task, annotator_id="ann0")
    assert pair is not None and (pair.response_a_id, pair.response_b) == ("mine-1", "Answer mine-2.")
    assert second.add_live_pair(prompt, responses, task, annotator_id="ann0") == pair  # a retry
    assert [p.task_id for p in second.lease("ann1", 5)] == ["t0"]
    assert second.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a"), annotator_id="ann0").status == "stored"
    assert first.add_live_pair(prompt, responses, task, annotator_id="ann0") is None
    assert rebuilt(first) == places(first)
