"""One request on its way: its rows in the engine, and what they have said so far, as text."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from online_learner.policy.base_model import BaseModel
from online_learner.responses import response_text
from online_learner.serving.batch import Row, make_draws
from online_learner.serving.engine import Engine
from online_learner.serving.versions import Version
from storage.errors import UserError

UNFINISHED = "�"  # what a decoder says while a character lacks bytes


@dataclass(slots=True)
class Choice:
    """One of the n responses: tokens with their log-probabilities, and the text that they make."""

    token_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one token added to choice ``index``; the text may be empty while a character lacks bytes."""

    index: int
    token_id: int
    logp: float
    text: str
    finish_reason: str | None


class Generation:
    """The responses to one prompt. Iterate ``deltas`` to the end, then read ``choices``."""

    def __init__(
        self, engine: Engine, base: BaseModel, version: Version, prompt: Sequence[int],
        *, n: int, max_tokens: int | None, temperature: float, top_p: float, seed: int,
    ) -> None:  # fmt: skip
        """UserError where the prompt leaves no room, or too many requests wait."""
        room = base.context - len(prompt)
        if room < 1:
            raise UserError(f"The prompt is {len(prompt)} tokens long and the context {base.context}. Shorten the conversation.")
        self.version, self.seed, self.prompt = version, seed, tuple(prompt)
        self.choices = [Choice() for _ in range(n)]
        self._base = base
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[tuple[int, int, float, str | None] | str] = asyncio.Queue()
        draws = make_draws(n, min(max_tokens or room, room), seed)
        self._rows = [
            Row(prompt=self.prompt, draws=draws[k], temperature=temperature, top_p=top_p, emit=self._emitter(k), fail=self._tell)
            for k in range(n)
        ]
        if not engine.submit(version, self._rows):
            raise UserError("Too many requests wait at the policy server. Try again in a few seconds.")

    async def deltas(self) -> AsyncIterator[Delta]:
        """Token by token as they come, of all choices mixed. Leaving early cancels what is unfinished."""
        unfinished = len(self.choices)
        try:
            while unfinished:
                told = await self._told.get()
                if isinstance(told, str):
                    raise RuntimeError(told)
                delta = self._add(*told)
                unfinished -= delta.finish_reason is not None
                yield delta
        finally:
            for row in self._rows:
                row.cancelled = True

    def _add(self, index: int, token_id: int, logp: float, finish_reason: str | None) -> Delta:
        choice = self.choices[index]
        choice.token_ids.append(token_id)
        choice.logps.append(logp)
        choice.finish_reason = finish_reason
        whole = response_text(self._base, self.prompt, choice.token_ids)
        if finish_reason is None and whole.endswith(UNFINISHED):
            whole = choice.text
        if not whole.startswith(choice.text):  # a tokenizer that changes its mind: what was said stays said
            whole = choice.text + whole[len(choice.text) :]
        added, choice.text = whole[len(choice.text) :], whole
        return Delta(index=index, token_id=token_id, logp=logp, text=added, finish_reason=finish_reason)

    def _emitter(self, index: int) -> Callable[[int, float, str | None], None]:
        def emit(token_id: int, logp: float, finish_reason: str | None) -> None:
            self._tell((index, token_id, logp, finish_reason))

        return emit

    def _tell(self, what: tuple[int, int, float, str | None] | str) -> None:
        """From the engine's thread to the request's."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._told.put_nowait, what)
