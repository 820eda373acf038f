"""Following a job from the command line: a bar on a terminal, a line per stage elsewhere; both on standard error."""

import sys
import time
from collections.abc import Callable
from typing import Any

from annotate_app.client import ApiClient

POLL_S = 0.3


def watch(client: ApiClient, number: int) -> dict[str, Any]:
    """Follow a job until it is no longer running; returns its last progress."""
    if not sys.stderr.isatty():
        return follow(client, number, on_stage=lambda p: print(_line(p), file=sys.stderr, flush=True))
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"job {number}", total=1.0)

        def show(progress: dict[str, Any]) -> None:
            bar.update(task, completed=progress["fraction"], description=_line(progress))

        return follow(client, number, on_stage=show, every=show)


def follow(
    client: ApiClient,
    number: int,
    *,
    on_stage: Callable[[dict[str, Any]], None] = lambda progress: None,
    every: Callable[[dict[str, Any]], None] = lambda progress: None,
) -> dict[str, Any]:
    """Poll a job until it is no longer running; ``on_stage`` sees each new stage, ``every`` each poll."""
    stage: object = None
    while True:
        progress = client.get(f"/rounds/{number}/progress")
        every(progress)
        if progress["stage"] != stage and progress["stage"]:
            stage = progress["stage"]
            on_stage(progress)
        if progress["status"] != "running":
            return progress
        time.sleep(POLL_S)


def _line(progress: dict[str, Any]) -> str:
    stage = f"{progress['stage_index']}/{progress['num_stages']} {progress['stage'] or 'starting'}"
    told = (progress.get("message") or "").strip(" …")
    message = f": {told}" if told and told != (progress["stage"] or "").replace("_", " ") else ""
    return f"{progress['kind']} {progress['number']}, stage {stage}{message}"
