"""The launcher against real small processes: the command that runs a job directory is a parameter."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from annotate_app.launcher import JobExit, JobRunning, Launcher, describe_exit, log_tail, process_token
from storage.contract.jobs import work_dir
from storage.errors import UserError

SLEEP = "import time; print('started', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


@pytest.fixture
def launch(tmp_path):
    """Build launchers whose jobs run a Python program, and end their jobs afterwards."""
    made: list[Launcher] = []
    exits: list[JobExit] = []

    def build(program: str, **options) -> tuple[Launcher, list[JobExit]]:
        launcher = Launcher([sys.executable, "-c", program], exits.append, poll_s=0.02, **options)
        made.append(launcher)
        return launcher, exits

    yield build
    for launcher in made:
        launcher.close(stop_jobs=True)


def until(condition, timeout_s: float = 10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def test_a_job_is_told_its_directory_and_its_end_is_reported_once(launch, tmp_path):
    launcher, exits = launch("import sys; print('job is', sys.argv[1]); sys.exit(3)")
    job = tmp_path / "0001-round"
    launcher.start(job, accelerator="cpu")
    assert launcher.wait(job, 10)
    assert exits == [JobExit(job_dir=job, code=3, cancelled=False)]
    assert log_tail(job) == f"job is {job}"


def test_a_second_job_on_the_accelerator_is_refused_by_name(launch, tmp_path):
    launcher, _ = launch(SLEEP)
    launcher.start(tmp_path / "0001-round", accelerator="cpu")
    with pytest.raises(JobRunning, match="0001-round"):
        launcher.start(tmp_path / "0002-round", accelerator="cpu")
    with pytest.raises(JobRunning, match="0001-round"):  # auto may mean the same one
        launcher.start(tmp_path / "0002-round", accelerator="auto")
    launcher.start(tmp_path / "0002-round", accelerator="cuda")
    assert launcher.running() == [tmp_path / "0001-round", tmp_path / "0002-round"]


def test_the_accelerator_is_taken_until_the_end_was_handled(tmp_path):
    seen = []

    def on_exit(exit_: JobExit) -> None:
        with pytest.raises(JobRunning):
            launcher.check_free("cpu")
        seen.append(exit_.code)

    launcher = Launcher([sys.executable, "-c", ""], on_exit, poll_s=0.02)
    launcher.start(tmp_path / "0001-round", accelerator="cpu")
    assert launcher.wait(tmp_path / "0001-round", 10)
    launcher.check_free("cpu")
    launcher.close()
    assert seen == [0]


def test_cancelling_ends_the_process_and_says_so(launch, tmp_path):
    launcher, exits = launch(SLEEP)
    job = tmp_path / "0001-round"
    launcher.start(job, accelerator="cpu")
    until(lambda: log_tail(job) == "started")
    assert launcher.cancel(job)
    assert launcher.wait(job, 10)
    assert exits == [JobExit(job_dir=job, code=-signal.SIGTERM, cancelled=True)]
    assert not launcher.cancel(job)


def test_a_job_that_ignores_the_request_is_killed_after_the_grace_time(launch, tmp_path):
    launcher, exits = launch(STUBBORN, grace_s=0.2)
    job = tmp_path / "0001-round"
    launcher.start(job, accelerator="cpu")
    until(lambda: log_tail(job) == "deaf")
    launcher.cancel(job)
    assert launcher.wait(job, 10)
    assert [exit_.code for exit_ in exits] == [-signal.SIGKILL]


def test_a_living_job_is_adopted_by_the_next_app_and_its_end_is_seen(launch, tmp_path):
    job = tmp_path / "0001-round"
    first, _ = launch(SLEEP)
    first.start(job, accelerator="cpu")
    pid = json.loads((work_dir(job) / "process.json").read_text())["pid"]
    first.close()  # leaves the job running
    second, exits = launch(SLEEP)
    assert second.adopt(job)
    with pytest.raises(JobRunning):
        second.check_free("cpu")
    os.kill(pid, signal.SIGKILL)
    assert second.wait(job, 10)
    assert exits == [JobExit(job_dir=job, code=None, cancelled=False)]


def test_a_dead_job_and_a_reused_process_number_are_not_adopted(launch, tmp_path):
    launcher, _ = launch("")
    job = tmp_path / "0001-round"
    assert not launcher.adopt(job)  # never started
    launcher.start(job, accelerator="cpu")
    launcher.wait(job, 10)
    assert not launcher.adopt(job)
    facts = {"pid": os.getpid(), "token": "started at another time", "accelerator": "cpu"}
    (work_dir(job) / "process.json").write_text(json.dumps(facts))
    assert not launcher.adopt(job)


def test_a_job_runs_in_its_own_group_at_low_priority(launch, tmp_path):
    launcher, _ = launch("import os, time; time.sleep(.3); print(os.getpgid(0) == os.getpid(), os.nice(0))")
    job = tmp_path / "0001-round"
    before = os.nice(0)
    launcher.start(job, accelerator="cpu")
    launcher.wait(job, 10)
    assert log_tail(job) == f"True {min(19, max(before, 5))}"


def test_a_command_that_does_not_exist_is_a_sentence(tmp_path):
    launcher = Launcher(["/nowhere/python"], lambda _: None)
    with pytest.raises(UserError, match="/nowhere/python"):
        launcher.start(tmp_path / "0001-round", accelerator="cpu")
    assert launcher.running() == []


def test_closing_with_stop_ends_the_jobs(launch, tmp_path):
    launcher, exits = launch(SLEEP)
    job = tmp_path / "0001-round"
    launcher.start(job, accelerator="cpu")
    facts = json.loads((work_dir(job) / "process.json").read_text())
    launcher.close(stop_jobs=True)
    assert process_token(facts["pid"]) != facts["token"]
    assert exits == []  # nobody cancelled it: the next start finds it interrupted


def test_a_zombie_counts_as_gone_and_a_living_process_has_one_token():
    child = subprocess.Popen([sys.executable, "-c", ""])
    until(lambda: process_token(child.pid) is None)
    child.wait()
    assert process_token(os.getpid()) == process_token(os.getpid()) is not None


def test_the_log_tail_is_the_last_lines(tmp_path):
    job = tmp_path / "0001-round"
    assert log_tail(job) == ""
    work_dir(job).mkdir()
    Path(work_dir(job), "job.log").write_text("".join(f"line {n}\n" for n in range(5000)))
    assert log_tail(job, 2) == "line 4998\nline 4999"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(-9, "its process was killed by SIGKILL"), (2, "its process ended with exit code 2")],
)
def test_exits_are_described_in_words(code, sentence):
    assert describe_exit(code) == sentence
