"""Which pairs annotators are asked about: the one place to add a pair-selection rule. Pure: arrays in, scores out.

A rule scores every pair of a pool; selection_draws.py draws pairs by these scores and records the probability of every draw.
Selected labels train the preference model, never a policy loss directly: choosing pairs by their expected outcome moves the
fixed point of the square-loss rules on cyclic preferences.
Shapes: N pairs, E members of the preference model's ensemble.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

FLIP_RATE = 0.1  # of answers given the wrong way round, where nothing better is known
SECONDS = 15.0  # of a label, where nothing is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two responses to one prompt with what the preference model says of them: log odds that response 1 is preferred."""

    prompt_id: str
    response_1_id: str
    response_2_id: str
    mean_logit: float | None = None
    ensemble_logits: tuple[float, ...] = ()
    seconds: float = SECONDS  # that a judgment is expected to take


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Pairs as arrays: numbers of prompt and responses (N,), logits (N, E), their calibrated mean (N,) and seconds (N,).

    Where no model has scored all pairs, E is 0 and means are not numbers.
    """

    prompt: np.ndarray
    first: np.ndarray
    second: np.ndarray
    mean: np.ndarray
    ensemble: np.ndarray
    seconds: np.ndarray
    flip_rate: float = FLIP_RATE

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def is_scored(self) -> bool:
        """Whether an ensemble has an opinion of every pair."""
        return self.ensemble.shape[1] > 0


def build_pool(pairs: Sequence[Pair], *, flip_rate: float = FLIP_RATE) -> Pool:
    """The pairs in their order; without logits if no ensemble has scored one of them."""
    prompts, responses = {}, {}
    sizes = {len(pair.ensemble_logits) for pair in pairs}
    size = sizes.pop() if len(sizes) == 1 else 0
    ensemble = [pair.ensemble_logits if size else () for pair in pairs]
    return Pool(
        prompt=np.array([prompts.setdefault(pair.prompt_id, len(prompts)) for pair in pairs], dtype=int),
        first=np.array([responses.setdefault(pair.response_1_id, len(responses)) for pair in pairs], dtype=int),
        second=np.array([responses.setdefault(pair.response_2_id, len(responses)) for pair in pairs], dtype=int),
        mean=np.array([math.nan if pair.mean_logit is None else pair.mean_logit for pair in pairs], dtype=float),
        ensemble=np.array(ensemble, dtype=float).reshape(len(pairs), size),
        seconds=np.array([pair.seconds for pair in pairs], dtype=float),
        flip_rate=flip_rate,
    )


def uniform(pool: Pool) -> np.ndarray:
    """Every pair alike; needs no preference model."""
    return np.ones(len(pool))


def near_tie(pool: Pool) -> np.ndarray:
    """4 p (1 - p) of the mean prediction: 1 where the model expects a coin flip, 0 where it is sure."""
    if np.isnan(pool.mean).any():
        raise ValueError("this rule needs the preference model's logit of every pair")
    p = expit(pool.mean)
    return 4 * p * (1 - p)


def bald(pool: Pool) -> np.ndarray:
    """What an answer would tell about the model, in bits, if some are given the wrong way round (ALGORITHMS: flip-aware BALD)."""
    return information(_scored(pool).ensemble, flip_rate=pool.flip_rate)


def double_thompson(pool: Pool) -> np.ndarray:
    """Chance that two members of the ensemble name these two as the best of their prompt (arXiv:2411.01493, EnnEETS).

    A member's best response has the highest mean logit against the others in the pool.
    """
    num = int(max(_scored(pool).first.max(), pool.second.max())) + 1
    value, meets, prompt_of = np.zeros((num, pool.ensemble.shape[1])), np.zeros((num, 1)), np.zeros(num, dtype=int)
    for side, sign in ((pool.first, 1.0), (pool.second, -1.0)):
        np.add.at(value, side, sign * pool.ensemble)
        np.add.at(meets, side, 1.0)
        prompt_of[side] = pool.prompt
    value /= np.maximum(meets, 1.0)
    highest = np.full((int(pool.prompt.max()) + 1, value.shape[1]), -np.inf)
    np.maximum.at(highest, prompt_of, value)
    named = value >= highest[prompt_of]  # several where they tie
    tied = np.zeros(highest.shape)
    np.add.at(tied, prompt_of, named.astype(float))
    share = (named / tied[prompt_of]).mean(1)
    return 2 * share[pool.first] * share[pool.second]


def d_optimal(pool: Pool) -> np.ndarray:
    """log(1 + p (1 - p) v), v the variance of the pair's logit over the ensemble: how much an answer shrinks the model's
    uncertainty volume (arXiv:2502.04354). The scores file has no features, so the ensemble's logits stand in for them."""
    p, size = expit(_scored(pool).mean), pool.ensemble.shape[1]
    return np.log1p(p * (1 - p) * pool.ensemble.var(1) * size / max(size - 1, 1))


