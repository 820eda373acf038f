"""A real policy server and an app around it whose policies it serves: fixtures for tests of live prompts."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from annotate_app.bootstrap import BUILT_IN, model_location
from annotate_app.live import LiveService
from annotate_app.policy_server import LocalServer
from annotate_app.rounds import RoundService
from online_learner.generation.transformers_backend import sample_with_transformers
from online_learner.policy.adapters import PolicyScorer, TrainedAdapter, adapter_deltas
from online_learner.policy.base_model import load_base_model, tokenise_prompt
from storage.contract.sealing import seal_dir, sha256
from storage.contract.settings import GenerationSettings
from tests.storage.builders import make_policy, make_prompt, make_response

QUESTION = "What is your favourite season?"


@pytest.fixture(scope="module")
def base():
    return load_base_model(model_location(BUILT_IN), device="cpu")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    source = LocalServer(model_location(BUILT_IN), log=tmp_path_factory.mktemp("server") / "policy-server.log", device="cpu")
    yield source
    source.close()


@pytest.fixture
def live_context(context, base, server, tmp_path):
    """The base policy in service with samples of its own, a policy 1 that answers otherwise, and live prompts on."""
    store = context.store
    store.add_policy(replace(make_policy(), id="base", number=9, base_model=BUILT_IN))  # number 0 is the fixture's
    adapter = tmp_path / "artifacts" / "0001-round" / "adapter"
    make_adapter(base, tmp_path / "build" / "adapter", seed=1)
    adapter.parent.parent.mkdir()
    seal_dir(tmp_path / "build", adapter.parent, kind="round", number=1)
    facts = {"adapter_path": str(adapter.relative_to(tmp_path)), "adapter_sha256": sha256(adapter / "adapter_model.safetensors")}
    store.add_policy(make_policy(1, id="one", base_model=BUILT_IN, parent_id="base", **facts))
    store.add_prompts([make_prompt("season", text=QUESTION)])
    for name, directory in (("base", None), ("one", adapter)):
        store.add_responses(samples(base, name, directory))
    store.append_event(actor="test", kind="policy.promoted", subject="base")
    rounds = RoundService(store, tmp_path, model=BUILT_IN)
    live = LiveService(store, tmp_path, Shared(server))
    rounds.ask_before_serving(live.admit)
    live.start()
    ready(live)
    yield replace(context, rounds=rounds, live=live)
    live.close()
    rounds.close()


def make_adapter(base, directory: Path, *, seed: int) -> None:
    """An adapter that answers otherwise than the base, and than that of any other seed."""
    trained = TrainedAdapter(base.model, rank=4, alpha=8, parent=None, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    trained.save(directory)


class Shared:
    """The module's server, which outlives the services of single tests."""

    def __init__(self, server: LocalServer) -> None:
        self.ensure = server.ensure

    def close(self) -> None: ...


def samples(base, policy: str, adapter: Path | None) -> list:
    """What a round would have stored: four responses with the log-probabilities that the learner computed."""
    model = PolicyScorer(base.model).use(adapter_deltas(adapter, base.device))
    prompt = tokenise_prompt(base, [{"role": "user", "content": QUESTION}], "season")
    settings = GenerationSettings(num_responses=4, max_new_tokens=40, batch_size=8, temperature=1, top_p=1)
    [found] = sample_with_transformers(
        model, [prompt], num_responses=4, settings=settings, end_ids=base.end_ids, context=base.context, seed=2
    )  # fmt: skip
    return [
        make_response(f"{policy}-{k}", "season", policy_id=policy, token_ids=sample.token_ids, sum_logp=sample.sum_logp)
        for k, sample in enumerate(found)
    ]


def ready(live: LiveService, seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while live.problem is not None:
        assert time.monotonic() < give_up, live.problem
        time.sleep(0.05)
