"""The kinds of job, each a list of stages, and the seal that turns what the stages left into an artifact (DESIGN 3, 4)."""

import errno
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from online_learner.anchor_mixture import anchor_mixture
from online_learner.job_models import check_models
from online_learner.jobs import Job, Stage, open_job, read_json, run_stages, write_json
from online_learner.learning_stages import anchors_stage, half_step_stage, labels_stage, preference_stage, update_stage
from online_learner.meanings import meanings
from online_learner.measuring_stages import candidates_stage, evaluate_stage, evaluation_stage, generate_stage, scores_stage
from online_learner.needs import check_needs
from online_learner.rule_values import as_json, picked_settings
from online_learner.sampling_stages import needs_samples, samples_stage
from online_learner.update_rules import check_pair_selection, get_rule
from storage.contract.sealing import read_manifest, seal_dir
from storage.errors import UserError


def run_job(directory: Path, out: Path | None = None) -> Path:
    """Run or resume the job of a sealed directory; returns the sealed artifact directory."""
    job = open_job(directory, out)
    _check_before_work(job)
    try:
        run_stages(job, stages_of(job))
    except (OSError, SafetensorError) as error:
        if _disk_is_full(error):
            raise UserError(f"The disk of {job.work} is full. Free some space, then resume the job: nothing is lost.") from error
        raise
    return job.out


def _disk_is_full(error: Exception) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(os.strerror(code) in str(error) for code in full)  # safetensors has text


def _check_before_work(job: Job) -> None:
    """Refuse at once what would otherwise fail after minutes."""
    settings = job.settings
    rule = get_rule(settings.update.rule)
    if not settings.update.for_comparison:
        check_pair_selection(rule, settings.update.pairs)
    if settings.kind == "round":
        check_needs(rule, job)
    check_models(settings.preference)


def seal_stage(job: Job, out: Path) -> None:
    """Gather the stages' files, write the report and publish the artifact in one rename."""
    build = job.work / "artifact"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir()
    stages = [stage for stage in stages_of(job) if stage.name != "seal"]
    found = [job.stage_dir(stage.name) for stage in stages]
    for name in ("adapter", "preference_model"):
        for directory in found:
            if (directory / name).is_dir():
                shutil.copytree(directory / name, build / name)
    for directory in found:
        if (directory / "pair_scores.parquet").exists():
            shutil.copy(directory / "pair_scores.parquet", build)
    _gather_responses([directory / "responses.parquet" for directory in found], build / "responses.parquet")
    lines = [(d / "metrics.jsonl").read_text() for d in found if (d / "metrics.jsonl").exists()]
    (build / "metrics.jsonl").write_text("".join(lines))
    write_json(build / "report.json", build_report(job, {d.name: read_json(d / "seconds.json") for d in found}))
    job.out.parent.mkdir(parents=True, exist_ok=True)
    aside = job.out.with_name(f".{job.out.name}.part")  # --out may lie on another file system than the work directory
    shutil.rmtree(aside, ignore_errors=True)
    shutil.move(build, aside)
    manifest = read_manifest(job.directory, check=False)
    facts = {"kind": job.settings.kind, "number": job.number, "parent": job.lineage["parent"], "versions": versions()}
    job.progress.tell(1.0, "sealed", always=True)
    seal_dir(aside, job.out, job_files=manifest["files"], seeds={"job": job.settings.seed}, **facts)
    shutil.rmtree(job.work / "stages")  # another run, into another --out, computes everything again


def build_report(job: Job, seconds: dict[str, float]) -> dict[str, Any]:
    """report.json (storage/contract/report.py), from what the stages wrote."""
    stage = job.stage_dir
    report: dict[str, Any] = {"kind": job.settings.kind, "number": job.number, "reasons": []}
    report |= {"seconds": seconds, "versions": versions(), "data": read_json(stage("labels") / "data.json")}
    report["preference"] = read_json(stage("preference_model") / "preference.json")
    report["audit"] = read_json(stage("preference_model") / "audit.json")
    for name in ("evaluation", "evaluate"):
        report |= read_json(stage(name) / "evaluation.json")
    if job.settings.kind == "round":
        report |= _update_report(job)
        report["reasons"] = limits_left(job, report["evaluation"])
        limits = job.settings.evaluation
        report["meaning"] = meanings(
            report["update"]["all"],
            report["evaluation"],
            max_kl_nats=limits.max_kl_to_parent_nats,
            min_text_quality=limits.min_text_quality,
        )
    report["status"] = "failed" if report["reasons"] else "passed"
    return {key: value for key, value in report.items() if value not in ({}, None) or key == "reasons"}


