"""``python -m online_learner games run|rates``: play update rules on games, measure how they approach the Nash policy."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from online_learner.game_rates import Labels, draw_games, measure, read_game, read_method
from online_learner.games import GAMES, GapPoint, play, start_state
from online_learner.seeds import stream
from online_learner.update_rule import RuleSettings
from online_learner.update_rules import get_rule
from storage.errors import UserError

TABLE_GAMES = "rps-3,rps-5,rps-11,rps-51,uniform-3,uniform-10,uniform-50,mixed-10,mixed-50"
TABLE_METHODS = "omd@horizon,omd@anytime,onpo@0.125,onpo@0.5,onpo@1,egpo@0.5"
SUM_TOLERANCE = 1e-6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``games run`` and ``games rates``."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="play one rule on one game")
    source = run.add_mutually_exclusive_group()
    source.add_argument("--prefs", type=Path, metavar="FILE.npy", help="square matrix, P(row preferred to column)")
    source.add_argument(
        "--game", default="rps-3", metavar="KIND-ACTIONS", help=f"one of {', '.join(GAMES)}, as in rps-11 (default: rps-3)"
    )
    run.add_argument("--rule", default="onpo", metavar="NAME", help="update rule (default: onpo); `nashloop rules` lists them")
    run.add_argument("--step-size", type=float, default=0.5, metavar="X", help="eta (default: 0.5)")
    run.add_argument("--start", type=Path, metavar="FILE.npy", help="probabilities that play starts from (default: uniform)")
    run.set_defaults(run=_run, rounds=10_000)
    rates = commands.add_parser("rates", help="averaged and last gaps of rules on many games, with slopes in T")
    rates.add_argument("--games", default=TABLE_GAMES, metavar="LIST", help=f"KIND-ACTIONS (default: {TABLE_GAMES})")
    rates.add_argument("--methods", default=TABLE_METHODS, metavar="LIST", help=f"RULE@STEP (default: {TABLE_METHODS})")
    rates.add_argument("--repeats", type=int, default=8, metavar="N", help="games of each kind, geometric means (default: 8)")
    rates.add_argument(
        "--regularised", action="store_true", help="gaps of the game with a KL penalty instead of the original one"
    )
    rates.set_defaults(run=_rates)
    for command in (run, rates):
        command.add_argument("--rounds", type=int, default=10_000, metavar="T", help="policies played (default: 10000)")
        command.add_argument("--kl-coef", type=float, default=0.0, metavar="X", help="tau (default: 0)")
        command.add_argument("--beta", type=float, default=2.0, metavar="X", help="scale of logistic rules (default: 2)")
        command.add_argument(
            "--labels", choices=["exact", "bernoulli", "groups"], default="exact", help="what a fit sees (default: exact)"
        )
        command.add_argument(
            "--pairs-per-round", type=int, default=300, metavar="N", help="with --labels bernoulli (default: 300)"
        )
        command.add_argument("--group-size", type=int, default=4, metavar="K", help="with --labels groups (default: 4)")
        command.add_argument("--pairs", choices=["all", "best_worst"], default="all", help="with --labels groups (default: all)")
        command.add_argument("--hard", action="store_true", help="with --labels groups: the better response always wins")
        command.add_argument("--seed", type=int, default=0, help="of drawn games, starts and labels (default: 0)")
        command.add_argument("--plot", type=Path, metavar="FILE.png", help="curves as a picture")
        command.add_argument("--json", action="store_true", help="one JSON object on standard output")


def _run(args: argparse.Namespace) -> int:
    _check(args)
    rule = get_rule(args.rule)
    prefs = load_prefs(args.prefs) if args.prefs else draw_games(args.game, 1, args.seed)[0][0]
    start = load_start(args.start, len(prefs)) if args.start else torch.full((len(prefs),), 1 / len(prefs), dtype=torch.float64)
    settings = RuleSettings(step_size=args.step_size, kl_coef=args.kl_coef, beta=args.beta)
    fit = _labels(args).fit(stream(args.seed, "labels"))
    try:
        trace = play(rule, prefs, start_state(start), settings, args.rounds, fit=fit)
    except ValueError as error:  # a rule that a table cannot play
        raise UserError(f"{error}. Choose another --rule or --labels.") from error
    result = {
        "rule": rule.name,
        "rounds": args.rounds,
        "step_size": args.step_size,
        "average_gap": trace[-1].average_gap,
        "last_gap": trace[-1].last_gap,
        "trace": [list(point) for point in trace],
    }
    if args.plot:
        name = args.prefs.name if args.prefs else args.game
        save_curves(args.plot, {rule.name: trace}, f"{rule.name} on {name}")
    print(json.dumps(result) if args.json else _trace_table(trace))
    return 0


def _rates(args: argparse.Namespace) -> int:
    _check(args)
    methods, games = [read_method(text) for text in _list(args.methods)], _list(args.games)
    for game in games:
        read_game(game)
    if args.regularised and not args.kl_coef > 0:
        raise UserError(f"--regularised needs a positive --kl-coef, got {args.kl_coef:g}.")
    settings = RuleSettings(kl_coef=args.kl_coef, beta=args.beta)
    rows = []
    for game in games:
        for method in methods:
            started = time.monotonic()
            options = {"rounds": args.rounds, "repeats": args.repeats, "seed": args.seed, "labels": _labels(args)}
            try:
                found = measure(game, method, settings=settings, regularised=args.regularised, **options)
            except ValueError as error:
                raise UserError(f"{error}. Leave {method.name} out of --methods.") from error
            rows.append({"game": game, "method": method.name, **found})
            print(f"{game} {method.name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    if args.plot:
        curves = {f"{row['game']} {row['method']}": _points(row) for row in rows}
        save_curves(args.plot, curves, f"{args.repeats} games of each kind, geometric means")
    print(json.dumps({"rounds": args.rounds, "repeats": args.repeats, "rows": rows}) if args.json else _rates_table(rows))
    return 0


def load_prefs(path: Path) -> Tensor:
    """P(row preferred to column), (A, A) float64; UserError that names the entry which is no such probability."""
    prefs = _load(path)
    if prefs.ndim != 2 or prefs.shape[0] != prefs.shape[1] or len(prefs) < 2:
        raise UserError(
            f"{path} holds an array of shape {tuple(prefs.shape)}; preferences are a square matrix of at least 2 x 2."
        )
    outside = ((prefs < 0) | (prefs > 1) | ~prefs.isfinite()).nonzero()
    if len(outside):
        i, j = outside[0].tolist()
        raise UserError(f"{path}: entry [{i}, {j}] is {prefs[i, j]:g}, no probability between 0 and 1. Correct the matrix.")
    uneven = ((prefs + prefs.T - 1).abs() > SUM_TOLERANCE).nonzero()
    if len(uneven):
        i, j = uneven[0].tolist()
        pair = f"[{i}, {j}] and [{j}, {i}] are {prefs[i, j]:g} and {prefs[j, i]:g}"
        raise UserError(f"{path}: entries {pair}; P(row preferred to column) and its opposite must add up to 1.")
    return prefs


def load_start(path: Path, num_actions: int) -> Tensor:
    """Positive probabilities (A,) that add up to 1; UserError where they do not."""
    start = _load(path)
    if start.shape != (num_actions,) or not bool((start > 0).all()) or abs(float(start.sum()) - 1) > SUM_TOLERANCE:
        raise UserError(
            f"{path} must hold {num_actions} positive probabilities that add up to 1; it holds shape {tuple(start.shape)}, "
            f"smallest {float(start.min()):g}, sum {float(start.sum()):g}."
        )
    return start


def save_curves(path: Path, curves: dict[str, list[GapPoint]], title: str) -> None:
    """Averaged (solid) and last (dashed) gaps against T on log scales, PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.8), layout="constrained")
    for name, points in curves.items():
        ts = [point.t for point in points]
        (line,) = axes.plot(ts, [max(p.average_gap, 1e-16) for p in points], label=name)
        axes.plot(ts, [max(p.last_gap, 1e-16) for p in points], "--", color=line.get_color(), alpha=0.6)
    axes.set(xscale="log", yscale="log", xlabel="policies played, T", ylabel="duality gap", title=title)
    axes.grid(alpha=0.25)
    axes.plot([], [], "k-", label="average of all policies")
    axes.plot([], [], "k--", label="last policy")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=140)
    pyplot.close(figure)


