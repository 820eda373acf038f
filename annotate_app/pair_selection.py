"""Which pairs annotators are asked about, and in which order: the one place to add a pair-selection rule.

A rule scores a pair; ``select_pairs`` draws pairs of each prompt without replacement, mostly in proportion to the score,
and records the probability of every draw. The uniform share keeps that probability away from zero, so that a judgment can
be weighted by its inverse (Des Raj's ordered estimator: each draw given the draws before it).

Selected labels train the preference model, never a policy loss directly: choosing pairs by their expected outcome moves the
fixed point of the square-loss rules on cyclic preferences.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

UNIFORM_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two responses to one prompt with what the preference model says of them: log odds that response 1 is preferred."""

    prompt_id: str
    response_1_id: str
    response_2_id: str
    mean_logit: float | None = None
    ensemble_logits: tuple[float, ...] = ()


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


def uniform(pair: Pair) -> float:
    """Every pair alike; needs no preference model."""
    return 1.0


def near_tie(pair: Pair) -> float:
    """4 p (1 - p) of the mean prediction: 1 where the model expects a coin flip, 0 where it is sure."""
    p = _sigmoid(_known(pair.mean_logit))
    return 4 * p * (1 - p)


def bald(pair: Pair) -> float:
    """What a judgment would tell about the model, in bits: H(mean p) - mean H(p) over the ensemble (arXiv:1112.5745, Eq. 2)."""
    if not pair.ensemble_logits:
        raise ValueError("bald needs the logits of an ensemble")
    probabilities = [_sigmoid(logit) for logit in pair.ensemble_logits]
    mean = sum(probabilities) / len(probabilities)
    return max(0.0, _entropy(mean) - sum(map(_entropy, probabilities)) / len(probabilities))


def select_pairs(pairs: Sequence[Pair], rule: str, *, rng: random.Random, per_prompt: int) -> list[SelectedPair]:
    """Up to ``per_prompt`` pairs of every prompt in the order to ask them: one of each prompt before any second one.

    Prompts are shuffled anew within each rank, so that labels spread over prompts wherever labelling stops.
    """
    by_prompt: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_prompt[pair.prompt_id].append(pair)
    ranks: list[list[SelectedPair]] = [[] for _ in range(per_prompt)]
    for of_prompt in by_prompt.values():
        for selected in _draw(of_prompt, rule, rng, per_prompt):
            ranks[selected.rank].append(selected)
    for of_rank in ranks:
        rng.shuffle(of_rank)
    return [selected for of_rank in ranks for selected in of_rank]


def select_sets(pairs: Sequence[Pair], rule: str, *, rng: random.Random, size: int) -> list[SelectedSet]:
    """For every prompt one set of ``size`` responses (all of them where there are fewer), prompts in random order.

    ``pairs`` are all pairs of each prompt's responses. A set is drawn like a pair, by the sum of its pairs' scores.
    """
    by_prompt: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_prompt[pair.prompt_id].append(pair)
    sets = [_draw_set(prompt_id, of_prompt, rule, rng, size) for prompt_id, of_prompt in by_prompt.items()]
    rng.shuffle(sets)
    return sets


def _draw_set(prompt_id: str, pairs: list[Pair], rule: str, rng: random.Random, size: int) -> SelectedSet:
    score_of = {frozenset((pair.response_1_id, pair.response_2_id)): PAIR_RULES[rule](pair) for pair in pairs}
    responses = dict.fromkeys(i for pair in pairs for i in (pair.response_1_id, pair.response_2_id))
    sets = list(combinations(responses, min(size, len(responses))))
    scores = [sum(score_of[frozenset(two)] for two in combinations(chosen, 2)) for chosen in sets]
    probabilities = _probabilities(scores)
    index = rng.choices(range(len(sets)), probabilities)[0]
    stored_score = None if PAIR_RULES[rule] is uniform else scores[index]
    return SelectedSet(
        prompt_id=prompt_id, response_ids=sets[index], rule=rule, score=stored_score, probability=probabilities[index]
    )


def _draw(pairs: list[Pair], rule: str, rng: random.Random, count: int) -> list[SelectedPair]:
    left = [(pair, PAIR_RULES[rule](pair)) for pair in pairs]
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


def _known(logit: float | None) -> float:
    if logit is None:
        raise ValueError("this rule needs the preference model's logit of every pair")
    return logit


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def _entropy(p: float) -> float:
    return -sum(x * math.log2(x) for x in (p, 1 - p) if x > 0)


PairRule = Callable[[Pair], float]
PAIR_RULES: dict[str, PairRule] = {"random": uniform, "near_tie": near_tie, "bald": bald}
SELECTIONS = {  # the rules in words
    "random": "random",
    "near_tie": "near ties: pairs the preference model cannot decide",
    "bald": "disagreement: pairs its ensemble disagrees on",
}