def limits_left(job: Job, evaluation: dict[str, Any]) -> list[str]:
    """One sentence for each limit of the settings that the new policy left."""
    limits, reasons = job.settings.evaluation, []
    kl = evaluation["kl_to_parent_nats"]["mean"]
    if kl > limits.max_kl_to_parent_nats:
        reasons.append(
            f"KL to the parent is {kl:.1f} nats, the limit is {limits.max_kl_to_parent_nats:g}. Lower the step size or the "
            "learning rate."
        )
    quality = evaluation["text_quality"]
    if quality is not None and quality < limits.min_text_quality:
        reasons.append(f"Text quality fell to {quality:.2f}, the limit is {limits.min_text_quality:g}. Lower the learning rate.")
    return reasons


def _update_report(job: Job) -> dict[str, Any]:
    picked = read_json(job.stage_dir("anchors") / "picked.json")
    update = read_json(job.stage_dir("update") / "update.json")
    rule, settings = get_rule(job.settings.update.rule), picked_settings(job)
    why = picked["why"] | ({"learning_rate": update["learning_rate_why"]} if update["learning_rate_why"] else {})
    used: dict[str, Any] = {name: value for name, value in as_json(settings).items() if name in rule.settings}
    if job.settings.update.for_comparison:
        used["pairs"] = job.settings.update.pairs
        why["pairs"] = "for comparison only: where the rule refuses such pairs, they move its fixed point"
    return {
        "picked": {"rule": rule.name, **used, "learning_rate": update["learning_rate"], "device": str(job.base.device)},
        "picked_why": {name: reason for name, reason in why.items() if name in used or name == "learning_rate"},
        "update": {
            "anchors": picked["anchors"],
            "loss": update.get("train_loss"),
            "train_r2": update.get("train_r2"),
            "heldout_r2": update.get("heldout_r2"),
            "achieved_fraction": update.get("train_potential_fraction") or update.get("train_achieved_fraction"),
            "all": update,
        },
        "auxiliary": anchor_mixture(job, rule.next_auxiliary(settings), drop_small=True, new=True),
        "new_policy": job.lineage["new_policy"],
    }


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("nashloop", "torch", "transformers", "peft"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _gather_responses(paths: list[Path], target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(path) for path in paths if path.exists()]
    if tables:
        pq.write_table(pa.concat_tables(tables), target, compression="zstd")


_LABELS = Stage("labels", labels_stage, 0.01)
_PREFERENCE = Stage("preference_model", preference_stage, 0.16)
_SEAL = Stage("seal", seal_stage, 0.01)

_SAMPLES = Stage("samples", samples_stage, 0.1)
_HALF_STEP = Stage("half_step", half_step_stage, 0.5)

JOB_STAGES: dict[str, tuple[Stage, ...]] = {
    "round": (
        _LABELS,
        _PREFERENCE,
        Stage("anchors", anchors_stage, 0.1),
        Stage("update", update_stage, 0.5),
        Stage("evaluation", evaluation_stage, 0.15),
        Stage("candidates", candidates_stage, 0.1),
        _SEAL,
    ),
    "fit": (_LABELS, _PREFERENCE, Stage("candidates", scores_stage, 0.1), _SEAL),
    "generate": (Stage("candidates", generate_stage, 1.0), _SEAL),
    "evaluate": (Stage("evaluate", evaluate_stage, 1.0), _SEAL),
}


def stages_of(job: Job) -> tuple[Stage, ...]:
    """The stages of the job's kind, with those that its update rule asks for besides."""
    stages = JOB_STAGES[job.settings.kind]
    if job.settings.kind != "round":
        return stages
    rule = get_rule(job.settings.update.rule)
    before = {
        "anchors": [_SAMPLES] if needs_samples(rule) else [],
        "update": [_HALF_STEP] if rule.opponent == "half_step" else [],
    }
    return tuple(found for stage in stages for found in (*before.get(stage.name, []), stage))
