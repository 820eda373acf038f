"""Starts jobs as processes of their own, watches them, stops them, and finds them again after the app was restarted.

It knows processes and directories, not what a job means: whoever starts a job is told once when its process has ended.
A job is its own process group at low priority: Ctrl-C on the app does not reach it, and labelling stays fluent.
"""

import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from annotate_app.job_settings import JobCommands
from storage.contract.jobs import work_dir
from storage.errors import UserError

logger = logging.getLogger(__name__)

LOG_FILE, PROCESS_FILE = "job.log", "process.json"
NICENESS = 5


class JobRunning(UserError):
    """Refused because another job holds the accelerator, or because this job is still running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobExit:
    """How a job's process ended. ``code`` is None for a process that an earlier app started: only its parent learns it."""

    job_dir: Path
    code: int | None
    cancelled: bool


@dataclass(slots=True)
class _Running:
    job_dir: Path
    accelerator: str
    pid: int
    token: str | None
    child: subprocess.Popen[bytes] | None  # None: adopted
    cancelled: bool = False
    kill_at: float | None = None  # monotonic seconds

    def exit_code(self) -> int | None:
        """Exit code once the process has ended, None while it lives; -1 for an adopted one, whose code nobody keeps."""
        if self.child is not None:
            return self.child.poll()
        return None if self.token and process_token(self.pid) == self.token else -1


