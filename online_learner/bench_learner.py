"""``python -m online_learner bench-learner``: the policy update against TRL on the same work, by turns in one run."""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from storage.errors import UserError

CASES = {
    "pairs": "given pairs, two responses to a prompt",
    "all-pairs": "all six pairs of four responses",
    "online-step": "one whole step: sample two responses to each prompt, compare, update",
}
PEERS = {"trl": "1.16"}
PROMPTS = {"pairs": 64, "all-pairs": 12, "online-step": 64}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench-learner``."""
    from online_learner.bench_learner_work import MODELS

    parser.add_argument("--peer", choices=list(PEERS), default="trl", help="the trainer to compare with (default: trl)")
    parser.add_argument("--case", choices=list(CASES), default="pairs", help="; ".join(f"{k}: {v}" for k, v in CASES.items()))
    parser.add_argument("--model", choices=MODELS, default="llama-9m", help="base model (default: llama-9m, random weights)")
    parser.add_argument("--prompts", type=int, metavar="N", help="prompts in a run (default: 64; 12 for all-pairs)")
    parser.add_argument("--length", type=int, default=128, metavar="T", help="tokens of the longest response (default: 128)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs of each side (default: 3)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of both sides (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, tokens and lengths (default: 0)")
    parser.add_argument(
        "--curves",
        type=Path,
        metavar="FILE.png",
        help="no peer: draw what a whole round costs against prompts, responses and lengths, with its floor",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--arm", help=argparse.SUPPRESS)  # this process is one of the two sides
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    if args.arm:
        from online_learner.bench_learner_arms import serve

        serve(args.arm, args.directory)
        return 0
    _check(args)
    from transformers.utils import logging

    logging.disable_progress_bar()
    if args.curves:
        return _curves(args)
    result = measure(args)
    print(json.dumps(result) if args.json else as_text(result))
    return 0


def _curves(args: argparse.Namespace) -> int:
    from online_learner.bench_learner_curves import curves_text, measure_curves, save_curves

    found = measure_curves(args.model, args.threads, args.seed, args.repeats)
    save_curves(found, args.curves)
    print(json.dumps(found) if args.json else curves_text(found))
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Both sides on one work, one after the other, ``repeats`` times, after one run of each that is not counted."""
    from online_learner.bench_learner_work import lay_out

    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        work = lay_out(
            directory,
            case=args.case,
            model=args.model,
            num_prompts=args.prompts or PROMPTS[args.case],
            length=args.length,
            threads=args.threads,
            seed=args.seed,
        )
        runs = _by_turns(["ours", args.peer], directory, args.repeats)
    sides = {arm: _side(found, work.num_pairs) for arm, found in runs.items()}
    mine, peers = sides["ours"], sides[args.peer]
    return {
        "case": args.case,
        "model": args.model,
        "peer": f"{args.peer} {version(args.peer)}",
        "threads": args.threads,
        "machine": platform.machine(),
        "pairs": work.num_pairs,
        "prompt_tokens": sum(map(len, work.prompts)),
        "response_tokens": sum(len(response) for own in work.responses for response in own),
        **sides,
        "times_faster": peers["seconds"] / mine["seconds"],
        "times_less_cpu": peers["cpu_seconds"] / mine["cpu_seconds"],
        "times_memory": mine["peak_mib"] / peers["peak_mib"],
        "times_memory_of_the_run": mine["run_mib"] / peers["run_mib"],
        **({} if args.case == "online-step" else _differences(runs["ours"][0], runs[args.peer][0])),
    }


def _by_turns(arms: list[str], directory: Path, repeats: int) -> dict[str, list[dict[str, Any]]]:
    workers = {arm: _start(arm, directory) for arm in arms}
    try:
        runs = [{arm: _answer(arm, worker, directory) for arm, worker in workers.items()} for _ in range(repeats + 1)]
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return {arm: [found[arm] | {"start_mib": runs[0][arm]["start_mib"]} for found in runs[1:]] for arm in arms}


def _start(arm: str, directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "online_learner", "bench-learner", "--directory", str(directory), "--arm", arm]
    with (directory / f"{arm}.log").open("w") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)


