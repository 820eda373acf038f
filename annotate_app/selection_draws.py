"""Drawing pairs by the scores of rules, with the exact probability of every draw, so that estimates can undo the choosing.

``select_pairs`` and ``select_sets`` draw within each prompt; ``draw_mix`` draws from the whole pool by several rules at once.
The uniform share keeps every probability away from zero, so that a judgment can be weighted by its inverse.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from annotate_app.pair_selection import PAIR_RULES, Pair, Pool, build_pool, expect_answer, uniform

UNIFORM_SHARE = 0.2
SHARPNESS = 4.0  # scores are raised to this power in draws from the whole pool; tuned by `nashloop bench selection`


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedPair:
    """A drawn pair: ``rank`` 0 is its prompt's first, ``probability`` that of this draw given its prompt's earlier ones."""

    pair: Pair
    rank: int
    rule: str
    score: float | None
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedSet:
    """Responses of one prompt to be ranked together; ``score`` is the sum over their pairs, ``probability`` that of the set."""

    prompt_id: str
    response_ids: tuple[str, ...]
    rule: str
    score: float | None
    probability: float


@dataclass(frozen=True, slots=True)
class Draw:
    """A pair drawn from a pool: its index, the rule whose turn it was and its score, and the chance of the draw, whichever
    rule's turn it had been, given the draws before it."""

    index: int
    rule: str
    score: float
    probability: float


def draw_mix(
    pool: Pool,
    shares: Mapping[str, float],
    *,
    rng: random.Random,
    count: int,
    free: np.ndarray | None = None,
    sharpness: float = SHARPNESS,
) -> list[Draw]:
    """``count`` pairs of the pool in the order to ask them; fewer where no more are ``free`` (N,).

    Before each draw a rule is picked by its share; after it the ensemble is taken to have learnt the answer, so that the next
    pair tells something else. A rule that has no opinion of the pairs left draws evenly.
    """
    left = np.ones(len(pool), dtype=bool) if free is None else free.copy()
    drawn: list[Draw] = []
    while len(drawn) < count and left.any():
        scores = {rule: PAIR_RULES[rule](pool) for rule in shares}
        chances = {rule: _chances(np.where(left, score, 0.0) ** sharpness, left) for rule, score in scores.items()}
        [rule] = rng.choices(list(shares), list(shares.values()))
        index = _pick(chances[rule], rng)
        probability = sum(share * chances[name][index] for name, share in shares.items()) / sum(shares.values())
        drawn.append(Draw(index, rule, float(scores[rule][index]), float(probability)))
        left[index] = False
        pool = expect_answer(pool, index)
    return drawn


def _chances(weights: np.ndarray, left: np.ndarray) -> np.ndarray:
    total = weights.sum()
    return weights / total if total > 0 else left / left.sum()


def _pick(chances: np.ndarray, rng: random.Random) -> int:
    """An index, never one whose chance is zero."""
    possible = np.flatnonzero(chances)
    below = np.cumsum(chances[possible])
    return int(possible[min(np.searchsorted(below, rng.random() * below[-1], side="right"), len(possible) - 1)])


def select_pairs(pairs: Sequence[Pair], rule: str, *, rng: random.Random, per_prompt: int) -> list[SelectedPair]:
    """Up to ``per_prompt`` pairs of every prompt in the order to ask them: one of each prompt before any second one.

    Within a prompt pairs are drawn without replacement, mostly in proportion to the score. Prompts are shuffled anew within each
    rank, so that labels spread over prompts wherever labelling stops.
    """
    ranks: list[list[SelectedPair]] = [[] for _ in range(per_prompt)]
    for of_prompt in _scored_by_prompt(pairs, rule):
        for selected in _draw(of_prompt, rule, rng, per_prompt):
            ranks[selected.rank].append(selected)
    for of_rank in ranks:
        rng.shuffle(of_rank)
    return [selected for of_rank in ranks for selected in of_rank]


def select_sets(pairs: Sequence[Pair], rule: str, *, rng: random.Random, size: int) -> list[SelectedSet]:
    """For every prompt one set of ``size`` responses (all of them where there are fewer), prompts in random order.

    ``pairs`` are all pairs of each prompt's responses. A set is drawn like a pair, by the sum of its pairs' scores.
    """
    sets = [_draw_set(of_prompt, rule, rng, size) for of_prompt in _scored_by_prompt(pairs, rule)]
    rng.shuffle(sets)
    return sets


def _scored_by_prompt(pairs: Sequence[Pair], rule: str) -> list[list[tuple[Pair, float]]]:
    by_prompt: dict[str, list[tuple[Pair, float]]] = defaultdict(list)
    for pair, score in zip(pairs, PAIR_RULES[rule](build_pool(pairs)).tolist() if pairs else (), strict=True):
        by_prompt[pair.prompt_id].append((pair, score))
    return list(by_prompt.values())


def _draw_set(pairs: list[tuple[Pair, float]], rule: str, rng: random.Random, size: int) -> SelectedSet:
    score_of = {frozenset((pair.response_1_id, pair.response_2_id)): score for pair, score in pairs}
    responses = dict.fromkeys(i for pair, _ in pairs for i in (pair.response_1_id, pair.response_2_id))
    sets = list(combinations(responses, min(size, len(responses))))
    scores = [sum(score_of[frozenset(two)] for two in combinations(chosen, 2)) for chosen in sets]
    probabilities = _probabilities(scores)
    index = rng.choices(range(len(sets)), probabilities)[0]
    return SelectedSet(
        prompt_id=pairs[0][0].prompt_id,
        response_ids=sets[index],
        rule=rule,
        score=None if PAIR_RULES[rule] is uniform else scores[index],
        probability=probabilities[index],
    )


def _draw(pairs: list[tuple[Pair, float]], rule: str, rng: random.Random, count: int) -> list[SelectedPair]:
    left = list(pairs)
    drawn = []
    for rank in range(min(count, len(pairs))):
        probabilities = _probabilities([score for _, score in left])
        index = rng.choices(range(len(left)), probabilities)[0]
        pair, score = left.pop(index)
        stored_score = None if PAIR_RULES[rule] is uniform else score
        drawn.append(SelectedPair(pair=pair, rank=rank, rule=rule, score=stored_score, probability=probabilities[index]))
    return drawn


def _probabilities(scores: list[float]) -> list[float]:
    total = sum(scores)
    if total <= 0:  # no pair stands out
        return [1 / len(scores)] * len(scores)
    return [UNIFORM_SHARE / len(scores) + (1 - UNIFORM_SHARE) * (score / total) for score in scores]
