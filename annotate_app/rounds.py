"""RoundService: everything the pages, the API and the command line do with jobs and policies.

A job's life: checked and exported (sealed input) -> a Round record -> a process -> a sealed artifact -> registered. The truth
is always on disk and in the store, so after kill -9 between any two steps ``ensure_started`` goes on from there.
"""

import functools
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from annotate_app import launcher as jobs
from annotate_app.bootstrap import ensure_base_policy, ensure_prompts, learner_dir
from annotate_app.candidates import Registered, read_report, register_artifact, scoring_job
from annotate_app.gate import HumanGate, decide
from annotate_app.human_gate import Comparison
from annotate_app.job_settings import JobCommands
from annotate_app.job_setup import (
    JobOptions,
    build_options,
    check_ready,
    new_round_settings,
    settings_of,
    write_job,
)
from annotate_app.labelling_queue import QueueOptions
from annotate_app.launcher import JobExit, JobRunning, Launcher
from annotate_app.policies import PolicyService
from annotate_app.progress import JobProgress, ProgressReader
from storage.contract.jobs import artifact_dir, job_name
from storage.contract.report import RoundReport
from storage.contract.sealing import MANIFEST
from storage.contract.settings import JobSettings
from storage.errors import UserError
from storage.ids import new_id
from storage.records import Policy, Round
from storage.store import Store

logger = logging.getLogger(__name__)
APP_SECRETS = re.compile(r"NASHLOOP_\w*(SECRET|DATABASE)\w*|PGPASSWORD")


