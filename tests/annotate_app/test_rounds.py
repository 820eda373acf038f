"""RoundService over a real store, with a real child process that obeys the directory contract (small_learner.py)."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from annotate_app.candidates import register_artifact
from annotate_app.labelling_queue import QueueOptions
from annotate_app.launcher import JobRunning, process_token
from annotate_app.rounds import RoundService
from storage.contract.jobs import artifact_dir, work_dir
from storage.contract.settings import build_settings
from storage.duckdb_store import open_store
from storage.errors import UserError
from storage.ids import new_id
from storage.records import Annotator, JudgmentInput, Message, Prompt

SMALL_LEARNER = Path(__file__).with_name("small_learner.py")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NUM_TRAIN = 10
FEW = build_settings({"preference": {"min_judgments": 5}, "update": {"rule": "onpo_ref"}})


APP = """
import sys, time
from pathlib import Path
from annotate_app.rounds import RoundService
from storage.contract.settings import JobSettings
from storage.duckdb_store import open_store

data = Path(sys.argv[2])
command = [sys.executable, sys.argv[1], "slow"]
rounds = RoundService(open_store(data / "nashloop.duckdb"), data, command=command)
rounds.ensure_started()
rounds.start(JobSettings(kind="evaluate"), actor="tester")
print("started", flush=True)
time.sleep(60)
"""


def build_service(store, data_dir: Path, mode: str = "ok", **options) -> RoundService:
    command = [sys.executable, str(SMALL_LEARNER), mode]
    return RoundService(store, data_dir, **{"model": "someone/small-model", "command": command, **options})


def fresh_store(data_dir: Path):
    store = open_store(data_dir / "nashloop.duckdb")
    store.add_prompts(
        [
            Prompt(
                id=f"prompt-{n:02d}",
                messages=(Message(role="user", content=f"Question {n}?"),),
                split="train" if n < NUM_TRAIN else "heldout",
                source="test",
                created_at=NOW,
            )
            for n in range(NUM_TRAIN + 2)
        ]
    )
    return store


@pytest.fixture(scope="module")
def started_data(tmp_path_factory):
    """A data directory after its first start: base policy, candidates, queue."""
    data = tmp_path_factory.mktemp("started") / "data"
    store = fresh_store(data)
    rounds = build_service(store, data)
    rounds.ensure_started()
    assert rounds.wait(1, 30).status == "done"
    rounds.close()
    store.close()
    return data


@pytest.fixture(scope="module")
def finished_data(started_data, tmp_path_factory):
    """The same with eight labels and a round whose artifact was sealed after the app had died."""
    data = tmp_path_factory.mktemp("finished") / "data"
    shutil.copytree(started_data, data)
    store = open_store(data / "nashloop.duckdb")
    label(store, 8)
    rounds = build_service(store, data, "slow")
    started = rounds.start(FEW, actor="tester")
    rounds.close()
    let_it_finish_alone(data, started)
    store.close()
    return data


@pytest.fixture
def data(started_data, tmp_path):
    return Path(shutil.copytree(started_data, tmp_path / "data"))


@pytest.fixture
def store(data):
    store = open_store(data / "nashloop.duckdb")
    yield store
    store.close()


@pytest.fixture
def service(store, data):
    """Build services over one data directory, as successive runs of the app would."""
    made: list[RoundService] = []

    def build(mode: str = "ok", *, store=store, **options) -> RoundService:
        made.append(build_service(store, data, mode, **options))
        return made[-1]

    yield build
    for one in made:
        one.close(stop_jobs=True)


@pytest.fixture
def ready(service):
    rounds = service()
    rounds.ensure_started()
    return rounds


def go(data: Path, round_) -> None:
    """Let a job of mode slow go on."""
    (work_dir(data / round_.job_dir) / "go").touch()


def let_it_finish_alone(data: Path, round_) -> None:
    go(data, round_)
    facts = json.loads((work_dir(data / round_.job_dir) / "process.json").read_text())
    until(lambda: process_token(facts["pid"]) != facts["token"])
    assert (artifact_dir(data / round_.job_dir) / "manifest.json").exists()


def label(store, count: int, handle: str = "ann") -> int:
    annotator = store.get_annotator(handle)
    if annotator is None:
        annotator = Annotator(id=new_id(), handle=handle, kind="human", created_at=NOW)
        store.add_annotator(annotator)
    pairs = store.lease(annotator.id, count)
    for pair in pairs:
        store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a"), annotator_id=annotator.id)
    return len(pairs)


def serving(store) -> int:
    policy = store.serving_policy()
    assert policy is not None
    return policy.number


def run(rounds: RoundService, settings=FEW, **options):
    started = rounds.start(settings, actor="tester", **options)
    return rounds.wait(started.number, 30)


def test_a_fresh_directory_gets_a_base_policy_its_candidates_and_a_queue(ready, store):
    assert serving(store) == 0
    assert len(store.list_responses(role="candidate")) == NUM_TRAIN * 4
    tasks = sorted(store.open_tasks(), key=lambda task: -task.priority)
    assert len(tasks) == NUM_TRAIN * 6  # all pairs of four
    assert len({task.prompt_id for task in tasks[:NUM_TRAIN]}) == NUM_TRAIN  # one of each prompt before second ones
    left = range(NUM_TRAIN * 6, 0, -1)  # any pair that is left might have come next
    assert [task.selection_prob for task in tasks] == pytest.approx([1 / pairs for pairs in left])
    assert {task.selection_rule for task in tasks} == {"random"}
    assert store.list_rounds()[0].message == "40 responses, 60 pairs to label."


def test_starting_again_changes_nothing(ready, store, service):
    before = (len(store.list_rounds()), len(store.open_tasks()), len(store.list_policies()))
    ready.close()
    service().ensure_started()
    assert (len(store.list_rounds()), len(store.open_tasks()), len(store.list_policies())) == before


def test_a_round_that_passes_the_gate_serves_and_its_responses_are_labelled_next(ready, store):
    label(store, 8)
    done = run(ready)
    assert (done.number, done.status, done.kind) == (2, "done", "round")
    assert done.message == "Policy 1. Promoted: win rate against its parent 0.70 (0.60 to 0.80)."
    policy = store.serving_policy()
    assert (policy.id, policy.number, policy.parent_id) == (done.new_policy_id, 1, store.list_policies()[0].id)
    assert policy.auxiliary == {policy.id: 0.5, policy.parent_id: 0.5}
    assert policy.adapter_path is not None
    own = {response.id for response in store.list_responses(policy_id=policy.id)}
    tasks = store.open_tasks()
    pairs = {frozenset(task.shown_ids) for task in tasks}
    assert len(pairs) == NUM_TRAIN * 6 and set().union(*pairs) <= own
    assert {task.selection_rule for task in tasks} & {"d_optimal", "bald"}  # the round's model chose what comes first
    assert label(store, 1000) == len(tasks)  # nothing of the old policy is handed out any more


def test_the_next_round_starts_from_the_promoted_policy(ready, store):
    label(store, 8)
    run(ready)
    done = run(ready)
    assert done.parent_policy_id == store.list_policies()[1].id
    assert serving(store) == 2


@pytest.mark.parametrize(("mode", "status", "word"), [("unsure", "done", "Held"), ("worse", "done", "worse than its parent")])
def test_a_policy_that_is_not_clearly_better_is_not_promoted(ready, store, service, mode, status, word):
    label(store, 8)
    ready.close()
    done = run(service(mode))
    assert done.status == status
    assert word in done.message
    assert serving(store) == 0
    assert [policy.status for policy in store.list_policies()] == ["serving", "candidate"]


def test_a_round_that_leaves_a_limit_has_failed_and_needs_a_reason_to_serve(ready, store, service):
    label(store, 8)
    ready.close()
    rounds = service("limits")
    done = run(rounds)
    assert done.status == "failed"
    assert "KL to the parent is 9.1 nats" in done.message
    with pytest.raises(UserError, match="give a reason"):
        rounds.promote(done.new_policy_id, actor="tester")
    with pytest.raises(UserError, match="has finished"):
        rounds.resume(done.number, actor="tester")
    assert rounds.promote(done.new_policy_id, actor="tester", reason="we want to see it").status == "serving"


def test_promotion_by_hand_and_rollback_move_the_queue(ready, store):
    labelled = label(store, 8)
    done = run(ready, options={"promote": "manual"})
    assert "Waits for a researcher" in done.message
    assert serving(store) == 0
    ready.promote(done.new_policy_id, actor="tester")
    assert serving(store) == 1
    ready.promote(done.new_policy_id, actor="tester")  # again: no second event
    ready.rollback(actor="tester")
    assert serving(store) == 0
    promotions = store.list_events(kind_prefix="policy.promoted")
    assert [event.actor for event in promotions] == ["system", "tester", "tester"]
    assert len(store.open_tasks()) == NUM_TRAIN * 6 - labelled  # judged pairs are not asked again
    with pytest.raises(UserError, match="no earlier policy"):
        ready.rollback(actor="tester")


def test_a_result_is_held_when_another_policy_was_put_in_service_meanwhile(ready, store, service, data):
    label(store, 8)
    first = run(ready, options={"promote": "manual"})
    ready.close()
    rounds = service("slow")
    second = rounds.start(FEW, actor="tester")  # from policy 0
    rounds.promote(first.new_policy_id, actor="tester")
    go(data, second)
    assert rounds.wait(second.number, 30).message == "Held: policy 1 was put in service meanwhile. Promote it by hand."
    assert serving(store) == 1


def test_labelling_goes_on_while_a_job_runs_and_a_second_job_is_refused(ready, store, service, data):
    label(store, 8)
    ready.close()
    rounds = service("slow")
    started = rounds.start(FEW, actor="tester")
    with pytest.raises(JobRunning, match="0002-round"):
        rounds.start(FEW, actor="tester")
    assert label(store, 5) == 5
    go(data, started)
    assert rounds.wait(started.number, 30).status == "done"


def test_the_next_job_may_start_the_moment_the_last_one_is_done(ready, store):
    for seed in (1, 2):
        started = ready.start(build_settings({"kind": "generate", "seed": seed}), actor="tester")
        while store.get_round(started.number).status == "running":  # no pause: the launcher has not let go of it yet
            pass
        assert store.get_round(started.number).status == "done"


def test_progress_tells_stage_fraction_times_and_metrics(ready, store, service, data):
    label(store, 8)
    ready.close()
    rounds = service("slow")
    started = rounds.start(FEW, actor="tester")
    until(lambda: rounds.progress(started.number).stage is not None)
    progress = rounds.progress(started.number)
    assert (progress.status, progress.stage, progress.stage_index, progress.num_stages) == ("running", "labels", 1, 7)
    assert progress.fraction == pytest.approx(0.1)
    assert progress.elapsed_s > 0
    assert progress.metrics[0]["labels/num"] == 3.0
    go(data, started)
    rounds.wait(started.number, 30)
    ended = rounds.progress(started.number)
    assert (ended.status, ended.fraction, ended.remaining_s) == ("done", 1.0, None)
    assert [metric["stage"] for metric in ended.metrics] == ["labels", "seal"]
    assert rounds.report(started.number)["evaluation"]["win_rate_vs_parent"]["mean"] == 0.7


def test_a_job_that_dies_says_why_and_resumes(ready, store, service):
    label(store, 8)
    ready.close()
    rounds = service("crash")
    failed = run(rounds)
    assert failed.status == "failed"
    assert "exit code 1" in failed.message
    assert "the device caught fire" in failed.message
    assert "the device caught fire" in rounds.log_tail(failed.number)
    rounds.close()
    rounds = service("ok")
    rounds.resume(failed.number, actor="tester")
    assert rounds.wait(failed.number, 30).status == "done"
    assert serving(store) == 1


def test_the_learners_own_sentence_becomes_the_message(ready, store, service):
    label(store, 8)
    ready.close()
    assert run(service("refuse")).message == "prompt 7 has 900 tokens, the context is 256. Shorten it."


def test_a_cancelled_job_can_be_resumed(ready, store, service):
    label(store, 8)
    ready.close()
    rounds = service("slow")
    started = rounds.start(FEW, actor="tester")
    rounds.cancel(started.number, actor="tester")
    assert rounds.wait(started.number, 30).status == "cancelled"
    with pytest.raises(UserError, match="not running"):
        rounds.cancel(started.number, actor="tester")
    rounds.close()
    rounds = service("ok")
    rounds.resume(started.number, actor="tester")
    assert rounds.wait(started.number, 30).status == "done"


def test_a_job_that_outlived_the_app_is_followed_again(ready, store, service, data):
    label(store, 8)
    ready.close()
    first = service("slow")
    started = first.start(FEW, actor="tester")
    first.close()  # the app is gone, the job is not
    second = service("slow")
    second.ensure_started()
    assert store.get_round(started.number).status == "running"
    with pytest.raises(JobRunning):
        second.start(FEW, actor="tester")
    go(data, started)
    assert second.wait(started.number, 30).status == "done"
    assert serving(store) == 1


def test_a_job_that_finished_while_no_app_ran_is_registered_at_the_next_start(ready, store, service, data):
    label(store, 8)
    ready.close()
    first = service("slow")
    started = first.start(FEW, actor="tester")
    first.close()
    let_it_finish_alone(data, started)
    service().ensure_started()
    assert store.get_round(started.number).status == "done"
    assert serving(store) == 1


def test_kill_9_of_the_app_leaves_its_job_to_the_next_app(started_data, tmp_path):
    data = Path(shutil.copytree(started_data, tmp_path / "data"))
    app = subprocess.Popen([sys.executable, "-c", APP, str(SMALL_LEARNER), str(data)], stdout=subprocess.PIPE, text=True)
    assert app.stdout.readline() == "started\n"
    app.kill()
    app.wait()
    store = open_store(data / "nashloop.duckdb")  # the job holds nothing of the database
    rounds = build_service(store, data)
    rounds.ensure_started()
    started = store.list_rounds()[0]
    assert (started.number, started.status) == (2, "running")
    go(data, started)
    assert rounds.wait(2, 30).status == "done"
    rounds.close()
    store.close()


def test_a_job_that_died_with_the_app_is_interrupted_and_resumes(ready, store, service, data):
    label(store, 8)
    ready.close()
    first = service("slow")
    started = first.start(FEW, actor="tester")
    first.close(stop_jobs=True)
    rounds = service("ok")
    rounds.ensure_started()
    assert store.get_round(started.number).status == "interrupted"
    shutil.rmtree(data / "jobs")  # may be deleted at any time
    rounds.resume(started.number, actor="tester")
    assert rounds.wait(started.number, 30).status == "done"
    assert serving(store) == 1


def test_registering_an_artifact_twice_adds_nothing(ready, store, data):
    label(store, 8)
    done = run(ready)
    before = (len(store.list_policies()), len(store.list_responses()))
    again = register_artifact(store, data, done, now=NOW)
    assert again.num_responses == 0
    assert (len(store.list_policies()), len(store.list_responses())) == before


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs."""


