"""Live prompts from the app's side, with a real policy server: promotion with a canary, the routes, and what is kept."""

# ruff: noqa: F401, F811 fixtures are imported

import json
import signal
import time
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_token
from annotate_app.web import build_app
from online_learner.generation.transformers_backend import sample_with_transformers
from online_learner.policy.base_model import tokenise_prompt
from storage.campaign import Campaign
from storage.contract.settings import GenerationSettings
from storage.errors import UserError
from storage.records import Message
from tests.live_prompts import QUESTION, base, live_context, server

API = "/api/v1"


@pytest.fixture
def client(live_context):
    _, secret = issue_token(live_context.store, name="program", scope="label", annotator_handle="Annotator 0")
    return TestClient(build_app(live_context, pages=False), headers={"Authorization": f"Bearer {secret}"})


def ask(client, text=QUESTION, request_id="request-1", **more):
    """The answer's status and its lines."""
    answer = client.post(f"{API}/live/turns", json={"request_id": request_id, "text": text} | more)
    return answer.status_code, [json.loads(line) for line in answer.text.splitlines()]


def judge(client, lease, verdict="b", **more):
    return client.post(f"{API}/judgments", json={"lease_id": lease["lease_id"], "verdict": verdict} | more)


def test_two_responses_stream_and_become_a_pair_of_their_author(client, live_context, base):
    store = live_context.store
    assert client.get(f"{API}/live").json() == {"on": True, "problem": None}
    status, lines = ask(client)
    assert status == 200
    lease = lines[-1]["lease"]
    said = {side: "".join(line["text"] for line in lines[:-1] if line["side"] == side) for side in "ab"}
    assert said == {"a": lease["response_a"]["text"], "b": lease["response_b"]["text"]}
    assert [message["content"] for message in lease["prompt"]] == [QUESTION]
    assert ask(client)[1][-1]["lease"]["lease_id"] == lease["lease_id"]  # asked again after a lost answer: the pair that is kept
    assert judge(client, lease).status_code == 201
    responses = store.list_responses(role="live")
    assert {(r.policy_id, r.role, r.finish_reason) for r in responses} <= {("base", "live", "stop"), ("base", "live", "length")}
    prompt = tokenise_prompt(base, [{"role": "user", "content": QUESTION}], "live")
    settings = GenerationSettings.model_validate({"max_new_tokens": responses[0].sampler["max_new_tokens"]})
    [again] = sample_with_transformers(
        base.model, [prompt], num_responses=2, settings=settings, end_ids=base.end_ids, context=base.context,
        seed=responses[0].seed,
    )  # fmt: skip
    kept = sorted(responses, key=lambda response: response.sampler["choice"])
    assert [response.token_ids for response in kept] == [sample.token_ids for sample in again]  # reproduced from what is kept
    assert [response.sum_logp for response in kept] == pytest.approx([sample.sum_logp for sample in again], abs=1e-3)
    [task] = store.query("SELECT * FROM tasks WHERE selection_rule = 'live'").to_pylist()
    assert (task["wanted"], task["selection_prob"]) == (0, 1.0)


def test_a_conversation_goes_on_with_the_better_response(client):
    lease = ask(client)[1][-1]["lease"]
    judge(client, lease, "b")
    status, lines = ask(client, "Why?", "request-2", after=lease["lease_id"])
    assert status == 200
    turns = [(message["role"], message["content"]) for message in lines[-1]["lease"]["prompt"]]
    assert turns == [("user", QUESTION), ("assistant", lease["response_b"]["text"]), ("user", "Why?")]
    second = lines[-1]["lease"]
    judge(client, second, "both_bad")
    status, [told] = ask(client, "And now?", "request-3", after=second["lease_id"])
    assert status == 422 and "Begin a new conversation" in told["error"]["message"]


def test_refusals_say_what_to_do_and_keep_nothing(client, live_context, visitor):
    before = live_context.store.version()
    for text, words in [("   ", "is empty"), ("winter " * 900, "Shorten")]:
        status, [told] = ask(client, text)
        assert status == 422 and words in told["error"]["message"], told
    status, [told] = ask(client, "Why?", after="somebody-elses")
    assert status == 422 and "no such pair of yours" in told["error"]["message"]
    assert live_context.store.version() == before
    live_context.store.set_campaign(Campaign(budget_labels=0), actor="test")
    assert "budget of labels is spent" in ask(client)[1][0]["error"]["message"]
    assert visitor.post(f"{API}/live/turns", json={"request_id": "request-1", "text": "Hi"}).status_code in (401, 403)


