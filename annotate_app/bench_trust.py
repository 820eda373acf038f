"""Simulated annotators of whom everything is known: are those who click found, are the others left alone, do intervals hold?

50 people, 40 labels each: 5 click at random, 2 answer the wrong way round, the others answer as in the crowd world (flips
Beta(1, 15), pull of the first place .25 +- .15 logits). Pairs differ by normal logits of deviation 3; checks are pairs whose
answer is known, 4 to 6 logits apart.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit, logit
from scipy.stats import lognorm

from annotate_app import trust_estimates as estimates
from annotate_app.reports.dawid_skene import dawid_skene
from annotate_app.trust_evidence import THRESHOLD, weigh_evidence
from annotate_app.trust_votes import Votes, fit_spread, honest_chance, others_votes

NUM_PEOPLE, NUM_RANDOM, NUM_ADVERSARIAL, NUM_CHECKS = 50, 5, 2, 60
LOOK_EVERY = 8  # labels of each person between two looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """How each person's ``labels`` are spent: shares on checks and on repeats with swapped sides, the rest on shared pairs."""

    labels: int = 40
    overlap: int = 3
    checks: float = 0.05
    repeats: float = 0.05


def detection(design: Design, *, runs: int, seed: int) -> dict[str, Any]:
    """Shares over ``runs`` of those found by any of the looks, which come after every LOOK_EVERY labels of each person."""
    rng, clickers = np.random.default_rng(seed), NUM_RANDOM + NUM_ADVERSARIAL
    suspected = np.array([_ever_suspected(*simulate(design, rng)) for _ in range(runs)])
    return {
        "labels": design.labels,
        "overlap": design.overlap,
        "checks": design.checks,
        "runs": runs,
        "all_found": float(suspected[:, :clickers].all(1).mean()),
        "random_found": float(suspected[:, :NUM_RANDOM].mean()),
        "adversarial_found": float(suspected[:, NUM_RANDOM:clickers].mean()),
        "honest_suspected": float(suspected[:, clickers:].mean()),
    }


def simulate(design: Design, rng: np.random.Generator) -> tuple[np.ndarray, Votes]:
    """Steps (V,) at which votes were made, and the votes: everybody makes one a step."""
    shown = _assign(design, rng)  # (person, step, 2): pair and whether response 1 comes first
    num_shared = int(shown[..., 0].max()) + 1 - NUM_CHECKS
    sure = rng.choice([-1, 1], NUM_CHECKS) * rng.uniform(4, 6, NUM_CHECKS)
    logits = np.concatenate([rng.normal(0, 3, num_shared), sure])
    flips, bias = rng.beta(1, 15, NUM_PEOPLE), rng.normal(0.25, 0.15, NUM_PEOPLE)
    pair, first_1 = shown[..., 0], shown[..., 1].astype(bool)
    chance = expit(logits[pair] + bias[:, None] * np.where(first_1, 1, -1))
    clickers = NUM_RANDOM + NUM_ADVERSARIAL
    flips[:NUM_RANDOM], flips[NUM_RANDOM:clickers] = 0.5, 1.0
    chose_1 = (rng.random(pair.shape) < chance) ^ (rng.random(pair.shape) < flips[:, None])
    step = np.tile(np.arange(design.labels), NUM_PEOPLE)
    order = np.argsort(step, kind="stable")
    people = np.repeat(np.arange(NUM_PEOPLE), design.labels)
    known = np.concatenate([np.zeros(num_shared, int), np.sign(sure).astype(int)])
    columns = {"pair": pair.ravel(), "annotator": people, "chose_1": chose_1.ravel(), "first_1": first_1.ravel()}
    return step[order], Votes(known=known, **{name: column[order] for name, column in columns.items()})


