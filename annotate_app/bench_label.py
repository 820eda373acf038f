"""How fast people are served: many clients lease a pair and judge it over HTTP, each waiting for the acknowledgement.

The app is the real one, with durable commits, in one process on a DuckDB file or in several on a PostgreSQL database; clients
are a process of their own. Latency is what a client sees of lease and judgment together.
"""

import asyncio
import math
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import cycle, repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

from annotate_app.auth import issue_token
from annotate_app.commands.compose import build_api, open_context
from annotate_app.server import serve_in_background
from storage.errors import UserError
from storage.ids import new_id
from storage.records import Message, Policy, Prompt, Response, Task
from storage.store import Store

WARM_UP = 2  # judgments of each client that are not counted: connections open, caches fill
WORDS = ("the", "a", "garden", "water", "slowly", "kettle", "morning", "and", "keep", "warm", "list", "before", "bread", "of")


def measure(*, clients: int, labels: int, response_bytes: int, database: str | None = None, replicas: int = 1) -> dict[str, Any]:
    """Latencies in milliseconds and rates of ``labels`` judgments by ``clients`` at once, on responses of about this size.

    ``database``: an empty PostgreSQL database, served by ``replicas`` apps that clients are spread over; it is filled.
    """
    each = math.ceil(labels / clients)
    with (
        _campaign(clients, clients * (each + WARM_UP), response_bytes, database) as (directory, tokens),
        _served(directory, replicas) as (urls, cpu_s),
        multiprocessing.get_context("spawn").Pool(1) as pool,
    ):
        pool.apply(time.sleep, (0,))  # the clients' process is up
        spent = cpu_s()
        latencies, seconds = pool.apply(_run_clients, (urls, tokens, each))
        spent = cpu_s() - spent
    return {
        "engine": "postgresql" if database else "duckdb",
        "replicas": replicas,
        "clients": clients,
        "labels": len(latencies),
        "response_bytes": response_bytes,
        "seconds": seconds,
        "labels_per_second": len(latencies) / seconds,
        "server_cpu_ms_per_label": 1000 * spent / (len(latencies) + WARM_UP * clients),  # steadier than times on a busy machine
        "lease_and_submit_ms": {name: _quantile(latencies, q) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))},
    }


@contextmanager
def _campaign(clients: int, pairs: int, response_bytes: int, database: str | None) -> Iterator[tuple[Path, list[str]]]:
    """A data directory with enough pairs for everybody, and a token for each client."""
    with tempfile.TemporaryDirectory(prefix="nashloop-bench-") as name:
        with open_context(Path(name), create=True, database=database) as context:
            if context.store.list_policies():
                raise UserError("--database holds a campaign already. Name an empty one: createdb NAME.")
            _add_pairs(context.store, pairs, response_bytes)
            tokens = [issue_token(context.store, name=f"client-{k:03d}", scope="label")[1] for k in range(clients)]
        yield Path(name), tokens


@contextmanager
def _served(directory: Path, replicas: int) -> Iterator[tuple[list[str], Callable[[], float]]]:
    """Apps in processes of their own; their addresses, and the seconds of processor time they have used."""
    spawn = multiprocessing.get_context("spawn")
    apps = [spawn.Pipe() for _ in range(replicas)]
    processes = [spawn.Process(target=_serve, args=(directory, theirs), daemon=True) for _, theirs in apps]
    pipes = [ours for ours, _ in apps]
    for process in processes:
        process.start()

    def cpu_s() -> float:
        for pipe in pipes:
            pipe.send("cpu")
        return sum(pipe.recv() for pipe in pipes)

    try:
        yield [pipe.recv() for pipe in pipes], cpu_s
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.send("stop")
            process.join(20)


def _serve(directory: Path, pipe: Connection) -> None:
    """One app on a free port, until it is told to stop."""
    with open_context(directory, seed=0) as context, serve_in_background(build_api(context)) as url:
        pipe.send(url)
        while pipe.recv() != "stop":
            pipe.send(time.process_time())


def _add_pairs(store: Store, count: int, response_bytes: int) -> None:
    now, rng = datetime.now(UTC), random.Random(0)
    policy = Policy(
        id=new_id(), number=0, base_model="bench", base_revision=None, adapter_path=None, adapter_sha256=None, parent_id=None,
        round_id=None, created_at=now,
    )  # fmt: skip
    text = " ".join(rng.choices(WORDS, k=response_bytes // 5))[:response_bytes]
    prompts, responses, tasks = [], [], []
    for i in range(count):
        question = (Message(role="user", content=f"Question {i}?"),)
        prompt = Prompt(id=new_id(), messages=question, split="train", source="bench", tags=(), created_at=now)
        pair = [
            Response(
                id=new_id(), prompt_id=prompt.id, policy_id=policy.id, text=f"Answer {side} to {i}. {text}", token_ids=None,
                sum_logp=None, finish_reason="imported", sampler={}, seed=None, role="candidate", created_at=now,
            )
            for side in (1, 2)
        ]  # fmt: skip
        tasks.append(
            Task(
                id=new_id(), prompt_id=prompt.id, response_1_id=pair[0].id, response_2_id=pair[1].id, selection_rule="random",
                selection_score=None, selection_prob=1.0, created_at=now,
            )
        )  # fmt: skip
        prompts.append(prompt)
        responses += pair
    store.add_policy(policy)
    store.add_prompts(prompts)
    store.add_responses(responses)
    store.add_tasks(tasks)


def _run_clients(urls: Sequence[str], tokens: Sequence[str], each: int) -> tuple[list[float], float]:
    """In the clients' process: milliseconds of every counted judgment, and seconds of all of them together."""
    return asyncio.run(_all_clients(urls, tokens, each))


async def _all_clients(urls: Sequence[str], tokens: Sequence[str], each: int) -> tuple[list[float], float]:
    ready = asyncio.Barrier(len(tokens) + 1)
    running = [asyncio.create_task(_client(*arguments)) for arguments in zip(cycle(urls), tokens, repeat(each), repeat(ready))]
    await ready.wait()
    started = time.perf_counter()
    latencies = [latency for own in await asyncio.gather(*running) for latency in own]
    return latencies, time.perf_counter() - started


async def _client(url: str, token: str, each: int, ready: asyncio.Barrier) -> list[float]:
    headers, limits = {"Authorization": f"Bearer {token}"}, httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=url + "/api/v1", headers=headers, limits=limits, timeout=120, trust_env=False) as http:
        for _ in range(WARM_UP):
            await _judge_one(http)
        await ready.wait()
        return [await _judge_one(http) for _ in range(each)]


async def _judge_one(http: httpx.AsyncClient) -> float:
    started = time.perf_counter()
    leased = (await http.post("/leases", json={"count": 1})).raise_for_status().json()["leases"][0]
    body = {"lease_id": leased["lease_id"], "verdict": "a", "strength": 2}
    (await http.post("/judgments", json=body)).raise_for_status()
    return 1000 * (time.perf_counter() - started)


def _quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least a share ``q`` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
