"""Sampling with any transformers causal language model: a key-value-cache loop that drops finished rows.

Every (row, step) has its own uniform draw, made before the first step, and a token is the inverse of the cumulative
distribution at that draw: when rows finish, the draws of the others stay what they are.
Shapes: B rows still running, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from online_learner.device import mixed_precision
from online_learner.generation.base import Sample
from storage.contract.settings import GenerationSettings

ROWS_PER_DROP = 8  # finished rows are dropped when one in so many has finished: each time copies the whole cache


def sample_with_transformers(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    *,
    num_responses: int,
    settings: GenerationSettings,
    end_ids: Sequence[int],
    context: int,
    seed: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[list[Sample]]:
    """See GenerationBackend. Rows are batched by prompt length, so that little is padding."""
    rows = [prompt for prompt in prompts for _ in range(num_responses)]
    draws = torch.rand(len(rows), settings.max_new_tokens, generator=torch.Generator().manual_seed(seed))
    samples: list[Sample | None] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        room = min(settings.max_new_tokens, context - max(len(rows[i]) for i in batch))

        def on_step(share: float, start: int = start, size: int = len(batch)) -> None:
            progress((start + size * share) / len(order))

        found = _sample_batch(model, [rows[i] for i in batch], draws[batch][:, :room], settings, end_ids, on_step)
        for i, sample in zip(batch, found, strict=True):
            samples[i] = sample
        on_step(1.0)
    whole = [sample for sample in samples if sample is not None]
    return [whole[i : i + num_responses] for i in range(0, len(whole), num_responses)]


@torch.no_grad()
def _sample_batch(
    model: Any,
    rows: Sequence[tuple[int, ...]],
    draws: Tensor,
    settings: GenerationSettings,
    end_ids: Sequence[int],
    on_step: Callable[[float], None],
) -> list[Sample]:
    device = next(model.parameters()).device
    ids, attended = left_padded(rows)
    ids, attended, draws = ids.to(device), attended.to(device), draws.to(device)
    ends = torch.tensor(sorted(end_ids), dtype=torch.long, device=device)
    tokens: list[list[int]] = [[] for _ in rows]
    logps = [0.0] * len(rows)
    finished = [False] * len(rows)
    running = torch.arange(len(rows), device=device)
    position = attended.sum(-1, keepdim=True) - 1  # of the last token read
    positions = (attended.cumsum(-1) - 1).clamp_min(0)
    cache = DynamicCache(config=model.config)
    can_drop = _can_drop_rows(cache)
    step_ids = ids
    for step in range(draws.shape[1]):
        with mixed_precision(device):
            logits = model(
                input_ids=step_ids, attention_mask=attended, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1].float()  # fmt: skip
        chosen = draw(logits, draws[running, step], settings.temperature, settings.top_p)
        logp = logits.log_softmax(-1).gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        ended = torch.isin(chosen, ends)
        for row, token, value, end in zip(running.tolist(), chosen.tolist(), logp.tolist(), ended.tolist(), strict=True):
            if not finished[row]:
                tokens[row].append(token)
                logps[row] += value
                finished[row] = end
        if all(finished):
            break
        on_step((step + 1) / draws.shape[1])
        done = torch.tensor([finished[row] for row in running.tolist()])
        if can_drop and done.sum() * ROWS_PER_DROP >= len(done):
            keep = (~done).nonzero().squeeze(-1).to(device)
            cache.batch_select_indices(keep)
            running, chosen, attended, position = running[keep], chosen[keep], attended[keep], position[keep]
        step_ids = chosen.unsqueeze(-1)
        position = position + 1
        positions = position
        attended = torch.cat([attended, attended.new_ones(len(attended), 1)], dim=-1)
    return [
        Sample(token_ids=tuple(ids), sum_logp=logp, finish_reason="stop" if end else "length")
        for ids, logp, end in zip(tokens, logps, finished, strict=True)
    ]


def _can_drop_rows(cache: DynamicCache) -> bool:
    """Recurrent layers keep a state that cannot be selected by row: there, finished rows run on and are not listened to."""
    return not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)


def draw(logits: Tensor, uniform: Tensor, temperature: float | Tensor, top_p: float | Tensor) -> Tensor:
    """Token (B,) at which the cumulative distribution passes ``uniform`` (B,); logits (B, V), sampler of all or (B, 1)."""
    probs = (logits / temperature).softmax(-1)
    cut = torch.as_tensor(top_p, device=logits.device)
    if bool((cut < 1).any()):
        ordered, index = probs.sort(-1, descending=True)
        outside = (ordered.cumsum(-1) - ordered >= cut) & (cut < 1)  # the first token is always inside
        probs = torch.zeros_like(probs).scatter(-1, index, ordered.masked_fill(outside, 0.0))
    cumulative = probs.double().cumsum(-1)
    threshold = uniform.double().unsqueeze(-1) * cumulative[:, -1:]
    return (cumulative <= threshold).sum(-1).clamp_max(logits.shape[-1] - 1)


def left_padded(rows: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, (B, T) each."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    attended = torch.zeros_like(ids)
    for b, row in enumerate(rows):
        ids[b, longest - len(row) :] = torch.tensor(row)
        attended[b, longest - len(row) :] = 1
    return ids, attended
