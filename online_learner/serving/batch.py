"""The running batch of a served policy: rows join it and leave it between two tokens, each with its own seed and sampler.

Every row has its own uniform draws, made before its first token, so that a request's tokens follow from its seed: who else is
in the batch changes the log-probabilities in their last bits only. B rows running, T positions in the cache, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from online_learner.device import mixed_precision
from online_learner.generation.transformers_backend import draw, left_padded

COLDEST = 1e-4  # temperature 0 is asked for as "the likeliest token": at this one no other has a chance


@dataclass(eq=False, slots=True, kw_only=True)
class Row:
    """One response in the making. ``emit`` is told each token, its log-probability at temperature 1, and why it was the last."""

    prompt: tuple[int, ...]
    draws: Tensor  # (most tokens,), uniform
    temperature: float
    top_p: float
    emit: Callable[[int, float, str | None], None]
    fail: Callable[[str], None]
    num_tokens: int = 0
    cancelled: bool = False  # set from any thread; the row leaves before the next token


def make_draws(num_rows: int, num_tokens: int, seed: int) -> Tensor:
    """(num_rows, num_tokens): those that ``sample_with_transformers`` makes for one prompt with this seed."""
    return torch.rand(num_rows, num_tokens, generator=torch.Generator().manual_seed(seed))


@dataclass(slots=True)
class Batch:
    """Rows that are stepped together. Only one thread may touch it."""

    model: Any
    ends: Tensor  # token ids that end a response
    rows: list[Row] = field(default_factory=list)
    _cache: Any = None
    _attended: Any = None  # (B, T), 1 where the cache holds a token of that row
    _last: Any = None  # (B, 1), the last token of each row
    _position: Any = None  # (B, 1), its place

    @property
    def takes_rows(self) -> bool:
        """Whether rows may join now: recurrent and sliding-window layers keep what cannot be padded to another length."""
        return not self.rows or _plain(self._cache)

    @torch.no_grad()
    def join(self, rows: Sequence[Row]) -> None:
        """Read the prompts of ``rows``, tell each its first token, and let them run with the others."""
        device = self.ends.device
        ids, attended = (tensor.to(device) for tensor in left_padded([row.prompt for row in rows]))
        positions = (attended.cumsum(-1) - 1).clamp_min(0)
        cache = DynamicCache(config=self.model.config)
        chosen = self._tokens(ids, attended, positions, cache, rows)
        chosen, position = chosen.unsqueeze(-1), positions[:, -1:]
        if not self.rows:
            self._cache, self._attended, self._last, self._position = cache, attended, chosen, position
        else:
            width = max(self._attended.shape[1], attended.shape[1])
            _append_rows(self._cache, cache, width)
            self._attended = torch.cat([_widened(self._attended, width), _widened(attended, width)])
            self._last = torch.cat([self._last, chosen])
            self._position = torch.cat([self._position, position])
        self.rows.extend(rows)
        self._drop_finished()

    @torch.no_grad()
    def step(self) -> None:
        """One more token for every row."""
        self._drop_finished()
        if not self.rows:
            return
        self._attended = torch.cat([self._attended, self._attended.new_ones(len(self.rows), 1)], dim=-1)
        self._position = self._position + 1
        chosen = self._tokens(self._last, self._attended, self._position, self._cache, self.rows)
        self._last = chosen.unsqueeze(-1)
        self._drop_finished()

    def _tokens(self, ids: Tensor, attended: Tensor, positions: Tensor, cache: Any, rows: Sequence[Row]) -> Tensor:
        """Forward, draw and tell: the next token of each row, (B,)."""
        device = ids.device
        with mixed_precision(device):
            logits = self.model(
                input_ids=ids, attention_mask=attended, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1].float()  # fmt: skip
        uniform = torch.stack([row.draws[min(row.num_tokens, len(row.draws) - 1)] for row in rows]).to(device)
        temperature = torch.tensor([[max(row.temperature, COLDEST)] for row in rows], device=device)
        top_p = torch.tensor([[row.top_p] for row in rows], device=device)
        chosen = draw(logits, uniform, temperature, top_p)
        logps = logits.log_softmax(-1).gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        ended = torch.isin(chosen, self.ends)
        for row, token, logp, end in zip(rows, chosen.tolist(), logps.tolist(), ended.tolist(), strict=True):
            if row.cancelled:  # still there because the cache cannot be cut by row
                continue
            row.num_tokens += 1
            reason = "stop" if end else "length" if row.num_tokens == len(row.draws) else None
            row.emit(token, logp, reason)
            row.cancelled = reason is not None
        return chosen

    def _drop_finished(self) -> None:
        """Leave out the rows that are done; where the cache cannot be cut by row, only when all are."""
        keep = [i for i, row in enumerate(self.rows) if not row.cancelled]
        if not keep:
            self.rows, self._cache, self._attended, self._last, self._position = [], None, None, None, None
        elif len(keep) < len(self.rows) and _plain(self._cache):
            kept = torch.tensor(keep, device=self.ends.device)
            self._cache.batch_select_indices(kept)
            self.rows = [self.rows[i] for i in keep]
            self._attended, self._last, self._position = self._attended[kept], self._last[kept], self._position[kept]
            self._cut_left()

    def _cut_left(self) -> None:
        """Drop the positions that no row uses any more."""
        unused = int((self._attended.sum(0) > 0).int().argmax())
        if unused:
            self._attended = self._attended[:, unused:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, unused:], layer.values[:, :, unused:]


def _plain(cache: Any) -> bool:
    """Every layer keeps all keys and values, (B, heads, T, head size)."""
    return all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers)


def _append_rows(cache: Any, more: Any, width: int) -> None:
    for layer, other in zip(cache.layers, more.layers, strict=True):
        layer.keys = torch.cat([_padded(layer.keys, width), _padded(other.keys, width)])
        layer.values = torch.cat([_padded(layer.values, width), _padded(other.values, width)])


def _padded(states: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0))


def _widened(attended: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(attended, (width - attended.shape[1], 0))