class StoreThatDies:
    """A store that kills the app right before or right after its n-th write."""

    WRITES = ("add_policy", "add_responses", "add_tasks", "close_tasks", "append_event")

    def __init__(self, store, writes_left: int, *, after: bool) -> None:
        self._store, self._left, self._after = store, writes_left, after

    def __getattr__(self, name):
        method = getattr(self._store, name)
        return self._counted(method) if name in self.WRITES else method

    def _counted(self, method):
        def call(*args, **kwargs):
            self._left -= 1
            if self._left == 0 and not self._after:
                raise Killed
            result = method(*args, **kwargs)
            if self._left == 0:
                raise Killed
            return result

        return call


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(1, 7))
def test_kill_9_at_any_write_while_registering_is_made_up_for_at_the_next_start(finished_data, tmp_path, write, after):
    data = Path(shutil.copytree(finished_data, tmp_path / "data"))
    store = open_store(data / "nashloop.duckdb")
    with pytest.raises(Killed):  # six writes: policy, responses, promotion, closing, tasks, end of the round
        build_service(StoreThatDies(store, write, after=after), data).ensure_started()
    build_service(store, data).ensure_started()
    assert store.get_round(2).status == "done"
    assert [(policy.number, policy.status) for policy in store.list_policies()] == [(0, "retired"), (1, "serving")]
    assert len(store.list_responses(policy_id=store.get_round(2).new_policy_id, role="candidate")) == NUM_TRAIN * 4
    waiting = Counter(frozenset(task.shown_ids) for task in store.open_tasks() if task.purpose in ("label", "audit"))
    assert len(waiting) == NUM_TRAIN * 6 and set(waiting.values()) == {1}  # every pair once
    assert len(store.list_events(kind_prefix="policy.promoted")) == 2
    store.close()


