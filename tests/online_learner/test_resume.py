"""kill -9 of a job, at every stage: what is resumed ends in the same bytes as what was never interrupted."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from annotate_app.bootstrap import built_in_model_dir
from online_learner.round import run_job
from storage.contract.jobs import ROUND_STAGES, artifact_dir, work_dir
from storage.contract.sealing import MANIFEST, read_manifest, sha256
from storage.errors import UserError
from tests.contract.learner_jobs import Lineage, prefer_short, prompt, read_rows, run_learner, write_job

QUESTIONS = ["How do I cook rice?", "What helps against a cold?", "How can I sleep better?", "How do I clean a window?"]
SETTINGS = {
    "generation": {"max_new_tokens": 16},
    "preference": {"models": ["bradley_terry"], "num_heads": 2, "min_judgments": 4},
    "update": {"epochs": 3, "learning_rate": "auto", "prompts_per_step": 2},
}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> Path:
    """A sealed round job over four prompts, never run."""
    if not (built_in_model_dir() / "model.safetensors").exists():
        pytest.skip("the built-in model has not been trained yet: run scripts/train_tiny_policy.py")
    data = tmp_path_factory.mktemp("resume")
    prompts = [prompt(f"p{i}", text, "train") for i, text in enumerate(QUESTIONS)]
    prompts.append(prompt("h", "How do I boil an egg?", "heldout"))
    lineage = Lineage(str(built_in_model_dir()))
    candidates = read_rows(run_job(write_job(data, "generate", 1, lineage, prompts, **SETTINGS)) / "responses.parquet")
    return write_job(data, "round", 2, lineage, prompts, candidates, prefer_short(candidates, 20), **SETTINGS)


@pytest.fixture(scope="module")
def uninterrupted(sealed, tmp_path_factory) -> Path:
    return run_learner(copy_of(sealed, tmp_path_factory.mktemp("whole")))


def copy_of(sealed: Path, data: Path) -> Path:
    """The same job in a data directory of its own."""
    return Path(shutil.copytree(sealed, data / "jobs" / sealed.name))


def kill_when(job_dir: Path, stage: str, num_lines: int = 1) -> None:
    """Start the job and kill it with signal 9 after ``num_lines`` lines of progress in ``stage``."""
    log = work_dir(job_dir) / "progress.jsonl"
    skip = len(log.read_text().splitlines()) if log.exists() else 0
    command = [sys.executable, "-m", "online_learner", "run", str(job_dir)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for _ in range(60 * 200):
            lines = log.read_text().splitlines()[skip:] if log.exists() else []
            if sum(f'"stage": "{stage}"' in line for line in lines) >= num_lines:
                break
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_a_job_killed_in_every_stage_ends_in_the_same_bytes(sealed, uninterrupted, tmp_path):
    job_dir = copy_of(sealed, tmp_path)
    for stage in ROUND_STAGES[:-1]:
        kill_when(job_dir, stage, num_lines=3 if stage == "update" else 1)  # the update in the middle of its steps
        assert not artifact_dir(job_dir).exists()
        finished = {path.name for path in (work_dir(job_dir) / "stages").iterdir() if not path.name.startswith(".")}
        assert finished <= set(ROUND_STAGES[: ROUND_STAGES.index(stage) + 1])
    artifact = run_learner(job_dir)
    names = sorted(read_manifest(uninterrupted)["files"])
    assert sorted(read_manifest(artifact)["files"]) == names
    same = {name for name in names if sha256(artifact / name) == sha256(uninterrupted / name)}
    assert set(names) - same == {"report.json", "metrics.jsonl"}  # these tell seconds and times
    reports = [json.loads((path / "report.json").read_text()) for path in (artifact, uninterrupted)]
    assert reports[0]["evaluation"] == reports[1]["evaluation"]


def with_rule(sealed: Path, data: Path, rule: str) -> Path:
    """The same job in a data directory of its own, with another update rule."""
    rows = [read_rows(sealed / f"{name}.parquet") for name in ("prompts", "responses", "judgments")]
    settings = SETTINGS | {"update": {**SETTINGS["update"], "rule": rule, "epochs": 1}}
    return write_job(data, "round", 2, Lineage(str(built_in_model_dir())), *rows, **settings)


@pytest.mark.parametrize(("rule", "stage"), [("egpo", "half_step"), pytest.param("rso", "samples", marks=pytest.mark.slow)])
def test_a_stage_that_only_some_rules_have_resumes_too(sealed, tmp_path, rule, stage):
    killed = with_rule(sealed, tmp_path / "killed", rule)
    kill_when(killed, stage)
    assert not (work_dir(killed) / "stages" / stage).exists()
    artifacts = run_job(killed), run_job(with_rule(sealed, tmp_path / "whole", rule))
    weights = {sha256(artifact / "adapter" / "adapter_model.safetensors") for artifact in artifacts}
    assert len(weights) == 1


def test_finished_stages_are_not_run_again(sealed, tmp_path):
    job_dir = copy_of(sealed, tmp_path)
    kill_when(job_dir, "evaluation")
    before = len((work_dir(job_dir) / "progress.jsonl").read_text().splitlines())
    run_job(job_dir)
    lines = [json.loads(line) for line in (work_dir(job_dir) / "progress.jsonl").read_text().splitlines()[before:]]
    assert {line["stage"] for line in lines} == {"evaluation", "candidates", "seal"}


def test_running_the_same_job_twice_gives_the_same_adapter(sealed, uninterrupted, tmp_path):
    """The second time in this process, into another place."""
    job_dir = copy_of(sealed, tmp_path)
    one, two = run_job(job_dir), run_job(job_dir, tmp_path / "elsewhere" / "again")
    digests = {sha256(path / "adapter" / "adapter_model.safetensors") for path in (one, two, uninterrupted)}
    assert len(digests) == 1
    assert not list((tmp_path / "elsewhere").glob(".*"))


def test_what_a_killed_seal_left_behind_is_no_obstacle(sealed, tmp_path):
    job_dir = copy_of(sealed, tmp_path)
    kill_when(job_dir, "seal")  # before or after the rename: both must end in one sealed artifact
    half = artifact_dir(job_dir).with_name(f".{job_dir.name}.part")
    if not artifact_dir(job_dir).exists():
        half.mkdir(parents=True, exist_ok=True)
        (half / "report.json").write_text("{")
        run_job(job_dir)
    read_manifest(artifact_dir(job_dir))
    assert not half.exists()


def test_two_processes_cannot_run_one_job(sealed, tmp_path):
    job_dir = copy_of(sealed, tmp_path)
    work_dir(job_dir).mkdir()
    with (work_dir(job_dir) / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another process is running this job"):
            run_job(job_dir)
    assert not artifact_dir(job_dir).exists()


def test_a_finished_job_is_not_run_again(sealed, uninterrupted):
    job_dir = uninterrupted.parent.parent / "jobs" / uninterrupted.name
    with pytest.raises(UserError, match="already holds this job's result"):
        run_job(job_dir)


@pytest.mark.parametrize("free_kib", [300, 30])
def test_a_full_disk_is_a_sentence_and_the_job_resumes(sealed, uninterrupted, tmp_path, free_kib):
    """The adapter alone needs 340 KiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        job_dir = copy_of(sealed, mount)
        ballast = mount / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(mount).free - free_kib * 1024))
        with pytest.raises(UserError, match=r"disk of .* is full"):
            run_job(job_dir)
        assert not artifact_dir(job_dir).exists()
        ballast.unlink()
        artifact = run_job(job_dir)
        weights = "adapter/adapter_model.safetensors"
        assert sha256(artifact / weights) == sha256(uninterrupted / weights)
        assert (artifact / MANIFEST).exists()
    finally:
        subprocess.run(["umount", mount], check=True)
        with contextlib.suppress(OSError):
            os.rmdir(mount)
