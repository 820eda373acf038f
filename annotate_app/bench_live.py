"""``nashloop bench live``: a policy server under load while adapters are swapped. Nobody may be answered by another policy."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from annotate_app.policy_server import PolicyServer

QUESTIONS = (
    "What is your favourite season?", "How do I keep bread fresh?", "Tell me something about the sea.", "Should I learn to sing?",
)  # fmt: skip
SAME_NATS = 0.01  # a token: two adapters differ by more, two computations of one by less
CHECKED_PER_SWAP = 4


@dataclass(slots=True, kw_only=True)
class LiveLoad:
    """What the clients saw. Times in seconds."""

    num_clients: int
    seconds: float
    num_answers: int = 0
    num_failed: int = 0
    num_checked: int = 0
    num_wrong: int = 0  # answers whose log-probabilities are not those of the policy that was asked
    first_token: list[float] = field(default_factory=list)
    swap: list[float] = field(default_factory=list)  # from the order to load until the new policy is the one asked
    num_tokens: int = 0
    problems: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        """Counts, tokens a second and quantiles, for ``--json``."""
        plain = {name: value for name, value in asdict(self).items() if not isinstance(value, list | Counter)}
        times = {
            f"{name}_p{percent}_s": float(np.percentile(getattr(self, name), percent)) if getattr(self, name) else None
            for name in ("first_token", "swap")
            for percent in (50, 95)
        }
        return plain | times | {"tokens_per_second": self.num_tokens / self.seconds, "problems": dict(self.problems)}


async def swap_under_load(
    server: PolicyServer, adapters: Mapping[str, Path], *, num_clients: int, seconds: float, swap_every: float
) -> LiveLoad:
    """``num_clients`` ask without pause; every ``swap_every`` seconds another adapter takes over under a new name.

    A request keeps the name it began with; a name is unloaded when nobody uses it any more. Of each name some answers are
    scored again by the server, outside the stream, before it goes.
    """
    load = LiveLoad(num_clients=num_clients, seconds=seconds)
    directories, in_use, finished = list(adapters.values()), Counter[str](), {}
    number = 0

    async def next_name() -> str:
        nonlocal number
        name, started = f"policy-{number}-bench", time.perf_counter()
        await asyncio.to_thread(server.load, name, directories[number % len(directories)])
        load.swap.append(time.perf_counter() - started)
        finished[name] = []
        number += 1
        return name

    async def client(k: int) -> None:
        asked = k
        while time.perf_counter() < end:
            name, question = current[0], QUESTIONS[asked % len(QUESTIONS)]
            in_use[name] += 1
            try:
                await _ask(load, server, name, question, seed=asked, answers=finished[name])
            except Exception as error:  # whatever it is, it counts
                load.num_failed += 1
                load.problems[f"{type(error).__name__}: {error}"[:200]] += 1
            finally:
                in_use[name] -= 1
            asked += num_clients

    async def retire(name: str) -> None:
        while in_use[name]:
            await asyncio.sleep(0.02)
        await _check(load, server, name, finished.pop(name))
        await asyncio.to_thread(server.unload, name)

    await asyncio.to_thread(server.warm_up, next(name for name, parent in server.models().items() if parent is None))
    current = [await next_name()]
    await asyncio.to_thread(server.warm_up, current[0])
    end = time.perf_counter() + seconds
    clients = [asyncio.create_task(client(k)) for k in range(num_clients)]
    retiring = []
    while time.perf_counter() + swap_every < end:
        await asyncio.sleep(swap_every)
        old, current[0] = current[0], await next_name()
        retiring.append(asyncio.create_task(retire(old)))
    await asyncio.gather(*clients)
    await asyncio.gather(*retiring, retire(current[0]))
    return load


async def _ask(load: LiveLoad, server: PolicyServer, name: str, question: str, *, seed: int, answers: list[Any]) -> None:
    started, first, ids, logp = time.perf_counter(), None, [], 0.0
    messages = [{"role": "user", "content": question}]
    async for piece in server.stream(name, messages, n=1, seed=seed, temperature=1.0, top_p=1.0, max_tokens=48):
        first = first or time.perf_counter() - started
        ids += piece.token_ids
        logp += piece.logp
    load.first_token.append(first or 0.0)
    load.num_answers += 1
    load.num_tokens += len(ids)
    answers.append((messages, ids, logp))


async def _check(load: LiveLoad, server: PolicyServer, name: str, answers: list[Any]) -> None:
    step = max(1, len(answers) // CHECKED_PER_SWAP)
    for messages, ids, logp in answers[::step][:CHECKED_PER_SWAP]:
        again = await asyncio.to_thread(server.response_logp, name, messages, ids)
        load.num_checked += 1
        load.num_wrong += abs(again - logp) > SAME_NATS * len(ids)


def table(load: LiveLoad) -> list[tuple[str, str]]:
    """Rows of name and figure for people."""

    def times(values: list[float]) -> str:
        return "p50 {:.3f} s, p95 {:.3f} s".format(*np.percentile(values, [50, 95])) if values else "none"

    return [
        ("answers", f"{load.num_answers} by {load.num_clients} clients in {load.seconds:.0f} s"),
        ("failed", str(load.num_failed)),
        ("wrong version", f"{load.num_wrong} of {load.num_checked} scored again"),
        ("first token", times(load.first_token)),
        ("swap", f"{times(load.swap)} ({len(load.swap)} swaps)"),
        ("tokens a second", f"{load.num_tokens / load.seconds:.0f}"),
    ]