def _load(path: Path) -> Tensor:
    try:
        values = np.load(path, allow_pickle=False)
        return torch.from_numpy(np.asarray(values, dtype=np.float64))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is no NumPy file of numbers ({str(error).splitlines()[0]}). Write one with numpy.save."
        ) from error


def _check(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # tables of a few thousand numbers: more threads only wait for each other
    for name in ("rounds", "pairs_per_round", "group_size", "repeats"):
        least = 2 if name == "group_size" else 1
        if getattr(args, name, least) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(args, name)}.")
    if args.plot and (args.plot.suffix.lower() != ".png" or not args.plot.parent.is_dir()):
        raise UserError(f"--plot {args.plot} is refused: name a .png file in a folder that exists.")


def _labels(args: argparse.Namespace) -> Labels:
    pairs, size = args.pairs_per_round, args.group_size
    return Labels(kind=args.labels, pairs_per_round=pairs, group_size=size, selection=args.pairs, hard=args.hard)


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _points(row: dict[str, Any]) -> list[GapPoint]:
    return [GapPoint(*point) for point in zip(row["t"], row["average"], row["last"], strict=True)]


def _trace_table(trace: list[GapPoint]) -> str:
    lines = [f"{point.t:>8}  {point.average_gap:>12.3e}  {point.last_gap:>12.3e}" for point in trace[:: max(1, len(trace) // 12)]]
    last = f"{trace[-1].t:>8}  {trace[-1].average_gap:>12.3e}  {trace[-1].last_gap:>12.3e}"
    return "\n".join([f"{'T':>8}  {'average gap':>12}  {'last gap':>12}", *lines, *([last] if lines[-1] != last else [])])


def _rates_table(rows: list[dict[str, Any]]) -> str:
    head = f"{'game':<12} {'method':<20} {'average gap':>12} {'slope':>7} {'last gap':>10} {'slope':>7} {'tail':>10}"
    return "\n".join([head, *map(_rates_line, rows)])


def _rates_line(row: dict[str, Any]) -> str:
    slopes = [f"{value:.2f}" if value is not None else "–" for value in (row["average_slope"], row["last_slope"])]
    gaps = f"{row['average_gap']:>12.1e} {slopes[0]:>7} {row['last_gap']:>10.1e} {slopes[1]:>7} {row['tail_gap']:>10.1e}"
    return f"{row['game']:<12} {row['method']:<20} {gaps}"
