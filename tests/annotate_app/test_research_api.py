"""The research routes over the real app, store and child processes; the learner is small_learner.py."""

import io
import json
import sys
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_token
from annotate_app.context import AppContext
from annotate_app.rounds import RoundService
from annotate_app.web import build_app
from storage.contract.jobs import work_dir
from storage.duckdb_store import open_store
from storage.records import Message, Prompt

SMALL_LEARNER = Path(__file__).with_name("small_learner.py")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FEW = {"preference": {"min_judgments": 5}}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """An app after its first start, with six prompts and their candidates."""
    data = tmp_path_factory.mktemp("api")
    store = open_store(data / "nashloop.duckdb")
    question = (Message(role="user", content="How do I sharpen a knife?"),)
    splits = ["train"] * 6 + ["heldout"]
    store.add_prompts(
        [
            Prompt(id=f"prompt-{n}", messages=question, split=split, source="test", created_at=NOW)
            for n, split in enumerate(splits)
        ]
    )
    command = [sys.executable, str(SMALL_LEARNER), "slow"]
    rounds = RoundService(store, data, model="someone/small-model", command=command)
    rounds.ensure_started()
    let_go(data, "0001-generate")
    assert rounds.wait(1, 30).status == "done"
    yield AppContext(store=store, rounds=rounds, data_dir=data, session_secret="only for tests")
    rounds.close(stop_jobs=True)
    store.close()


@pytest.fixture(scope="module")
def app(context):
    return build_app(context, pages=False)


@pytest.fixture(scope="module")
def client(app, context):
    """A client with admin scope, relative to /api/v1."""
    _, secret = issue_token(context.store, name="tests", scope="admin")
    return as_client(app, secret)


def as_client(app, secret: str | None) -> TestClient:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return TestClient(app, base_url="http://testserver/api/v1", headers=headers, raise_server_exceptions=False)


def let_go(data: Path, job: str) -> None:
    deadline = time.monotonic() + 10
    while not work_dir(data / "jobs" / job).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (work_dir(data / "jobs" / job) / "go").touch()


def label(app, context, count: int) -> int:
    """Label through the HTTP API, as a program would."""
    _, secret = issue_token(context.store, name="labeller", scope="label", annotator_handle="ann")
    annotator = as_client(app, secret)
    leases = annotator.post("leases", json={"count": count}).json()["leases"]
    for lease in leases:
        answer = annotator.post("judgments", json={"lease_id": lease["lease_id"], "verdict": "a"})
        assert answer.status_code == 201, answer.text
    return len(leases)


def test_without_a_token_or_with_too_small_a_scope_nothing_is_answered(app, context):
    assert as_client(app, None).get("status").status_code == 401
    _, label_only = issue_token(context.store, name="small", scope="label", annotator_handle="ann")
    assert as_client(app, label_only).get("rounds").status_code == 403
    _, research = issue_token(context.store, name="middle", scope="research")
    assert as_client(app, research).get("rounds").status_code == 200
    assert as_client(app, research).get("users").status_code == 403


def test_status_says_what_serves_and_what_waits(client):
    status = client.get("status").json()
    assert status["serving"]["number"] == 0
    assert status["running"] == []
    assert status["tasks_open"] > 0
    assert set(client.get("stats").json()) >= {"prompts", "responses", "tasks_open", "judgments", "verdicts"}


def test_a_round_over_http_from_start_to_rollback(client, app, context):
    refused = client.post("rounds", json={"settings": {"preference": {"min_judgments": 500}}})
    assert refused.status_code == 422
    assert "decided judgments" in refused.json()["error"]["message"]
    assert label(app, context, 8) == 8
    started = client.post("rounds", json={"settings": FEW, "promote": "manual", "overlap": 2})
    assert started.status_code == 201, started.text
    number = started.json()["number"]
    busy = client.post("jobs", json={"kind": "generate"})
    assert busy.status_code == 409
    assert f"{number:04d}-round" in busy.json()["error"]["message"]
    assert label(app, context, 3) == 3  # labelling goes on
    assert client.get(f"rounds/{number}/report").status_code == 404
    let_go(context.data_dir, f"{number:04d}-round")
    context.rounds.wait(number, 30)
    shown = client.get(f"rounds/{number}").json()
    assert (shown["status"], shown["policy"], shown["new_policy"]) == ("done", 0, 1)
    assert shown["settings"]["options"]["overlap"] == 2
    progress = client.get(f"rounds/{number}/progress").json()
    assert (progress["status"], progress["fraction"]) == ("done", 1.0)
    assert client.get(f"rounds/{number}/report").json()["new_policy"] == shown["new_policy_id"]
    assert "log" in client.get(f"rounds/{number}/log").json()
    assert [r["number"] for r in client.get("rounds").json()["rounds"]] == [number, 1]

    promoted = client.post("policies/1/promote", json={"reason": "looks good"})
    assert (promoted.status_code, promoted.json()["status"]) == (200, "serving")
    assert client.post("policies/1/promote").status_code == 200  # again: the same answer
    assert {task.wanted for task in context.store.open_tasks() if task.purpose == "label"} == {2}
    assert client.post("policies/rollback", json={}).json()["number"] == 0
    policies = client.get("policies").json()["policies"]
    assert [(p["number"], p["status"], p["parent"], p["round"]) for p in policies] == [
        (0, "serving", None, None),
        (1, "retired", 0, number),
    ]
    assert client.post("policies/rollback", json={}).status_code == 422


