"""How fast update rules approach the Nash policy: many games of one kind at once, averaged and last iterate, slopes in T."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from online_learner.game_labels import bernoulli_fit, group_fit
from online_learner.games import (
    GAMES,
    Fit,
    GameState,
    Gaps,
    duality_gaps,
    log_spaced,
    regularised_gaps,
    start_state,
    trace_gaps,
)
from online_learner.seeds import stream
from online_learner.update_rule import RuleSettings, UpdateRule
from online_learner.update_rules import get_rule
from storage.errors import UserError

FIRST_T = 100  # slopes are least squares of log gap on log T from here on
NUM_HORIZONS = 8
SCHEDULES = ("horizon", "anytime")  # sqrt(8 log A / T) for a known T, sqrt(log A / t) without


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What a fit sees of the preferences: all of them, drawn labels of pairs, or pairs chosen from groups."""

    kind: str = "exact"  # exact | bernoulli | groups
    pairs_per_round: int = 300
    group_size: int = 4
    num_groups: int = 1000
    selection: str = "all"
    hard: bool = False

    def fit(self, generator: torch.Generator) -> Fit | None:
        """None: the closed form, or the numeric minimiser."""
        if self.kind == "bernoulli":
            return bernoulli_fit(self.pairs_per_round, generator)
        return (
            group_fit(self.num_groups, self.group_size, self.selection, self.hard, generator) if self.kind == "groups" else None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """An update rule with its step: a number, or one of SCHEDULES."""

    rule: str
    step: float | str

    @property
    def name(self) -> str:
        """RULE@STEP, as it is written on the command line."""
        return f"{self.rule}@{self.step:g}" if isinstance(self.step, float) else f"{self.rule}@{self.step}"

    def step_at(self, t: int, horizon: int, num_actions: int) -> float:
        """eta of the step after t policies, when ``horizon`` policies are played in all."""
        if isinstance(self.step, float):
            return self.step
        return math.sqrt(8 * math.log(num_actions) / horizon) if self.step == "horizon" else math.sqrt(math.log(num_actions) / t)


def read_method(text: str) -> Method:
    """``onpo@0.5`` or ``omd@horizon``; UserError where it is neither."""
    rule, _, step = text.partition("@")
    get_rule(rule)
    try:
        return Method(rule=rule, step=step if step in SCHEDULES else float(step))
    except ValueError as error:
        raise UserError(
            f"Method {text!r} is refused: write RULE@STEP with a number, horizon or anytime, as in onpo@0.5."
        ) from error


def read_game(text: str) -> tuple[str, int]:
    """``rps-11``: kind and number of actions; UserError where it is not such a name."""
    kind, _, size = text.rpartition("-")
    if kind not in GAMES or not size.isdigit() or int(size) < 2 or (kind == "rps" and int(size) % 2 == 0):
        kinds = ", ".join(GAMES)
        raise UserError(
            f"Game {text!r} is refused: write KIND-ACTIONS, KIND one of {kinds}; rps needs an odd number, as in rps-11."
        )
    return kind, int(size)


def draw_games(game: str, repeats: int, seed: int) -> tuple[Tensor, Tensor]:
    """Preferences (R, A, A) and start policies (R, A) with standard normal logits."""
    kind, num_actions = read_game(game)
    generator = stream(seed, f"games/{game}")
    prefs = torch.stack([GAMES[kind](num_actions, generator) for _ in range(repeats)])
    start = torch.softmax(torch.randn(repeats, num_actions, generator=generator, dtype=torch.float64), -1)
    return prefs, torch.full_like(start, 1 / num_actions) if kind == "tight" else start


def measure(
    game: str, method: Method, *, rounds: int, repeats: int, seed: int, labels: Labels, settings: RuleSettings, regularised: bool
) -> dict[str, Any]:
    """Geometric mean gaps over ``repeats`` games by T, and their slopes: {"t", "average", "last", "average_slope", ...}."""
    prefs, start = draw_games(game, repeats, seed)
    state, rule, num_actions = start_state(start), get_rule(method.rule), prefs.shape[-1]
    in_one = labels.kind == "exact" and rule.pair_loss == "square"
    if regularised and not in_one:
        raise UserError(
            f"Gaps of the regularised game are measured for exact labels and square-loss rules, not for {method.name}."
        )
    gaps = partial(_regularised, state.reference, settings.kl_coef) if regularised else duality_gaps

    def played(shown: Sequence[int]) -> list[Gaps]:
        def settings_at(t: int) -> RuleSettings:
            return replace(settings, step_size=method.step_at(t, max(shown), num_actions))

        rule.check(settings_at(1))
        if in_one:
            return trace_gaps(rule, prefs, state, settings_at, shown, gaps=gaps)
        fit = labels.fit(stream(seed, f"labels/{game}/{method.name}"))
        return _one_by_one(rule, prefs, state, settings_at, shown, fit)

    if method.step == "horizon":  # another horizon is another step: every T is a play of its own
        horizons = {round(FIRST_T * (rounds / FIRST_T) ** (k / (NUM_HORIZONS - 1))) for k in range(NUM_HORIZONS)}
        return summarise([played([horizon])[-1] for horizon in sorted(horizons)])
    return summarise(played(log_spaced(rounds)))


def summarise(trace: Sequence[Gaps]) -> dict[str, Any]:
    """Geometric means over games by T, and log-log slopes from FIRST_T on (None with fewer than three points)."""
    ts = [point.t for point in trace]
    found: dict[str, Any] = {"t": ts}
    for name in ("average", "last"):
        values = [float(getattr(point, name).clamp_min(1e-16).log().mean().exp()) for point in trace]
        found |= {name: values, f"{name}_gap": values[-1], f"{name}_slope": slope(ts, values)}
    tail = trace[-max(1, len(trace) // 10) :]
    return {**found, "tail_gap": float(torch.stack([point.last for point in tail]).mean())}


def slope(ts: Sequence[int], values: Sequence[float]) -> float | None:
    """Least-squares slope of log value on log t over t >= FIRST_T."""
    points = [(math.log(t), math.log(v)) for t, v in zip(ts, values, strict=True) if t >= FIRST_T and v > 0]
    if len(points) < 3:
        return None
    mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def _regularised(reference: Tensor, kl_coef: float, prefs: Tensor, policies: Tensor) -> Tensor:
    return regularised_gaps(prefs, policies, reference, kl_coef)


def _one_by_one(
    rule: UpdateRule,
    prefs: Tensor,
    state: GameState,
    settings_at: Callable[[int], RuleSettings],
    shown: Sequence[int],
    fit: Fit | None,
) -> list[Gaps]:
    """Fits without a closed form take one game at a time."""
    traces = []
    for k in range(len(prefs)):
        own = GameState(**{name: getattr(state, name)[k] for name in ("policy", "auxiliary", "reference", "previous")})
        traces.append(trace_gaps(rule, prefs[k], own, settings_at, shown, fit=fit))
    return [
        Gaps(points[0].t, torch.stack([p.average for p in points]), torch.stack([p.last for p in points]))
        for points in zip(*traces, strict=True)
    ]
