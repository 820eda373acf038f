"""How a conversation becomes the text and the tokens that a model continues: the same for sampling, scoring and features."""

from collections.abc import Mapping, Sequence
from typing import Any

from storage.errors import UserError

Messages = Sequence[Mapping[str, str]]


def render_prompt(tokenizer: Any, messages: Messages) -> str:
    """Text before the response: by the tokenizer's chat template, or without one the contents as they stand, a line each."""
    if getattr(tokenizer, "chat_template", None):
        plain = [{"role": message["role"], "content": message["content"]} for message in messages]
        try:
            return tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates raise what they like
            roles = [message["role"] for message in messages]
            raise UserError(
                f"The model's chat template refuses a prompt with the roles {roles}: {error}. "
                "Leave out the roles it does not know (often system), or use another model."
            ) from error
    return "\n".join(message["content"] for message in messages)


def prompt_token_ids(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids of ``render_prompt``; a chat template writes its own special tokens, plain text gets the tokenizer's."""
    has_template = bool(getattr(tokenizer, "chat_template", None))
    text = render_prompt(tokenizer, messages)
    ids = tokenizer(text, add_special_tokens=not has_template, verbose=False)["input_ids"]
    end = getattr(tokenizer, "eos_token_id", None)
    # Some tokenizers close plain text with an end token; a response would then be scored after the end.
    return ids[:-1] if not has_template and len(ids) > 1 and ids[-1] == end else ids
