"""Frozen features of responses: hidden states of a middle layer, averaged over the response's tokens, and its length.

An average forgets how long a response is, and people do not: on real judgments the length column lowers held-out log loss
by more than the choice of layer. Not a preference model: that is a small head on these.
Shapes: N responses, T tokens, h width of the model, d = h + 1 features.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from online_learner.prompts import Messages, prompt_token_ids
from storage.errors import UserError

logger = logging.getLogger(__name__)

MAX_CONTEXT = 8192  # models that state no context, or one longer than features need
TOKENS_PER_BATCH = 8192


class TokenisedPair(NamedTuple):
    """Token ids of prompt and response, and how many at the end are the response's (at least one)."""

    ids: list[int]
    num_response: int
    length: int  # of the response before anything was cut


class _Reached(Exception):
    """The wanted layer has run: what follows it is not needed."""


def load_encoder(model: str | Path) -> tuple[nn.Module, Any]:
    """Body (no language-model head) and tokenizer of a Hugging Face directory or hub id; UserError where it cannot be read."""
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        body = AutoModel.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{str(model)!r} is no Hugging Face model with a tokenizer that can be read: {str(error).splitlines()[0]}. "
            "Give a directory with config.json, weights and tokenizer files, or a hub id."
        ) from error
    return body.eval(), tokenizer


def extract_features(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Messages],
    responses: Sequence[str],
    *,
    layer: int | str = "middle",
    max_tokens: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """(N, h + 1) float32 on the CPU: mean hidden state of the response's tokens, then log(1 + number of its tokens).

    ``layer`` is the block whose output is read: 1 is the first, "middle" is number L // 2 + 1 of L.

    ``model`` is any transformers model as it stands, adapters included: pass the bare base model. Contexts beyond
    ``max_tokens`` (default: what the model takes) lose their beginning, and a warning counts them. An empty response is
    represented by the last token of its prompt. Padding does not change the result.
    """
    if len(prompts) != len(responses):
        raise ValueError(f"one prompt per response is needed, got {len(prompts)} prompts and {len(responses)} responses")
    limit = min(max_tokens or MAX_CONTEXT, context_length(model))
    sequences, num_cut = _tokenise(tokenizer, prompts, responses, limit)
    if num_cut:
        logger.warning("%d of %d texts were longer than %d tokens and lost their beginning", num_cut, len(responses), limit)
    rows: list[Tensor] = [torch.empty(0)] * len(sequences)
    num_done = 0
    for batch in _length_sorted_batches(sequences):
        pooled = _pooled_states(model, [sequences[i] for i in batch], layer)
        for i, row in zip(batch, pooled, strict=True):
            rows[i] = row
        num_done += len(batch)
        if progress:
            progress(num_done / len(sequences))
    if not rows:
        return torch.empty(0, _text_config(model).hidden_size + 1)
    lengths = torch.tensor([[float(sequence.length)] for sequence in sequences])
    return torch.cat([torch.stack(rows), lengths.log1p()], dim=1)


def context_length(model: nn.Module) -> int:
    """Longest input in tokens that the model's configuration states, or MAX_CONTEXT."""
    stated = getattr(_text_config(model), "max_position_embeddings", None)
    return stated if stated and stated > 0 else MAX_CONTEXT


def _tokenise(
    tokenizer: Any, prompts: Sequence[Messages], responses: Sequence[str], limit: int
) -> tuple[list[TokenisedPair], int]:
    heads: dict[int, list[int]] = {}  # responses to one prompt usually share the messages object
    sequences, num_cut = [], 0
    for messages, response in zip(prompts, responses, strict=True):
        if id(messages) not in heads:
            heads[id(messages)] = prompt_token_ids(tokenizer, messages)
        tail = tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"] if response else []
        ids = heads[id(messages)] + tail
        num_cut += len(ids) > limit
        sequences.append(TokenisedPair(ids[-limit:], min(max(len(tail), 1), limit), len(tail)))
    return sequences, num_cut


def _length_sorted_batches(sequences: Sequence[TokenisedPair]) -> list[list[int]]:
    """Indices in batches of similar length, so that little is padding; a batch holds at most TOKENS_PER_BATCH tokens."""
    batches: list[list[int]] = [[]]
    for i in sorted(range(len(sequences)), key=lambda i: (len(sequences[i].ids), i)):
        longest = len(sequences[i].ids)
        if batches[-1] and longest * (len(batches[-1]) + 1) > TOKENS_PER_BATCH:
            batches.append([])
        batches[-1].append(i)
    return [batch for batch in batches if batch]


@torch.no_grad()
def _pooled_states(model: nn.Module, batch: Sequence[TokenisedPair], layer: int | str) -> Tensor:
    longest = max(len(sequence.ids) for sequence in batch)
    device = next(model.parameters()).device
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    attended, pooled = torch.zeros_like(ids), torch.zeros(len(batch), longest)
    for i, (tokens, num_response, _) in enumerate(batch):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        attended[i, : len(tokens)] = 1
        pooled[i, len(tokens) - num_response : len(tokens)] = 1 / num_response
    states = _states_after(model, layer, ids.to(device), attended.to(device))  # (N, T, d)
    return torch.einsum("nt,ntd->nd", pooled.to(device), states.float()).cpu()


def _states_after(model: nn.Module, layer: int | str, ids: Tensor, attended: Tensor) -> Tensor:
    blocks = _blocks(model)
    index = len(blocks) // 2 + 1 if layer == "middle" else int(layer)
    if not 1 <= index <= len(blocks):
        raise UserError(f"Layer {layer!r} does not exist: the model has blocks 1 to {len(blocks)}. Choose one of them.")
    reached: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        reached.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    handle = blocks[index - 1].register_forward_hook(keep)
    was_training = model.training
    model.eval()
    try:
        model(input_ids=ids, attention_mask=attended)
    except _Reached:
        pass
    finally:
        handle.remove()
        model.train(was_training)
    return reached[0]


def _blocks(model: nn.Module) -> nn.ModuleList:
    num_layers = getattr(_text_config(model), "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise UserError(
        f"{type(model).__name__} has no plain stack of {num_layers} blocks, which features are read from. "
        "Choose another encoder: decoder models such as Llama and encoders such as BERT work."
    )


def _text_config(model: nn.Module) -> Any:
    config: Any = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config
