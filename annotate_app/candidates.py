"""From a sealed artifact to pairs that annotators see: registering the policy and its responses, and making its tasks.

Every step may be repeated: ids come from the artifact or from the promotion that caused them, so doing it twice, or again
after kill -9, adds nothing.
"""

import json
import random
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from annotate_app.pair_selection import PAIR_RULES, Pair, SelectedPair, select_pairs
from storage.contract.jobs import artifact_dir
from storage.contract.report import RoundReport
from storage.contract.schemas import PAIR_SCORES, RESPONSES
from storage.contract.sealing import read_manifest, sha256
from storage.errors import UserError
from storage.records import Event, Policy, Response, Round, Task
from storage.store import Store

TASKS = uuid.UUID("6f0c1c1e-6d0c-5d0a-9d0f-6e6173686c6f")  # namespace of task ids
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """How a policy's candidates become tasks. Without a preference model's scores the rule falls back to random."""

    selection: str = "random"
    overlap: int = 1  # judgments wanted of each pair, by different annotators
    pairs_per_prompt: int = 6  # all pairs of four responses
    seed: int = 0

    def __post_init__(self) -> None:
        if self.selection not in PAIR_RULES:
            raise UserError(f"Unknown pair-selection rule {self.selection!r}. Choose one of: {', '.join(PAIR_RULES)}.")
        if self.overlap < 1 or self.pairs_per_prompt < 1:
            raise UserError(
                f"overlap {self.overlap} and pairs_per_prompt {self.pairs_per_prompt} must be 1 or more. Correct them."
            )


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


def make_tasks(store: Store, data_dir: Path, policy: Policy, promotion: Event, options: QueueOptions, *, now: datetime) -> int:
    """Fill the labelling queue of the serving policy and close the label tasks of any other; returns the tasks added.

    A prompt's pairs that are queued or judged count towards ``pairs_per_prompt``, so calling it again adds what is missing.
    Responses with the same text are not compared: nobody can prefer one.
    """
    candidates = {r.id: r for r in store.list_responses(policy_id=policy.id, role="candidate")}
    open_tasks = [task for task in store.open_tasks() if task.purpose == "label"]
    stale = [task.id for task in open_tasks if task.response_1_id not in candidates]
    if stale:
        store.close_tasks(stale, actor="system", reason=f"policy {policy.number} serves")
    queued = {frozenset((t.response_1_id, t.response_2_id)) for t in open_tasks if t.response_1_id in candidates}
    judged = {frozenset((j.response_a_id, j.response_b_id)) for j in store.list_judgments() if j.verdict != "skip"}
    train = {prompt.id for prompt in store.list_prompts("train")}
    pairs = _pairs([r for r in candidates.values() if r.prompt_id in train], pair_scores(store, data_dir, policy))
    asked = {pair for pair in pairs if frozenset((pair.response_1_id, pair.response_2_id)) in queued | judged}
    num_asked = Counter(pair.prompt_id for pair in asked)
    fresh = [pair for pair in pairs if pair not in asked]
    rule = options.selection if all(pair.mean_logit is not None for pair in fresh) else "random"
    rng = random.Random(f"{options.seed} {policy.number} {len(asked)}")
    order = [
        replace(selected, rank=selected.rank + num_asked[selected.pair.prompt_id])
        for selected in select_pairs(fresh, rule, rng=rng, per_prompt=options.pairs_per_prompt)
    ]
    order = [selected for selected in order if selected.rank < options.pairs_per_prompt]
    return store.add_tasks([_task(s, place / len(order), promotion, options, now) for place, s in enumerate(order)])


def pair_scores(store: Store, data_dir: Path, policy: Policy) -> dict[tuple[str, str], dict[str, Any]]:
    """The newest preference model's logits for pairs of this policy's candidates; empty if none has scored them yet."""
    for round_ in store.list_rounds():
        about = round_.new_policy_id if round_.kind == "round" else round_.parent_policy_id
        path = artifact_dir(data_dir / round_.job_dir) / "pair_scores.parquet"
        if round_.kind in ("round", "fit") and about == policy.id and path.exists():
            rows = pq.read_table(path, schema=PAIR_SCORES).to_pylist()
            return {(row["response_1_id"], row["response_2_id"]): row for row in rows}
    return {}


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


def _pairs(responses: list[Response], scores: dict[tuple[str, str], dict[str, Any]]) -> list[Pair]:
    by_prompt: dict[str, list[Response]] = defaultdict(list)
    for response in sorted(
        responses, key=lambda r: (r.prompt_id, r.text)
    ):  # equal texts stay as stored: ids differ from run to run
        by_prompt[response.prompt_id].append(response)
    return [
        _pair(first, second, scores)
        for of_prompt in by_prompt.values()
        for first, second in combinations(of_prompt, 2)
        if first.text.strip() != second.text.strip()
    ]


def _pair(first: Response, second: Response, scores: dict[tuple[str, str], dict[str, Any]]) -> Pair:
    if (row := scores.get((second.id, first.id))) is not None:
        first, second = second, first
    else:
        row = scores.get((first.id, second.id), {})
    return Pair(
        prompt_id=first.prompt_id,
        response_1_id=first.id,
        response_2_id=second.id,
        mean_logit=row.get("mean_logit"),
        ensemble_logits=tuple(row.get("ensemble_logits") or ()),
    )


def _task(selected: SelectedPair, place: float, promotion: Event, options: QueueOptions, now: datetime) -> Task:
    pair = selected.pair
    first, second = sorted((pair.response_1_id, pair.response_2_id))
    return Task(
        id=str(uuid.uuid5(TASKS, f"{promotion.id} {first} {second}")),
        prompt_id=pair.prompt_id,
        response_1_id=pair.response_1_id,
        response_2_id=pair.response_2_id,
        priority=-selected.rank - place,  # in the order drawn; later additions mix in by rank
        wanted=options.overlap,
        selection_rule=selected.rule,
        selection_score=selected.score,
        selection_prob=selected.probability,
        created_at=now,
    )