class RoundService:
    """Starts, follows and registers jobs; promotes policies. Safe to call from any thread."""

    def __init__(
        self,
        store: Store,
        data_dir: Path,
        *,
        model: str | None = None,
        device: str = "auto",
        python: str = sys.executable,
        queue: QueueOptions | None = None,
        command: Sequence[str] | JobCommands | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self._store, self._data_dir, self._clock = store, data_dir.resolve(), clock
        self._model, self._device = model, device
        self._queue = queue or QueueOptions()
        self._python = python
        command = command or [python, "-m", "online_learner", "run"]
        self._launcher = Launcher(command, self._on_exit, env=learner_environment())
        self._progress = ProgressReader()
        self._lock = lock or threading.RLock()  # one change of jobs or policies at a time, on all replicas
        self._policies = PolicyService(store, self._data_dir, self._queue, clock, self._lock)

    # Jobs.
    def rules(self) -> list[dict[str, Any]]:
        """Update rules with name, summary, source and settings, as the learner lists them; asked once."""
        return learner_rules(self._python)

    def start(
        self,
        settings: JobSettings,
        *,
        actor: str,
        kind: str | None = None,
        policy_id: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Round:
        """Start a job from the serving (or the named) policy and return its record.

        ``options``: promote (gate | manual), selection, overlap, pairs_per_prompt. Raises JobRunning if another job has the
        accelerator, UserError if the job cannot run as asked; nothing is written then.
        """
        settings = settings.model_copy(
            update={"kind": kind or settings.kind, "device": self._device if settings.device == "auto" else settings.device}
        )
        job_options = build_options(options or {}, replace(self._queue, seed=settings.seed))
        if settings.kind != "fit":
            self._end_background_fits()
        if settings.kind == "round":
            self._check_rule(settings.update.rule)
        with self._lock:
            self._check_free(settings.device)
            parent = self._policies.get(policy_id)
            check_ready(self._store, settings, parent)
            round_ = self._new_round(settings, parent, job_options)
            write_job(self._store, self._data_dir, round_)
            self._store.add_round(round_)
            self._launch(round_, actor)
        return round_

    def cancel(self, number: int, *, actor: str) -> Round:
        """Stop a running job. Its finished stages stay, so it can be resumed."""
        with self._lock:
            self._recover()  # another app may have started it
        round_ = self._round(number)
        if not self._launcher.cancel(self._job_dir(round_)):
            raise UserError(f"Job {number} is not running (it is {round_.status}). There is nothing to cancel.")
        self._store.append_event(actor=actor, kind="job.cancel_requested", subject=round_.id)
        return round_

    def resume(self, number: int, *, actor: str) -> Round:
        """Go on with a failed, cancelled or interrupted job from its last finished stage."""
        with self._lock:
            self._recover()
            round_ = self._round(number)
            if round_.status == "running":
                raise JobRunning(f"Job {number} is running already. Watch it, or cancel it first.")
            if round_.status == "done" or (self._sealed(round_) and self._is_registered(round_)):
                raise UserError(f"Job {number} has finished; there is nothing to resume. Start a new job instead.")
            settings = settings_of(round_)
            if self._sealed(round_):
                self._resumed(round_, actor)
                self._register(round_)
            else:
                self._check_free(settings.device)
                if not (self._job_dir(round_) / MANIFEST).exists():  # jobs/ may be deleted at any time
                    write_job(self._store, self._data_dir, round_)
                self._resumed(round_, actor)
                self._launch(round_, actor)
            return self._round(number)

    def progress(self, number: int) -> JobProgress:
        """Stage, fraction, times and metrics of a job, running or ended."""
        round_ = self._round(number)
        return self._progress.read(self._job_dir(round_), round_)

    def report(self, number: int) -> RoundReport | None:
        """The report of a job's artifact; None before it is sealed."""
        return read_report(self._data_dir, self._round(number))

    def log_tail(self, number: int, lines: int = 20) -> str:
        """Last lines of the job's log."""
        return jobs.log_tail(self._job_dir(self._round(number)), lines)

    def wait(self, number: int, timeout_s: float | None = None) -> Round:
        """Block until the job has ended and is registered, or the time is up; its record then."""
        self._launcher.wait(self._job_dir(self._round(number)), timeout_s)
        return self._round(number)

    # Policies.
    def promote(self, policy_id: str, *, actor: str, reason: str | None = None) -> Policy:
        """Let a policy serve: its candidates become the labelling queue. Promoting the serving policy changes nothing.

        A policy whose round left its limits needs a reason.
        """
        return self._policies.promote(policy_id, actor=actor, reason=reason)

    def rollback(self, *, actor: str, reason: str | None = None) -> Policy:
        """Let the parent of the serving policy serve again."""
        return self._policies.rollback(actor=actor, reason=reason)

    def ask_before_serving(self, admit: Callable[[Policy], None]) -> None:
        """Have ``admit`` called with each policy before it serves; its UserError refuses the promotion."""
        self._policies.admit = admit

    def comparisons(self, *, only_open: bool = False) -> list[tuple[Comparison, HumanGate, int]]:
        """People's blind comparisons of policies, newest first: how the votes stand and how many pairs wait in the queue."""
        found = self._policies.comparisons
        wanted = [one for one in reversed(found.all()) if one.decided is None or not only_open]
        return [(one, found.standing(one), found.num_open(one)) for one in wanted]

    def comparison_of(self, policy: Policy) -> tuple[Comparison, HumanGate, int] | None:
        """The same of one policy; None where people are not asked about it."""
        found = self._policies.comparisons
        one = found.of(policy)
        return None if one is None else (one, found.standing(one), found.num_open(one))

    def compare(self, policy_id: str) -> None:
        """Have people compare a policy with the serving one; UserError where that cannot be."""
        with self._lock:
            self._policies.compare_by_hand(policy_id)

    def follow_votes(self) -> None:
        """Carry out what people's votes decide: promote, reject, roll back."""
        self._policies.follow_votes()

    def fill_queue(self) -> int:
        """Make the tasks that the serving policy lacks, as the campaign asks now; returns their number."""
        with self._lock:
            return self._policies.fill_queue() if self._store.serving_policy() else 0

    def top_up_front(self) -> None:
        """Choose what to ask next where little of what was chosen is left."""
        self._policies.top_up_front()

    def selection(self) -> str:
        """How the labelling queue of the serving policy chooses pairs."""
        return (self._policies.queue_options() if self._store.serving_policy() else self._queue).selection

    def scored_by(self) -> Round | None:
        """The job whose preference model scored the serving policy's pairs last; None before there is one."""
        policy = self._store.serving_policy()
        return scoring_job(self._store, self._data_dir, policy) if policy else None

    # The service itself.
    def ensure_started(self) -> None:
        """Make the data directory ready to label, and take up what an earlier run left: living and finished jobs."""
        with self._lock:
            for name in ("jobs", "artifacts"):
                (self._data_dir / name).mkdir(parents=True, exist_ok=True)
            base = ensure_base_policy(self._store, self._model, now=self._clock())
            ensure_prompts(self._store, base.base_model)
            self._recover()
            if self._store.serving_policy() is None:
                self._store.append_event(actor="system", kind="policy.promoted", subject=base.id, data={"reason": "first start"})
            self._ensure_candidates(base)
            self._policies.fill_queue()

    def close(self, *, stop_jobs: bool = False) -> None:
        """Stop watching jobs. They go on and the next start finds them; ``stop_jobs`` ends them, resumable."""
        self._launcher.close(stop_jobs=stop_jobs)

    def _end_background_fits(self) -> None:
        """A fit that the app started by itself makes way: the job that follows learns from the same labels."""
        by_app = {e.subject for e in self._store.list_events(kind_prefix="job.launched", limit=1_000_000) if e.actor == "system"}
        for job_dir in self._launcher.running():
            round_ = self._round(_number_of(job_dir))
            if round_.kind == "fit" and round_.id in by_app and self._launcher.cancel(job_dir):
                self._launcher.wait(job_dir, 30)

    def _check_free(self, device: str) -> None:
        """JobRunning if a job has the accelerator: one of ours, or one that an earlier app started and that still runs."""
        self._recover()
        for job_dir in self._launcher.running():
            if self._round(_number_of(job_dir)).status != "running":  # its end is recorded, the launcher lets go of it now
                self._launcher.wait(job_dir, 5)
        self._launcher.check_free(device)

    def _new_round(self, settings: JobSettings, parent: Policy, options: JobOptions) -> Round:
        number = self._next_number()
        return Round(
            id=new_id(),
            number=number,
            kind=settings.kind,
            parent_policy_id=parent.id,
            new_policy_id=new_id() if settings.kind == "round" else None,
            job_dir=f"jobs/{job_name(number, settings.kind)}",
            settings=new_round_settings(settings, options),
            created_at=self._clock(),
        )

    def _next_number(self) -> int:
        """One more than any job in the store or on disk: an export that was cut short keeps its number."""
        on_disk = [p.name[:4] for folder in ("jobs", "artifacts") for p in (self._data_dir / folder).glob("[0-9]*-*")]
        return 1 + max([0, *map(int, on_disk), *(r.number for r in self._store.list_rounds())])

    def _launch(self, round_: Round, actor: str) -> None:
        try:
            self._launcher.start(self._job_dir(round_), accelerator=settings_of(round_).device)
        except (UserError, OSError) as error:
            self._end(round_, "failed", f"It could not be started: {error}")
            raise
        self._store.append_event(actor=actor, kind="job.launched", subject=round_.id)

    def _on_exit(self, exit_: JobExit) -> None:
        round_ = self._round(_number_of(exit_.job_dir))
        with self._lock:
            if self._round(round_.number).status not in ("running", "interrupted"):
                return  # another replica watched it too, and was first
            if self._sealed(round_):
                self._register(round_)
            elif exit_.cancelled:
                self._end(round_, "cancelled", "Cancelled. Resume it to go on from its last finished stage.")
            else:
                self._end(round_, "failed", _why(exit_))

    def _register(self, round_: Round) -> None:
        """Register a sealed artifact and end the round; whatever goes wrong becomes the round's message."""
        try:
            registered = register_artifact(self._store, self._data_dir, round_, now=self._clock())
            self._settle(round_, registered)
        except (UserError, OSError) as error:
            self._end(round_, "failed", f"The job finished, but its result could not be registered: {error} Then resume it.")
        except Exception as error:
            logger.exception("registering job %s failed", round_.number)
            message = f"Registering its result failed ({type(error).__name__}: {error}). The log has the details; resume it."
            self._end(round_, "failed", message)

    def _settle(self, round_: Round, registered: Registered) -> None:
        if registered.policy is None:
            tasks = self._policies.fill_queue(renew=round_.kind == "fit") if round_.kind in ("generate", "fit") else 0
            self._end(round_, "done", _what_came(round_.kind, registered.num_responses, tasks))
            return
        decision = decide(registered.report, mode=self._policies.gate_mode(round_))
        if decision.action != "reject":
            self._policies.compare(registered.policy)
        serving = self._policies.get(None)
        if decision.action == "promote" and serving.id not in (round_.parent_policy_id, registered.policy.id):
            self._end(round_, "done", f"Held: policy {serving.number} was put in service meanwhile. Promote it by hand.")
            return
        if decision.action == "promote":
            try:
                self._policies.put_in_service(registered.policy, actor="system", reason=decision.sentence)
            except UserError as error:
                self._end(round_, "done", f"Held: {error}")
                return
        status = "failed" if registered.report.get("status") == "failed" else "done"
        self._end(round_, status, f"Policy {registered.policy.number}. {decision.sentence}")

    def _recover(self) -> None:
        """Register what finished while no app looked, adopt what still runs, mark the rest as interrupted."""
        for round_ in reversed(self._store.list_rounds()):
            if round_.status not in ("running", "interrupted") or self._job_dir(round_) in self._launcher.running():
                continue
            if self._launcher.adopt(self._job_dir(round_)):
                logger.info("job %s is still running", round_.number)
            elif self._sealed(round_):
                self._register(round_)
            elif round_.status == "running":
                self._end(round_, "interrupted", "It stopped together with the app. Resume it to go on from its last stage.")

    def _ensure_candidates(self, base: Policy) -> None:
        """First start: sample the base policy's candidates, or go on with that job if it was interrupted."""
        if self._store.list_responses(policy_id=base.id, role="candidate") or self._launcher.running():
            return
        first = [r for r in self._store.list_rounds() if r.kind == "generate" and r.parent_policy_id == base.id]
        if first and first[0].status in ("interrupted", "failed", "cancelled"):
            self.resume(first[0].number, actor="system")
        else:
            self.start(JobSettings(kind="generate", seed=self._queue.seed), actor="system", policy_id=base.id)

    def _resumed(self, round_: Round, actor: str) -> None:
        self._store.append_event(actor=actor, kind="round.resumed", subject=round_.id)

    def _end(self, round_: Round, status: str, message: str) -> None:
        self._store.append_event(actor="system", kind=f"round.{status}", subject=round_.id, data={"message": message})

    def _is_registered(self, round_: Round) -> bool:
        report = self.report(round_.number) or {}
        known = round_.new_policy_id is None or self._store.get_policy(round_.new_policy_id) is not None
        return report.get("status") == "failed" and known

    def _sealed(self, round_: Round) -> bool:
        return (artifact_dir(self._job_dir(round_)) / MANIFEST).exists()

    def _job_dir(self, round_: Round) -> Path:
        return self._data_dir / round_.job_dir

    def _round(self, number: int) -> Round:
        round_ = self._store.get_round(number)
        if round_ is None:
            raise UserError(f"There is no job {number}. `nashloop round list` shows the jobs there are.")
        return round_

    def _check_rule(self, name: str) -> None:
        names = [rule["name"] for rule in self.rules()]
        if name not in names:
            raise UserError(f"Unknown update rule {name!r}. Choose one of: {', '.join(names)}.")


@functools.cache
def learner_rules(python: str) -> list[dict[str, Any]]:
    """The rows of the learner's update-rule table; the learner answers without importing torch."""
    command = [python, "-m", "online_learner", "rules", "--json"]
    asked = subprocess.run(command, capture_output=True, text=True, env=learner_environment(), check=False)
    if asked.returncode != 0:
        raise UserError(f"The learner cannot list its update rules: {asked.stderr.strip()[-400:]}")
    answer = json.loads(asked.stdout)
    return answer["rules"] if isinstance(answer, dict) else answer


def learner_environment() -> dict[str, str]:
    """This environment, with the learner importable also where nashloop runs from its source tree."""
    paths = [str(learner_dir().parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**own_environment(), "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def own_environment() -> dict[str, str]:
    """This environment without the app's secrets (NASHLOOP_..._SECRET, the database's address): no business of other programs."""
    return {name: value for name, value in os.environ.items() if not APP_SECRETS.fullmatch(name)}


def _number_of(job_dir: Path) -> int:
    return int(job_dir.name.partition("-")[0])


def _what_came(kind: str, num_responses: int, num_tasks: int) -> str:
    if kind == "fit":
        return "The preference model is fitted, and what to ask next is chosen anew; its report has the figures."
    if kind == "generate" and num_responses == 0:
        return "No new responses: they were sampled before with this seed. Choose another seed for more."
    return f"{num_responses} responses" + (f", {num_tasks} pairs to label." if kind == "generate" else ".")


def _why(exit_: JobExit) -> str:
    """Why a job failed, in words: the learner's own sentence if it ended with one."""
    tail = jobs.log_tail(exit_.job_dir, 8).strip()
    last = tail.splitlines()[-1] if tail else ""
    if exit_.code == 2 and last.startswith("error: "):
        return last.removeprefix("error: ")
    hint = " Often that is the system running out of memory." if exit_.code == -9 else ""
    log = f" Last lines of its log:\n{tail}" if tail else " Its log is empty."
    return f"Failed: {jobs.describe_exit(exit_.code)}.{hint} Resume it to go on from its last finished stage.{log}"
