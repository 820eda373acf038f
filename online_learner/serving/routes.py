"""The policy server's routes: OpenAI's for completions, vLLM's for adapters and tokens, so that either server can be used."""

import asyncio
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse

from online_learner.policy.base_model import BaseModel, tokenise_prompt
from online_learner.serving.engine import Engine
from online_learner.serving.generation import Choice, Delta, Generation
from online_learner.serving.requests import ChatBody, CompletionBody, LoadBody, TokenizeBody, UnloadBody, error_body
from storage.errors import UserError

OPEN = ("/health",)  # answered without the key


def build_server(engine: Engine, base: BaseModel, key: str | None) -> FastAPI:
    """``key``: what ``Authorization: Bearer`` must say; None lets everybody in."""
    app = FastAPI(title="Nashloop policy server", docs_url=None, redoc_url=None)
    _add_errors(app)
    if key is not None:
        _add_key(app, key)
    _add_adapters(app, engine)
    _add_completions(app, engine, base)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(UserError)
    def refused(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse(error_body(str(error), "BadRequestError"), 400)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return JSONResponse(error_body(f"{where}: {first['msg']} (seen: {first.get('input')!r:.200})", "BadRequestError"), 400)


def _add_key(app: FastAPI, key: str) -> None:
    @app.middleware("http")
    async def check(request: Request, call_next: Any) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.url.path not in OPEN and not hmac.compare_digest(given.encode(), key.encode()):
            return JSONResponse(error_body("The key is missing or wrong.", "AuthenticationError"), 401)
        return await call_next(request)


def _add_adapters(app: FastAPI, engine: Engine) -> None:
    @app.get("/health")
    def health() -> Response:
        return Response()

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        parent = engine.versions.base_name
        versions = list(engine.versions.by_name.values())
        data = [
            {"id": v.name, "object": "model", "owned_by": "nashloop", "root": str(v.path or v.name),
             "parent": parent if v.path else None}
            for v in versions
        ]  # fmt: skip
        return {"object": "list", "data": data}

    @app.post("/v1/load_lora_adapter")
    async def load(body: LoadBody) -> str:
        await asyncio.wrap_future(engine.call(lambda: engine.versions.load(body.lora_name, Path(body.lora_path))))
        return f"Success: LoRA adapter '{body.lora_name}' added successfully."

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: UnloadBody) -> str:
        await asyncio.wrap_future(engine.call(lambda: engine.versions.unload(body.lora_name)))
        return f"Success: LoRA adapter '{body.lora_name}' removed successfully."


def _add_completions(app: FastAPI, engine: Engine, base: BaseModel) -> None:
    def start(body: ChatBody | CompletionBody, prompt: tuple[int, ...], max_tokens: int | None) -> Generation:
        seed = secrets.randbits(62) if body.seed is None else body.seed
        return Generation(
            engine, base, engine.versions.get(body.model), prompt,
            n=body.n, max_tokens=max_tokens, temperature=body.temperature, top_p=body.top_p, seed=seed,
        )  # fmt: skip

    def messages_ids(body: ChatBody | TokenizeBody) -> tuple[int, ...]:
        return tokenise_prompt(base, [message.model_dump() for message in body.messages], "of this request")

    @app.post("/tokenize")
    def tokenize(body: TokenizeBody) -> dict[str, Any]:
        ids = messages_ids(body)
        return {"count": len(ids), "max_model_len": base.context, "tokens": list(ids)}

    @app.post("/v1/chat/completions")
    async def chat(body: ChatBody) -> Response:
        generation = start(body, messages_ids(body), body.max_completion_tokens or body.max_tokens)
        return await _answer(generation, body, "chat.completion", _chat_choice, _chat_delta)

    @app.post("/v1/completions")
    async def completions(body: CompletionBody) -> Response:
        prompt = body.prompt if isinstance(body.prompt, list) else base.tokenizer(body.prompt)["input_ids"]
        ids = tuple(prompt) or tuple(base.end_ids[:1])
        if body.echo or body.max_tokens == 0:
            return await _scored(engine, base, body, ids)
        return await _answer(start(body, ids, body.max_tokens), body, "text_completion", _text_choice, _text_delta)


