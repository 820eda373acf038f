"""Fifty kill -9 of rounds at moments drawn at random: every job resumes to the same adapter, whole or absent at any time."""

import random
import signal
import subprocess
import sys
import time

import pytest

from storage.contract.jobs import artifact_dir, work_dir
from storage.contract.sealing import read_manifest, sha256
from tests.contract.learner_jobs import run_learner
from tests.online_learner.test_resume import copy_of, sealed, uninterrupted  # noqa: F401 fixtures

KILLS, KILLS_OF_ONE = 50, 8
WEIGHTS = "adapter/adapter_model.safetensors"


def killed(job_dir, num_lines, seconds):
    """Run the job and kill it so long after so many more lines of progress; False if it was done before."""
    log = work_dir(job_dir) / "progress.jsonl"
    target = num_lines + (len(log.read_text().splitlines()) if log.exists() else 0)
    command = [sys.executable, "-m", "online_learner", "run", str(job_dir)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < target):
        time.sleep(0.01)
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return True
    assert process.returncode == 0, said.decode()
    return False


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills_end_in_the_same_adapter(sealed, uninterrupted, tmp_path):  # noqa: F811
    rng, kills, jobs = random.Random(0), 0, 0
    expected = {name: sha256(uninterrupted / name) for name in (WEIGHTS, "responses.parquet", "pair_scores.parquet")}
    while kills < KILLS:
        jobs += 1
        job_dir = copy_of(sealed, tmp_path / str(jobs))
        for _ in range(KILLS_OF_ONE):
            if artifact_dir(job_dir).exists() or not killed(job_dir, rng.randint(1, 20), rng.uniform(0, 0.5)):
                break
            kills += 1
            print(f"{kills} kills", flush=True)
        if not artifact_dir(job_dir).exists():
            run_learner(job_dir)
        read_manifest(artifact_dir(job_dir))
        assert {name: sha256(artifact_dir(job_dir) / name) for name in expected} == expected
    print(f"{kills} kills in {jobs} rounds")
