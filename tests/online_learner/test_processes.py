"""A round by several processes, as torchrun starts them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from annotate_app.bootstrap import built_in_model_dir
from online_learner.logps import TokenisedResponse
from online_learner.policy.adapters import WEIGHTS
from online_learner.policy.processes import shares
from online_learner.round import run_job
from storage.contract.jobs import artifact_dir
from tests.contract.learner_jobs import Lineage, prefer_short, prompt, read_rows, write_job

QUESTIONS = ["How do I cook rice?", "What helps against a cold?", "How can I sleep better?", "How do I clean a window?"]
SETTINGS = {
    "generation": {"max_new_tokens": 24},
    "preference": {"models": ["bradley_terry"], "num_heads": 2, "min_judgments": 4},
    "update": {"epochs": 2, "learning_rate": 1e-3, "prompts_per_step": 3, "lora_rank": 4},
}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> Path:
    """A sealed round job over four prompts, never run."""
    if not (built_in_model_dir() / "model.safetensors").exists():
        pytest.skip("the built-in model has not been trained yet: run scripts/train_tiny_policy.py")
    data = tmp_path_factory.mktemp("processes")
    prompts = [prompt(f"p{i}", text, "train") for i, text in enumerate(QUESTIONS)]
    prompts.append(prompt("h", "How do I boil an egg?", "heldout"))
    lineage = Lineage(str(built_in_model_dir()))
    candidates = read_rows(run_job(write_job(data, "generate", 1, lineage, prompts, **SETTINGS)) / "responses.parquet")
    return write_job(data, "round", 2, lineage, prompts, candidates, prefer_short(candidates, 20), **SETTINGS)


def run_with(num_processes: int, sealed: Path, data: Path) -> tuple[Path, str]:
    """The job's artifact and what its processes said."""
    job = Path(shutil.copytree(sealed, data / "jobs" / sealed.name))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    command = [sys.executable, *torchrun, "-m", "online_learner", "run", str(job)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return artifact_dir(job), ran.stderr


@pytest.mark.slow
def test_two_processes_reach_the_adapter_of_one(sealed, tmp_path):
    """Every weight within 1e-5; sums over the responses are taken in another order, so the bytes may differ."""
    alone = run_job(Path(shutil.copytree(sealed, tmp_path / "one" / "jobs" / sealed.name)))
    together, said = run_with(2, sealed, tmp_path / "two")
    assert "2 processes share the update" in said
    expected, found = load_file(alone / "adapter" / WEIGHTS), load_file(together / "adapter" / WEIGHTS)
    assert expected.keys() == found.keys()
    moved = max(float(weights.abs().max()) for name, weights in expected.items() if "lora_B" in name)
    assert moved > 1e-4  # an untrained B is zero
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_job_that_is_refused_ends_every_process_in_words(sealed, tmp_path):
    """The leader finds the result already there; nobody waits for a step that never comes."""
    job = Path(shutil.copytree(sealed, tmp_path / "jobs" / sealed.name))
    artifact_dir(job).mkdir(parents=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, "-m", "online_learner", "run", str(job)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode != 0
    assert "already holds this job's result" in ran.stderr


def test_shares_are_even_and_keep_prompts_whole():
    """Ten prompts of 5 tokens with three responses of 10 each, 35 tokens a prompt: two processes get five prompts each."""
    sequences = [TokenisedResponse((n,) * 5, (k,) * 10) for k in range(3) for n in range(10)]
    first, second = shares(sequences, 2)
    assert sorted(first + second) == list(range(30)) and len(first) == len(second) == 15
    prompts = [{sequences[row].prompt_ids for row in rows} for rows in (first, second)]
    assert not prompts[0] & prompts[1]


def test_with_fewer_prompts_than_processes_some_have_nothing_to_do():
    assert shares([TokenisedResponse((1,), (2,)), TokenisedResponse((1,), (3,))], 3) == [[0, 1], [], []]
