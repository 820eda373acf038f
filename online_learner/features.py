"""Frozen features of responses: hidden states of a middle layer, averaged over the response's tokens, and its length.

An average forgets how long a response is, and people do not: on real judgments the length column lowers held-out log loss
by more than the choice of layer. Not a preference model: that is a small head on these. The middle layer is
the better one of encoders too: on real judgments MiniLM's 4th of 6 has cross-validated log loss .636, its last one .647.
Shapes: N texts, T tokens, h width of the model, d = h + 1 features.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from online_learner.feature_cache import FeatureCache, token_key
from online_learner.prompts import Messages, prompt_token_ids
from storage.errors import UserError

logger = logging.getLogger(__name__)

MAX_CONTEXT = 8192  # models that state no context, or one longer than features need
TOKENS_PER_BATCH = 8192
ROWS_PER_WRITE = 2000


class TokenisedText(NamedTuple):
    """What a model reads, and how many tokens at the end are averaged (at least one)."""

    ids: list[int]
    num_pooled: int
    length: int  # of the response before anything was cut


class _Reached(Exception):
    """The wanted layer has run: what follows it is not needed."""


def load_encoder(model: str | Path) -> tuple[nn.Module, Any]:
    """Body (no language-model head) and tokenizer of a Hugging Face directory or hub id; UserError where it cannot be read."""
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        body = AutoModel.from_pretrained(model, use_safetensors=True)
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
    cache: FeatureCache | None = None,
) -> Tensor:
    """(N, h + 1) float32 on the CPU: mean hidden state of the response's tokens, then log(1 + number of its tokens).

    ``layer`` is the block whose output is read: 1 is the first, "middle" is number L // 2 + 1 of L.

    ``model`` is any transformers model as it stands, adapters included: pass the bare base model. Contexts beyond
    ``max_tokens`` (default: what the model takes) lose their beginning, and a warning counts them. An empty response is
    represented by the last token of its prompt. Padding does not change the result. ``cache`` (of this model and layer)
    keeps what was read.
    """
    if len(prompts) != len(responses):
        raise ValueError(f"one prompt per response is needed, got {len(prompts)} prompts and {len(responses)} responses")
    texts = tokenise_responses(model, tokenizer, prompts, responses, max_tokens)
    return read_features(model, texts, layer=layer, progress=progress, cache=cache)


def read_features(
    model: nn.Module,
    texts: Sequence[TokenisedText],
    *,
    layer: int | str = "middle",
    progress: Callable[[float], None] | None = None,
    cache: FeatureCache | None = None,
) -> Tensor:
    """(N, h + 1) float32 on the CPU: the pooled state of each text, then log(1 + its length)."""
    if not texts:
        return torch.empty(0, _text_config(model).hidden_size + 1)
    index = layer_index(model, layer)
    keys = [token_key(text.ids, text.num_pooled) for text in texts]
    rows: dict[bytes, Tensor] = dict(cache.rows) if cache else {}
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in rows}
    names, unread = list(missing), list(missing.values())
    num_done, num_unwritten = 0, 0
    for batch in length_sorted_batches(unread):
        with torch.no_grad():
            pooled = pooled_states(model, [unread[i] for i in batch], index).cpu()
        for i, row in zip(batch, pooled, strict=True):
            rows[names[i]] = row
            if cache:
                cache.add(names[i], row)
        num_done, num_unwritten = num_done + len(batch), num_unwritten + len(batch)
        if cache and (num_unwritten >= ROWS_PER_WRITE or num_done == len(unread)):  # a long reading that is killed goes on there
            cache.write()
            num_unwritten = 0
        if progress:
            progress(num_done / len(unread))
    lengths = torch.tensor([[float(text.length)] for text in texts])
    return torch.cat([torch.stack([rows[key] for key in keys]), lengths.log1p()], dim=1)


def context_length(model: nn.Module) -> int:
    """Longest input in tokens that the model's configuration states, or MAX_CONTEXT."""
    stated = getattr(_text_config(model), "max_position_embeddings", None)
    return stated if stated and stated > 0 else MAX_CONTEXT


def tokenise_responses(
    model: nn.Module, tokenizer: Any, prompts: Sequence[Messages], responses: Sequence[str], max_tokens: int | None = None
) -> list[TokenisedText]:
    """Prompt and response as tokens that fit the model; the response's are averaged."""
    limit = min(max_tokens or MAX_CONTEXT, context_length(model))
    heads: dict[int, list[int]] = {}  # responses to one prompt usually share the messages object
    texts, num_cut = [], 0
    for messages, response in zip(prompts, responses, strict=True):
        if id(messages) not in heads:
            heads[id(messages)] = prompt_token_ids(tokenizer, messages)
        tail = tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"] if response else []
        ids = heads[id(messages)] + tail
        num_cut += len(ids) > limit
        texts.append(TokenisedText(ids[-limit:], min(max(len(tail), 1), limit), len(tail)))
    if num_cut:
        logger.warning("%d of %d texts were longer than %d tokens and lost their beginning", num_cut, len(texts), limit)
    return texts


def length_sorted_batches(texts: Sequence[TokenisedText], tokens_per_batch: int = TOKENS_PER_BATCH) -> list[list[int]]:
    """Indices in batches of similar length, so that little is padding; a batch holds at most so many tokens."""
    batches: list[list[int]] = [[]]
    for i in sorted(range(len(texts)), key=lambda i: (len(texts[i].ids), i)):
        longest = len(texts[i].ids)
        if batches[-1] and longest * (len(batches[-1]) + 1) > tokens_per_batch:
            batches.append([])
        batches[-1].append(i)
    return [batch for batch in batches if batch]


def pooled_states(model: nn.Module, batch: Sequence[TokenisedText], index: int) -> Tensor:
    """(N, h) float32 on the model's device: mean state after block ``index`` of the tokens that a text averages."""
    longest = max(len(text.ids) for text in batch)
    device = next(model.parameters()).device
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    attended, pooled = torch.zeros_like(ids), torch.zeros(len(batch), longest)
    for i, (tokens, num_pooled, _) in enumerate(batch):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        attended[i, : len(tokens)] = 1
        pooled[i, len(tokens) - num_pooled : len(tokens)] = 1 / num_pooled
    states = _states_after(model, index, ids.to(device), attended.to(device))  # (N, T, h)
    return torch.einsum("nt,ntd->nd", pooled.to(device), states.float())


def reads_both_ways(model: nn.Module) -> bool:
    """Whether an early token's state depends on later tokens: true of encoders, false of causal decoders."""
    ids = torch.tensor([[3, 4, 5], [3, 4, 6]], device=next(model.parameters()).device)
    with torch.no_grad():
        first, second = _states_after(model, 1, ids, torch.ones_like(ids))[:, 0].float()
    return not torch.allclose(first, second, rtol=1e-4, atol=1e-6)


def layer_index(model: nn.Module, layer: int | str) -> int:
    """Number of the block that ``layer`` names, 1 for the first."""
    num_blocks = len(blocks(model))
    index = num_blocks // 2 + 1 if layer == "middle" else int(layer)
    if not 1 <= index <= num_blocks:
        raise UserError(f"Layer {layer!r} does not exist: the model has blocks 1 to {num_blocks}. Choose one of them.")
    return index


def _states_after(model: nn.Module, index: int, ids: Tensor, attended: Tensor) -> Tensor:
    reached: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        reached.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    handle = blocks(model)[index - 1].register_forward_hook(keep)
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


def blocks(model: nn.Module) -> nn.ModuleList:
    """The stack of transformer blocks, first to last."""
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
