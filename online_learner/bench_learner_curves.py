"""What a whole online round costs as prompts, responses and lengths grow: seconds by phase, memory, and their floor.

The floor is the time that the round's matrix products alone would take at the speed measured for a large one: forward for
sampling, anchors and update, and back for the update, every prompt read once. Weights are frozen, so that going back costs one
product more, not two.
"""

import ctypes
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from online_learner.bench_learner_arms import ours, restart_peak, status_mib
from online_learner.bench_learner_work import Work, lay_out, load_base

GRID: dict[str, tuple[int, ...]] = {"prompts": (4, 8, 16), "responses": (2, 4, 8), "length": (16, 32, 64, 128)}
MIDDLE = {"prompts": 8, "responses": 4, "length": 32}
NAMES = {"prompts": "prompts", "responses": "responses to a prompt", "length": "tokens of a response"}
PHASES = {"sample": "sampling", "anchors": "anchors", "update": "update"}
PRODUCTS = {"sample": 1, "anchors": 1, "update": 2}  # forward, forward, forward and back


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One size of round: seconds of the processor, MiB at the peak above what was there before, operations."""

    prompts: int
    responses: int
    length: int
    phases: dict[str, float]
    run_mib: float
    operations: dict[str, float]  # by phase


def measure_curves(model: str, threads: int, seed: int, repeats: int) -> dict[str, Any]:
    """Every point of the grid, the least busy of ``repeats`` runs, and the speed of a large matrix product."""
    torch.set_num_threads(threads)
    wanted = list(dict.fromkeys(tuple({**MIDDLE, axis: value}.values()) for axis, values in GRID.items() for value in values))
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        largest = max(GRID["prompts"])
        work = lay_out(directory, case="online-step", model=model, num_prompts=largest, length=128, threads=threads, seed=seed)
        weights = _product_weights(load_base(directory))
        _point(directory, work, wanted[0], weights, 1)  # libraries get ready
        points = [_point(directory, work, size, weights, repeats) for size in wanted]
    return {"model": model, "threads": threads, "products_per_second": product_speed(), "points": [asdict(p) for p in points]}


def product_speed() -> float:
    """Operations a second of a large float32 matrix product, the best of some."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = float("inf")
    for _ in range(8):
        began = time.process_time()
        _ = a @ b
        best = min(best, time.process_time() - began)
    return 2 * 1024**3 / best


def operations(work: Work, response_tokens: int, weights: tuple[int, int]) -> dict[str, float]:
    """Multiplications and additions of each phase's matrix products; ``weights`` of the layers and of the head."""
    layers, head = weights
    tokens = sum(map(len, work.prompts)) + response_tokens
    return {phase: products * 2.0 * (layers * tokens + head * response_tokens) for phase, products in PRODUCTS.items()}


def _point(directory: Path, work: Work, size: tuple[int, ...], weights: tuple[int, int], repeats: int) -> Point:
    prompts, k, length = size
    own = [prompt[:length] for prompt in work.prompts[:prompts]]
    work = replace(work, prompts=own, num_responses=k, max_new_tokens=length, prompts_per_step=8)
    run = ours(directory, work)
    _give_back_memory()
    before = restart_peak()
    best = min((run() for _ in range(repeats)), key=lambda found: found.cpu_seconds)
    return Point(
        prompts=prompts,
        responses=k,
        length=length,
        phases=best.phases,
        run_mib=status_mib("VmHWM") - before,
        operations=operations(work, best.response_tokens, weights),
    )


def _product_weights(base: Any) -> tuple[int, int]:
    """Numbers in the weights of the linear layers, and in the head."""
    head = base.get_output_embeddings()
    linear = [m for m in base.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    return sum(layer.weight.numel() for layer in linear), head.weight.numel()


def _give_back_memory() -> None:
    """To the system, so that the next peak is its own."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def curves_text(found: dict[str, Any]) -> str:
    """A table of the points; the last column is the update's share of the speed of a large product."""
    speed = found["products_per_second"]
    lines = ["prompts   K  length  sampling  anchors  update   floor    MiB  of the speed"]
    for point in found["points"]:
        spent, done = point["phases"], point["operations"]
        size = f"{point['prompts']:>7} {point['responses']:>3} {point['length']:>7}"
        seconds = f"{spent['sample']:>9.2f} {spent['anchors']:>8.2f} {spent['update']:>7.2f} {_floor(point, speed):>7.2f}"
        lines.append(f"{size} {seconds} {point['run_mib']:>6.0f} {done['update'] / speed / spent['update']:>8.0%}")
    return "\n".join([*lines, f"seconds of CPU; floor: matrix products alone, {speed / 1e9:.0f} billion operations a second"])


def _floor(point: dict[str, Any], speed: float) -> float:
    return sum(point["operations"].values()) / speed


def save_curves(found: dict[str, Any], path: Path) -> None:
    """Time by phase with its floor, and memory, against prompts, responses and length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axes = figure.subplots(2, len(GRID))
    for column, axis in enumerate(GRID):
        points = _along(found["points"], axis)
        sizes = [point[axis] for point in points]
        _draw_time(axes[0, column], sizes, points, found["products_per_second"])
        axes[1, column].plot(sizes, [point["run_mib"] for point in points], marker="o", color="#444444")
        axes[1, column].set_xlabel(NAMES[axis])
        for row in (0, 1):
            axes[row, column].margins(y=0.1)
            axes[row, column].set_ylim(bottom=0)
            axes[row, column].set_xticks(sizes)
            axes[row, column].grid(alpha=0.3)
    axes[0, 0].set_ylabel("seconds of CPU")
    axes[1, 0].set_ylabel("memory of the round, MiB")
    axes[0, 0].legend(loc="upper left", fontsize=9)
    middle = f"{MIDDLE['prompts']} prompts, {MIDDLE['responses']} responses of {MIDDLE['length']} tokens"
    figure.suptitle(f"An online round of {found['model']}, {found['threads']} thread(s): around {middle}")
    figure.savefig(path, dpi=110)


def _along(points: Sequence[dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    others = [name for name in MIDDLE if name != axis]
    found = [point for point in points if all(point[name] == MIDDLE[name] for name in others)]
    return sorted(found, key=lambda point: point[axis])


def _draw_time(axes: Any, sizes: list[int], points: list[dict[str, Any]], speed: float) -> None:
    spent = [[point["phases"][phase] for point in points] for phase in PHASES]
    axes.stackplot(sizes, spent, labels=list(PHASES.values()), colors=["#9ecae1", "#fdd0a2", "#a1d99b"])
    floor = [_floor(point, speed) for point in points]
    axes.plot(sizes, floor, linestyle="--", color="black", marker=".", label="matrix products alone")
