"""Circular triads: three responses that beat each other in a circle, by majority and within one annotator.

A circle of votes proves little: three coin tosses make one in four times. Shapes: Q prompts, K responses, T triads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from scipy.stats import norm

from online_learner.preference_models.hodge import Array, log_odds

CHANCE = 0.25  # largest share of circular triads that a person with utilities and logistic noise can reach
NUM_RESAMPLES = 200
MIN_TRIADS = 20


@dataclass(frozen=True, slots=True)
class Votes:
    """Judgments as numbers, all (n,): a and b are responses, verdict +1 a, 0 tie, -1 b; annotator -1 is not known."""

    prompt: Array
    a: Array
    b: Array
    verdict: Array
    annotator: Array


def count_wins(votes: Votes) -> tuple[Array, Array, Array]:
    """wins and ties (Q, K, K) of every prompt, a tie half a win for both, and which response (Q, K) is which, -1 padded."""
    members: dict[int, dict[int, int]] = {}
    for prompt, a, b in zip(votes.prompt.tolist(), votes.a.tolist(), votes.b.tolist(), strict=True):
        place = members.setdefault(prompt, {})
        place.setdefault(a, len(place))
        place.setdefault(b, len(place))
    width = max((len(place) for place in members.values()), default=0)
    row_of = {prompt: q for q, prompt in enumerate(members)}
    wins, ties = np.zeros((2, len(members), width, width))
    names = np.full((len(members), width), -1)
    for prompt, place in members.items():
        names[row_of[prompt], : len(place)] = list(place)
    for prompt, a, b, verdict in zip(*(x.tolist() for x in (votes.prompt, votes.a, votes.b, votes.verdict)), strict=True):
        i, j = members[prompt][a], members[prompt][b]
        wins[row_of[prompt], i, j] += (1 + verdict) / 2
        wins[row_of[prompt], j, i] += (1 - verdict) / 2
        ties[row_of[prompt], [i, j], [j, i]] += verdict == 0
    return wins, ties, names


def kendall_circular_triads(beats: Array) -> int:
    """Circular triads of a complete tournament (K, K) of 0 and 1: C(K, 3) - sum_i C(a_i, 2), Kendall & Babington Smith 1940."""
    return comb(len(beats), 3) - sum(comb(int(wins), 2) for wins in beats.sum(1))


def majority_triads(wins: Array, ties: Array) -> tuple[Array, Array]:
    """(Q,), (Q,): circular triads, and triads where on each side one response has more votes than the other and than ties."""
    decided_wins = wins - ties / 2
    ahead = (decided_wins > decided_wins.swapaxes(-1, -2)) & (decided_wins > ties)
    circular, decided = np.zeros(len(wins), dtype=int), np.zeros(len(wins), dtype=int)
    strict = ahead | ahead.swapaxes(-1, -2)
    for i, j, k in combinations(range(wins.shape[-1]), 3):
        decided += strict[:, i, j] & strict[:, j, k] & strict[:, i, k]
        circular += (ahead[:, i, j] & ahead[:, j, k] & ahead[:, k, i]) | (ahead[:, j, i] & ahead[:, k, j] & ahead[:, i, k])
    return circular, decided


def curl_scores(wins: Array) -> dict[str, Any]:
    """z of the log odds around every judged triangle: {"num_triangles", "num_significant", "largest_z", "largest"}.

    Significant at 5 % in all, by Bonferroni. ``largest`` is (prompt row, i, j, k), in the direction in which they win.
    """
    flow, weights = log_odds(wins)
    variance = np.divide(1.0, weights, out=np.full_like(weights, np.inf), where=weights > 0)
    scores = {}
    for i, j, k in combinations(range(wins.shape[-1]), 3):
        total = variance[:, i, j] + variance[:, j, k] + variance[:, i, k]
        z = (flow[:, i, j] + flow[:, j, k] - flow[:, i, k]) / np.sqrt(total)
        for q in np.flatnonzero(np.isfinite(total)):
            scores[(int(q), i, j, k) if z[q] >= 0 else (int(q), i, k, j)] = abs(float(z[q]))
    if not scores:
        return {"num_triangles": 0, "num_significant": 0, "largest_z": None, "largest": None}
    largest = max(scores, key=lambda triangle: scores[triangle])
    limit = float(norm.ppf(1 - 0.025 / len(scores)))
    significant = sum(z > limit for z in scores.values())
    return {
        "num_triangles": len(scores),
        "num_significant": significant,
        "largest_z": scores[largest],
        "largest": list(largest),
    }


def share_interval(circular: Array, decided: Array, rng: np.random.Generator) -> tuple[float, float] | None:
    """95 % interval of sum(circular) / sum(decided) by bootstrap over prompts (Q,); None where fewer than two count."""
    kept = decided > 0
    if kept.sum() < 2:
        return None
    drawn = rng.integers(int(kept.sum()), size=(NUM_RESAMPLES, int(kept.sum())))
    shares = circular[kept][drawn].sum(1) / decided[kept][drawn].sum(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def personal_triads(votes: Votes) -> tuple[Array, Array]:
    """(T, 3) rows of votes and (T, 3) signs +1, -1: triads one annotator decided on all sides, read around the circle.

    A triad is circular where vote times sign agrees on all three. A second vote of the same person on a pair is left out.
    """
    rows_of: dict[tuple[int, int], dict[tuple[int, int], int]] = {}
    for row in np.flatnonzero((votes.verdict != 0) & (votes.annotator >= 0)).tolist():
        a, b = int(votes.a[row]), int(votes.b[row])
        pair = (min(a, b), max(a, b))
        rows_of.setdefault((int(votes.annotator[row]), int(votes.prompt[row])), {}).setdefault(pair, row)
    triads, signs = [], []
    for pairs in rows_of.values():
        nodes = sorted({node for pair in pairs for node in pair})
        for i, j, k in combinations(nodes, 3):
            if all(pair in pairs for pair in ((i, j), (j, k), (i, k))):
                rows = [pairs[i, j], pairs[j, k], pairs[i, k]]
                triads.append(rows)
                signs.append([_sign(votes, row, start) for row, start in zip(rows, (i, j, k), strict=True)])
    return np.array(triads, dtype=int).reshape(-1, 3), np.array(signs, dtype=int).reshape(-1, 3)


def who_is_cyclic(votes: Votes, rng: np.random.Generator) -> dict[str, Any]:
    """Circles within annotators against the same votes dealt out anew among the annotators of each pair.

    {"who": "individuals" | "population" | None, "num_triads", "share", "interval", "share_if_shuffled", "p_value", "sentence"}.
    Consistent people who disagree make circles in the majority but few of their own: then shuffling adds circles.
    """
    triads, signs = personal_triads(votes)
    if len(triads) < MIN_TRIADS:
        sentence = (
            f"Whether single annotators are cyclic or only their majority cannot be told: {len(triads)} triads were "
            f"judged on all three sides by one person, at least {MIN_TRIADS} are needed."
        )
        return {"who": None, "num_triads": len(triads), "sentence": sentence}
    circular = _circular(votes.verdict, triads, signs)
    _, row_of = np.unique(votes.prompt[triads[:, 0]], return_inverse=True)
    interval = share_interval(np.bincount(row_of, circular), np.bincount(row_of), rng)
    shuffled = np.array([_circular(_dealt_anew(votes, rng), triads, signs).mean() for _ in range(NUM_RESAMPLES)])
    share = float(circular.mean())
    p_value = (1 + int((shuffled <= share + 1e-12).sum())) / (1 + NUM_RESAMPLES)
    who = _who(interval, p_value)
    return {
        "who": who,
        "num_triads": len(triads),
        "share": share,
        "interval": None if interval is None else list(interval),
        "share_if_shuffled": float(shuffled.mean()),
        "p_value": p_value,
        "sentence": _WHO[who].format(share=share, shuffled=float(shuffled.mean()), n=len(triads), p=p_value),
    }


def _who(interval: Sequence[float] | None, p_value: float) -> str | None:
    if interval is not None and interval[0] > CHANCE:
        return "individuals"
    if interval is not None and interval[1] < CHANCE and p_value <= 0.05:
        return "population"
    return None


_WHO = {
    "individuals": "Single annotators prefer in circles: {share:.0%} of {n} triads that one person judged are circular, more "
    "than the 25 % that noise on a utility can make.",
    "population": "Annotators are consistent and disagree: {share:.0%} of {n} triads that one person judged are circular, "
    "{shuffled:.0%} if their votes are dealt out at random (p = {p:.3f}). Circles in the majority are made of consistent "
    "individuals.",
    None: "Whether single annotators are cyclic or only their majority cannot be told: {share:.0%} of {n} triads that one "
    "person judged are circular, {shuffled:.0%} if their votes are dealt out at random (p = {p:.3f}).",
}


def _sign(votes: Votes, row: int, start: int) -> int:
    """+1 where a vote for a points along the circle i -> j -> k -> i; the pair (i, k) is walked from k."""
    return 1 if int(votes.a[row]) == start else -1


def _circular(verdict: Array, triads: Array, signs: Array) -> Array:
    return np.abs((verdict[triads] * signs).sum(1)) == 3


def _dealt_anew(votes: Votes, rng: np.random.Generator) -> Array:
    """Verdicts shuffled among the decided votes of each pair, each turned to the order its new row shows."""
    turned = np.where(votes.a < votes.b, votes.verdict, -votes.verdict)
    pair = np.minimum(votes.a, votes.b) * (int(max(votes.a.max(), votes.b.max())) + 1) + np.maximum(votes.a, votes.b)
    decided = np.flatnonzero(votes.verdict != 0)
    in_order = decided[np.argsort(pair[decided], kind="stable")]
    shuffled = decided[np.lexsort((rng.random(len(decided)), pair[decided]))]
    dealt = turned.copy()
    dealt[in_order] = turned[shuffled]
    return np.where(votes.a < votes.b, dealt, -dealt)
