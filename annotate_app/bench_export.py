"""A large campaign on one machine: how long the start, the next pair, the overview and the joined export take.

The campaign is written by SQL into a temporary data directory; everything that is timed afterwards is the product itself, in
a process of its own, so that its memory is measured too.
"""

import multiprocessing
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from annotate_app.auth import issue_token
from annotate_app.commands.compose import build_api, open_context
from annotate_app.pages.overview import Overview
from annotate_app.server import DATABASE, serve_in_background
from storage.database import Database
from storage.exports import write_export

RESPONSES_PER_PROMPT = 4
ANNOTATORS = 200
OVERLAP = 2  # judgments wanted of each pair
OPEN_PAIRS = 20_000  # not judged yet
NEXT_PAIRS = 200
WORDS = ("the", "a", "garden", "water", "slowly", "kettle", "morning", "and", "keep", "warm", "list", "before", "bread", "of")


def measure(*, judgments: int, responses: int, response_bytes: int, directory: Path | None = None) -> dict[str, Any]:
    """Seconds, milliseconds and bytes at this size; ``directory`` keeps the campaign and uses it again."""
    with tempfile.TemporaryDirectory(prefix="nashloop-bench-") as temporary:
        data = directory or Path(temporary)
        made = time.perf_counter()
        if not (data / DATABASE).exists():
            data.mkdir(parents=True, exist_ok=True)
            write_campaign(data / DATABASE, judgments=judgments, responses=responses, response_bytes=response_bytes)
        made = time.perf_counter() - made
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            measured = pool.apply(_measure_opened, (data,))
    return {"judgments": judgments, "responses": responses, "response_bytes": response_bytes, "written_s": made} | measured


def write_campaign(path: Path, *, judgments: int, responses: int, response_bytes: int) -> None:
    """Prompts with four responses each; every pair of them judged by two annotators until there are enough judgments."""
    database = Database(path)
    try:
        connection = database.connection
        rng = random.Random(0)
        texts = " ".join(rng.choice(WORDS) + rng.choice("abcdefgh") for _ in range(200_000))
        pairs = judgments // OVERLAP
        values = {
            "prompts": responses // RESPONSES_PER_PROMPT, "responses": responses, "pairs": pairs, "open": OPEN_PAIRS,
            "judgments": judgments, "bytes": response_bytes, "people": ANNOTATORS, "texts": texts,
        }  # fmt: skip
        for statement in _CAMPAIGN:
            names = [name for name in values if f"${name}" in statement]
            connection.execute(statement, {name: values[name] for name in names})
        connection.execute("CHECKPOINT")
    finally:
        database.close()


def _measure_opened(data: Path) -> dict[str, Any]:
    began = time.perf_counter()
    with open_context(data) as context:
        start = time.perf_counter() - began
        secret = issue_token(context.store, name="bench", scope="label", annotator_handle="Annotator 0")[1]
        with serve_in_background(build_api(context)) as url:
            next_pair = _next_pairs(url, secret)
        overview = _seconds(Overview(context).read)
        stats = _seconds(context.store.stats)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        target = data / "bench-export.parquet"
        export = _seconds(lambda: write_export(context.store, "raw", target))
        size = target.stat().st_size
        target.unlink()
    return {
        "start_s": start,
        "next_pair_ms": next_pair,
        "overview_s": overview,
        "stats_s": stats,
        "export_s": export,
        "export_bytes": size,
        "memory_before_export_bytes": before * 1024,
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "database_bytes": (data / DATABASE).stat().st_size,
    }


