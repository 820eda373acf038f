"""The default queue: what share of the labels goes to which question. Tuned with `nashloop bench selection`.

Most places are drawn by rules of pair_selection.py; a few go to triangle audits (all pairs of a prompt, several judgments each,
without which cycles and noise cannot be told apart) and to second judgments of a pair, sides drawn anew.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from annotate_app.pair_selection import Pool
from annotate_app.selection_draws import Draw, draw_mix

MIX = {"d_optimal": 0.9, "random": 0.1}  # of the places that are neither audits nor repeats
AUDIT_SHARE, REPEAT_SHARE = 0.03, 0.03
AUDIT_JUDGMENTS = 3  # of each pair of an audited prompt
TRIANGLE, REPEAT = "triangle", "repeat"  # the selection rules of audits and repeats
MIN_LABELS = 20  # decided labels before a model is trusted with choosing; fewer and everything is random


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One place of the queue: the pair's index, why it is asked, how many people are, and the chance of the choice among
    the places of its purpose."""

    index: int
    purpose: Literal["label", "audit", "repeat"]
    judgments: int = 1
    rule: str
    score: float | None
    probability: float


def draw_places(pool: Pool, num_asked: np.ndarray, *, rng: random.Random, count: int) -> list[Place]:
    """Places for about ``count`` judgments in the order to ask them; ``num_asked`` (N,) judgments each pair has or waits for."""
    num_asked = num_asked.copy()
    weights = (1 - AUDIT_SHARE - REPEAT_SHARE, AUDIT_SHARE / AUDIT_JUDGMENTS, REPEAT_SHARE)
    purposes = rng.choices(("label", "audit", "repeat"), weights, k=count)
    labels = iter(draw_mix(pool, MIX, rng=rng, count=count, free=num_asked == 0))
    places: list[Place] = []
    while purposes and sum(place.judgments for place in places) < count:
        purpose = purposes.pop()
        place = _audit(pool, num_asked, rng) if purpose == "audit" else None
        place = _repeat(num_asked, rng) if purpose == "repeat" else place
        place = place or _label(labels, num_asked)
        if place is not None:
            num_asked[place.index] += place.judgments
            places.append(place)
    return places


def _label(labels: Iterator[Draw], num_asked: np.ndarray) -> Place | None:
    """The next draw that no audit has taken meanwhile."""
    draw = next((draw for draw in labels if not num_asked[draw.index]), None)
    if draw is None:
        return None
    score = None if draw.rule == "random" else draw.score
    return Place(index=draw.index, purpose="label", rule=draw.rule, score=score, probability=draw.probability)


def _repeat(num_asked: np.ndarray, rng: random.Random) -> Place | None:
    """A pair that was asked once, any."""
    once = np.flatnonzero(num_asked == 1)
    if not len(once):
        return None
    return Place(index=int(rng.choice(once)), purpose="repeat", rule=REPEAT, score=None, probability=1 / len(once))


def _audit(pool: Pool, num_asked: np.ndarray, rng: random.Random) -> Place | None:
    """The least asked pair of the prompt whose audit has come furthest; any one of them where several stand alike."""
    done = np.bincount(pool.prompt, weights=np.minimum(num_asked, AUDIT_JUDGMENTS))
    wanted = np.bincount(pool.prompt) * AUDIT_JUDGMENTS
    if (done >= wanted).all():
        return None
    left = np.where(done < wanted, done, -1)
    prompt = int(rng.choice(np.flatnonzero(left == left.max())))
    of_prompt = np.flatnonzero((pool.prompt == prompt) & (num_asked < AUDIT_JUDGMENTS))
    least = of_prompt[num_asked[of_prompt] == num_asked[of_prompt].min()]
    index, missing = int(rng.choice(least)), AUDIT_JUDGMENTS - int(num_asked[least[0]])
    return Place(index=index, purpose="audit", judgments=missing, rule=TRIANGLE, score=None, probability=1 / len(least))
