"""Adapters swapped while clients ask: our server in every run, vLLM where an environment has it. No answer by another policy."""

# ruff: noqa: F401, F811 fixtures are imported

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from annotate_app.bench_live import swap_under_load
from annotate_app.bootstrap import BUILT_IN, model_location
from annotate_app.policy_server import VLLM_PYTHON, LocalServer, PolicyServer
from online_learner.logps import TokenisedResponse, response_logps
from online_learner.policy.adapters import PolicyScorer, adapter_deltas
from online_learner.policy.base_model import tokenise_prompt
from tests.live_prompts import QUESTION, base, make_adapter, server

VLLM_ENVIRONMENT = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    found = {f"adapter-{seed}": tmp_path_factory.mktemp("adapters") / str(seed) for seed in (1, 2)}
    for seed, directory in enumerate(found.values(), start=1):
        make_adapter(base, directory, seed=seed)
    return found


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    """A running vLLM with the built-in policy."""
    python = os.environ.get(VLLM_PYTHON) or str(VLLM_ENVIRONMENT)
    if not Path(python).exists():
        pytest.skip(f"vLLM is not installed: scripts/test --vllm puts it into {VLLM_ENVIRONMENT.parent.parent.name}")
    log = tmp_path_factory.mktemp("vllm") / "vllm.log"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(VLLM_PYTHON, python)
        source = LocalServer(model_location(BUILT_IN), log=log, device="cpu")
        try:
            yield source.ensure()
        finally:
            source.close()


def assert_no_wrong_answer(
    running: PolicyServer, adapters: dict[str, Path], *, clients: int, seconds: float, every: float
) -> None:
    asking = swap_under_load(running, adapters, num_clients=clients, seconds=seconds, swap_every=every)
    with ThreadPoolExecutor(1) as thread:  # Playwright keeps an event loop running in this one
        load = thread.submit(asyncio.run, asking).result()
    assert (load.num_failed, dict(load.problems)) == (0, {})
    assert load.num_wrong == 0 and load.num_checked >= 4 and load.num_answers > clients
    assert len(load.swap) >= 3


def assert_same_log_probabilities(running: PolicyServer, base, adapters: dict[str, Path]) -> None:
    """Served log-probabilities are the learner's, computed by transformers with the adapter's weights written in."""
    messages = [{"role": "user", "content": QUESTION}]
    prompt = tokenise_prompt(base, messages, "test")
    response = tuple(base.tokenizer("It depends on the weather.", add_special_tokens=False)["input_ids"])
    names = {"policy-0": None} | {f"policy-{k}-checked": path for k, path in enumerate(adapters.values(), start=1)}
    for name, path in names.items():
        if path is not None:
            running.load(name, path)
        model = PolicyScorer(base.model).use(adapter_deltas(path, base.device))
        with torch.no_grad():
            expected = response_logps(model, [TokenisedResponse(prompt, response)]).item()
        assert running.response_logp(name, messages, response) == pytest.approx(expected, abs=1e-4 * len(response))
        if path is not None:
            running.unload(name)


def test_our_server_swaps_policies_under_load(server, base, adapters):
    running = server.ensure()
    assert_same_log_probabilities(running, base, adapters)
    assert_no_wrong_answer(running, adapters, clients=8, seconds=5, every=1)


@pytest.mark.slow
def test_vllm_swaps_policies_under_load(vllm, base, adapters):
    seconds = float(os.environ.get("NASHLOOP_VLLM_SECONDS", "60"))
    assert_same_log_probabilities(vllm, base, adapters)
    assert_no_wrong_answer(vllm, adapters, clients=32, seconds=seconds, every=seconds / 10)