def test_cancel_and_resume_over_http(client, context):
    number = client.post("jobs", json={"kind": "evaluate", "policy": 0}).json()["number"]
    assert client.post(f"rounds/{number}/cancel").status_code == 200
    assert context.rounds.wait(number, 30).status == "cancelled"
    assert client.post(f"rounds/{number}/cancel").status_code == 422
    assert client.post(f"rounds/{number}/resume").json()["status"] == "running"
    let_go(context.data_dir, f"{number:04d}-evaluate")
    assert context.rounds.wait(number, 30).status == "done"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "rounds", {"settings": {"update": {"rule": "sgd"}}}, 422),
        ("POST", "rounds", {"settings": {"update": {"colour": 1}}}, 422),
        ("POST", "rounds", {"settings": {"update": {"epochs": 0}}}, 422),
        ("POST", "rounds", {"settings": {}}, 422),
        ("POST", "jobs", {"kind": "train"}, 422),
        ("POST", "jobs", {"kind": "evaluate", "policy": 77}, 404),
        ("GET", "rounds/77", None, 404),
        ("POST", "rounds/77/resume", None, 404),
        ("POST", "policies/77/promote", None, 404),
        ("GET", "exports/word", None, 404),
        ("GET", "exports/trl?container=xml", None, 422),
        ("POST", "users", {"name": ""}, 422),
        ("POST", "users/nobody/invite", None, 404),
        ("DELETE", "tokens/nothing", None, 404),
    ],
)
def test_bad_requests_are_told_what_is_wrong(client, method, path, body, status):
    answer = client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


def test_rules_are_listed(client):
    assert "onpo_ref" in [rule["name"] for rule in client.get("rules").json()["rules"]]


def test_exports_stream_every_container(client, app, context):
    label(app, context, 3)
    raw = client.get("exports/raw")
    rows = [json.loads(line) for line in raw.text.splitlines()]
    assert len(rows) == context.store.count_judgments()
    parquet = client.get("exports/trl", params={"container": "parquet"})
    assert {"prompt", "chosen", "rejected"} <= set(pq.read_table(io.BytesIO(parquet.content)).column_names)
    folder = zipfile.ZipFile(io.BytesIO(client.get("exports/hf").content))
    assert any(name.endswith("README.md") for name in folder.namelist())


def test_an_imported_file_is_read_whole_or_not_at_all(client, context):
    before = len(context.store.list_prompts())
    good = json.dumps({"prompt": "Why is the sky blue?"})
    bad = client.post("imports/prompts", params={"filename": "p.jsonl"}, content=f"{good}\nnot json\n".encode())
    assert bad.status_code == 422
    assert "2" in bad.json()["error"]["message"]  # the line
    assert len(context.store.list_prompts()) == before
    kept = client.post("imports/prompts", params={"filename": "p.jsonl", "skip_bad": True}, content=f"{good}\n{{\n".encode())
    assert kept.status_code == 200, kept.text
    assert len(context.store.list_prompts()) == before + 1
    assert client.post("imports/prompts", params={"filename": "p.docx"}, content=b"x").status_code == 422


def test_people_are_added_invited_and_shut_out(client):
    added = client.post("users", json={"name": "Ada", "role": "annotator"})
    assert added.status_code == 201
    user_id = added.json()["id"]
    assert client.post("users", json={"name": "Ada"}).status_code == 422
    link = client.post(f"users/{user_id}/invite").json()["link"]
    assert link.startswith("/sign-in?token=")
    assert client.post(f"users/{user_id}/disable").json()["disabled"] is True
    assert client.post(f"users/{user_id}/disable").status_code == 200  # again
    assert client.post(f"users/{user_id}/invite").status_code == 422
    assert [(u["name"], u["disabled"]) for u in client.get("users").json()["users"]] == [("Ada", True)]


def test_tokens_are_shown_once_and_revoked_at_once(client, app):
    made = client.post("tokens", json={"name": "robot", "scope": "label", "annotator": "robot"}).json()
    robot = as_client(app, made["token"])
    assert robot.get("me").status_code == 200
    listed = client.get("tokens").json()["tokens"]
    assert made["token"] not in json.dumps(listed)
    assert all("sha256" not in token for token in listed)
    assert client.delete(f"tokens/{made['id']}").json()["revoked"] is True
    assert robot.get("me").status_code == 401
