"""How many labels each pair-selection rule needs: simulated answers, heads refitted after every batch, truth known.

Best-of-4 regret: how much lower the response that the model puts first stands than the best one, in mean log odds against the
other three; log loss of the model on all pairs, expected under the truth. Both on prompts that were never labelled.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from annotate_app.pair_selection import PAIR_RULES, Pool
from annotate_app.selection_draws import draw_mix
from annotate_app.selection_heads import fit_heads
from annotate_app.selection_mix import MIN_LABELS, draw_places
from annotate_app.selection_worlds import FIRST, RESPONSES, SECOND, SELECTION_WORLDS, SelectionWorld

NUM_PROMPTS, NUM_HELDOUT = 200, 300
BATCH = 20  # labels between two fits
MARKS = (40, 60, 80, 100, 120, 140, 160, 200, 240, 320, 400, 480)
FLIP_RATE = 0.1  # of answers; the heads are told
MEDIAN_SECONDS, SECONDS_SPREAD = 15.0, 0.6  # of a label: log-normal over pairs, whatever they tell; the rules know them
RANDOM_SHARE = 0.1  # of the labels of every rule
RULES = (*PAIR_RULES, "mix")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One run: regret, log loss and the seconds that people spent after each of MARKS."""

    world: str
    rule: str
    seed: int
    regret: tuple[float, ...]
    log_loss: tuple[float, ...]
    seconds: tuple[float, ...]


def run(world: str, rule: str, seed: int) -> Curve:
    """Choose, label, fit, measure. Rules meet the same prompts and the same truth under one seed."""
    make = SELECTION_WORLDS[world]
    labelled, heldout = (make(n, np.random.default_rng([seed, 1]), np.random.default_rng([seed, k])) for n, k in _SETS)
    rng, answers = random.Random(seed), np.random.default_rng([seed, 4])
    features, chances = labelled.features.reshape(-1, labelled.features.shape[2]), expit(labelled.logits.ravel())
    asked, chose_first = np.zeros(0, dtype=int), np.zeros(0, dtype=bool)
    seconds = np.random.default_rng([seed, 6]).lognormal(np.log(MEDIAN_SECONDS), SECONDS_SPREAD, len(chances))
    weights, measured = None, []
    while len(asked) < MARKS[-1]:
        chosen = _choose(build_pool(labelled, weights, seconds), asked, rule, rng)
        meant = answers.random(len(chosen)) < chances[chosen]
        asked = np.concatenate([asked, chosen])
        chose_first = np.concatenate([chose_first, meant ^ (answers.random(len(chosen)) < FLIP_RATE)])
        resampling = np.random.default_rng([seed, 5, len(asked)])
        prompt = asked // len(FIRST)
        options = {"flip_rate": FLIP_RATE, "rng": resampling, "start": weights}
        weights = fit_heads(features[asked], chose_first, prompt, **options)
        if len(asked) in MARKS:
            measured.append((*measure(heldout, weights), float(seconds[asked].sum())))
    regret, log_loss, spent = zip(*measured, strict=True)
    return Curve(world=world, rule=rule, seed=seed, regret=regret, log_loss=log_loss, seconds=spent)


_SETS = ((NUM_PROMPTS, 2), (NUM_HELDOUT, 3))


def _choose(pool: Pool, asked: np.ndarray, rule: str, rng: random.Random) -> np.ndarray:
    num_asked = np.bincount(asked, minlength=len(pool))
    if not pool.is_scored:
        drawn = draw_mix(pool, {"random": 1.0}, rng=rng, count=MIN_LABELS)
    elif rule == "mix":  # a batch may end within an audit, which goes on in a later one
        places = draw_places(pool, num_asked, rng=rng, count=BATCH)
        return np.array([place.index for place in places for _ in range(place.judgments)])[:BATCH]
    else:
        shares = {"random": RANDOM_SHARE, rule: 1 - RANDOM_SHARE} if rule != "random" else {"random": 1.0}
        drawn = draw_mix(pool, shares, rng=rng, count=BATCH, free=num_asked == 0)
    return np.array([draw.index for draw in drawn])


def build_pool(world: SelectionWorld, weights: np.ndarray | None, seconds: np.ndarray) -> Pool:
    """All pairs of a world with what the heads (E, D) say of them and the seconds (N,) they take."""
    num_prompts, num_pairs = world.logits.shape
    prompt = np.repeat(np.arange(num_prompts), num_pairs)
    ensemble = np.zeros((prompt.size, 0)) if weights is None else world.features.reshape(prompt.size, -1) @ weights.T
    return Pool(
        prompt=prompt,
        first=prompt * RESPONSES + np.tile(FIRST, num_prompts),
        second=prompt * RESPONSES + np.tile(SECOND, num_prompts),
        mean=ensemble.mean(1) if weights is not None else np.full(prompt.size, np.nan),
        ensemble=ensemble,
        seconds=seconds,
        flip_rate=FLIP_RATE,
    )


def measure(world: SelectionWorld, weights: np.ndarray) -> tuple[float, float]:
    """Best-of-4 regret and expected log loss of the heads' mean."""
    predicted = (world.features @ weights.T).mean(2)
    truth, chance = expit(world.logits), np.clip(expit(predicted), 1e-6, 1 - 1e-6)
    log_loss = -(truth * np.log(chance) + (1 - truth) * np.log(1 - chance))
    value, picked = _values(world.logits), _values(predicted).argmax(1)
    regret = value.max(1) - value[np.arange(len(value)), picked]
    return float(regret.mean()), float(log_loss.mean())


def _values(logits: np.ndarray) -> np.ndarray:
    """(Q, P) log odds of pairs -> (Q, K): mean log odds of each response against the others of its prompt."""
    value = np.zeros((len(logits), RESPONSES))
    for pair, (first, second) in enumerate(zip(FIRST, SECOND, strict=True)):
        value[:, first] += logits[:, pair]
        value[:, second] -= logits[:, pair]
    return value / (RESPONSES - 1)


def summarise(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """A row for each world and rule: means over seeds and their standard errors, by label counts."""
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.world, curve.rule), []).append(curve)
    rows = []
    for (world, rule), of_rule in groups.items():
        row: dict[str, Any] = {"world": world, "rule": rule, "seeds": len(of_rule), "labels": list(MARKS)}
        for name in ("regret", "log_loss", "seconds"):
            values = np.array([getattr(curve, name) for curve in of_rule])
            row[name] = values.mean(0).tolist()
            row[f"{name}_error"] = (values.std(0, ddof=1) / np.sqrt(len(values))).tolist() if len(values) > 1 else None
        rows.append(row)
    return rows


def reached(labels: Sequence[float], values: Sequence[float], quality: float) -> float | None:
    """Where the falling ``values`` over ``labels`` first reach ``quality``."""
    for k, value in enumerate(values):
        if value <= quality:
            if k == 0:
                return float(labels[0])
            share = (values[k - 1] - quality) / (values[k - 1] - value)
            return labels[k - 1] + share * (labels[k] - labels[k - 1])
    return None
