"""From the database to a sealed job directory: what the learner is given (DESIGN 3). Columns are those of contract/schemas.py."""

import json
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.contract.schemas import JUDGMENTS, PROMPTS, RESPONSES
from storage.contract.sealing import seal_dir
from storage.contract.settings import JobSettings, dump_settings
from storage.errors import UserError
from storage.records import Policy
from storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Which rows a kind of job reads."""

    splits: tuple[str, ...]  # prompts to sample or evaluate on
    judged: bool  # judgments, the responses they compare and those responses' prompts
    candidates: bool  # the parent's candidate responses


JOB_NEEDS: dict[str, Needs] = {
    "round": Needs(splits=("train", "heldout"), judged=True, candidates=True),
    "fit": Needs(splits=("train", "heldout"), judged=True, candidates=True),
    "generate": Needs(splits=("train",), judged=False, candidates=False),
    "evaluate": Needs(splits=("heldout",), judged=False, candidates=False),
}
RULES_OF_ALL_ROUNDS = ("xpo",)  # train on the candidates of earlier policies too


def export_job(
    store: Store,
    job_dir: Path,
    settings: JobSettings,
    *,
    kind: str,
    number: int,
    policy_id: str,
    new_policy_id: str | None = None,
    base_model: str | None = None,
    with_imported: bool = True,
    max_prompts: int | None = None,
) -> Path:
    """Write and seal the input of a job that starts from ``policy_id``; returns ``job_dir``.

    ``base_model``: where the learner finds it, if not as the policy says. ``with_imported``: judgments made elsewhere count
    too. ``max_prompts``: only the first so many of each split. Raises UserError where the policy is unknown, a round has too
    few decided judgments, or a prompt split is empty that the job needs. Nothing is left behind on failure.
    """
    needs = JOB_NEEDS[kind]
    policies = {policy.id: policy for policy in store.list_policies()}
    if policy_id not in policies:
        raise UserError(f"there is no policy {policy_id}. The console lists those there are.")
    limits = {"splits": list(needs.splits), "max_prompts": max_prompts or 2**31, "with_imported": with_imported}
    limits["with_gate"] = store.campaign().gate_trains
    judgments = _table(store, _JUDGMENTS, limits, JUDGMENTS) if needs.judged else JUDGMENTS.empty_table()
    if kind in ("round", "fit"):
        _check_enough(judgments, settings.preference.min_judgments)
    prompts = _table(store, _PROMPTS, limits | {"judged": needs.judged}, PROMPTS)
    _check_prompts(prompts, () if kind == "fit" else needs.splits)
    responses = RESPONSES.empty_table()
    if needs.candidates:
        of = _ancestors(policies, policy_id) if settings.update.rule in RULES_OF_ALL_ROUNDS else [policy_id]
        responses = _table(store, _RESPONSES, limits | {"candidates_of": of}, RESPONSES)
    data_dir = job_dir.parent.parent
    lineage = build_lineage(policies, policy_id, new_policy_id=new_policy_id, base_model=base_model, data_dir=data_dir)
    aside = job_dir.with_name(f".{job_dir.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        for name, table in (("prompts", prompts), ("responses", responses), ("judgments", judgments)):
            pq.write_table(table, aside / f"{name}.parquet", compression="zstd")
        (aside / "config.toml").write_text(dump_settings(settings.model_copy(update={"kind": kind})))
        (aside / "lineage.json").write_text(json.dumps(lineage, indent=2, sort_keys=True))
        seal_dir(aside, job_dir, kind=kind, number=number, parent=policy_id, seeds={"job": settings.seed}, versions=_versions())
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return job_dir


def build_lineage(
    policies: dict[str, Policy],
    parent_id: str,
    *,
    new_policy_id: str | None = None,
    base_model: str | None = None,
    data_dir: Path = Path(),
) -> dict[str, Any]:
    """lineage.json (contract/jobs.py): the parent, its own parent, the reference (policy 0) and the policies of its mixture.

    Adapter paths are kept relative to ``data_dir``, so that a data directory can be moved; the learner is told absolute ones.
    """
    parent = policies[parent_id]
    reference = next((policy for policy in policies.values() if policy.number == 0), parent)
    auxiliary = parent.auxiliary or {parent.id: 1.0}
    previous = parent.parent_id if parent.parent_id in policies else None
    missing = sorted(set(auxiliary) - set(policies))
    if missing:
        names = ", ".join(missing)
        raise UserError(f"policy {parent.number} builds on policies that are not registered: {names}. Restore a backup.")
    named = dict.fromkeys(name for name in (reference.id, *auxiliary, previous, parent.id) if name is not None)
    lineage = {
        "base_model": base_model or parent.base_model,
        "base_revision": parent.base_revision,
        "parent": parent.id,
        "previous": previous,
        "reference": reference.id,
        "auxiliary": dict(auxiliary),
        "policies": {policy_id: _adapter(policies[policy_id], data_dir) for policy_id in named},
    }
    return lineage if new_policy_id is None else lineage | {"new_policy": new_policy_id}


def _ancestors(policies: dict[str, Policy], policy_id: str) -> list[str]:
    """The policy, its parent, and so on to the first."""
    found: list[str] = []
    current: str | None = policy_id
    while current in policies and current not in found:
        found.append(current)
        current = policies[current].parent_id
    return found


def _adapter(policy: Policy, data_dir: Path) -> dict[str, Any]:
    directory = None if policy.adapter_path is None else str((data_dir / policy.adapter_path).resolve())
    return {"number": policy.number, "adapter_dir": directory, "adapter_sha256": policy.adapter_sha256}


def _table(store: Store, sql: str, params: dict[str, Any], schema: pa.Schema) -> pa.Table:
    used = {name: value for name, value in params.items() if f"${name}" in sql}
    return store.query(sql, used).select(schema.names).cast(schema)


def _check_enough(judgments: pa.Table, wanted: int) -> None:
    verdicts = judgments["verdict"].to_pylist()
    decided = sum(verdict in ("a", "b") for verdict in verdicts)
    if decided < wanted:
        raise UserError(
            f"only {decided} decided judgments so far and a round needs {wanted}."
            f" Label {wanted - decided} more pairs, or lower preference.min_judgments."
        )


def _check_prompts(prompts: pa.Table, splits: tuple[str, ...]) -> None:
    present = set(prompts["split"].to_pylist())
    for split in splits:
        if split not in present:
            raise UserError(f"there are no prompts of split {split!r}. Import some: nashloop import prompts FILE.")


def _versions() -> dict[str, str]:
    try:
        return {"nashloop": version("nashloop")}
    except PackageNotFoundError:
        return {"nashloop": "unknown"}


_JUDGMENTS = """
    SELECT j.id AS judgment_id, j.prompt_id, j.response_a_id, j.response_b_id, j.verdict, j.strength, j.rationale, j.aspects,
           j.annotator_id, tasks.purpose, tasks.selection_rule, tasks.selection_prob, j.submitted_at, j.ranking_id
    FROM judged_pairs j
    JOIN tasks ON tasks.id = j.task_id
    JOIN annotators ON annotators.id = j.annotator_id
    WHERE ($with_imported OR annotators.kind <> 'imported') AND ($with_gate OR tasks.purpose <> 'gate')
    ORDER BY j.seq, j.id