def _assign(design: Design, rng: np.random.Generator) -> np.ndarray:
    num_checks, num_repeats = round(design.checks * design.labels), round(design.repeats * design.labels)
    num_own = design.labels - num_checks - num_repeats
    places = np.concatenate([rng.permutation(NUM_PEOPLE) for _ in range(num_own)])  # every person once a turn
    pair_of_place = np.arange(len(places)) // design.overlap
    num_shared = int(pair_of_place.max()) + 1
    shown = np.empty((NUM_PEOPLE, design.labels, 2), dtype=int)
    for person in range(NUM_PEOPLE):
        checks = num_shared + rng.choice(NUM_CHECKS, num_checks, replace=False)
        fresh = rng.permutation(np.concatenate([pair_of_place[places == person], checks]))
        again = rng.choice(fresh[: len(fresh) // 2], num_repeats, replace=False)
        first = dict(zip(fresh, rng.random(len(fresh)) < 0.5, strict=True))
        later = rng.permutation(np.concatenate([fresh[len(fresh) // 2 :], again]))
        pairs = np.concatenate([fresh[: len(fresh) // 2], later])
        seen: Counter[int] = Counter()
        for step, pair in enumerate(pairs):
            shown[person, step] = pair, first[pair] ^ (seen[pair] > 0)
            seen[pair] += 1
    return shown


def _ever_suspected(step: np.ndarray, votes: Votes) -> np.ndarray:
    """(A,): whether the evidence sufficed at any look."""
    ever = np.zeros(NUM_PEOPLE, dtype=bool)
    for until in range(LOOK_EVERY, int(step.max()) + 2, LOOK_EVERY):
        seen = {name: getattr(votes, name)[step < until] for name in ("pair", "annotator", "chose_1", "first_1")}
        ever |= weigh_evidence(replace(votes, **seen)).total >= THRESHOLD
    return ever


def coverage(*, runs: int, seed: int) -> dict[str, float]:
    """How often each 95 % interval holds the planted value, over ``runs`` and everybody."""
    rng = np.random.default_rng(seed)
    rows = [row for _ in range(runs) for row in (*_known_people(rng), *_flipping_people(rng))]
    names = dict.fromkeys(name for name, _ in rows)
    return {name: float(np.mean([held for other, held in rows if other == name])) for name in names}


def _known_people(rng: np.random.Generator, people: int = 20, pairs: int = 240, overlap: int = 4) -> list[tuple[str, bool]]:
    """People who choose the first place by habit at a rate, and else the right response at another; seconds are log-normal."""
    habit, right = rng.uniform(0, 0.3, people), rng.uniform(0.6, 0.98, people)
    truth = rng.integers(2, size=pairs)
    who = np.array([rng.choice(people, overlap, replace=False) for _ in range(pairs)])
    first = rng.integers(2, size=who.shape)  # the response shown first
    said = _answers(rng, truth[:, None], first, habit[who], right[who])
    again = _answers(rng, truth[:, None], 1 - first, habit[who], right[who])
    labels = [(int(i), int(who[i, j]), int(said[i, j])) for i in range(pairs) for j in range(overlap)]
    by_others = dawid_skene(labels, num_classes=2).truth_by_others(labels)
    seconds = lognorm(s=0.6, scale=12).rvs(who.shape, random_state=rng)
    words = np.full(who.shape, 60)  # 4 seconds at the fastest
    rows = []
    for k in range(people):
        mine = who == k
        exact = habit[k] / 2 + (1 - habit[k]) * right[k]  # the truth is shown first half of the time
        ahead, behind = habit[k] + (1 - habit[k]) * right[k], (1 - habit[k]) * right[k]  # right, by where the truth is shown
        found = {
            "accuracy on known answers": (estimates.accuracy(_count(said == truth[:, None], mine), mine.sum()), exact),
            "accuracy by consensus": (estimates.accuracy_by_consensus(by_others[mine.ravel()], said[mine]), exact),
            "first shown wins": (estimates.share(_count(said == first, mine), mine.sum()), habit[k] + (1 - habit[k]) / 2),
            "repeats alike": (
                estimates.share(_count(said == again, mine), mine.sum()),
                ahead * behind + (1 - ahead) * (1 - behind),
            ),
            "median seconds": (estimates.median_seconds(seconds[mine].tolist()), 12.0),
            "too fast": (estimates.too_fast(seconds[mine].tolist(), words[mine].tolist()), lognorm(s=0.6, scale=12).cdf(4)),
        }
        rows += [(name, _holds(estimate, planted)) for name, (estimate, planted) in found.items()]
    return rows


def _answers(rng: np.random.Generator, truth: Any, first: np.ndarray, habit: np.ndarray, right: np.ndarray) -> np.ndarray:
    by_reading = np.where(rng.random(first.shape) < right, truth, 1 - truth)
    return np.where(rng.random(first.shape) < habit, first, by_reading)


def _flipping_people(rng: np.random.Generator, people: int = 20, pairs: int = 400, overlap: int = 4) -> list[tuple[str, bool]]:
    """People like the others but for a share of answers the wrong way round; the others are not told who flips."""
    flips = np.where(np.arange(people) < people // 4, rng.uniform(0.05, 0.4, people), 0.0)
    theta = expit(logit(rng.beta(0.4, 0.4, pairs).clip(1e-6, 1 - 1e-6)))
    who = np.array([rng.choice(people, overlap, replace=False) for _ in range(pairs)])
    chose_1 = (rng.random(who.shape) < theta[:, None]) ^ (rng.random(who.shape) < flips[who])
    pair = np.repeat(np.arange(pairs), overlap)
    votes = Votes(pair=pair, annotator=who.ravel(), chose_1=chose_1.ravel(), first_1=chose_1.ravel(), known=np.zeros(pairs, int))
    honest = flips == 0
    chance = honest_chance(fit_spread(votes, honest), others_votes(votes, honest))
    rows = []
    for k in np.flatnonzero(~honest):
        mine = votes.annotator == k
        rows.append(("flip rate", _holds(estimates.flip_rate(chance[mine], votes.chose_1[mine]), flips[k])))
    return rows


def _count(matches: np.ndarray, mine: np.ndarray) -> int:
    return int((matches & mine).sum())


def _holds(estimate: estimates.Estimate | None, planted: float) -> bool:
    return estimate is not None and estimate["low"] <= planted <= estimate["high"]