def information_per_second(pool: Pool) -> np.ndarray:
    """Flip-aware BALD for each second that a judgment of the pair is expected to take."""
    return bald(pool) / pool.seconds


def information(ensemble: np.ndarray, *, flip_rate: float = 0.0) -> np.ndarray:
    """(N, E) logits -> (N,) bits: H(mean p) - mean H(p) over the ensemble (arXiv:1112.5745, Eq. 2), answers flipped at a rate."""
    p = (1 - 2 * flip_rate) * expit(ensemble) + flip_rate
    return np.maximum(_entropy(p.mean(1)) - _entropy(p).mean(1), 0.0)


def expect_answer(pool: Pool, index: int) -> Pool:
    """The pool as it looks once pair ``index`` is answered, whatever the answer: the ensemble draws closer around its mean.

    The answer counts as an observation of the logit with variance 1 / (p (1 - p)) after flips; deviations from the mean are
    multiplied by the square root of the updated covariance (rank one).
    """
    size = pool.ensemble.shape[1]
    if size < 2:
        return pool
    centre = pool.ensemble.mean(1, keepdims=True)
    deviation = (pool.ensemble - centre) / np.sqrt(size - 1)
    direction = deviation[index]
    length = float(direction @ direction)
    if length <= 0:
        return pool
    p = float(expit(pool.mean[index]))
    seen = (1 - 2 * pool.flip_rate) * p + pool.flip_rate  # the chance of the answer, and below what it tells of the logit
    precision = ((1 - 2 * pool.flip_rate) * p * (1 - p)) ** 2 / (seen * (1 - seen))
    shrink = (1 - 1 / np.sqrt(1 + precision * length)) / length
    deviation = deviation - shrink * np.outer(deviation @ direction, direction)
    return replace(pool, ensemble=centre + deviation * np.sqrt(size - 1))


def _scored(pool: Pool) -> Pool:
    if not pool.is_scored:
        raise ValueError("this rule needs the logits of an ensemble for every pair")
    return pool


def _entropy(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


PairRule = Callable[[Pool], np.ndarray]
PAIR_RULES: dict[str, PairRule] = {
    "random": uniform,
    "near_tie": near_tie,
    "bald": bald,
    "double_thompson": double_thompson,
    "d_optimal": d_optimal,
    "information_per_second": information_per_second,
}
MIX = "mix"  # of several rules, selection_mix.py
SELECTIONS = {  # what the queue can do, in words
    MIX: "mix: random until a preference model is fitted, then what it does not know, a random share, audits and repeats",
    "random": "random",
    "near_tie": "near ties: pairs the preference model cannot decide",
    "bald": "disagreement: pairs its ensemble disagrees on",
    "double_thompson": "contenders: pairs that members of its ensemble take for the best",
    "d_optimal": "uncertainty: pairs whose answer shrinks it most",
    "information_per_second": "disagreement for each second that a pair takes",
}
