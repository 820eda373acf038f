"""Annotators cannot learn which policy made a response: not from what they are sent, not from ids, not from what comes first."""

import json
import math
import random
import re

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_signin_link
from annotate_app.context import AppContext
from annotate_app.rounds import RoundService
from annotate_app.web import build_app
from storage.campaign import Campaign
from storage.duckdb_store import open_store
from storage.ids import new_id
from storage.records import Annotator, JudgmentInput, User
from tests.storage.builders import START, make_policy, make_prompt, make_response, make_task

MARK = "MARK"  # in everything that says who wrote a response, or why a pair was chosen
PAGE = {"accept": "text/html"}
OLD, NEW = f"policy-{MARK}-old", f"policy-{MARK}-new"


@pytest.fixture
def two_policies():
    """Sixty prompts with a response of each policy; pairs of them, the newer policy's response always named first."""
    store = open_store(rng=random.Random(1))
    for number, policy in enumerate((OLD, NEW)):
        store.add_policy(make_policy(number, id=policy, base_model=f"model-{MARK}", adapter_path=f"artifacts/{MARK}/{number}"))
    prompts = [make_prompt(f"q{k}") for k in range(60)]
    store.add_prompts(prompts)
    store.add_responses([
        make_response(f"r-{MARK}-{k}-{policy}", f"q{k}", policy_id=policy, text=f"text {k}", sampler={"model": MARK})
        for k in range(60) for policy in (OLD, NEW)
    ])  # fmt: skip
    store.add_tasks([
        make_task(new_id(), f"q{k}", f"r-{MARK}-{k}-{NEW}", f"r-{MARK}-{k}-{OLD}", selection_rule=MARK, wanted=40,
                  purpose="gate" if k % 3 == 0 else "label")
        for k in range(60)
    ])  # fmt: skip
    yield store
    store.close()


@pytest.fixture
def annotator(two_policies, tmp_path):
    """A browser signed in as an annotator on the whole app."""
    two_policies.add_annotator(Annotator(id="ann0", handle="A", kind="human", created_at=START))
    two_policies.add_user(User(id="ada", name="Ada", role="annotator", annotator_id="ann0", created_at=START))
    rounds = RoundService(two_policies, tmp_path, model=f"model-{MARK}")
    context = AppContext(store=two_policies, rounds=rounds, data_dir=tmp_path, session_secret="x")
    browser = TestClient(build_app(context), follow_redirects=False, headers={"X-Nashloop": "1"})
    browser.post(issue_signin_link(two_policies, two_policies.get_user("ada")))
    yield browser
    rounds.close()


def test_nothing_an_annotator_is_sent_tells_a_policy(annotator, two_policies):
    two_policies.set_campaign(Campaign(aspects=("clear",)), actor="x")
    sent = []

    def call(method, path, **more):
        answer = annotator.request(method, path, **more)
        sent.append(f"{path} {answer.status_code} {dict(answer.headers)} {answer.text}")
        return answer

    leases = call("POST", "/api/v1/leases", json={"count": 5}).json()["leases"]
    ids = [lease["lease_id"] for lease in leases]
    call("POST", "/api/v1/leases/renew", json={"lease_ids": ids})
    made = call("POST", "/api/v1/judgments", json={"lease_id": ids[0], "verdict": "a", "next": 3})
    assert made.status_code == 201
    call("POST", "/api/v1/judgments", json={"lease_id": ids[0], "verdict": "b"})  # a conflict says why
    call("POST", "/api/v1/judgments", json={"lease_id": ids[1], "verdict": "tie", "edited_text": "better"})
    call("POST", f"/api/v1/judgments/{ids[0]}/correct", json={"verdict": "b"})
    call("POST", f"/api/v1/judgments/{ids[1]}/withdraw")
    call("POST", "/api/v1/flags", json={"lease_id": ids[2], "reason": "odd"})
    call("POST", "/api/v1/notes", json={"lease_id": ids[2], "text": "odd"})
    for name in ("me", "me/progress", "me/judgments", "me/stats", "campaign", "guidelines", "live"):
        assert call("GET", f"/api/v1/{name}").status_code == 200
    for name in ("policies", "rounds", "pairs", "exports/raw", "stats", "reports", f"pairs/{leases[0]['task_id']}"):
        assert call("GET", f"/api/v1/{name}").status_code == 403
    for path in ("/", "/config", "/gradio_api/info", "/account", "/docs", "/openapi.json"):
        assert call("GET", path, headers=PAGE).status_code == 200
    assert [text for text in sent if MARK in text] == []
    assert len(sent) > 20


def test_no_id_tells_when_a_pair_was_made(annotator, two_policies):
    """A task's id is a UUIDv7: its first 48 bits are the millisecond, so which policies there were then."""
    [lease] = annotator.post("/api/v1/leases").json()["leases"]
    annotator.post("/api/v1/judgments", json={"lease_id": lease["lease_id"], "verdict": "a"})
    [past] = annotator.get("/api/v1/me/judgments").json()["judgments"]
    made = {task.id for task in two_policies.open_tasks()}
    told = json.dumps([lease, past])
    assert not [task_id for task_id in made if task_id in told]
    assert past["task_id"] == lease["task_id"]  # but it is the same name each time
    uuids = set(re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", told))
    assert uuids == {lease["lease_id"]}  # made when it was handed out, which its annotator knows


def test_which_response_is_shown_first_does_not_depend_on_who_wrote_it(two_policies):
    """2,400 leases of pairs whose newer response is always response 1: first in half of them, in every purpose and place."""
    firsts = []
    for n in range(40):
        two_policies.add_annotator(Annotator(id=f"a{n}", handle=f"a{n}", kind="human", created_at=START))
        for place, pair in enumerate(two_policies.lease(f"a{n}", 60)):
            kept = two_policies.query("SELECT response_a_id FROM leases WHERE id = $id", {"id": pair.lease_id})
            firsts.append((pair.purpose, place % 2, NEW in kept["response_a_id"][0].as_py()))
    assert len(firsts) == 2400
    for part in (
        [new for _, _, new in firsts],
        [new for purpose, _, new in firsts if purpose == "gate"],
        [new for _, place, new in firsts if place == 0],
    ):
        spread = math.sqrt(len(part)) / 2  # standard deviation of a fair coin's count
        assert abs(sum(part) - len(part) / 2) < 3.5 * spread  # of a fair coin 1 in 2,000 would fail; the seed is fixed


def test_a_pair_shown_again_keeps_its_sides(two_policies):
    """Else two looks at one pair would tell more than one."""
    two_policies.add_annotator(Annotator(id="a", handle="a", kind="human", created_at=START))
    [pair] = two_policies.lease("a", 1)
    two_policies.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a"), annotator_id="a")
    again = two_policies.withdraw(pair.lease_id, annotator_id="a")
    sides = "SELECT DISTINCT response_a_id FROM leases WHERE annotator_id = 'a' AND id IN ($one, $two)"
    assert two_policies.query(sides, {"one": pair.lease_id, "two": again.lease_id}).num_rows == 1
