"""Any order of leases, answers, retries, second thoughts, lapsed times and crashes, against a model of a few dictionaries.

The model knows slots only as counts, except which lease lost its slot to which: that is read from the leases table.
"""

import random
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from storage.doctor import examine
from storage.duckdb_store import open_store
from storage.postgres_store import open_postgres
from storage.records import Annotator, JudgmentInput
from tests.storage.builders import START, Clock, make_policy, make_prompt, make_response, make_task

LEASE_SECONDS = 600
ANNOTATORS = ["ann0", "ann1", "ann2"]
VERDICTS = ["a", "b", "tie", "both_bad", "skip"]


@dataclass
class HeldLease:
    id: str
    task: str
    annotator: str
    slot: int
    expires_at: object
    supersedes: str | None = None


@dataclass
class Made:
    id: str
    task: str
    annotator: str
    verdict: str
    rationale: str | None
    slot: int
    withdrawn: bool = False
    supersedes: str | None = None


class DuckDBEngine:
    """Crashes leave the files as they are; without the write-ahead log the journal has to tell everything but renewals."""

    def __init__(self, folder, clock):
        self.folder, self.clock, self.count = folder, clock, 0

    def open(self):
        return open_store(
            self.folder / str(self.count) / "db", clock=self.clock, rng=random.Random(0), lease_seconds=LEASE_SECONDS
        )

    def crash(self, store, *, lose_log):
        before = self.folder / str(self.count)
        self.count += 1
        after = self.folder / str(self.count)
        after.mkdir()
        for path in before.glob("db*"):
            if not (lose_log and path.suffix == ".wal") and path.suffix != ".owner":
                shutil.copyfile(path, after / path.name)
        store.close()
        shutil.rmtree(before)
        return self.open()

    def check_files(self):
        assert [check for check in examine(self.folder / str(self.count) / "db") if not check.ok] == []


class PostgresEngine:
    def __init__(self, folder, clock, server):
        self.folder, self.clock, self.place = folder, clock, server.new_database()

    def open(self):
        return open_postgres(self.place, clock=self.clock, rng=random.Random(0), lease_seconds=LEASE_SECONDS, folder=self.folder)

    def crash(self, store, *, lose_log):
        fresh = self.open()  # another process, before the one that is gone could tidy up
        store.close()
        return fresh

    def check_files(self):
        pass


