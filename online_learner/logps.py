"""Log-probabilities of responses: nats, natural log, summed over the response's tokens with its end token.

Shapes: B sequences, T tokens, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from online_learner.device import mixed_precision
from online_learner.policy.packed_logps import can_pack, packed_logps
from online_learner.policy.packing import Sequences, packs

SEQUENCES_PER_BATCH = 16  # of similar length: a large batch would be mostly padding


class TokenisedResponse(NamedTuple):
    """Token ids of a prompt as the model reads it, and of a response with its end token if it has one."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def token_logps(logits: Tensor, token_ids: Tensor) -> Tensor:
    """log P(token_ids[b, t] | what came before), (B, T); logits (B, T, V) are those at the position before each token."""
    losses = cross_entropy(logits.float().flatten(0, 1), token_ids.flatten(), reduction="none")
    return -losses.view(token_ids.shape)


def length_sorted_batches(sequences: Sequence[TokenisedResponse]) -> Iterator[list[int]]:
    """Indices of all sequences in batches of similar length, shortest first."""
    order = sorted(range(len(sequences)), key=lambda i: (sequences[i].length, i))
    for start in range(0, len(order), SEQUENCES_PER_BATCH):
        yield order[start : start + SEQUENCES_PER_BATCH]


def response_logps(
    model: Any, sequences: Sequence[TokenisedResponse], progress: Callable[[float], None] = lambda share: None
) -> Tensor:
    """Summed log-probability of each response under ``model``, (B,), with gradient where the caller allows it.

    Each sequence is forwarded once, whatever pairs it appears in, and each prompt once for all of its responses where the model
    can be given packs.
    """
    if not sequences:
        return torch.empty(0)
    packed = can_pack(model, padded_logps)
    batches, logps_of = (packs(sequences), packed_logps) if packed else (length_sorted_batches(sequences), padded_logps)
    order: list[int] = []
    parts = []
    for batch in batches:
        parts.append(logps_of(model, [sequences[i] for i in batch]))
        order += batch
        progress(len(order) / len(sequences))
    place = torch.empty(len(order), dtype=torch.long)
    place[torch.tensor(order)] = torch.arange(len(order))
    logps = torch.cat(parts)
    return logps[place.to(logps.device)]


def padded_logps(model: Any, batch: Sequences) -> Tensor:
    """Summed log-probability of each response, (B,), all of them in one padded batch.

    Padding is on the right, where a causal model never looks back at it: without a mask attention takes its faster path.
    """
    longest = max(len(prompt_ids) + len(response_ids) for prompt_ids, response_ids in batch)
    first = min(len(prompt_ids) for prompt_ids, _ in batch) - 1  # the first position that predicts a response token
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    next_ids = torch.zeros(len(batch), longest - first, dtype=torch.long)
    of_response = torch.zeros_like(next_ids, dtype=torch.bool)  # positions that predict a response token
    for b, (prompt_ids, response_ids) in enumerate(batch):
        start, end = len(prompt_ids) - 1 - first, len(prompt_ids) + len(response_ids) - 1 - first
        ids[b, : len(prompt_ids) + len(response_ids)] = torch.tensor([*prompt_ids, *response_ids])
        next_ids[b, start:end] = torch.tensor(response_ids)
        of_response[b, start:end] = True
    device = next(model.parameters()).device
    with mixed_precision(device):
        kept = torch.arange(first, longest, device=device)  # as an index, not a count: the model then copies the rows together
        logits = model(input_ids=ids.to(device), use_cache=False, logits_to_keep=kept).logits
    predicted = token_logps(logits, next_ids.to(device))
    return torch.where(of_response.to(device), predicted, 0.0).sum(-1)