def _answer(arm: str, worker: subprocess.Popen[str], directory: Path) -> dict[str, Any]:
    stdin, stdout = _open(worker.stdin), _open(worker.stdout)
    try:
        stdin.write("run\n")
        stdin.flush()
        line = stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        last = (directory / f"{arm}.log").read_text().strip().splitlines()[-1:] or ["no message"]
        raise UserError(f"The side {arm!r} of the comparison ended without a result: {last[0]}")
    return json.loads(line)


def _open(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _side(runs: list[dict[str, Any]], num_pairs: int) -> dict[str, Any]:
    """Medians over the runs; memory of the process at its peak, and above what it held before the first run."""
    seconds = statistics.median(run["seconds"] for run in runs)
    return {
        "seconds": seconds,
        "cpu_seconds": statistics.median(run["cpu_seconds"] for run in runs),
        "all_seconds": [run["seconds"] for run in runs],
        "pairs_per_second": num_pairs / seconds,
        "peak_mib": max(run["peak_mib"] for run in runs),
        "run_mib": max(run["peak_mib"] - run["start_mib"] for run in runs),
        "phases": {name: statistics.median(run["phases"][name] for run in runs) for name in runs[0]["phases"]},
        "losses": runs[0]["losses"],
        "gradient_norms": runs[0]["gradient_norms"],
    }


def _differences(mine: dict[str, Any], peers: dict[str, Any]) -> dict[str, float]:
    """Largest relative differences over the optimiser steps."""
    return {
        f"largest_{name}_difference": max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(mine[key], peers[key], strict=True))
        for name, key in (("loss", "losses"), ("gradient_norm", "gradient_norms"))
    }


def as_text(result: dict[str, Any]) -> str:
    """The comparison for people."""
    peer = result["peer"].split()[0]
    tokens = f"{result['prompt_tokens']} prompt and {result['response_tokens']} response tokens"
    lines = [f"{CASES[result['case']]}: {result['pairs']} pairs, {tokens}, {result['model']}, {result['threads']} thread(s)"]
    for name, side in (("Nashloop", result["ours"]), (result["peer"], result[peer])):
        rate, peak = side["pairs_per_second"], side["peak_mib"]
        used = f"{side['seconds']:8.2f} s ({side['cpu_seconds']:.2f} s of CPU)"
        lines.append(f"{name:<12} {used} {rate:8.1f} pairs/s {peak:8.0f} MiB ({side['run_mib']:.0f} in the run)")
    faster = f"{result['times_faster']:.2f} times as fast ({result['times_less_cpu']:.2f} by CPU time)"
    lines.append(f"{faster} with {result['times_memory']:.2f} of the memory")
    where = ", ".join(f"{name} {spent:.2f} s" for name, spent in result["ours"]["phases"].items() if spent > 0.001)
    lines.append(f"Nashloop's CPU time: {where}")
    if "largest_loss_difference" in result:
        loss, norm = result["largest_loss_difference"], result["largest_gradient_norm_difference"]
        lines.append(f"losses of all steps agree to {loss:.1e}, gradient norms to {norm:.1e} (relative)")
    return "\n".join(lines)


def _check(args: argparse.Namespace) -> None:
    if not Path("/proc/self/status").exists():
        raise UserError("bench learner reads memory from /proc, which this system lacks. Run it on Linux.")
    least = {"repeats": 1, "threads": 1, "length": 10}
    for name, smallest in least.items():
        if getattr(args, name) < smallest:
            raise UserError(f"--{name} must be at least {smallest}, got {getattr(args, name)}.")
    if args.prompts is not None and args.prompts < 1:
        raise UserError(f"--prompts must be at least 1, got {args.prompts}.")
    longest = math.ceil(1.6 * args.length) + 1
    if args.model == "tiny" and longest > 512:
        raise UserError(f"--length {args.length} gives sequences of {longest} tokens; the tiny policy reads 512. Take 300.")
    if args.curves:
        if args.curves.suffix.lower() != ".png" or not args.curves.parent.is_dir():
            raise UserError(f"--curves {args.curves} is refused: name a .png file in a folder that exists.")
        return
    try:
        found = version(args.peer)
    except PackageNotFoundError as error:
        wanted = PEERS[args.peer]
        raise UserError(
            f"{args.peer} is not installed. Install it beside nashloop: pip install '{args.peer}=={wanted}.*'."
        ) from error
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # of the two sides
    if not found.startswith(PEERS[args.peer]):
        print(f"{args.peer} {found} is installed; the comparison is written for {PEERS[args.peer]}.", file=sys.stderr)
