"""Responses as trees without padding: one row of tokens holds many prompts, each read once and followed by all of its responses.

Everything in a model but attention treats tokens one by one, so it does not notice that they belong together. Attention is
given the places: a prompt looks at itself, a response at its prompt and itself.
Shapes: H heads, T tokens of a pack, d head size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "nashloop_packed"
TOKENS_PER_PACK = 1024  # activations of more leave the processor's cache
Sequences = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]  # prompt and response, as token ids


@dataclass(frozen=True, slots=True)
class Tree:
    """Where a prompt and its responses lie in a pack, [start, end) each."""

    prompt: tuple[int, int]
    responses: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Token ids and positions (T,); for each predicted token its id, the place that predicts it, and its response."""

    ids: Tensor
    positions: Tensor
    trees: list[Tree]
    predicted_ids: Tensor
    predicted_from: Tensor
    response: Tensor


def packs(sequences: Sequences) -> Iterator[list[int]]:
    """Indices of all sequences in packs of about as many tokens; responses to one prompt stay together where they fit."""
    of_prompt: dict[tuple[int, ...], list[int]] = {}
    for row, (prompt_ids, _) in enumerate(sequences):
        of_prompt.setdefault(prompt_ids, []).append(row)
    rows: list[int] = []
    size = 0
    for prompt_ids, own in of_prompt.items():
        whole = len(prompt_ids) + sum(len(sequences[row][1]) for row in own)
        if rows and size + whole > TOKENS_PER_PACK:
            yield rows
            rows, size = [], 0
        for row in own:
            length = len(sequences[row][1])
            if rows and size + length > TOKENS_PER_PACK:
                yield rows
                rows, size = [], 0
            size += length + (0 if rows and sequences[rows[-1]][0] == prompt_ids else len(prompt_ids))
            rows.append(row)
    if rows:
        yield rows


def pack(sequences: Sequences) -> Pack:
    """A pack of these responses; those to one prompt share it. A response's last token is predicted and not read."""
    of_prompt: dict[tuple[int, ...], list[int]] = {}
    for row, (prompt_ids, _) in enumerate(sequences):
        of_prompt.setdefault(prompt_ids, []).append(row)
    ids, positions = list[int](), list[int]()
    predicted_ids, predicted_from, response = list[int](), list[int](), list[int]()
    trees = []
    for prompt_ids, rows in of_prompt.items():
        prompt = len(ids), len(ids) + len(prompt_ids)
        ids += prompt_ids
        positions += range(len(prompt_ids))
        places = []
        for row in rows:
            own = sequences[row][1]
            start = len(ids)
            ids += own[:-1]
            positions += range(len(prompt_ids), len(prompt_ids) + len(ids) - start)
            places.append((start, len(ids)))
            predicted_ids += own
            predicted_from += [prompt[1] - 1, *range(start, len(ids))][: len(own)]
            response += [row] * len(own)
        trees.append(Tree(prompt, tuple(place for place in places if place[0] < place[1])))
    return Pack(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        trees=trees,
        predicted_ids=torch.tensor(predicted_ids, dtype=torch.long),
        predicted_from=torch.tensor(predicted_from, dtype=torch.long),
        response=torch.tensor(response, dtype=torch.long),
    )


@contextmanager
def attention_within(trees: list[Tree], model: nn.Module) -> Iterator[None]:
    """The model's attention looks at these trees only."""
    configs: dict[int, Any] = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    before = {key: config._attn_implementation for key, config in configs.items()}
    token = _trees.set(trees)
    try:
        for config in configs.values():
            config._attn_implementation = NAME
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
        _trees.reset(token)


_trees: ContextVar[list[Tree]] = ContextVar("trees")


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention within trees; query, key, value (1, H, T, d), key and value perhaps of fewer heads. Gives (1, T, H, d)."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    trees = _trees.get()
    sizes = [end - start for tree in trees for start, end in (tree.prompt, *tree.responses)]
    pieces = zip(*(tensor.split(sizes, 2) for tensor in (query, key, value)), strict=True)
    parts = []
    for tree in trees:
        asking, keys, values = next(pieces)
        parts.append(scaled_dot_product_attention(asking, keys, values, is_causal=True, scale=scaling))
        for asking, own_keys, own_values in islice(pieces, len(tree.responses)):
            all_keys, all_values = torch.cat([keys, own_keys], 2), torch.cat([values, own_values], 2)
            seen = torch.ones(asking.shape[2], all_keys.shape[2], dtype=torch.bool, device=key.device).tril(keys.shape[2])
            parts.append(scaled_dot_product_attention(asking, all_keys, all_values, attn_mask=seen, scale=scaling))
    return torch.cat(parts, 2).transpose(1, 2), None


AttentionInterface.register(NAME, _attend)
