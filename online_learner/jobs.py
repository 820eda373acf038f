"""A job: its sealed input, the stages that have finished, its progress and its lock (contract: storage/contract/jobs.py).

A stage is a function that writes files into a directory of its own, which is renamed into place when the stage is done. A job
that was killed starts again and skips the stages it finds; every stage reads its inputs from files and draws from its own
random stream, so that a resumed job and an uninterrupted one write the same bytes.
"""

import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from online_learner.policy.adapters import adapter_deltas, check_adapter
from online_learner.policy.base_model import BaseModel, load_base_model
from storage.contract.jobs import artifact_dir, work_dir
from storage.contract.sealing import read_manifest
from storage.contract.settings import JobSettings, load_settings
from storage.errors import UserError

SECONDS_BETWEEN_LINES = 0.3


class Stage(NamedTuple):
    """``run(job, directory)`` writes its results into ``directory``; ``share`` is its part of the job's time."""

    name: str
    run: Callable[["Job", Path], None]
    share: float


class Progress:
    """Writes progress.jsonl: a line at the start of a stage, then a few a second at most, and one for every metric."""

    def __init__(self, path: Path, stages: Sequence[Stage]) -> None:
        self._path, self._stages = path, stages
        self._index, self._written_at = 0, 0.0
        self.metrics: list[dict[str, Any]] = []

    def start(self, index: int) -> None:
        """The stage with this index begins."""
        self._index, self.metrics = index, []
        self.tell(0.0, f"{self._stages[index].name.replace('_', ' ')} …", always=True)

    def tell(
        self, fraction: float, message: str, metrics: Mapping[str, float | None] | None = None, *, always: bool = False
    ) -> None:
        """How far the stage is, in [0, 1], and what it is doing."""
        now = time.monotonic()
        if not (always or metrics) and now - self._written_at < SECONDS_BETWEEN_LINES:
            return
        self._written_at = now
        total = sum(stage.share for stage in self._stages)
        before = sum(stage.share for stage in self._stages[: self._index])
        known = {name: value for name, value in (metrics or {}).items() if value is not None}
        line = {
            "at": datetime.now(UTC).isoformat(),
            "stage": self._stages[self._index].name,
            "stage_index": self._index + 1,
            "num_stages": len(self._stages),
            "fraction": (before + fraction * self._stages[self._index].share) / total,
            "message": message,
            "metrics": known or None,
        }
        if known:
            self.metrics.append({"at": line["at"], "stage": line["stage"], **known})
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class Job:
    """What every stage is given."""

    directory: Path
    out: Path
    settings: JobSettings
    lineage: dict[str, Any]
    number: int
    progress: Progress = field(init=False)

    @property
    def work(self) -> Path:
        return work_dir(self.directory)

    @cached_property
    def base(self) -> BaseModel:
        """The base model, loaded when a stage first needs it."""
        lineage = self.lineage
        return load_base_model(lineage["base_model"], revision=lineage.get("base_revision"), device=self.settings.device)

    @cached_property
    def prompts(self) -> dict[str, dict[str, Any]]:
        """Rows of prompts.parquet by id, in file order."""
        return {row["prompt_id"]: row for row in self.table("prompts").to_pylist()}

    @cached_property
    def responses(self) -> dict[str, dict[str, Any]]:
        """Rows of responses.parquet by id, in file order."""
        return {row["response_id"]: row for row in self.table("responses").to_pylist()}

    def table(self, name: str) -> Any:
        """One of the input's Parquet files."""
        return pq.read_table(self.directory / f"{name}.parquet")

    def deltas(self, policy_id: str) -> dict[str, Any]:
        """What to write into a PolicyScorer for a policy of the lineage, its adapter checked."""
        return adapter_deltas(check_adapter(policy_id, self.lineage["policies"][policy_id]), self.base.device)

    def stage_dir(self, name: str) -> Path:
        """Where a finished stage left its files."""
        return self.work / "stages" / name


def open_job(directory: Path, out: Path | None = None) -> Job:
    """Check the seal and the settings of a job directory; UserError where it is not one, or was already run."""
    if not directory.is_dir():
        raise UserError(f"The job directory {directory} does not exist. Name one under jobs/.")
    manifest = read_manifest(directory)
    settings = load_settings(directory / "config.toml")
    lineage = json.loads((directory / "lineage.json").read_text())
    final = out or artifact_dir(directory.resolve())
    if final.exists():
        raise UserError(f"{final} already holds this job's result. Start a new job, or name another --out.")
    return Job(directory.resolve(), final, settings, lineage, manifest["number"])


def run_stages(job: Job, stages: Sequence[Stage]) -> None:
    """Run the stages that are not done yet, in order, alone: a second process on the same job is refused."""
    job.work.mkdir(parents=True, exist_ok=True)
    with _only_one(job.work / "lock"):
        job.progress = Progress(job.work / "progress.jsonl", stages)
        for index, stage in enumerate(stages):
            done = job.stage_dir(stage.name)
            if done.exists():
                continue
            job.progress.start(index)
            started = time.monotonic()
            aside = done.with_name(f".{stage.name}.part")
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            stage.run(job, aside)
            if not aside.exists():  # the seal moved everything to its final place
                continue
            _write_lines(aside / "metrics.jsonl", job.progress.metrics)
            (aside / "seconds.json").write_text(json.dumps(time.monotonic() - started))
            os.replace(aside, done)


def read_json(path: Path) -> Any:
    """A JSON file, or an empty dictionary where the stage wrote none."""
    return json.loads(path.read_text()) if path.exists() else {}


def finite(value: Any) -> Any:
    """The value with null for every number that JSON lacks: an interval from a single prompt has no limits."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Strict JSON: a NaN or infinity would be a mistake of ours, not a number."""
    path.write_text(json.dumps(value, allow_nan=False, indent=2))


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def _only_one(path: Path):
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"Another process is running this job ({path} is locked). Wait for it, or stop it first.") from error
        yield