def _next_pairs(url: str, secret: str) -> dict[str, float]:
    """Milliseconds until the next pair is there, each after the one before was judged."""
    took = []
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=url + "/api/v1", headers=headers, timeout=120, trust_env=False) as http:
        for _ in range(NEXT_PAIRS):
            began = time.perf_counter()
            [pair] = http.post("/leases", json={"count": 1}).raise_for_status().json()["leases"]
            took.append(1000 * (time.perf_counter() - began))
            http.post("/judgments", json={"lease_id": pair["lease_id"], "verdict": "a"}).raise_for_status()
    ranked = sorted(took)
    return {"first": took[0], "p50": ranked[len(ranked) // 2], "p95": ranked[int(0.95 * len(ranked))]}


def _seconds(action: Any) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


_AT = "TIMESTAMPTZ '2026-01-01 00:00:00+00'"
_CAMPAIGN = (
    f"""INSERT INTO policies BY NAME
        SELECT 'policy0' AS id, 1 AS seq, 0 AS number, 'bench' AS base_model, '{{}}' AS auxiliary, {_AT} AS created_at""",
    f"""INSERT INTO annotators BY NAME
        SELECT 'person-' || i AS id, i + 1 AS seq, 'Annotator ' || i AS handle, 'human' AS kind, {_AT} AS created_at
        FROM range($people) AS r(i)""",
    f"""INSERT INTO prompts BY NAME
        SELECT 'prompt-' || i AS id, i + 1 AS seq, [{{'role': 'user', 'content': 'Question ' || i || '?'}}] AS messages,
               'train' AS split, 'bench' AS source, [] AS tags, {_AT} AS created_at FROM range($prompts) AS r(i)""",
    f"""INSERT INTO responses BY NAME
        SELECT 'response-' || i AS id, i + 1 AS seq, 'prompt-' || (i // 4) AS prompt_id, 'policy0' AS policy_id,
               substr($texts, 1 + CAST(hash(i) % (length($texts) - $bytes) AS BIGINT), $bytes) AS text,
               'stop' AS finish_reason, '{{}}' AS sampler, 'candidate' AS role, {_AT} AS created_at
        FROM range($responses) AS r(i)""",
    # The six pairs of a prompt's four responses, then those of the next prompt; after the last prompt from the first again.
    f"""INSERT INTO tasks BY NAME
        WITH numbered AS (
            SELECT i, (i // 6) % $prompts AS prompt, [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]][1 + i % 6] AS sides
            FROM range($pairs + $open) AS r(i))
        SELECT 'task-' || i AS id, i + 1 AS seq, 'prompt-' || prompt AS prompt_id,
               'response-' || (4 * prompt + sides[1]) AS response_1_id, 'response-' || (4 * prompt + sides[2]) AS response_2_id,
               'label' AS purpose, 0 AS priority, 2 AS wanted, 'random' AS selection_rule, 1 AS selection_prob,
               {_AT} AS created_at FROM numbered""",
    # Judgment j is the (j % 2)th of pair j // 2, by annotators that differ.
    f"""INSERT INTO leases BY NAME
        SELECT 'lease-' || j AS id, j + 1 AS seq, t.id AS task_id, 'person-' || (j * 7 % $people) AS annotator_id, j % 2 AS slot,
               if(j % 3 = 0, response_1_id, response_2_id) AS response_a_id,
               if(j % 3 = 0, response_2_id, response_1_id) AS response_b_id,
               {_AT} + to_seconds(j * 5) AS issued_at, {_AT} + to_seconds(j * 5 + 1800) AS expires_at
        FROM range($judgments) AS r(j) JOIN tasks t ON t.seq = j // 2 + 1""",
    """INSERT INTO judgments BY NAME
        SELECT l.id, l.seq, l.task_id, l.annotator_id, 0 AS revision, t.prompt_id, l.response_a_id, l.response_b_id,
               CASE hash(l.seq) % 20 WHEN 0 THEN 'tie' WHEN 1 THEN 'both_bad' WHEN 2 THEN 'skip' ELSE
                   if(hash(l.seq) % 2 = 0, 'a', 'b') END AS verdict,
               CAST(hash(l.seq) % 4 AS INTEGER) AS strength, '{}' AS aspects, NULL AS rationale, [] AS reasons,
               l.issued_at + to_seconds(1) AS shown_at, l.issued_at + to_seconds(20) AS submitted_at
        FROM leases l JOIN tasks t ON t.id = l.task_id""",
)
