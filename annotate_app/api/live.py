"""Live prompts over HTTP: an annotator writes, two responses stream, and the pair is theirs to judge by the usual routes."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Depends, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from annotate_app.api.people import AnnotatorId, Body
from annotate_app.api.shown import lease_json
from annotate_app.auth import require
from annotate_app.context import AppContext
from annotate_app.live import Answer, LiveService, conversation, live_settings, store_live_pair
from annotate_app.policy_server import Piece, PolicyServerDown
from storage.errors import UserError
from storage.records import Policy

LONGEST_PROMPT = 8_000  # characters
LONGEST_S = 120  # after that a question counts as given up
SIDES = "ab"
SWITCHED_OFF = "Live prompts are switched off. Start with `nashloop up --policy-server auto`."


class TurnBody(Body):
    request_id: str = Field(
        min_length=8, max_length=100, description="made by the client; the same one again gives the same pair"
    )
    text: str = Field(min_length=1, max_length=LONGEST_PROMPT)
    after: str | None = Field(
        None, max_length=100, description="your judgment whose conversation goes on with its better response"
    )


class AnswersBody(Body):
    text: str = Field(min_length=1, max_length=LONGEST_PROMPT)
    policies: list[int] = Field(min_length=2, max_length=2, description="numbers of two policies")


def build_router(context: AppContext) -> APIRouter:
    """Routes of scope label, and one of scope research."""
    router, live = APIRouter(tags=["labelling"]), context.live
    asking: dict[str, float] = {}  # annotators whose responses are on their way, and since when

    @router.get("/live")
    def state(annotator_id: AnnotatorId) -> dict[str, Any]:
        """Whether live prompts are switched on, and why nothing can be asked now (null: it can)."""
        return {"on": live is not None, "problem": None if live is None else live.problem}

    @router.post("/live/turns", response_class=StreamingResponse)
    async def turn(body: TurnBody, annotator_id: AnnotatorId) -> StreamingResponse:
        """Ask the policy in service and stream two of its responses as lines of JSON.

        ``{"side": "a", "text": ...}`` for each piece, then ``{"lease": {...}}``, judged like any lease, or ``{"error":
        {"message"}}``. 503 where no policy answers, 429 while an earlier question of yours is being answered.
        """
        if live is None:
            raise HTTPException(404, SWITCHED_OFF)
        if time.monotonic() - asking.get(annotator_id, -LONGEST_S) < LONGEST_S:
            raise HTTPException(429, "Your last question is still being answered. Wait for it, or stop it first.")
        asking[annotator_id] = time.monotonic()
        try:
            pieces, answers, finish = await _ask(context, live, body, annotator_id)
            first = await anext(pieces, None)
        except PolicyServerDown as error:
            asking.pop(annotator_id, None)
            raise HTTPException(503, f"Live prompts pause: {error}. Go on with the queue; it will be back.") from error
        except BaseException:
            asking.pop(annotator_id, None)
            raise

        async def lines() -> AsyncIterator[str]:
            try:
                if first is not None:
                    yield _line(answers, first)
                async for piece in pieces:
                    yield _line(answers, piece)
                yield await run_in_threadpool(finish)
            except PolicyServerDown as error:
                yield json.dumps({"error": {"message": f"Live prompts pause: {error}. Nothing was kept of this one."}}) + "\n"
            except UserError as error:
                yield json.dumps({"error": {"message": str(error)}}) + "\n"
            finally:
                asking.pop(annotator_id, None)
                await pieces.aclose()  # pyright: ignore[reportAttributeAccessIssue]

        return StreamingResponse(lines(), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})

    @router.post("/policies/answers", response_class=StreamingResponse, dependencies=[Depends(require("research"))])
    async def answers(body: AnswersBody) -> StreamingResponse:
        """One prompt to two policies, any two, for a look at both; nothing is kept. Lines as of a live turn, without a lease."""
        if live is None:
            raise HTTPException(404, SWITCHED_OFF)
        try:
            named = [await run_in_threadpool(_named, context, live, number) for number in body.policies]
        except PolicyServerDown as error:
            raise HTTPException(503, f"No policy answers now: {error}. Try again in a few seconds.") from error
        settings, seed = live_settings(context.store), secrets.randbits(62)
        messages = [{"role": "user", "content": body.text}]
        streams = [live.stream(name, messages, n=1, seed=seed, settings=settings) for name in named]
        return StreamingResponse(_both(streams), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})

    return router


def _named(context: AppContext, live: LiveService, number: int) -> str:
    """The name at the server of the policy with this number, loaded and checked."""
    found = next((policy for policy in context.store.list_policies() if policy.number == number), None)
    if found is None:
        raise UserError(f"There is no policy {number}. The lineage shows those there are.")
    return live.require_policy(found)


async def _both(streams: list[AsyncIterator[Piece]]) -> AsyncIterator[str]:
    """Lines of both as they come; one that fails says so in its column and leaves the other alone."""
    told: asyncio.Queue[str | None] = asyncio.Queue()

    async def follow(side: str, pieces: AsyncIterator[Piece]) -> None:
        try:
            async for piece in pieces:
                told.put_nowait(json.dumps({"side": side, "text": piece.text, "done": piece.finish_reason is not None}) + "\n")
        except (PolicyServerDown, UserError) as error:
            told.put_nowait(json.dumps({"side": side, "error": {"message": str(error)}}) + "\n")
        told.put_nowait(None)

    following = [asyncio.create_task(follow(side, pieces)) for side, pieces in zip(SIDES, streams, strict=True)]
    try:
        for _ in following:
            while (line := await told.get()) is not None:
                yield line
    finally:
        for task in following:
            task.cancel()


async def _ask(
    context: AppContext, live: LiveService, body: TurnBody, annotator_id: str
) -> tuple[AsyncIterator[Piece], list[Answer], Callable[[], str]]:
    """The pieces on their way, where they are gathered, and what stores them."""
    store, text = context.store, body.text.strip()
    if not text:
        raise UserError("The prompt is empty. Write what the policy should answer.")
    policy, name = live.require()
    await run_in_threadpool(_check_may_ask, context, annotator_id)
    messages = await run_in_threadpool(conversation, store, annotator_id, text, body.after)
    settings, seed, answers = live_settings(store), secrets.randbits(62), [Answer(), Answer()]
    plain = [{"role": message.role, "content": message.content} for message in messages]
    pieces = live.stream(name, plain, n=2, seed=seed, settings=settings)

    def finish() -> str:
        return _stored(context, policy, answers, annotator_id=annotator_id, request_id=body.request_id, messages=messages,
                       seed=seed, settings=settings)  # fmt: skip

    return pieces, answers, finish


def _check_may_ask(context: AppContext, annotator_id: str) -> None:
    training = context.store.training(annotator_id)
    if training is not None and not training.passed:
        raise UserError("Finish the training pairs first; live prompts come after them.")
    if context.store.budget_spent():
        raise UserError("The campaign's budget of labels is spent. A researcher can raise it.")


def _line(answers: list[Answer], piece: Piece) -> str:
    answers[piece.index].add(piece)
    return json.dumps({"side": SIDES[piece.index], "text": piece.text, "done": piece.finish_reason is not None}) + "\n"


def _stored(context: AppContext, policy: Policy, answers: list[Answer], **asked: Any) -> str:
    pair = store_live_pair(context.store, policy=policy, answers=answers, **asked)
    if pair is None:
        raise UserError("This question was answered and judged before. Ask another one.")
    return json.dumps({"lease": lease_json(pair)}) + "\n"
