"""The policy server: rows in a running batch, versions that stay what they were, and the routes as a client uses them."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from annotate_app.server import listen
from online_learner.generation.transformers_backend import sample_with_transformers
from online_learner.logps import TokenisedResponse, response_logps
from online_learner.policy.adapters import PolicyScorer, TrainedAdapter, adapter_deltas
from online_learner.policy.base_model import load_base_model
from online_learner.serving.batch import Batch, Row, make_draws
from online_learner.serving.engine import Engine
from online_learner.serving.routes import build_server
from online_learner.serving.versions import Versions
from storage.contract.settings import GenerationSettings

SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 20,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(max_position_embeddings=64, **SHAPE)),
    "sliding": lambda: MistralForCausalLM(
        MistralConfig(max_position_embeddings=64, sliding_window=6, num_key_value_heads=1, **SHAPE)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=20)),
}
ENDS = (2, 3)
TINY = "online_learner/tiny_policy"
ASK = [{"role": "user", "content": "What is your favourite season?"}]


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    torch.manual_seed(0)
    model = MODELS[request.param]().eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(8)  # far from uniform
    return model


def make_rows(prompt: tuple[int, ...], n: int, seed: int, told: dict, *, top_p: float = 1.0, length: int = 12) -> list[Row]:
    def row(k: int, draws: torch.Tensor) -> Row:
        said = told.setdefault((seed, k), [])
        return Row(
            prompt=prompt, draws=draws, temperature=0.9, top_p=top_p, fail=said.append, emit=lambda *token: said.append(token)
        )  # fmt: skip

    return [row(k, draws) for k, draws in enumerate(make_draws(n, length, seed))]


def run_alone(model, rows: list[Row]) -> None:
    batch = Batch(model, torch.tensor(ENDS))
    batch.join(rows)
    while batch.rows:
        batch.step()


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_a_request_draws_what_the_sampler_of_rounds_draws_with_its_seed(model, top_p):
    told = {}
    run_alone(model, make_rows((5, 6, 7), 4, seed=11, told=told, top_p=top_p))
    settings = GenerationSettings(num_responses=4, max_new_tokens=12, temperature=0.9, top_p=top_p, batch_size=64)
    [expected] = sample_with_transformers(
        model, [(5, 6, 7)], num_responses=4, settings=settings, end_ids=ENDS, context=64, seed=11
    )  # fmt: skip
    for said, sample in zip(told.values(), expected, strict=True):
        assert tuple(token for token, _, _ in said) == sample.token_ids
        assert sum(logp for _, logp, _ in said) == pytest.approx(sample.sum_logp, abs=1e-4)
        assert said[-1][2] == sample.finish_reason and all(reason is None for _, _, reason in said[:-1])


def test_rows_that_join_and_leave_do_not_change_the_others(model):
    alone, together = {}, {}
    requests = [((5, 6, 7), 3, 1), ((8, 9, 10, 11, 12, 13, 14, 15, 16), 2, 2), ((17, 18), 3, 3)]
    for prompt, n, seed in requests:
        run_alone(model, make_rows(prompt, n, seed, alone))
    waiting = [make_rows(prompt, n, seed, together) for prompt, n, seed in requests]
    batches = []
    while waiting or batches:
        if waiting:
            batch = next((batch for batch in batches if batch.takes_rows), None)
            if batch is None:
                batches.append(batch := Batch(model, torch.tensor(ENDS)))
            batch.join(waiting.pop(0))
        for batch in batches:
            batch.step()
        batches = [batch for batch in batches if batch.rows]
    assert together.keys() == alone.keys()
    for key, said in together.items():
        assert [token for token, _, _ in said] == [token for token, _, _ in alone[key]]
        assert [logp for _, logp, _ in said] == pytest.approx([logp for _, logp, _ in alone[key]], abs=1e-4)


def test_a_cancelled_row_leaves_and_says_nothing_more(model):
    told = {}
    rows = make_rows((5, 6, 7), 2, seed=1, told=told)
    batch = Batch(model, torch.tensor([19999]))
    batch.join(rows)
    rows[0].cancelled = True
    while batch.rows:
        batch.step()
    assert [len(said) for said in told.values()] == [1, 12]


# Over HTTP, with the built-in policy


@pytest.fixture(scope="module")
def base():
    return load_base_model(TINY, device="cpu")


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    """Two adapters that answer otherwise than the base."""
    found = {}
    for k in (1, 2):
        trained = TrainedAdapter(base.model, rank=4, alpha=8, parent=None, seed=k)
        generator = torch.Generator().manual_seed(k)
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        found[f"policy-{k}"] = tmp_path_factory.mktemp(f"adapter-{k}")
        trained.save(found[f"policy-{k}"])
    return found


@pytest.fixture(scope="module")
def client(base):
    """A running server, reached with the right key."""
    engine = Engine(Versions(base, "base"))
    server = uvicorn.Server(uvicorn.Config(build_server(engine, base, "secret"), log_level="warning"))
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx.Client(base_url=url, headers={"Authorization": "Bearer secret"}, timeout=60) as client:
        yield client
    server.should_exit = True
    thread.join()
    engine.close()


def chat(client: httpx.Client, model: str = "base", **more) -> dict:
    body = {"model": model, "messages": ASK, "max_tokens": 40, "return_token_ids": True, "logprobs": True, **more}
    return client.post("/v1/chat/completions", json=body).raise_for_status().json()


def load(client: httpx.Client, name: str, path) -> httpx.Response:
    return client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path)})


def unload(client: httpx.Client, name: str) -> httpx.Response:
    return client.post("/v1/unload_lora_adapter", json={"lora_name": name})


def events(response: httpx.Response) -> list[dict]:
    lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def served_logp(choice: dict) -> float:
    return sum(token["logprob"] for token in choice["logprobs"]["content"])


def true_logp(base, path, answer: dict, choice: dict) -> float:
    """What transformers says of the same tokens under the adapter's weights."""
    model = PolicyScorer(base.model).use(adapter_deltas(path, base.device))
    tokens = TokenisedResponse(tuple(answer["prompt_token_ids"]), tuple(choice["token_ids"]))
    with torch.no_grad():
        return response_logps(model, [tokens]).item()