async def _answer(
    generation: Generation, body: ChatBody | CompletionBody, kind: str, choice_json: Any, delta_json: Any
) -> Response:
    head = {
        "id": f"{kind}-{secrets.token_hex(8)}", "object": kind, "created": int(time.time()), "model": generation.version.name,
        "system_fingerprint": f"seed-{generation.seed}",
    }  # fmt: skip
    if body.stream:
        if kind == "chat.completion":
            head["object"] = "chat.completion.chunk"
        return StreamingResponse(_chunks(generation, head, delta_json, body), media_type="text/event-stream")
    try:
        async for _ in generation.deltas():
            pass
    except RuntimeError as error:
        return JSONResponse(error_body(f"The policy server could not answer: {error}", "InternalServerError"), 500)
    num_prompt, num_drawn = len(generation.prompt), sum(len(choice.token_ids) for choice in generation.choices)
    usage = {"prompt_tokens": num_prompt, "completion_tokens": num_drawn, "total_tokens": num_prompt + num_drawn}
    choices = [
        {"index": k, **choice_json(choice, bool(body.logprobs is not None and body.logprobs is not False))}
        | ({"token_ids": choice.token_ids} if body.return_token_ids else {})
        for k, choice in enumerate(generation.choices)
    ]
    ids = {"prompt_token_ids": list(generation.prompt)} if body.return_token_ids else {}
    return JSONResponse(head | ids | {"choices": choices, "usage": usage})


async def _chunks(generation: Generation, head: dict[str, Any], delta_json: Any, body: Any) -> AsyncIterator[str]:
    try:
        async for delta in generation.deltas():
            choice = {"index": delta.index, **delta_json(delta, bool(body.logprobs is not None and body.logprobs is not False))}
            if body.return_token_ids:
                choice["token_ids"] = [delta.token_id]
            yield f"data: {json.dumps(head | {'choices': [choice]})}\n\n"
    except RuntimeError as error:
        yield f"data: {json.dumps(error_body(f'The policy server could not answer: {error}', 'InternalServerError'))}\n\n"
    yield "data: [DONE]\n\n"


async def _scored(engine: Engine, base: BaseModel, body: CompletionBody, ids: tuple[int, ...]) -> Response:
    """The prompt back with the log-probabilities of its own tokens; the first has none."""
    if not body.echo or body.max_tokens != 0 or body.logprobs is None or body.n != 1 or body.stream:
        raise UserError("echo is answered with max_tokens 0, logprobs 0, n 1 and without stream; max_tokens 0 only with echo.")
    if len(ids) > base.context:
        raise UserError(f"The prompt is {len(ids)} tokens long and the context {base.context}.")
    version = engine.versions.get(body.model)
    logps = await asyncio.wrap_future(engine.call(lambda: version.score(ids)))
    logprobs = {"tokens": base.tokenizer.convert_ids_to_tokens(list(ids)), "token_logprobs": [None, *logps]}
    choice = {"index": 0, "text": base.tokenizer.decode(list(ids)), "logprobs": logprobs, "finish_reason": "length"}
    return JSONResponse({"object": "text_completion", "model": version.name, "choices": [choice]})


def _chat_choice(choice: Choice, with_logps: bool) -> dict[str, Any]:
    logprobs = {"content": [{"token": "", "logprob": logp, "top_logprobs": []} for logp in choice.logps]}
    message = {"role": "assistant", "content": choice.text}
    return {"message": message, "logprobs": logprobs if with_logps else None, "finish_reason": choice.finish_reason}


def _chat_delta(delta: Delta, with_logps: bool) -> dict[str, Any]:
    logprobs = {"content": [{"token": delta.text, "logprob": delta.logp, "top_logprobs": []}]}
    said = {"role": "assistant", "content": delta.text}
    return {"delta": said, "logprobs": logprobs if with_logps else None, "finish_reason": delta.finish_reason}


def _text_choice(choice: Choice, with_logps: bool) -> dict[str, Any]:
    logprobs = {"token_logprobs": choice.logps}
    return {"text": choice.text, "logprobs": logprobs if with_logps else None, "finish_reason": choice.finish_reason}


def _text_delta(delta: Delta, with_logps: bool) -> dict[str, Any]:
    logprobs = {"token_logprobs": [delta.logp]}
    return {"text": delta.text, "logprobs": logprobs if with_logps else None, "finish_reason": delta.finish_reason}
