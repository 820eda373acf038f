"""How well update rules learn, compared: many ``nashloop simulate`` runs, one process each, kept one file per finished run.

A cell is one run. Its file's name holds everything that defines it, so a bench that was stopped goes on where it was, and a finer
grid reuses what is there. Cells that share a seed share annotators, prompts and the base policy's responses.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from annotate_app.rounds import learner_environment

BEST_WORST = "best_worst"  # a method of the bench, no rule: onpo_ref on the best and the worst response of each prompt only
AUTOMATIC_MODELS = "auto"  # bradley_terry and bt_gpm compete, and the audit decides: what a round does by default
# What `auto` takes where the audit has found what is true of the world; a lone preference model is not audited.
STEP_OF_WORLD = {"cyclic": {"step_size": 4.0, "kl_coef": 0.05}, "transitive": {"step_size": 5.0, "kl_coef": 0.01}}
OWN_BASE = {"ipo": {"kl_coef": 0.1}, "online_ipo": {"kl_coef": 0.1}}
BASE_BETA, BASE_RATE = 0.1, 3e-3
LAST_ROUNDS = 3  # cyclic play is judged by its mean gap over so many last rounds: a single round may be a lucky one
MIN_TEXT_QUALITY = 0.8  # tuning prefers settings that keep the text whole

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """An update rule as the bench runs it: its name, the rule's and the settings that it reads."""

    name: str
    rule: str
    reads: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One simulate run."""

    world: str
    method: Method
    model: str
    seed: int
    rounds: int
    labels: int
    chosen: tuple[tuple[str, float], ...] = ()  # update settings; empty: all on auto

    @property
    def name(self) -> str:
        """Of the cell's file, and unique to what it runs."""
        chosen = "-".join(f"{name}={value:g}" for name, value in self.chosen) or "auto"
        return f"{self.world}-{self.method.name}-{self.model}-{self.rounds}x{self.labels}-{chosen}-seed{self.seed}"

    def arguments(self) -> list[str]:
        """What ``nashloop simulate`` is given."""
        own = [f"update.{name}={value!r}" for name, value in self.chosen]
        if self.model != AUTOMATIC_MODELS:
            own.append(f"preference.models={json.dumps([self.model])}")
        if self.method.name == BEST_WORST:
            own += ['update.pairs="best_worst"', "update.for_comparison=true"]
        run = {"world": self.world, "seed": self.seed, "rounds": self.rounds, "labels": self.labels}
        options = [text for name, value in run.items() for text in (f"--{name}", str(value))]
        return ["simulate", "--json", *options, "--update-rule", self.method.rule, *(x for s in own for x in ("--set", s))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A cell with the rows that simulate printed, or the sentence with which it was refused."""

    cell: Cell
    rows: list[dict[str, Any]]
    refused: str | None = None

    def curve(self, name: str) -> list[float]:
        """One figure by round; rounds without it are left out."""
        return [row[name] for row in self.rows if row[name] is not None]


def find_methods(names: Sequence[str], rules: Sequence[Mapping[str, Any]]) -> list[Method]:
    """Methods by name, rules as the learner lists them; KeyError on an unknown name."""
    reads = {rule["name"]: tuple(rule["settings"]) for rule in rules}
    rule_of = {name: "onpo_ref" if name == BEST_WORST else name for name in names}
    return [Method(name=name, rule=rule, reads=reads[rule]) for name, rule in rule_of.items()]


def base_settings(method: Method, world: str) -> dict[str, float]:
    """The settings that a rule reads, as ``auto`` would choose them knowing the world."""
    known = {**STEP_OF_WORLD.get(world, STEP_OF_WORLD["transitive"]), "beta": BASE_BETA, **OWN_BASE.get(method.rule, {})}
    return {name: known[name] for name in method.reads if name in known}


def tuned_settings(method: Method, world: str, step_factor: float, rate_factor: float) -> dict[str, float]:
    """The base settings with a longer step and another learning rate. Rules without a step size have the inverse of one."""
    found = base_settings(method, world)
    if "step_size" in found:
        found["step_size"] *= step_factor
    else:
        inverse = "beta" if "beta" in found else "kl_coef"
        found[inverse] /= step_factor
    return {**found, "learning_rate": BASE_RATE * rate_factor}


def with_settings(cell: Cell, settings: Mapping[str, float]) -> Cell:
    """The cell with these update settings."""
    return replace(cell, chosen=tuple((name, float(f"{value:.6g}")) for name, value in sorted(settings.items())))


def run_cells(cells: Sequence[Cell], directory: Path, *, jobs: int, say: Say) -> list[Finished]:
    """Run what has no file yet, ``jobs`` at a time, in order; finished and refused cells, in order."""
    (directory / "logs").mkdir(parents=True, exist_ok=True)
    started: list[subprocess.Popen[str]] = []
    num_done = 0

    def run(cell: Cell) -> Finished:
        nonlocal num_done
        kept = load(cell, directory)
        found = kept or _run(cell, directory, started)
        num_done += 1
        say(f"[{num_done}/{len(cells)}] {cell.name}: {'kept; ' if kept else ''}{_outcome(found)}")
        return found

    pool = ThreadPoolExecutor(jobs)
    try:
        return list(pool.map(run, cells))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in started:  # interrupted: whatever still runs has nobody left to read it
            if process.poll() is None:
                process.terminate()
        pool.shutdown()


def load(cell: Cell, directory: Path) -> Finished | None:
    """A finished run; None if it has not finished."""
    path = directory / f"{cell.name}.json"
    return Finished(cell=cell, rows=json.loads(path.read_text())["rounds"]) if path.exists() else None


def _run(cell: Cell, directory: Path, started: list[subprocess.Popen[str]]) -> Finished:
    log = directory / "logs" / f"{cell.name}.log"
    command = [sys.executable, "-m", "annotate_app.cli", *cell.arguments()]
    environment = {**learner_environment(), "OMP_NUM_THREADS": "1"}  # one core a run: more would wait for each other
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        started.append(process)
        printed, _ = process.communicate()
    if process.returncode:
        return Finished(cell=cell, rows=[], refused=_reason(log, process.returncode))
    result = json.loads(printed)
    path = directory / f"{cell.name}.json"
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps({**result, "update_rule": cell.method.name, "arguments": cell.arguments()}))
    os.replace(aside, path)
    return Finished(cell=cell, rows=result["rounds"])


def _reason(log: Path, code: int) -> str:
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    told = (errors or lines or ["it printed nothing"])[-1].removeprefix("error: ")
    return told if code == 2 else f"exit code {code}: {told}; see {log}"


def _outcome(found: Finished) -> str:
    if found.refused:
        return f"refused: {found.refused}"
    gap, rate = found.curve("true_duality_gap"), found.curve("win_rate_vs_base")
    seconds = sum(found.curve("seconds"))
    return f"gap {gap[0]:.2f} to {gap[-1]:.2f}, win rate {rate[-1]:.2f}, {seconds:.0f} s"


def score(found: Finished) -> tuple[bool, float]:
    """What tuning maximises: whole text first; then a small gap at the end on cycles, the win rate elsewhere."""
    quality = found.curve("text_quality")
    whole = not quality or quality[-1] >= MIN_TEXT_QUALITY
    if found.cell.world == "cyclic":
        return whole, -mean(found.curve("true_duality_gap")[1:][-LAST_ROUNDS:])
    return whole, found.curve("win_rate_vs_base")[-1]


def tune(
    cells: Sequence[Cell], grid: Sequence[tuple[float, float]], directory: Path, *, jobs: int, say: Say
) -> dict[Cell, dict[str, float]]:
    """The best settings of the grid for each cell, whose seed is the tuning seed; cells that were refused are left out."""
    options = {cell: [with_settings(cell, tuned_settings(cell.method, cell.world, *point)) for point in grid] for cell in cells}
    flat = [option for found in options.values() for option in found]
    finished = {found.cell: found for found in run_cells(flat, directory, jobs=jobs, say=say)}
    picked = {}
    for cell, own in options.items():
        runs = [finished[option] for option in own if not finished[option].refused]
        if runs:
            picked[cell] = dict(max(runs, key=score).cell.chosen)
    return picked