class Launcher:
    """Runs a command for each job; one thread watches all of them and calls ``on_exit`` for each once.

    The accelerator counts as taken until ``on_exit`` has returned. ``command`` is words, to which the job's directory is added,
    or JobCommands for a learner that runs elsewhere.
    """

    def __init__(
        self,
        command: Sequence[str] | JobCommands,
        on_exit: Callable[[JobExit], None],
        *,
        env: Mapping[str, str] | None = None,
        poll_s: float = 0.25,
        grace_s: float = 10.0,
    ) -> None:
        if not isinstance(command, JobCommands):
            command = JobCommands(command=(*command, "{job_dir}"))
        self._commands, self._on_exit, self._env = command, on_exit, env
        self._poll_s, self._grace_s = poll_s, grace_s
        self._jobs: dict[Path, _Running] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def check_free(self, accelerator: str) -> None:
        """Raise JobRunning, naming the job, if one runs on this accelerator; ``auto`` may be any of them."""
        with self._changed:
            for job in self._jobs.values():
                if "auto" in (accelerator, job.accelerator) or accelerator == job.accelerator:
                    raise JobRunning(
                        f"Job {job.job_dir.name} is running on this accelerator ({job.accelerator}), and it takes one "
                        "job at a time. Wait for it to finish or cancel it."
                    )

    def start(self, job_dir: Path, *, accelerator: str) -> None:
        """Start the job's process; it outlives this app. Raises JobRunning, or UserError if it cannot be started."""
        with self._changed:
            self.check_free(accelerator)
            work = work_dir(job_dir)
            work.mkdir(parents=True, exist_ok=True)
            with (work / LOG_FILE).open("ab") as log:
                command = self._commands.filled(self._commands.command, job_dir)
                try:
                    child = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=self._env,
                        start_new_session=True,
                    )
                except OSError as error:
                    raise UserError(f"Cannot start {command[0]}: {error.strerror}. Correct the command.") from error
            with suppress(OSError):  # it may have ended already
                os.setpriority(os.PRIO_PGRP, child.pid, NICENESS)
            token = process_token(child.pid)
            facts = {"pid": child.pid, "token": token, "started_at": time.time(), "accelerator": accelerator}
            (work / PROCESS_FILE).write_text(json.dumps(facts))
            self._watch(_Running(job_dir, accelerator, child.pid, token, child))

    def adopt(self, job_dir: Path) -> bool:
        """Watch a job that an earlier app started, if its process still lives; False if it does not."""
        try:
            facts = json.loads((work_dir(job_dir) / PROCESS_FILE).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        if not facts["token"] or process_token(facts["pid"]) != facts["token"]:
            return False
        with self._changed:
            self._watch(_Running(job_dir, facts["accelerator"], facts["pid"], facts["token"], None))
        return True

    def cancel(self, job_dir: Path) -> bool:
        """Ask the job's processes to end and kill them if they have not after the grace time; False if it does not run."""
        with self._changed:
            job = self._jobs.get(job_dir)
            if job is None:
                return False
            job.cancelled = True
            job.kill_at = time.monotonic() + self._grace_s
            self._cancel_elsewhere(job)
            _signal(job.pid, signal.SIGTERM)
            return True

    def running(self) -> list[Path]:
        """Directories of the jobs that run or whose end is being handled."""
        with self._changed:
            return list(self._jobs)

    def wait(self, job_dir: Path, timeout_s: float | None = None) -> bool:
        """Block until the job has ended and its end was handled; False if the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: job_dir not in self._jobs, timeout_s)

    def close(self, *, stop_jobs: bool = False) -> None:
        """Stop watching. Jobs go on and are found again by ``adopt``; ``stop_jobs`` ends them first, as interrupted."""
        with self._changed:
            self._closing = True
            jobs, self._jobs = list(self._jobs.values()), {}
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if stop_jobs:
            for job in jobs:
                self._cancel_elsewhere(job)
            _stop_all(jobs, self._grace_s)

    def _cancel_elsewhere(self, job: _Running) -> None:
        """Tell the system that runs the job; what it says goes to the job's log."""
        if self._commands.cancel is None:
            return
        with (work_dir(job.job_dir) / LOG_FILE).open("ab") as log:
            try:
                command = self._commands.filled(self._commands.cancel, job.job_dir)
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env)
            except OSError as error:
                log.write(f"cannot run {self._commands.cancel[0]}: {error.strerror}\n".encode())

    def _watch(self, job: _Running) -> None:
        self._jobs[job.job_dir] = job
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="nashloop-jobs", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if self._closing:
                    return
                jobs = list(self._jobs.values())
            for job in jobs:
                self._look_at(job)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, self._poll_s)

    def _look_at(self, job: _Running) -> None:
        code = job.exit_code()
        if code is None:
            if job.kill_at is not None and time.monotonic() > job.kill_at:
                _signal(job.pid, signal.SIGKILL)
            return
        adopted = job.child is None
        try:
            self._on_exit(JobExit(job_dir=job.job_dir, code=None if adopted else code, cancelled=job.cancelled))
        except Exception:  # the thread that watches every job must not die of one of them
            logger.exception("handling the end of job %s failed", job.job_dir.name)
        with self._changed:
            self._jobs.pop(job.job_dir, None)
            self._changed.notify_all()


def process_token(pid: int) -> str | None:
    """What tells a process from a later one with the same number: when it started. None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _token_from_ps(pid)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None if fields[0] in "ZX" else f"{boot_id} {fields[19]}"  # field 22 of stat: start, in ticks since boot


def log_tail(job_dir: Path, lines: int = 20) -> str:
    """Last lines of what the job's process printed; empty before it printed anything."""
    try:
        with (work_dir(job_dir) / LOG_FILE).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 400 * lines))  # 400 bytes a line are plenty
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def describe_exit(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "its process ended while the app was restarting"
    if code < 0:
        with suppress(ValueError):
            return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


def _token_from_ps(pid: int) -> str | None:
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = shown.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)  # a job leads its own process group, so its own children end too


def _stop_all(jobs: list[_Running], grace_s: float) -> None:
    for job in jobs:
        _signal(job.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(job.exit_code() is None for job in jobs) and time.monotonic() < deadline:
        time.sleep(0.05)
    for job in jobs:
        _signal(job.pid, signal.SIGKILL)
        if job.child is not None:
            job.child.wait()
