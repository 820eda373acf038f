"""What a preference model is: a skew-symmetric logit for every ordered pair of responses to one prompt.

Shapes: H heads fitted side by side, N prompts, K responses per prompt, B pairs, d features, w columns of an embedding.
Logits are natural-log odds that the first response is preferred; logits(a, b) == -logits(b, a) exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class PreferenceModel(Protocol):
    """Log odds that one response is preferred to another; need not come from a scalar reward."""

    def pair_logits(self, features_a: Tensor, features_b: Tensor) -> Tensor:
        """(B, d), (B, d) -> (H, B)."""
        ...

    def logits(self, features: Tensor) -> Tensor:
        """(N, K, d) -> (H, N, K, K), every response of a prompt against every other."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceFamily:
    """One kind of preference model: a linear embedding of frozen features and a skew-symmetric comparison of embeddings.

    compare: (..., w), (..., w) -> (...), with compare(x, y) == -compare(y, x) exactly.
    ridges: penalties tried, each one number per embedding column, per squared weight, at 400 labels.
    init_scale: standard deviation of the first weights per column (0 where zero is a good start).
    listwise: column 0 is a utility and a ranking of several responses counts by Plackett-Luce, not pair by pair.
    num_gates: the last columns are gates, which read the second half of the features, the prompt's; the others read the first.
    """

    name: str
    summary: str
    width: int
    compare: Callable[[Tensor, Tensor], Tensor]
    ridges: tuple[tuple[float, ...], ...]
    init_scale: tuple[float, ...]
    listwise: bool = False
    num_gates: int = 0


@dataclass(frozen=True, slots=True)
class LinearPreference:
    """H heads of one family: weights (H, d, w)."""

    family: PreferenceFamily
    weights: Tensor

    def embed(self, features: Tensor) -> Tensor:
        """(..., d) -> (H, ..., w)."""
        heads, num_features, width = self.weights.shape
        weights = self.weights * _halves(self.family, num_features) if self.family.num_gates else self.weights
        flat = weights.permute(1, 0, 2).reshape(num_features, heads * width)
        embedded = features @ flat  # one matrix product for all heads
        return embedded.unflatten(-1, (heads, width)).movedim(-2, 0)

    def pair_logits(self, features_a: Tensor, features_b: Tensor) -> Tensor:
        """(B, d), (B, d) -> (H, B)."""
        embedded = self.embed(torch.stack([features_a, features_b]))  # one product: a row rounds alike on either side
        return self.family.compare(embedded[:, 0], embedded[:, 1])

    def logits(self, features: Tensor) -> Tensor:
        """(N, K, d) -> (H, N, K, K)."""
        embedded = self.embed(features)
        return self.family.compare(embedded.unsqueeze(-2), embedded.unsqueeze(-3))


def _halves(family: PreferenceFamily, num_features: int) -> Tensor:
    """(d, w): 1 where a column reads a feature."""
    of_prompt = torch.arange(num_features) >= num_features // 2
    gates = torch.arange(family.width) >= family.width - family.num_gates
    return (of_prompt[:, None] == gates).float()