def test_a_promoted_policy_answers_the_next_prompt_after_its_canary(client, live_context):
    live_context.rounds.promote("one", actor="test")
    [checked] = [e for e in live_context.store.list_events(kind_prefix="policy.canary") if e.subject == "one"]
    assert checked.data["nats_per_token"] < 1e-4
    deadline = time.monotonic() + 10
    while live_context.live.require()[0].id != "one":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lease = ask(client)[1][-1]["lease"]
    assert judge(client, lease).status_code == 201
    assert {response.policy_id for response in live_context.store.list_responses(role="live")} == {"one"}
    live_context.rounds.rollback(actor="test")
    assert live_context.store.serving_policy().id == "base"


def test_a_policy_that_the_server_answers_otherwise_is_not_promoted(live_context, server):
    store = live_context.store
    one = store.get_policy("one")
    store.add_policy(replace(one, id="two", number=2))
    wrong = [replace(r, id=f"two-{r.id}", policy_id="two") for r in store.list_responses(policy_id="base", role="candidate")]
    store.add_responses(wrong)  # the base policy's log-probabilities, told as this adapter's
    with pytest.raises(UserError, match=r"otherwise than policy 2.*nats a token"):
        live_context.rounds.promote("two", actor="test")
    assert store.serving_policy().id == "base"
    assert not any(name.startswith("policy-2") for name in server.ensure().models())


def test_a_killed_server_comes_back_and_meanwhile_the_page_is_told(client, live_context, server):
    server._process.send_signal(signal.SIGKILL)
    server._process.wait()
    status, [told] = ask(client)
    assert status == 503 and "Go on with the queue" in told["error"]["message"]
    assert live_context.store.list_responses(role="live") == []
    deadline = time.monotonic() + 60
    while client.get(f"{API}/live").json()["problem"] is not None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert ask(client)[0] == 200


def test_without_the_option_live_prompts_say_how_to_switch_them_on(context):
    _, secret = issue_token(context.store, name="program", scope="label", annotator_handle="Annotator 0")
    plain = TestClient(build_app(context, pages=False), headers={"Authorization": f"Bearer {secret}"})
    assert plain.get(f"{API}/live").json() == {"on": False, "problem": None}
    status, [told] = ask(plain)
    assert status == 404 and "--policy-server auto" in told["error"]["message"]


def test_messages_are_kept_as_they_were_asked(client, live_context):
    ask(client, "  Hello <script>there</script>  ")
    [prompt] = live_context.store.list_prompts("live")
    assert prompt.messages == (Message(role="user", content="Hello <script>there</script>"),)
    assert prompt.source == "live"


def test_researchers_ask_two_policies_the_same_and_nothing_is_kept(live_context):
    before = len(live_context.store.list_responses())
    _, secret = issue_token(live_context.store, name="rosa", scope="research")
    client = TestClient(build_app(live_context, pages=False), headers={"Authorization": f"Bearer {secret}"})
    answer = client.post(f"{API}/policies/answers", json={"text": QUESTION, "policies": [9, 1]})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    said = {side: "".join(line["text"] for line in lines if line["side"] == side) for side in "ab"}
    assert said["a"] and said["b"] and said["a"] != said["b"]
    assert sum(line["done"] for line in lines) == 2
    assert len(live_context.store.list_responses()) == before
    unknown = client.post(f"{API}/policies/answers", json={"text": QUESTION, "policies": [9, 77]})
    assert unknown.status_code == 422 and "no policy 77" in unknown.json()["error"]["message"]
    _, labeller = issue_token(live_context.store, name="ann", scope="label")
    refused = client.post(
        f"{API}/policies/answers", json={"text": "Hi", "policies": [9, 1]}, headers={"Authorization": f"Bearer {labeller}"}
    )
    assert refused.status_code == 403
