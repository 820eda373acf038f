"""Sealed job directories made from rows, without a database: what tests of the learner start from."""

import json
import random
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.contract.jobs import artifact_dir
from storage.contract.schemas import JUDGMENTS, PROMPTS, RESPONSES
from storage.contract.sealing import seal_dir, sha256
from storage.contract.settings import build_settings, dump_settings
from storage.errors import UserError

BASE = "00000000-0000-7000-8000-000000000000"
SMALL = {
    "device": "cpu",
    "generation": {"max_new_tokens": 32},
    "preference": {"num_heads": 2, "min_judgments": 10},
    "update": {"epochs": 2, "learning_rate": 3e-3, "prompts_per_step": 4},
    "evaluation": {"num_responses": 2, "min_text_quality": 0.0, "max_kl_to_parent_nats": 100.0},
}


def question(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def prompt(prompt_id: str, content: str, split: str) -> dict[str, Any]:
    return {"prompt_id": prompt_id, "messages": question(content), "split": split, "source": "test", "tags": []}


@dataclass
class Lineage:
    """A base model and the policies made from it so far."""

    model: str
    parent: str = BASE
    previous: str | None = None
    auxiliary: dict[str, float] = field(default_factory=lambda: {BASE: 1.0})
    policies: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {BASE: {"number": 0, "adapter_dir": None, "adapter_sha256": None}}
    )

    def promote(self, artifact: Path) -> None:
        """Make the policy of a finished round the parent of the next job."""
        report = json.loads((artifact / "report.json").read_text())
        weights = artifact / "adapter" / "adapter_model.safetensors"
        self.previous, self.parent, self.auxiliary = self.parent, report["new_policy"], report["auxiliary"]
        self.policies[self.parent] = {
            "number": len(self.policies),
            "adapter_dir": str(artifact / "adapter"),
            "adapter_sha256": sha256(weights),
        }

    def as_json(self, new_policy: str | None) -> dict[str, Any]:
        facts = {
            "base_model": self.model,
            "base_revision": None,
            "parent": self.parent,
            "previous": self.previous,
            "reference": BASE,
            "auxiliary": self.auxiliary,
            "policies": self.policies,
        }
        return facts if new_policy is None else facts | {"new_policy": new_policy}


def write_job(
    data: Path,
    kind: str,
    number: int,
    lineage: Lineage,
    prompts: list[dict[str, Any]],
    responses: list[dict[str, Any]] | None = None,
    judgments: list[dict[str, Any]] | None = None,
    **settings: Any,
) -> Path:
    """Seal ``data/jobs/NNNN-kind``; ``settings`` replace sections of SMALL."""
    job_dir = data / "jobs" / f"{number:04d}-{kind}"
    aside = data / "jobs" / f".{job_dir.name}"
    aside.mkdir(parents=True)
    tables = (("prompts", prompts, PROMPTS), ("responses", responses or [], RESPONSES), ("judgments", judgments or [], JUDGMENTS))
    for name, rows, schema in tables:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), aside / f"{name}.parquet")
    merged = {**SMALL, **settings, "kind": kind}
    for section in ("generation", "preference", "update", "evaluation"):
        merged[section] = {**SMALL[section], **settings.get(section, {})}
    (aside / "config.toml").write_text(dump_settings(build_settings(merged)))
    new_policy = f"00000000-0000-7000-8000-{number:012d}" if kind == "round" else None
    (aside / "lineage.json").write_text(json.dumps(lineage.as_json(new_policy)))
    seal_dir(aside, job_dir, kind=kind, number=number, parent=lineage.parent, seeds={"job": 0}, versions={})
    return job_dir


def prefer_short(responses: list[dict[str, Any]], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """``count`` judgments of pairs of one prompt in which the response with fewer characters wins; equal lengths tie."""
    rng = random.Random(seed)
    pairs = [(x, y) for x, y in combinations(responses, 2) if x["prompt_id"] == y["prompt_id"]]
    rng.shuffle(pairs)
    rows = []
    for number, (x, y) in enumerate(pairs[:count]):
        a, b = (x, y) if rng.random() < 0.5 else (y, x)
        shorter = len(a["text"]) - len(b["text"])
        rows.append(
            {
                "judgment_id": f"j{number}",
                "prompt_id": x["prompt_id"],
                "response_a_id": a["response_id"],
                "response_b_id": b["response_id"],
                "verdict": "tie" if shorter == 0 else "a" if shorter < 0 else "b",
                "strength": None,
                "annotator_id": f"annotator {number % 2}",
                "purpose": "label",
                "selection_rule": "random",
                "selection_prob": 1.0,
                "submitted_at": datetime(2026, 1, 1, tzinfo=UTC),
            }
        )
    return rows


def run_learner(job_dir: Path, *arguments: str) -> Path:
    """The job's artifact, from a process of its own; UserError with its last words where it failed."""
    command = [sys.executable, "-m", "online_learner", "run", str(job_dir), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise UserError(f"exit code {done.returncode}: {done.stderr[-3000:]}")
    return artifact_dir(job_dir)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def read_report(artifact: Path) -> dict[str, Any]:
    return json.loads((artifact / "report.json").read_text())
