"""Names and paths of a job: where its input, its work in progress and its artifact lie, and how progress is told.

    jobs/0007-round/        sealed input
    jobs/0007-round.work/   progress.jsonl, job.log and finished stages of a running or interrupted job; may be deleted
    artifacts/0007-round/   sealed output

progress.jsonl, one object a line: {"at": ISO time, "stage": name, "stage_index": 1-based, "num_stages": n,
"fraction": 0-1 of the whole job, "message": sentence, "metrics": {"policy/loss": 1.2, ...} | null}

lineage.json: {"base_model": directory or hub id, "base_revision": str | null, "parent": policy_id,
"previous": policy_id the parent was made from | null, "reference": policy_id, "new_policy": policy_id (round jobs),
"auxiliary": {policy_id: coefficient, sums to 1},
"policies": {policy_id: {"number": int, "adapter_dir": absolute path | null for the bare base, "adapter_sha256": str | null}}}
"""

from pathlib import Path

# A rule may add samples (before anchors: responses of the reference) and half_step (before update: the opponent it plays).
ROUND_STAGES = ("labels", "preference_model", "anchors", "update", "evaluation", "candidates", "seal")


def job_name(number: int, kind: str) -> str:
    """Directory name of a job, such as ``0007-round``."""
    return f"{number:04d}-{kind}"


def work_dir(job_dir: Path) -> Path:
    """Where an unfinished job keeps its finished stages, its progress and its log."""
    return job_dir.with_name(job_dir.name + ".work")


def artifact_dir(job_dir: Path) -> Path:
    """Where the job's sealed output appears: ``artifacts/`` beside ``jobs/``."""
    return job_dir.parent.parent / "artifacts" / job_dir.name
