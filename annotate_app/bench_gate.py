"""How often the gate errs, by simulation, looking after every vote; beside it a fixed-sample test, and that test peeked at."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from annotate_app import confidence_sequence as cs
from annotate_app.gate import MOST_VOTES

BATCH = 250  # comparisons simulated at once: memory
FIRST_LOOK = 20  # of the peeked test: fewer votes have no normal approximation


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A candidate whose true win rate is ``win_rate``; annotators' own rates scatter with ``correlation`` around it."""

    win_rate: float
    ties: float = 0.0
    annotators: int = 8
    correlation: float = 0.0  # intraclass: variance of annotators' rates / (rate (1 - rate))


SCENARIOS = (
    Scenario(win_rate=0.5),
    Scenario(win_rate=0.5, ties=0.3),
    Scenario(win_rate=0.5, correlation=0.02),
    Scenario(win_rate=0.5, correlation=0.05),
    Scenario(win_rate=0.5, correlation=0.05, annotators=4),
    Scenario(win_rate=0.6),
    Scenario(win_rate=0.6, ties=0.3),
    Scenario(win_rate=0.6, correlation=0.02),
    Scenario(win_rate=0.65),
    Scenario(win_rate=0.55),
)


def measure_gate(*, comparisons: int, votes: int = MOST_VOTES, seed: int = 0) -> list[dict[str, Any]]:
    """For each scenario the shares promoted and rejected by the gate, and promoted by three other tests."""
    rng = np.random.default_rng(seed)
    return [_measure(scenario, comparisons, votes, rng) for scenario in SCENARIOS]


def _measure(scenario: Scenario, comparisons: int, votes: int, rng: np.random.Generator) -> dict[str, Any]:
    sizes = [min(BATCH, comparisons - start) for start in range(0, comparisons, BATCH)]
    parts = [_looks(*_draw(scenario, size, votes, rng)) for size in sizes]
    ended = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    promoted = ended["promoted"] < ended["rejected"]
    found = {
        "promoted": promoted.mean(),
        "rejected": (ended["rejected"] < ended["promoted"]).mean(),
        "median_votes_to_promote": np.median(ended["promoted"][promoted]) if promoted.any() else None,
        "promoted_ignoring_clusters": ended["unclustered"].mean(),
        "promoted_fixed_sample": ended["fixed"].mean(),
        "promoted_peeking": ended["peeked"].mean(),
    }
    return asdict(scenario) | {name: None if value is None else float(value) for name, value in found.items()}


def _draw(scenario: Scenario, size: int, votes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores (size, votes) in {0, .5, 1} and who gave them. Win rate = decided wins (1 - ties) + ties / 2."""
    decided = (scenario.win_rate - scenario.ties / 2) / (1 - scenario.ties)
    shape = (size, scenario.annotators)
    if scenario.correlation:
        sharpness = 1 / scenario.correlation - 1  # a beta distribution of this size has that intraclass correlation
        own = rng.beta(decided * sharpness, (1 - decided) * sharpness, shape)
    else:
        own = np.full(shape, decided)
    who = rng.integers(scenario.annotators, size=(size, votes))
    won = rng.random((size, votes)) < np.take_along_axis(own, who, axis=1)
    return np.where(rng.random((size, votes)) < scenario.ties, 0.5, won), who


def _looks(scores: np.ndarray, who: np.ndarray) -> dict[str, np.ndarray]:
    """After how many votes the gate decided (infinite: never), and whether the other tests promoted."""
    given = who[:, :, None] == np.arange(who.max() + 1)
    by_annotator = [np.cumsum(given & (scores == score)[:, :, None], axis=1) for score in (1, 0.5, 0)]
    wins, ties, losses = (counts.sum(axis=-1) for counts in by_annotator)
    effect = cs.design_effect(*by_annotator)
    needed = -np.log(cs.LEVEL)
    promoted, unclustered, rejected = (
        cs.log_capital(won / deflated, ties / deflated, lost / deflated) >= needed
        for won, lost, deflated in ((wins, losses, effect), (wins, losses, 1), (losses, wins, effect))
    )
    z = (wins - losses) / np.sqrt(np.maximum(wins + losses, 1)) > norm.ppf(1 - cs.LEVEL)  # the sign test, one-sided
    return {
        "promoted": _first(promoted),
        "rejected": _first(rejected),
        "unclustered": unclustered.any(axis=1),
        "fixed": z[:, -1],
        "peeked": z[:, FIRST_LOOK:].any(axis=1),
    }


def _first(reached: np.ndarray) -> np.ndarray:
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """The result as Markdown."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("true win rate", lambda row: f"{row['win_rate']:.2f}"),
        ("ties", lambda row: f"{row['ties']:.1f}"),
        ("annotators", lambda row: str(row["annotators"])),
        ("correlation", lambda row: f"{row['correlation']:.2f}"),
        ("gate promotes", lambda row: f"{row['promoted']:.3f}"),
        ("gate rejects", lambda row: f"{row['rejected']:.3f}"),
        ("median votes", lambda row: _votes(row["median_votes_to_promote"])),
        ("clusters ignored", lambda row: f"{row['promoted_ignoring_clusters']:.3f}"),
        ("fixed sample", lambda row: f"{row['promoted_fixed_sample']:.3f}"),
        ("fixed test, peeked at", lambda row: f"{row['promoted_peeking']:.3f}"),
    ]
    head = [f"| {' | '.join(name for name, _ in columns)} |", f"|{' --- |' * len(columns)}"]
    return "\n".join([*head, *(f"| {' | '.join(show(row) for _, show in columns)} |" for row in rows)])


def _votes(median: float | None) -> str:
    return "–" if median is None else f"{median:.0f}"
