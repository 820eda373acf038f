"""How far a job is: its progress.jsonl, read as it grows, as one record for the console, the API and the command line."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from annotate_app.launcher import PROCESS_FILE
from storage.contract.jobs import ROUND_STAGES, artifact_dir, work_dir
from storage.records import Round, RoundStatus

MIN_FRACTION_FOR_ESTIMATE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """``fraction`` of the whole job in [0, 1]; ``remaining_s`` is extrapolated from this start's pace, None when unknown.

    ``metrics``: one record for every line that had any, in order: {"at": ISO time, "stage": name, metric: number, ...}.
    """

    number: int
    kind: str
    status: RoundStatus
    stage: str | None
    stage_index: int
    num_stages: int
    fraction: float
    message: str | None
    elapsed_s: float
    remaining_s: float | None
    metrics: list[dict[str, Any]]


@dataclass(slots=True)
class _Log:
    """What has been read of one progress.jsonl. A half-written last line stays unread until it is whole."""

    offset: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    history: list[tuple[float, float]] = field(default_factory=list)  # (Unix seconds, fraction) of every line


class ProgressReader:
    """Reads each line of a job's progress once, however many pages ask. Safe to call from any thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._logs: dict[Path, _Log] = {}
        self._lock = threading.Lock()

    def read(self, job_dir: Path, round_: Round) -> JobProgress:
        """The job's progress now; of a finished job whose working directory is gone, what its artifact kept."""
        with self._lock:
            log = self._logs.setdefault(job_dir, _Log())
            _read_new_lines(work_dir(job_dir) / "progress.jsonl", log)
            started_at = _process_started_at(job_dir) or (log.history[0][0] if log.history else None)
            metrics = log.metrics or _artifact_metrics(job_dir)
            last, first_fraction = log.last, _fraction_at_start(log, started_at)
        done = round_.status == "done"
        running = round_.status == "running"
        now = self._clock() if running else _timestamp(last.get("at")) or started_at
        elapsed_s = max(0.0, now - started_at) if now and started_at else 0.0
        fraction = 1.0 if done else float(last.get("fraction", 0.0))
        num_stages = int(last.get("num_stages", len(ROUND_STAGES) if round_.kind == "round" else 1))
        return JobProgress(
            number=round_.number,
            kind=round_.kind,
            status=round_.status,
            stage=last.get("stage"),
            stage_index=num_stages if done else int(last.get("stage_index", 0)),
            num_stages=num_stages,
            fraction=fraction,
            message=last.get("message", "starting") if running else round_.message or last.get("message"),
            elapsed_s=elapsed_s,
            remaining_s=_remaining_s(fraction, first_fraction, elapsed_s) if running else None,
            metrics=list(metrics),
        )


def _read_new_lines(path: Path, log: _Log) -> None:
    try:
        size = path.stat().st_size
        if size < log.offset:  # the job was started over
            log.offset, log.last = 0, {}
            log.metrics.clear()
            log.history.clear()
        if size == log.offset:
            return
        with path.open("rb") as file:
            file.seek(log.offset)
            text = file.read()
    except FileNotFoundError:
        return
    whole = text[: text.rfind(b"\n") + 1]
    log.offset += len(whole)
    for line in whole.splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # cut short by kill -9; the resumed job went on in the next line
            continue
        log.last = entry
        log.history.append((_timestamp(entry.get("at")) or 0.0, float(entry.get("fraction", 0.0))))
        if entry.get("metrics"):
            log.metrics.append({"at": entry.get("at"), "stage": entry.get("stage"), **entry["metrics"]})


def _artifact_metrics(job_dir: Path) -> list[dict[str, Any]]:
    path = artifact_dir(job_dir) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def _process_started_at(job_dir: Path) -> float | None:
    try:
        return json.loads((work_dir(job_dir) / PROCESS_FILE).read_text())["started_at"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None


def _fraction_at_start(log: _Log, started_at: float | None) -> float:
    """Fraction reached before this start of the process: a resumed job must not count finished stages into its pace."""
    if started_at is None:
        return 0.0
    return next((fraction for at, fraction in log.history if at >= started_at), 0.0)


def _remaining_s(fraction: float, first_fraction: float, elapsed_s: float) -> float | None:
    gained = fraction - first_fraction
    return None if gained < MIN_FRACTION_FOR_ESTIMATE else elapsed_s * (1 - fraction) / gained


def _timestamp(iso: str | None) -> float | None:
    return datetime.fromisoformat(iso).timestamp() if iso else None
