"""General preference model with a Bradley-Terry term (arXiv:2410.02197, section 4.2 of its ICML 2025 version).

    logit(a over b) = u(a) - u(b) + sum_l g_l ( x_l(a) y_l(b) - y_l(a) x_l(b) )        l = 1 .. num_blocks

g_l = 1 without a gate. With it g_l(prompt) >= 0 says how much a block counts in the context of a prompt, and reads the prompt
alone (the paper's eigenvalue scale gate: s = v(a)' D R D v(b), D with blocks sqrt(g_l) I). The paper leaves its form open;
its released code takes k softmax of a linear map, which is constant for one block. Here it is 2 sigma of a linear map: 1
where the prompt says nothing, between 0 and 2.

Differs from the paper: embeddings are not normalised, and the Bradley-Terry term is explicit, because one normalised
block squeezes long transitive chains. The blocks carry the heavier penalty, so they cost nothing on transitive data.
"""

from dataclasses import replace

import torch
from torch import Tensor

from online_learner.preference_models.base import PreferenceFamily


def compare_with_blocks(embedding_a: Tensor, embedding_b: Tensor) -> Tensor:
    """(..., 1 + 2k), (..., 1 + 2k) -> (...); column 0 is the utility, then pairs (x_l, y_l)."""
    x_a, y_a = embedding_a[..., 1::2], embedding_a[..., 2::2]
    x_b, y_b = embedding_b[..., 1::2], embedding_b[..., 2::2]
    # Two rounded products, then their difference: swapping a and b changes the sign and nothing else.
    return (embedding_a[..., 0] - embedding_b[..., 0]) + (x_a * y_b - y_a * x_b).sum(-1)


def compare_blocks(embedding_a: Tensor, embedding_b: Tensor) -> Tensor:
    """(..., 2k), (..., 2k) -> (...); pairs (x_l, y_l), no utility."""
    x_a, y_a = embedding_a[..., 0::2], embedding_a[..., 1::2]
    x_b, y_b = embedding_b[..., 0::2], embedding_b[..., 1::2]
    return (x_a * y_b - y_a * x_b).sum(-1)


def compare_gated(embedding_a: Tensor, embedding_b: Tensor) -> Tensor:
    """(..., 1 + 3k), (..., 1 + 3k) -> (...): as ``compare_with_blocks``, then k gates, the same of either response."""
    num_gates = embedding_a.shape[-1] // 3
    x_a, y_a = embedding_a[..., 1:-num_gates:2], embedding_a[..., 2:-num_gates:2]
    x_b, y_b = embedding_b[..., 1:-num_gates:2], embedding_b[..., 2:-num_gates:2]
    gates = 2 * torch.sigmoid((embedding_a[..., -num_gates:] + embedding_b[..., -num_gates:]) / 2)
    return (embedding_a[..., 0] - embedding_b[..., 0]) + (gates * (x_a * y_b - y_a * x_b)).sum(-1)


def bt_gpm_gated(num_blocks: int = 2) -> PreferenceFamily:
    """Bradley-Terry and blocks whose weights depend on the prompt: one prompt's circle may run the other way in another."""
    plain = bt_gpm(num_blocks)
    return replace(
        plain,
        name="bt_gpm_gated",
        summary=f"Bradley-Terry plus {num_blocks} blocks that a gate weighs by the prompt: cycles that differ between prompts",
        width=plain.width + num_blocks,
        compare=compare_gated,
        ridges=tuple((*ridge, *[gate] * num_blocks) for ridge in plain.ridges for gate in GATE_RIDGES),
        init_scale=(*plain.init_scale, *[0.3] * num_blocks),  # at zero, blocks and gates would never part
        num_gates=num_blocks,
    )


GATE_RIDGES = (0.004, 0.06)


def gpm(num_blocks: int = 2) -> PreferenceFamily:
    """The family of blocks alone: what the paper fits, here without normalised embeddings and without its gate."""
    return PreferenceFamily(
        name="gpm",
        summary=f"{num_blocks} skew-symmetric blocks without a utility: for comparison",
        width=2 * num_blocks,
        compare=compare_blocks,
        ridges=tuple((block,) * (2 * num_blocks) for block in (0.05, 0.1, 0.4, 4.0)),
        init_scale=(0.3,) * (2 * num_blocks),
    )


def bt_gpm(num_blocks: int = 1) -> PreferenceFamily:
    """The family with ``num_blocks`` cyclic blocks beside the utility."""
    blocks = 2 * num_blocks
    return PreferenceFamily(
        name="bt_gpm" if num_blocks == 1 else f"bt_gpm_{num_blocks}",
        summary=f"Bradley-Terry plus {num_blocks} skew-symmetric block{'s' * (num_blocks > 1)}: can represent cycles",
        width=1 + blocks,
        compare=compare_with_blocks,
        # Blocks below .05 overfit badly; above .1 a real cycle is no longer found at 400 labels (measured).
        # The heaviest pair leaves next to nothing of either, for features that say nothing.
        ridges=(
            *((utility, *[block] * blocks) for utility in (0.016, 0.06, 0.24) for block in (0.05, 0.1)),
            *((utility, *[block] * blocks) for utility, block in ((1.0, 0.4), (16.0, 4.0))),
        ),
        init_scale=(0.0, *[0.1] * blocks),
    )
