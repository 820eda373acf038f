"""What clients may ask of the policy server: the parts of OpenAI's bodies that it answers; anything else is refused by name."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str


class _Sampling(_Body):
    n: int = Field(1, ge=1, le=16)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stream: bool = False
    return_token_ids: bool = False  # as vLLM: prompt_token_ids, and token_ids of each choice
    user: str | None = None  # accepted and not used


class Message(BaseModel):
    role: str
    content: str


class ChatBody(_Sampling):
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: Literal[0] | None = None


class CompletionBody(_Sampling):
    prompt: str | list[int]
    max_tokens: int = Field(16, ge=0)
    logprobs: Literal[0, 1] | None = None  # of the tokens that were drawn
    echo: bool = False  # with max_tokens 0 and logprobs: the log-probabilities of the prompt's own tokens


class TokenizeBody(_Body):
    messages: list[Message] = Field(min_length=1)
    add_generation_prompt: Literal[True] = True


class LoadBody(BaseModel):
    """As vLLM's; its other fields are not needed."""

    model_config = ConfigDict(extra="ignore")
    lora_name: str = Field(min_length=1, max_length=200)
    lora_path: str


class UnloadBody(BaseModel):
    model_config = ConfigDict(extra="ignore")
    lora_name: str


def error_body(message: str, kind: str) -> dict[str, Any]:
    """As OpenAI tells errors."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
