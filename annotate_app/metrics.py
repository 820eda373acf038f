"""Numbers for Prometheus: requests by route with a latency histogram, and what the store counts. Text format 0.0.4."""

import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from annotate_app.context import AppContext
from annotate_app.logs import HEADER, REQUEST_ID, request_id
from storage.latencies import BOUNDS_S
from storage.store import Store

API = "/api/v1"
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RequestMetrics:
    """Counts of requests and their seconds until the first byte, by method, route and status. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0] * (len(BUCKETS_S) + 1))
        self._seconds: dict[tuple[str, str, int], float] = defaultdict(float)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        with self._lock:
            self._buckets[method, route, status][bisect_left(BUCKETS_S, seconds)] += 1
            self._seconds[method, route, status] += seconds

    def lines(self) -> Iterator[str]:
        with self._lock:
            rows = [(key, list(counts), self._seconds[key]) for key, counts in sorted(self._buckets.items())]
        name = "nashloop_http_request_seconds"
        yield f"# HELP {name} Seconds until a response began."
        yield f"# TYPE {name} histogram"
        for (method, route, status), counts, seconds in rows:
            labels = f'method="{method}",route="{route}",status="{status}"'
            total = 0
            for bound, count in zip([*map(str, BUCKETS_S), "+Inf"], counts, strict=True):
                total += count
                yield f'{name}_bucket{{{labels},le="{bound}"}} {total}'
            yield f"{name}_sum{{{labels}}} {seconds:.6f}"
            yield f"{name}_count{{{labels}}} {total}"


class Measured:
    """Outermost middleware: times every HTTP request and gives it an id, for its log lines and its answer."""

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        own_id = request_id(scope["headers"])
        REQUEST_ID.set(own_id)

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (HEADER, own_id.encode())]
                self.metrics.observe(scope["method"], route_of(scope), message["status"], time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, timed)


def route_of(scope: Scope) -> str:
    """The route's template, so that ids and made-up paths do not each become a series; everything else is ``other``."""
    template = getattr(scope.get("route"), "path_format", None)
    if template is not None:  # some FastAPI versions give the part behind the router's prefix only
        inside = scope["path"].startswith(API) and not template.startswith(API)
        return API + template if inside else template
    return "/console" if scope["path"].startswith("/console") else "/" if scope["path"] == "/" else "other"


def store_lines(store: Store) -> Iterator[str]:
    """What the store counts. Made judgments only grow (a counter); the rest are gauges."""
    stats, health = store.stats(), store.health()
    [made] = store.query("SELECT count(*) AS n FROM judgments").to_pylist()
    yield from _metric("nashloop_judgments_total", "counter", "Judgments ever made, taken back or not.", made["n"])
    yield from _metric("nashloop_judgments_standing", "gauge", "Judgments that stand.", stats["judgments"])
    yield from _metric("nashloop_open_leases", "gauge", "Pairs in annotators' hands.", stats["leases_open"])
    yield from _metric("nashloop_open_tasks", "gauge", "Pairs that still want judgments.", stats["tasks_open"])
    yield from _metric("nashloop_annotators_active", "gauge", "Who labelled in the last hour.", stats["annotators_active_1h"])
    yield from _metric("nashloop_writer_queue", "gauge", "Writes that wait for a commit.", health["queue"])
    yield from _metric("nashloop_writer_up", "gauge", "1 while the database takes writes.", int(health["writer"]))
    if commits := health.get("commits"):
        yield from _histogram("nashloop_commit_seconds", "Seconds from the last write of a group to its commit.", *commits.read())


def loop_lines(context: AppContext) -> Iterator[str]:
    """Jobs by state, the policy that serves, people's votes on policies, and whether live prompts are answered."""
    states = Counter((round_.kind, round_.status) for round_ in context.store.list_rounds())
    yield from _family(
        "nashloop_jobs", "Jobs by kind and state.", [(f'kind="{k}",status="{s}"', n) for (k, s), n in sorted(states.items())]
    )
    serving = context.store.serving_policy()
    if serving is not None:
        yield from _metric("nashloop_serving_policy", "gauge", "Number of the policy in service.", serving.number)
    gates = [(f'policy="{one.candidate.number}"', gate) for one, gate, _ in context.rounds.comparisons()]
    yield from _family("nashloop_gate_votes", "Votes on a candidate policy.", [(name, gate.votes) for name, gate in gates])
    yield from _family("nashloop_gate_low", "Lower bound of its win rate by votes.", [(name, gate.low) for name, gate in gates])
    yield from _family("nashloop_gate_high", "Upper bound of its win rate by votes.", [(name, gate.high) for name, gate in gates])
    if context.live is not None:
        up = int(context.live.problem is None)
        yield from _metric("nashloop_live_prompts_up", "gauge", "1 while the policy server answers live prompts.", up)


def _metric(name: str, kind: str, meaning: str, value: float) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"
    yield f"{name} {value}"


def _family(name: str, meaning: str, rows: Sequence[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} gauge"
    for labels, value in rows:
        yield f"{name}{{{labels}}} {value}"


def _histogram(name: str, meaning: str, counts: Sequence[int], seconds: float) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} histogram"
    for bound, total in zip([*map(str, BOUNDS_S), "+Inf"], accumulate(counts), strict=True):
        yield f'{name}_bucket{{le="{bound}"}} {total}'
    yield f"{name}_sum {seconds:.6f}"
    yield f"{name}_count {sum(counts)}"
