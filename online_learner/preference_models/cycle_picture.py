"""The clearest circle of three responses in a fitted model, for a picture; and preferences to plan a triangle audit with.

Shapes: P prompts, K responses each, d features.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from online_learner.preference_models.base import LinearPreference
from online_learner.preference_models.general_preference import bt_gpm
from online_learner.preference_models.likelihood import Observations

PLANNED_RESPONSES, MAX_PROMPTS, MAX_WIDTH = 4, 200, 16


def judged_rows(data: Observations) -> list[list[int]]:
    """For each prompt, the rows of its judged responses."""
    found: dict[int, dict[int, None]] = {}
    for prompt, a, b in zip(data.prompt.tolist(), data.row_a.tolist(), data.row_b.tolist(), strict=True):
        found.setdefault(prompt, {}).update({a: None, b: None})
    return [list(rows) for rows in found.values()]


def clearest_circle(
    model: LinearPreference, temperature: float, features: Tensor, prompts: Sequence[Sequence[int]], names: Sequence[str]
) -> dict[str, Any] | None:
    """{"responses": [x, y, z], "probabilities": [P(x > y), P(y > z), P(z > x)]} with the largest weakest side, None without."""
    best, weakest = None, 0.5
    for rows in prompts:
        probability = mean_logits(model, temperature, features[list(rows)[:MAX_WIDTH]]).sigmoid()
        for i, j, k in combinations(range(len(probability)), 3):
            for circle in ((i, j, k), (i, k, j)):
                sides = [float(probability[x, y]) for x, y in zip(circle, (*circle[1:], circle[0]), strict=True)]
                if min(sides) > weakest:
                    best, weakest = ([names[rows[x]] for x in circle], sides), min(sides)
    return None if best is None else {"responses": best[0], "probabilities": best[1]}


def plan_logits(model: LinearPreference, temperature: float, features: Tensor, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """(P, 4, 4): what the model says of the first four judged responses of prompts that have as many."""
    chosen = [list(rows)[:PLANNED_RESPONSES] for rows in prompts if len(rows) >= PLANNED_RESPONSES][:MAX_PROMPTS]
    if not chosen:
        return np.zeros((0, PLANNED_RESPONSES, PLANNED_RESPONSES))
    return torch.stack([mean_logits(model, temperature, features[rows]) for rows in chosen]).double().numpy()


def mean_logits(model: LinearPreference, temperature: float, features: Tensor) -> Tensor:
    """(K, d) -> (K, K): calibrated log odds, averaged over the ensemble."""
    return model.logits(features[None]).mean(0)[0] / temperature


def planted_circles(features: Tensor, generator: torch.Generator, num_plants: int) -> LinearPreference:
    """Random linear cycles of scale 1: x and y of variance 1 over the responses (R, d), no utility."""
    directions = torch.randn(num_plants, features.shape[1], 3, generator=generator, dtype=features.dtype)
    spread = (features @ directions).std(1, correction=0, keepdim=True).clamp_min(1e-6)
    weights = directions / spread
    weights[..., 0] = 0
    return LinearPreference(bt_gpm(1), weights)
