"""From a sealed artifact to the store: registering the policy, its responses, and reading the scores of its pairs.

Every step may be repeated: ids come from the artifact, so doing it twice, or again after kill -9, adds nothing.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from storage.contract.jobs import artifact_dir
from storage.contract.report import RoundReport
from storage.contract.schemas import PAIR_SCORES, RESPONSES
from storage.contract.sealing import read_manifest, sha256
from storage.errors import UserError
from storage.records import Policy, Response, Round
from storage.store import Store

ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What an artifact brought: its report, the policy it made (rounds only) and how many responses were new."""

    report: RoundReport
    policy: Policy | None
    num_responses: int


def register_artifact(store: Store, data_dir: Path, round_: Round, *, now: datetime) -> Registered:
    """Add a sealed artifact's policy and responses to the store, after checking its hashes and that it answers this job."""
    directory = artifact_dir(data_dir / round_.job_dir)
    read_manifest(directory)
    report = read_report(data_dir, round_)
    if report is None:
        raise UserError(f"{directory} has no report.json, so it cannot be told what it is. Start a new job.")
    policy = None
    if round_.kind == "round":
        if report.get("new_policy") != round_.new_policy_id:
            raise UserError(
                f"{directory} is about policy {report.get('new_policy')}, but job {round_.number} was to make "
                f"{round_.new_policy_id}. It belongs to another data directory; start a new round."
            )
        policy = _add_policy(store, data_dir, directory, round_, report, now)
    return Registered(report=report, policy=policy, num_responses=_add_responses(store, directory, now))


def read_report(data_dir: Path, round_: Round) -> RoundReport | None:
    """The report of a job's artifact; None before it is sealed."""
    path = artifact_dir(data_dir / round_.job_dir) / "report.json"
    return json.loads(path.read_text()) if path.exists() else None


def pair_scores(store: Store, data_dir: Path, policy: Policy) -> dict[tuple[str, str], dict[str, Any]]:
    """The newest preference model's logits for pairs of this policy's candidates; empty if none has scored them yet."""
    job = scoring_job(store, data_dir, policy)
    if job is None:
        return {}
    rows = pq.read_table(_scores_path(data_dir, job), schema=PAIR_SCORES).to_pylist()
    return {(row["response_1_id"], row["response_2_id"]): row for row in rows}


def scoring_job(store: Store, data_dir: Path, policy: Policy) -> Round | None:
    """The newest job whose preference model scored pairs of this policy's candidates."""
    for round_ in store.list_rounds():
        about = round_.new_policy_id if round_.kind == "round" else round_.parent_policy_id
        if round_.kind in ("round", "fit") and about == policy.id and _scores_path(data_dir, round_).exists():
            return round_
    return None


def _scores_path(data_dir: Path, round_: Round) -> Path:
    return artifact_dir(data_dir / round_.job_dir) / "pair_scores.parquet"


def _add_policy(store: Store, data_dir: Path, directory: Path, round_: Round, report: RoundReport, now: datetime) -> Policy:
    known = store.get_policy(str(round_.new_policy_id))
    if known is not None:
        return known
    parent = store.get_policy(round_.parent_policy_id)
    assert parent is not None, "a round starts from a registered policy"
    adapter = directory / "adapter"
    policy = Policy(
        id=str(round_.new_policy_id),
        number=1 + max(p.number for p in store.list_policies()),
        base_model=parent.base_model,
        base_revision=parent.base_revision,
        adapter_path=str(adapter.relative_to(data_dir)),
        adapter_sha256=sha256(adapter / ADAPTER_WEIGHTS),
        parent_id=parent.id,
        round_id=round_.id,
        auxiliary=dict(report.get("auxiliary", {})),
        created_at=now,
    )
    store.add_policy(policy)
    return policy


def _add_responses(store: Store, directory: Path, now: datetime) -> int:
    path = directory / "responses.parquet"
    if not path.exists():  # a fit samples nothing
        return 0
    rows = pq.read_table(path, schema=RESPONSES).to_pylist()
    return store.add_responses([_response(row, now) for row in rows]) if rows else 0


def _response(row: dict[str, Any], now: datetime) -> Response:
    token_ids = row["token_ids"]
    return Response(
        id=row["response_id"],
        prompt_id=row["prompt_id"],
        policy_id=row["policy_id"],
        text=row["text"],
        token_ids=None if token_ids is None else tuple(token_ids),
        sum_logp=row["sum_logp"],
        finish_reason=row["finish_reason"],
        sampler=json.loads(row["sampler"]) if row["sampler"] else {},
        seed=row["seed"],
        role=row["role"],
        created_at=now,
    )