def test_what_cannot_run_is_refused_with_a_sentence_and_leaves_nothing(ready, store, data):
    jobs = set((data / "jobs").iterdir())
    with pytest.raises(UserError, match="0 decided judgments; a round needs 5"):
        ready.start(FEW, actor="tester")
    label(store, 8)
    with pytest.raises(UserError, match=r"Unknown pair-selection rule 'best'.*near_tie"):
        ready.start(FEW, actor="tester", options={"selection": "best"})
    with pytest.raises(UserError, match="Unknown option colour"):
        ready.start(FEW, actor="tester", options={"colour": 1})
    with pytest.raises(UserError, match="promote = 'now'"):
        ready.start(FEW, actor="tester", options={"promote": "now"})
    with pytest.raises(UserError, match="no policy nobody"):
        ready.start(FEW, actor="tester", policy_id="nobody")
    with pytest.raises(UserError, match="no job 7"):
        ready.progress(7)
    assert len(store.list_rounds()) == 1
    assert set((data / "jobs").iterdir()) == jobs


def test_an_unknown_update_rule_is_refused_with_the_list_of_names(ready, store):
    label(store, 8)
    with pytest.raises(UserError, match=r"Unknown update rule 'sgd'.*onpo_ref"):
        ready.start(build_settings({"update": {"rule": "sgd"}}), actor="tester")


