"""Loading the frozen base model and its tokenizer, with an error a person can act on for everything that can be wrong."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from online_learner.device import choose_device, choose_threads
from online_learner.features import context_length
from online_learner.logps import TokenisedResponse
from online_learner.prompts import Messages, prompt_token_ids
from storage.errors import UserError


class BaseModel(NamedTuple):
    """The base model as it came, never changed, and what is needed to speak to it."""

    model: nn.Module
    tokenizer: Any
    end_ids: tuple[int, ...]
    """Tokens that end a response, from the generation config and the tokenizer."""
    context: int
    """Longest prompt and response together, in tokens."""
    device: torch.device


def load_base_model(name: str, *, revision: str | None = None, device: str = "auto") -> BaseModel:
    """Base model and tokenizer of a directory or hub id, in float32, in evaluation mode, without gradients."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    check_model_directory(name)
    chosen = choose_device(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        # safetensors only: other formats can run code when they are read
        model: Any = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"The model {name!r} cannot be loaded as a causal language model: {reason} "
            "Name a directory with config.json, weights and tokenizer files, or a hub id that this machine can reach."
        ) from error
    choose_threads(sum(p.numel() for p in model.parameters()))
    model = model.to(chosen).eval().requires_grad_(False)
    return BaseModel(model, tokenizer, _end_ids(model, tokenizer), context_length(model), chosen)


def check_model_directory(name: str) -> None:
    """UserError where ``name`` is a local path that lacks something; hub ids pass. Costs no import of torch's users."""
    path = Path(name).expanduser()
    if not path.is_dir():
        if path.is_absolute() or name.startswith(("./", "../", "~")):
            raise UserError(f"The model directory {name} does not exist. Give an existing directory or a hub id.")
        return
    if not (path / "config.json").exists():
        raise UserError(f"{name} has no config.json, so it is not a Hugging Face model directory. Name one that is.")
    if not any((path / file).exists() for file in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")):
        raise UserError(f"{name} has no tokenizer (no tokenizer.json). Save the model's tokenizer into that directory.")


def tokenise_prompt(base: BaseModel, messages: Messages, prompt_id: str, *, room: int = 1) -> tuple[int, ...]:
    """Token ids of a prompt; UserError where it leaves less than ``room`` tokens of the context for a response."""
    ids = tuple(prompt_token_ids(base.tokenizer, messages))
    if len(ids) + room > base.context:
        raise UserError(
            f"Prompt {prompt_id} is {len(ids)} tokens long and the model's context is {base.context}, which leaves no room for "
            "a response. Shorten or remove that prompt, or use a model with a longer context."
        )
    return ids or tuple(base.end_ids[:1])


def tokenise_response(base: BaseModel, prompt_ids: tuple[int, ...], text: str) -> TokenisedResponse:
    """A response known only as text (an imported one): its tokens and the end token, cut to the context."""
    ids = base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    whole = (*ids, *base.end_ids[:1])
    return TokenisedResponse(prompt_ids, whole[: max(1, base.context - len(prompt_ids))])


def _end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    stated = getattr(model.generation_config, "eos_token_id", None)
    ids = [stated] if isinstance(stated, int) else list(stated or [])
    own = getattr(tokenizer, "eos_token_id", None)
    return tuple(dict.fromkeys([own, *ids] if own is not None else ids))