"""
_PROMPTS = """
    WITH judged AS (
        SELECT DISTINCT j.prompt_id FROM judged_pairs j JOIN annotators ON annotators.id = j.annotator_id
        WHERE $judged AND ($with_imported OR annotators.kind <> 'imported')),
    numbered AS (SELECT *, row_number() OVER (PARTITION BY split ORDER BY seq) AS place FROM prompts)
    SELECT id AS prompt_id, messages, split, source, tags FROM numbered
    WHERE (split IN (SELECT unnest($splits)) AND place <= $max_prompts) OR id IN (SELECT prompt_id FROM judged)
    ORDER BY seq
"""
# Turns before an imported response are part of what was judged: they are put before its text. What an annotator made of a
# response by editing it is a demonstration; no policy wrote it.
_RESPONSES = """
    WITH judged AS (
        SELECT j.response_a_id, j.response_b_id FROM judged_pairs j JOIN annotators ON annotators.id = j.annotator_id
        WHERE $with_imported OR annotators.kind <> 'imported'),
    needed AS (SELECT response_a_id AS id FROM judged UNION SELECT response_b_id FROM judged
               UNION SELECT id FROM responses WHERE policy_id IN (SELECT unnest($candidates_of)) AND role = 'candidate'),
    edited AS (
        SELECT j.* FROM judged_pairs j JOIN annotators ON annotators.id = j.annotator_id
        WHERE ($with_imported OR annotators.kind <> 'imported') AND trim(j.edited_text) <> ''
          AND ($with_gate OR j.task_id NOT IN (SELECT id FROM tasks WHERE purpose = 'gate')))
    SELECT r.id AS response_id, r.prompt_id, r.policy_id,
           coalesce(array_to_string([m.content FOR m IN written.context], E'\\n\\n') || E'\\n\\n', '') || r.text AS text,
           r.token_ids, r.sum_logp, r.finish_reason, r.sampler, r.seed, r.role, 0 AS part, r.seq
    FROM responses r JOIN written USING (id)
    WHERE r.id IN (SELECT id FROM needed)
    UNION ALL
    SELECT id || '-edited', prompt_id, NULL, edited_text, NULL, NULL, 'imported', '{}', NULL, 'demonstration', 1, seq FROM edited
    ORDER BY part, seq
"""
