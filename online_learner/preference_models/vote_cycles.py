"""What the votes alone say about cycles, without features: Hodge residual, circular triads, and whose circles they are."""

from typing import Any

import numpy as np

from online_learner.preference_models.hodge import Array, draw_wins, harmonic_share, hodge_test, null_shares, residual_share
from online_learner.preference_models.triads import (
    Votes,
    count_wins,
    curl_scores,
    majority_triads,
    share_interval,
    who_is_cyclic,
)

MAX_PROMPTS, MAX_WIDTH = 200, 16  # more would take longer than a round has, and add little
LABELS_TRIED = (2, 3, 4, 5, 7, 10, 15)
POWER, NUM_DRAWS = 0.8, 60
SIGNIFICANT = 0.05


def audit_votes(votes: Votes, rng: np.random.Generator) -> dict[str, Any]:
    """{"num_triangles", "labels_per_pair", "hodge", "triads", "curl", "annotators"}: each section ends in a plain sentence."""
    wins, ties, names = count_wins(votes)
    kept = _with_triangles(wins)
    if not len(kept):
        sentence = "No prompt has three responses that were all compared with each other, so votes alone cannot show a circle."
        return {"num_triangles": 0, "labels_per_pair": None, "sentence": sentence}
    wins, ties, names = wins[kept], ties[kept], names[kept]
    made = (wins + wins.swapaxes(-1, -2))[:, *np.triu_indices(wins.shape[-1], 1)]
    curl = curl_scores(wins)
    largest = curl.pop("largest")
    return {
        "num_prompts": len(wins),
        "num_triangles": curl["num_triangles"],
        "labels_per_pair": float(made[made > 0].mean()),
        "hodge": _hodge(wins, rng),
        "triads": _triads(wins, ties, rng),
        "curl": {**curl, "largest": [int(names[largest[0], i]) for i in largest[1:]]},
        "annotators": who_is_cyclic(votes, rng),
    }


def labels_needed(logits: Array, rng: np.random.Generator) -> int | None:
    """Labels on each pair with which the Hodge test at 5 % finds these preferences (Q, K, K) in 4 of 5 cases; None: over 15.

    By simulation of complete comparisons: one null and 60 data sets for each number tried.
    """
    off_diagonal = np.where(np.eye(logits.shape[-1], dtype=bool), 0, np.ones(logits.shape, dtype=int))
    for labels in LABELS_TRIED:
        drawn = draw_wins(logits, labels * off_diagonal, rng, NUM_DRAWS)
        limit = np.quantile(null_shares(drawn[0], rng, NUM_DRAWS), 1 - SIGNIFICANT)
        if (residual_share(drawn) > limit).mean() >= POWER:
            return labels
    return None


def _with_triangles(wins: Array) -> Array:
    """Rows of prompts with a triangle and at most 16 responses, the first 200."""
    if not wins.size:
        return np.array([], dtype=int)
    judged = (wins + wins.swapaxes(-1, -2) > 0).astype(int)
    closed = np.trace(judged @ judged @ judged, axis1=-1, axis2=-2) > 0
    small = (judged.any(-1).sum(-1)) <= MAX_WIDTH
    return np.flatnonzero(closed & small)[:MAX_PROMPTS]


def _hodge(wins: Array, rng: np.random.Generator) -> dict[str, Any]:
    test = hodge_test(wins, rng)
    harmonic = harmonic_share(wins)
    found = "more than" if test["p_value"] <= SIGNIFICANT else "no more than"
    sentence = (
        f"Utilities leave {test['residual_share']:.2f} of the log odds of votes unexplained, {found} votes on transitive "
        f"preferences leave ({test['null_mean']:.2f}; p = {test['p_value']:.3f}); the share by itself means nothing."
    )
    return {**test, "local_share": 1 - harmonic, "harmonic_share": harmonic, "sentence": sentence}


def _triads(wins: Array, ties: Array, rng: np.random.Generator) -> dict[str, Any]:
    circular, decided = majority_triads(wins, ties)
    num_circular, num_decided = int(circular.sum()), int(decided.sum())
    interval = share_interval(circular, decided, rng)
    bounds = "" if interval is None else f" ({interval[0]:.0%} to {interval[1]:.0%} over prompts)"
    sentence = (
        f"By majority, {num_circular} of {num_decided} triads are circular{bounds}; coin tosses would make 25 % so."
        if num_decided
        else "No triad has a majority on all three sides."
    )
    share = num_circular / num_decided if num_decided else None
    return {"circular": num_circular, "decided": num_decided, "share": share, "interval": interval, "sentence": sentence}