def test_a_vanished_model_directory_is_a_sentence(tmp_path):
    (tmp_path / "model").mkdir()
    store = fresh_store(tmp_path)
    rounds = build_service(store, tmp_path, model=str(tmp_path / "model"))
    rounds.ensure_started()
    rounds.wait(1, 30)
    (tmp_path / "model").rmdir()
    with pytest.raises(UserError, match="is not there any more"):
        rounds.start(FEW, actor="tester", kind="evaluate")
    rounds.close()
    store.close()


def test_a_full_disk_while_exporting_is_a_sentence(ready, store, monkeypatch):
    label(store, 8)

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("annotate_app.job_setup.export_job", no_space)
    with pytest.raises(UserError, match="the disk is full"):
        ready.start(FEW, actor="tester")
    assert len(store.list_rounds()) == 1


def test_overlap_and_selection_rule_of_a_round_shape_its_queue(ready, store):
    label(store, 8)
    options = {"selection": "bald", "overlap": 2, "pairs_per_prompt": 3}
    run(ready, options=options)
    tasks = store.open_tasks()
    assert len(tasks) == NUM_TRAIN * 3
    assert {(task.wanted, task.selection_rule) for task in tasks} == {(2, "bald")}
    assert all(task.selection_score > 0 for task in tasks)  # the ensemble disagrees: logits 0 and 1


def test_more_candidates_add_pairs_and_the_same_seed_adds_none(ready, store):
    same = run(ready, build_settings({"kind": "generate"}), kind="generate")
    assert same.message == "No new responses: they were sampled before with this seed. Choose another seed for more."
    more = run(ready, build_settings({"kind": "generate", "seed": 5}), kind="generate")
    assert more.message == "40 responses, 0 pairs to label."  # six pairs of each prompt are queued already
    assert len(store.list_responses(role="candidate")) == NUM_TRAIN * 8


def test_a_wider_queue_is_filled_up_after_a_restart_and_never_taken_away(tmp_path):
    store = fresh_store(tmp_path)
    first = build_service(store, tmp_path, queue=QueueOptions(pairs_per_prompt=2))
    first.ensure_started()
    first.wait(1, 30)
    narrow = {task.id for task in store.open_tasks()}
    first.close()
    build_service(store, tmp_path, queue=QueueOptions(pairs_per_prompt=4)).ensure_started()
    wide = {task.id for task in store.open_tasks()}
    store.close()
    assert (len(narrow), len(wide)) == (NUM_TRAIN * 2, NUM_TRAIN * 4)
    assert narrow < wide


def until(condition, timeout_s: float = 20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