class Labelling(RuleBasedStateMachine):
    """``new_engine`` is set by the test."""

    new_engine: staticmethod
    leases, judgments = Bundle("leases"), Bundle("judgments")

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.engine = self.new_engine(self.clock)
        self.store = self.engine.open()
        self.tasks: dict[str, tuple[int, float]] = {}  # wanted, priority
        self.closed: set[str] = set()
        self.held: dict[str, HeldLease] = {}  # keep their slot, lapsed or not
        self.lost: dict[str, HeldLease] = {}  # somebody else has the slot
        self.made: dict[str, Made] = {}
        self.renewed = False

    @initialize()
    def people_and_two_tasks(self):
        self.store.add_policy(make_policy())
        for name in ANNOTATORS:
            self.store.add_annotator(Annotator(id=name, handle=name, kind="human", created_at=START))
        for wanted in (1, 2):
            self.add_task(wanted, 0.0)

    @rule(wanted=st.integers(1, 3), priority=st.sampled_from([0.0, 1.0]))
    def add_task(self, wanted, priority):
        k = len(self.tasks)
        self.store.add_prompts([make_prompt(f"q{k}")])
        self.store.add_responses([make_response(f"q{k}-{i}", f"q{k}") for i in (1, 2)])
        self.store.add_tasks([make_task(f"t{k}", f"q{k}", f"q{k}-1", f"q{k}-2", wanted=wanted, priority=priority)])
        self.tasks[f"t{k}"] = (wanted, priority)

    @rule(target=leases, annotator=st.sampled_from(ANNOTATORS), count=st.integers(1, 3))
    def lease(self, annotator, count):
        pairs = self.store.lease(annotator, count)
        for pair in pairs:
            best = self.eligible(annotator)[0]
            assert self.tasks[pair.task_id][1] == self.tasks[best][1] and pair.task_id in self.eligible(annotator)
            assert pair.expires_at == self.clock() + timedelta(seconds=LEASE_SECONDS)
            self.hold(pair, annotator)
        if len(pairs) < count:
            assert self.eligible(annotator) == []
        return multiple(*(pair.lease_id for pair in pairs))

    @rule(annotator=st.sampled_from(ANNOTATORS))
    def resume(self, annotator):
        """After a reload: what is held and not closed, in any number."""
        mine = {x.id for x in self.live(annotator) if x.supersedes or x.task not in self.closed}
        if mine:
            again = self.store.lease(annotator, len(mine), resume=True)
            assert {pair.lease_id for pair in again} == mine

    @rule(lease=leases, verdict=st.sampled_from(VERDICTS), rationale=st.sampled_from([None, "so"]), target=judgments)
    def submit(self, lease, verdict, rationale):
        known = self.held.get(lease) or self.lost.get(lease) or self.made[lease]
        answer = JudgmentInput(lease_id=lease, verdict=verdict, rationale=rationale, reasons=("why",) * (verdict == "skip"))
        result = self.store.submit(answer, annotator_id=known.annotator)
        if lease in self.held:
            assert result.status == "stored"
            gone = self.held.pop(lease)
            self.made[lease] = Made(lease, gone.task, gone.annotator, verdict, rationale, gone.slot, supersedes=gone.supersedes)
        elif lease in self.made:
            same = (self.made[lease].verdict, self.made[lease].rationale) == (verdict, rationale)
            assert result.status == ("duplicate" if same else "conflict")
        else:
            assert result.status == "expired"
        return multiple(*([lease] if lease in self.made else []))

    @rule(lease=leases)
    def submit_as_somebody_else(self, lease):
        owner = (self.held.get(lease) or self.lost.get(lease) or self.made[lease]).annotator
        other = next(name for name in ANNOTATORS if name != owner)
        assert self.store.submit(JudgmentInput(lease_id=lease, verdict="a"), annotator_id=other).status == "unknown"

    @rule(annotator=st.sampled_from(ANNOTATORS))
    def renew(self, annotator):
        mine = {x.id for x in self.held.values() if x.annotator == annotator}
        asked = [x.id for x in [*self.held.values(), *self.lost.values()]]
        assert set(self.store.renew(asked, annotator)) == mine
        for lease_id in mine:
            self.held[lease_id].expires_at = self.clock() + timedelta(seconds=LEASE_SECONDS)
        self.renewed |= bool(mine)

    @rule(judgment=judgments, target=leases)
    def withdraw(self, judgment):
        made = self.made[judgment]
        before = self.waiting_for(judgment)
        free = self.has_place(made.task)
        pair = self.store.withdraw(judgment, annotator_id=made.annotator)
        if made.withdrawn:
            assert (pair and pair.lease_id) == (before and before.id)
        elif made.verdict == "skip" and not free:
            assert pair is None
        else:
            assert pair is not None and pair.supersedes == judgment
            made.withdrawn = True
            self.hold(pair, made.annotator)
            return pair.lease_id
        return multiple()

    @rule(judgment=judgments, verdict=st.sampled_from(["a", "b"]), target=judgments)
    def correct(self, judgment, verdict):
        made = self.made[judgment]
        later = next((x for x in self.made.values() if x.supersedes == judgment), None)
        free = self.has_place(made.task)
        answer = JudgmentInput(lease_id=judgment, verdict=verdict)
        result = self.store.correct(answer, annotator_id=made.annotator)
        if made.withdrawn:
            same = later is not None and (later.verdict, later.rationale) == (verdict, None)
            assert result.status == ("duplicate" if same else "unknown")
        elif made.verdict == "skip" and not free:
            assert result.status == "unknown"
        else:
            assert result.status == "stored" and result.judgment.supersedes == judgment
            made.withdrawn = True
            slot = self.slot_of(result.judgment.id)
            self.take(made.task, slot)
            new = Made(result.judgment.id, made.task, made.annotator, verdict, None, slot, supersedes=judgment)
            self.made[new.id] = new
            return new.id
        return multiple()

    @rule(seconds=st.sampled_from([1, LEASE_SECONDS // 2, LEASE_SECONDS, 3 * LEASE_SECONDS]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @precondition(lambda self: len(self.closed) + 1 < len(self.tasks))
    @rule(data=st.data())
    def close_a_task(self, data):
        task = data.draw(st.sampled_from(sorted(set(self.tasks) - self.closed)))
        self.store.close_tasks([task], actor="system", reason="test")
        self.closed.add(task)

    @rule(lose_log=st.booleans())
    def crash(self, lose_log):
        self.store = self.engine.crash(self.store, lose_log=lose_log and not self.renewed)

    @invariant()
    def what_stands_is_what_was_acknowledged(self):
        standing = {x.id: x.verdict for x in self.made.values() if not x.withdrawn}
        assert {x.id: x.verdict for x in self.store.list_judgments()} == standing

    @invariant()
    def open_tasks_are_those_that_lack_judgments(self):
        lacking = {t for t, (wanted, _) in self.tasks.items() if t not in self.closed and self.num_filled(t) < wanted}
        assert {task.id for task in self.store.open_tasks()} == lacking

    def teardown(self):
        rows = self.store.query("SELECT seq FROM judgments ORDER BY seq").to_pylist()
        assert [row["seq"] for row in rows] == list(range(1, len(self.made) + 1))  # none lost, none twice, no gap
        self.store.close()
        self.engine.check_files()

    # The model

    def hold(self, pair, annotator):
        slot = self.slot_of(pair.lease_id)
        self.take(pair.task_id, slot)
        self.held[pair.lease_id] = HeldLease(
            pair.lease_id, pair.task_id, annotator, slot, pair.expires_at, supersedes=pair.supersedes
        )

    def take(self, task, slot):
        """Whoever held the slot loses it; nobody may hold it still, or have filled it."""
        for other in [x for x in self.held.values() if (x.task, x.slot) == (task, slot)]:
            assert other.expires_at <= self.clock()
            self.lost[other.id] = self.held.pop(other.id)
        filled = [x for x in self.made.values() if (x.task, x.slot) == (task, slot) and self.fills(x)]
        assert filled == []

    def slot_of(self, lease_id):
        [row] = self.store.query("SELECT slot FROM leases WHERE id = $id", {"id": lease_id}).to_pylist()
        return row["slot"]

    def fills(self, made):
        return not made.withdrawn and made.verdict != "skip"

    def num_filled(self, task):
        return sum(x.task == task and self.fills(x) for x in self.made.values())

    def live(self, annotator=None):
        return [x for x in self.held.values() if x.expires_at > self.clock() and annotator in (None, x.annotator)]

    def has_place(self, task):
        return self.num_filled(task) + sum(x.task == task for x in self.live()) < self.tasks[task][0]

    def waiting_for(self, judgment):
        return next((x for x in self.live() if x.supersedes == judgment), None)

    def eligible(self, annotator):
        """Tasks with a place for this annotator, best first."""
        busy = {x.task for x in self.live(annotator)}
        done = {x.task for x in self.made.values() if x.annotator == annotator and not x.withdrawn}
        tasks = [t for t in self.tasks if t not in self.closed | busy | done and self.has_place(t)]
        return sorted(tasks, key=lambda t: -self.tasks[t][1])


QUICK = {"max_examples": 6, "stateful_step_count": 25}
THOROUGH = {"max_examples": 400, "stateful_step_count": 60}


@pytest.mark.parametrize("effort", [QUICK, pytest.param(THOROUGH, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("engine", ["duckdb", "postgres"])
def test_any_order_of_events_agrees_with_the_model(request, tmp_path_factory, engine, effort):
    def new_engine(clock):
        folder = Path(tmp_path_factory.mktemp("state"))
        if engine == "duckdb":
            return DuckDBEngine(folder, clock)
        return PostgresEngine(folder, clock, request.getfixturevalue("postgres_server"))

    machine = type("OneEngine", (Labelling,), {"new_engine": staticmethod(new_engine)})
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(machine, settings=settings(deadline=None, suppress_health_check=slow, **effort))