def test_the_same_request_gives_the_same_responses_streamed_or_whole(client):
    whole = chat(client, n=2, seed=5)
    assert chat(client, n=2, seed=5)["choices"] == whole["choices"] != chat(client, n=2, seed=6)["choices"]
    body = {"model": "base", "messages": ASK, "max_tokens": 40, "n": 2, "seed": 5, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        chunks = [event["choices"][0] for event in events(response)]
    for choice in whole["choices"]:
        mine = [chunk for chunk in chunks if chunk["index"] == choice["index"]]
        assert "".join(chunk["delta"]["content"] for chunk in mine) == choice["message"]["content"] != ""
        assert mine[-1]["finish_reason"] == choice["finish_reason"]


def test_served_log_probabilities_are_those_of_the_adapter(client, base, adapters):
    for name, path in adapters.items():
        assert load(client, name, path).status_code == 200
    assert load(client, "policy-1", adapters["policy-1"]).status_code == 200  # the same again
    for name, path in [("base", None), *adapters.items()]:
        answer = chat(client, name, n=4, seed=1)
        for choice in answer["choices"]:
            assert served_logp(choice) == pytest.approx(true_logp(base, path, answer, choice), abs=1e-3)
        tokens = client.post("/tokenize", json={"model": name, "messages": ASK}).json()["tokens"]
        assert tokens == answer["prompt_token_ids"]
        ids = tokens + answer["choices"][0]["token_ids"]
        body = {"model": name, "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 0}
        scored = client.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]["logprobs"]["token_logprobs"]
        assert scored[0] is None
        assert sum(scored[len(tokens) :]) == pytest.approx(served_logp(answer["choices"][0]), abs=1e-3)
    assert [entry["id"] for entry in client.get("/v1/models").json()["data"]] == ["base", "policy-1", "policy-2"]
    for name in adapters:
        assert unload(client, name).status_code == 200


def test_a_request_keeps_the_version_it_began_with(client, base, adapters):
    load(client, "policy-1", adapters["policy-1"])
    body = {"model": "policy-1", "messages": ASK, "n": 8, "seed": 3, "stream": True, "return_token_ids": True, "logprobs": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))
        assert unload(client, "policy-1").status_code == 200
        assert load(client, "policy-1", adapters["policy-2"]).status_code == 200  # another policy takes the name
        rest = [json.loads(line.removeprefix("data: ")) for line in lines if line and line != "data: [DONE]"]
    chunks = [event["choices"][0] for event in [first, *rest]]
    prompt = chat(client, seed=1)["prompt_token_ids"]
    for k in range(8):
        mine = [chunk for chunk in chunks if chunk["index"] == k]
        choice = {"token_ids": [token for chunk in mine for token in chunk["token_ids"]]}
        served = sum(chunk["logprobs"]["content"][0]["logprob"] for chunk in mine)
        answer = {"prompt_token_ids": prompt}
        assert served == pytest.approx(true_logp(base, adapters["policy-1"], answer, choice), abs=1e-3)
        assert abs(served - true_logp(base, adapters["policy-2"], answer, choice)) > 0.1
    unload(client, "policy-1")


