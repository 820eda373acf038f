"""How much of the judged log odds no utility explains: Hodge decomposition of votes within prompts (arXiv:0811.1067, HodgeRank).

Shapes: ... any leading dimensions (bootstrap samples), Q prompts, K responses each, padded with unjudged ones.
wins (..., Q, K, K): how often the row's response beat the column's; a tie counts half for both.
The share that is left over is meaningless by itself in sparse data: votes on transitive preferences leave .3 to .4 too. Only
its comparison with votes simulated from the utilities (``hodge_test``) says anything.
"""

from itertools import combinations

import numpy as np

Array = np.ndarray
NUM_REPLICATES = 199
SHRINKAGES = np.linspace(0.0, 1.0, 21)
NUM_ENERGIES = 40


def log_odds(wins: Array) -> tuple[Array, Array]:
    """The flow Y and its weights, both (..., Q, K, K): log((w + .5) / (w' + .5)) and one over its variance, 0 where unjudged."""
    lost = wins.swapaxes(-1, -2)
    variance = 1 / (wins + 0.5) + 1 / (lost + 0.5)
    return np.log((wins + 0.5) / (lost + 0.5)), np.where(wins + lost > 0, 1 / variance, 0.0)


def utilities(flow: Array, weights: Array) -> Array:
    """(..., Q, K): weighted least squares of the flow, s_i - s_j; 0 where nothing is judged."""
    degree = weights.sum(-1)
    laplacian = degree[..., None] * np.eye(weights.shape[-1]) - weights
    ridge = 1e-9 * np.eye(weights.shape[-1])  # picks one of the solutions, which differ by constants
    return np.linalg.solve(laplacian + ridge, (weights * flow).sum(-1, keepdims=True))[..., 0]


def residual_share(wins: Array) -> Array:
    """(...,): the weighted share of the squared flow that no utilities explain, over all prompts."""
    flow, weights = log_odds(wins)
    s = utilities(flow, weights)
    residual = flow - (s[..., :, None] - s[..., None, :])
    total = (weights * flow**2).sum((-1, -2, -3))
    return np.divide((weights * residual**2).sum((-1, -2, -3)), total, out=np.zeros_like(total), where=total > 0)


def harmonic_share(wins: Array) -> float:
    """Of the residual of wins (Q, K, K), the share in loops longer than three; the rest is in triangles. 0 without residual."""
    harmonic = total = 0.0
    for flow, weights in zip(*log_odds(wins), strict=True):
        s = utilities(flow, weights)
        edges = [(i, j) for i, j in combinations(range(len(s)), 2) if weights[i, j] > 0]
        residual = np.array([flow[i, j] - s[i] + s[j] for i, j in edges])
        weight = np.array([weights[i, j] for i, j in edges])
        left = residual - _curl_part(edges, residual, weight, len(s))
        harmonic += float((weight * left**2).sum())
        total += float((weight * residual**2).sum())
    return harmonic / total if total > 1e-12 else 0.0


def hodge_test(wins: Array, rng: np.random.Generator, num_replicates: int = NUM_REPLICATES) -> dict[str, float]:
    """{"residual_share", "null_mean", "p_value"} for wins (Q, K, K): the share against votes simulated from the utilities.

    The null is a little conservative: utilities of few votes are too far apart. Ties are simulated as decided votes.
    """
    share = float(residual_share(wins))
    null = null_shares(wins, rng, num_replicates)
    p_value = (1 + int((null >= share - 1e-12).sum())) / (1 + num_replicates)
    return {"residual_share": share, "null_mean": float(null.mean()), "p_value": p_value}


def null_shares(wins: Array, rng: np.random.Generator, num_replicates: int) -> Array:
    """(num_replicates,): residual shares of votes drawn from utilities fitted to wins (Q, K, K).

    Utilities of few votes are too far apart, and the closer they are the more residual noise leaves. So they are shrunk to the
    closest that the recorded energy sum W Y^2 allows, two standard deviations: with one vote a pair it allows any.
    """
    s = utilities(*log_odds(wins))
    logits = s[..., :, None] - s[..., None, :]
    votes = np.rint(wins + wins.swapaxes(-1, -2)).astype(int)
    recorded = energy(wins)
    scale = SHRINKAGES[-1]
    for scale in SHRINKAGES:
        drawn = energy(draw_wins(scale * logits, votes, rng, NUM_ENERGIES))
        if drawn.mean() + 2 * drawn.std() >= recorded - 1e-9 * recorded:
            break
    return residual_share(draw_wins(scale * logits, votes, rng, num_replicates))


def energy(wins: Array) -> Array:
    """(...,): the weighted squared flow of all prompts."""
    flow, weights = log_odds(wins)
    return (weights * flow**2).sum((-1, -2, -3))


def draw_wins(logits: Array, votes: Array, rng: np.random.Generator, num_samples: int) -> Array:
    """(num_samples, Q, K, K): wins of ``votes`` (Q, K, K) decided votes a pair with these log odds."""
    upper = np.triu(np.ones(logits.shape[-2:], dtype=bool), 1)
    won = np.where(upper, rng.binomial(votes, 1 / (1 + np.exp(-logits)), size=(num_samples, *logits.shape)), 0)
    return won + np.where(upper, votes - won, 0).swapaxes(-1, -2)


def _curl_part(edges: list[tuple[int, int]], residual: Array, weight: Array, num_nodes: int) -> Array:
    """The projection of the residual on flows around triangles, orthogonal in the weighted inner product."""
    number = {edge: e for e, edge in enumerate(edges)}
    triangles = [t for t in combinations(range(num_nodes), 3) if all(edge in number for edge in combinations(t, 2))]
    if not triangles:
        return np.zeros_like(residual)
    curl = np.zeros((len(triangles), len(edges)))
    for row, (i, j, k) in zip(curl, triangles, strict=True):
        row[number[i, j]], row[number[j, k]], row[number[i, k]] = 1, 1, -1
    flows = (curl / weight).T
    potential = np.linalg.lstsq(curl @ flows, curl @ residual, rcond=None)[0]
    return flows @ potential
