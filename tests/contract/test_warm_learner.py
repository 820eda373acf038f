"""Jobs in forks of one warm process: the same results, the same ends, as when each has a process of its own."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from annotate_app.bootstrap import built_in_model_dir
from annotate_app.warm_learner import warm_learner
from storage.contract.jobs import artifact_dir, work_dir
from storage.contract.sealing import sha256
from tests.contract.learner_jobs import Lineage, prompt, run_learner, write_job

ONE_PROMPT = [prompt("p", "How do I cook rice?", "train")]
SHORT, LONG = {"max_new_tokens": 16}, {"num_responses": 16, "batch_size": 1, "max_new_tokens": 4000}


@pytest.fixture(scope="module")
def lineage() -> Lineage:
    if not (built_in_model_dir() / "model.safetensors").exists():
        pytest.skip("the built-in model has not been trained yet: run scripts/train_tiny_policy.py")
    return Lineage(str(built_in_model_dir()))


def run(command: list[str], job_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, str(job_dir)], capture_output=True, text=True, timeout=120, check=False)


def test_warm_and_cold_jobs_end_in_the_same_bytes_and_errors_reach_the_client(lineage, tmp_path):
    job_dir = write_job(tmp_path, "generate", 1, lineage, ONE_PROMPT, generation=SHORT)
    copy = Path(shutil.copytree(job_dir, tmp_path / "cold" / "jobs" / job_dir.name))
    with warm_learner() as command:
        ran = run(command, job_dir)
        assert ran.returncode == 0, ran.stderr
        again = run(command, job_dir)
    assert again.returncode == 2 and "already holds this job's result" in again.stderr
    cold = run_learner(copy)
    assert sha256(artifact_dir(job_dir) / "responses.parquet") == sha256(cold / "responses.parquet")


def test_a_job_ends_with_its_client_and_runs_on_its_own_where_the_warm_process_is_gone(lineage, tmp_path):
    job_dir = write_job(tmp_path, "generate", 1, lineage, ONE_PROMPT, generation=SHORT)
    long = write_job(tmp_path, "generate", 2, lineage, ONE_PROMPT, generation=LONG)
    with warm_learner() as command:
        client = subprocess.Popen([*command, str(long)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        progress = work_dir(long) / "progress.jsonl"
        while not progress.exists() or len(progress.read_text().splitlines()) < 2:
            assert client.poll() is None, client.communicate()
            time.sleep(0.02)
        client.kill()
        client.communicate()
        time.sleep(0.5)
        lines = progress.read_text()
        time.sleep(1.0)
        assert progress.read_text() == lines, "the job went on after its client was killed"
        assert json.loads(lines.splitlines()[-1])["fraction"] < 1
    assert run(command, job_dir).returncode == 0
    assert (artifact_dir(job_dir) / "manifest.json").exists()