def test_adapters_swapped_under_load_never_answer_for_each_other(client, base, adapters):
    paths = list(adapters.values())
    names = [f"policy-{k}" for k in range(10, 16)]
    load(client, names[0], paths[0])
    current, stop = [names[0]], threading.Event()

    def ask(worker: int) -> list[tuple[str, dict]]:
        found = []
        while not stop.is_set():
            name = current[0]
            answer = client.post(
                "/v1/chat/completions",
                json={"model": name, "messages": ASK, "max_tokens": 20, "n": 2, "return_token_ids": True, "logprobs": True},
            )
            if answer.status_code == 400:  # it went between our look and our request: ask for the new one
                assert name != current[0] and "is not loaded" in answer.text
                continue
            found.append((name, answer.raise_for_status().json()))
        return found

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(ask, k) for k in range(4)]
        for k, name in enumerate(names[1:], start=1):
            threading.Event().wait(0.3)
            assert load(client, name, paths[k % 2]).status_code == 200
            before, current[0] = current[0], name
            assert unload(client, before).status_code == 200
        stop.set()
        answers = [pair for worker in workers for pair in worker.result()]
    assert {name for name, _ in answers} >= set(names[1:-1])
    for name, answer in answers:
        assert answer["model"] == name
        path = paths[names.index(name) % 2]
        choice = answer["choices"][0]
        assert served_logp(choice) == pytest.approx(true_logp(base, path, answer, choice), abs=1e-3)
    unload(client, names[-1])


def test_refusals_name_what_was_seen_and_what_to_do(client, adapters, tmp_path):
    def told(response: httpx.Response) -> str:
        assert response.status_code == 400, response.text
        return response.json()["error"]["message"]

    ask = {"model": "base", "messages": ASK}
    assert "'ghost' is not loaded. Loaded: base" in told(client.post("/v1/chat/completions", json=ask | {"model": "ghost"}))
    assert told(client.post("/v1/chat/completions", json=ask | {"temperature": 9})).startswith("temperature:")
    assert told(client.post("/v1/chat/completions", json=ask | {"stop": ["x"]})).startswith("stop:")
    long = [{"role": "user", "content": "winter " * 600}]
    assert "context is" in told(client.post("/v1/chat/completions", json=ask | {"messages": long}))
    assert "holds no adapter" in told(load(client, "policy-9", tmp_path))
    load(client, "policy-9", adapters["policy-1"])
    assert "needs a new name" in told(load(client, "policy-9", adapters["policy-2"]))
    assert "stays loaded" in told(unload(client, "base"))
    unload(client, "policy-9")
    assert "'policy-9' is not loaded" in told(unload(client, "policy-9"))
    stranger = client.get("/v1/models", headers={"Authorization": "Bearer guess"})
    assert stranger.status_code == 401 and client.get("/health", headers={"Authorization": ""}).status_code == 200
