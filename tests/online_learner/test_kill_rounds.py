"""Fifty kill -9 of rounds at moments drawn at random: every job resumes to the same adapter, whole or absent at any time."""

import random
import signal
import subprocess
import sys

import pytest

from storage.contract.jobs import artifact_dir
from storage.contract.sealing import read_manifest, sha256
from tests.online_learner.test_resume import copy_of, sealed, uninterrupted  # noqa: F401 fixtures

KILLS = 50
WEIGHTS = "adapter/adapter_model.safetensors"


def killed(job_dir, seconds):
    """Run the job and kill it after so long; False if it was done before."""
    command = [sys.executable, "-m", "online_learner", "run", str(job_dir)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
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
        while killed(job_dir, rng.uniform(2, 12)):
            kills += 1
            if artifact_dir(job_dir).exists():  # killed just after the rename
                break
        read_manifest(artifact_dir(job_dir))
        assert {name: sha256(artifact_dir(job_dir) / name) for name in expected} == expected
    print(f"{kills} kills in {jobs} rounds")
