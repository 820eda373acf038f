"""A learner in a page: obeys the directory contract and trains nothing, so that the app's side is tested in milliseconds.

Run as ``python small_learner.py MODE JOB_DIR``. Modes: ok, slow (waits for a file ``go`` in the work directory), crash,
refuse (exit 2 with a sentence), worse, unsure (win rates against the parent), limits (a limit was left).
"""

import json
import sys
import time
import uuid
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.contract.jobs import artifact_dir, work_dir
from storage.contract.schemas import PAIR_SCORES, RESPONSES
from storage.contract.sealing import read_manifest, seal_dir
from storage.contract.settings import JobSettings, load_settings

WIN_RATES = {"worse": (0.3, 0.2, 0.4), "unsure": (0.52, 0.47, 0.57)}


def main(mode: str, job_dir: Path) -> int:
    manifest = read_manifest(job_dir)
    settings = load_settings(job_dir / "config.toml")
    lineage = json.loads((job_dir / "lineage.json").read_text())
    work = work_dir(job_dir)
    progress(work, "labels", 1, 0.1, {"labels/num": 3.0})
    if mode == "crash":
        print("the device caught fire", flush=True)
        return 1
    if mode == "refuse":
        print("error: prompt 7 has 900 tokens, the context is 256. Shorten it.", flush=True)
        return 2
    while mode == "slow" and not (work / "go").exists():
        time.sleep(0.02)
    build = work / "artifact"
    build.mkdir(exist_ok=True)
    write_artifact(build, job_dir, settings, lineage, manifest["number"], mode)
    progress(work, "seal", 7, 1.0, {"update/loss": 0.5})
    artifact_dir(job_dir).parent.mkdir(exist_ok=True)
    seal_dir(build, artifact_dir(job_dir), kind=settings.kind, number=manifest["number"])
    return 0


def write_artifact(build: Path, job_dir: Path, settings: JobSettings, lineage: dict, number: int, mode: str) -> None:
    policy = lineage["new_policy"] if settings.kind == "round" else lineage["parent"]
    prompts = pq.read_table(job_dir / "prompts.parquet").to_pylist()
    train = [p["prompt_id"] for p in prompts if p["split"] == "train"]
    responses = [] if settings.kind == "fit" else sample(policy, train, settings, "candidate")
    report = {"kind": settings.kind, "number": number, "status": "passed", "reasons": []}
    if settings.kind == "round":
        mean, low, high = WIN_RATES.get(mode, (0.7, 0.6, 0.8))
        report |= {
            "new_policy": policy,
            "auxiliary": {policy: 0.5, lineage["parent"]: 0.5},
            "evaluation": {"win_rate_vs_parent": {"mean": mean, "low": low, "high": high}},
        }
        if mode == "limits":
            report |= {"status": "failed", "reasons": ["KL to the parent is 9.1 nats, the limit is 6."]}
        (build / "adapter").mkdir(exist_ok=True)
        (build / "adapter" / "adapter_model.safetensors").write_bytes(policy.encode())
        pq.write_table(pair_scores(responses), build / "pair_scores.parquet")
        heldout = [p["prompt_id"] for p in prompts if p["split"] == "heldout"]
        responses += sample(policy, heldout, settings, "gate") + sample(lineage["parent"], heldout, settings, "gate")
    if settings.kind == "fit":
        given = pq.read_table(job_dir / "responses.parquet").to_pylist()
        candidates = [r for r in given if r["policy_id"] == policy and r["role"] == "candidate"]
        pq.write_table(pair_scores(candidates), build / "pair_scores.parquet")
    if responses:
        pq.write_table(pa.Table.from_pylist(responses, schema=RESPONSES), build / "responses.parquet")
    (build / "report.json").write_text(json.dumps(report))
    (build / "metrics.jsonl").write_text(json.dumps({"update/loss": 0.5}) + "\n")


def sample(policy: str, prompt_ids: list[str], settings: JobSettings, role: str) -> list[dict]:
    return [
        {
            "response_id": str(uuid.uuid5(uuid.UUID(policy), f"{prompt} {k} {settings.seed}")),
            "prompt_id": prompt,
            "policy_id": policy,
            "text": f"answer {k} to {prompt}, seed {settings.seed}" + f", policy {policy}" * (role == "gate"),
            "token_ids": [1, 2, 3],
            "sum_logp": -4.5,
            "finish_reason": "stop",
            "sampler": '{"temperature": 1.0}',
            "seed": settings.seed,
            "role": role,
        }
        for prompt in prompt_ids
        for k in range(settings.generation.num_responses)
    ]


def pair_scores(responses: list[dict]) -> pa.Table:
    pairs = [(x, y) for x, y in combinations(responses, 2) if x["prompt_id"] == y["prompt_id"]]
    rows = [
        {
            "prompt_id": x["prompt_id"],
            "response_1_id": x["response_id"],
            "response_2_id": y["response_id"],
            "mean_logit": 0.5,
            "ensemble_logits": [0.0, 1.0],
        }
        for x, y in pairs
    ]
    return pa.Table.from_pylist(rows, schema=PAIR_SCORES)


def progress(work: Path, stage: str, index: int, fraction: float, metrics: dict) -> None:
    entry = {
        "at": datetime.now(UTC).isoformat(),
        "stage": stage,
        "stage_index": index,
        "num_stages": 7,
        "fraction": fraction,
        "message": f"{stage} done",
        "metrics": metrics,
    }
    with (work / "progress.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
