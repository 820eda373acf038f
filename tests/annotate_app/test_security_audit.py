"""Every privileged act is in the audit log, with who did it, before it is answered; labelling is not."""

import json
import re

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_signin_link, issue_token
from storage.records import Policy
from tests.storage.builders import START

OURS = {"X-Nashloop": "1"}


@pytest.fixture
def root(visitor, context):
    visitor.post(issue_signin_link(context.store, context.store.get_user("root")))
    visitor.headers.update(OURS)
    return visitor


def entries(browser, **query):
    return browser.get("/api/v1/audit", params=query).json()["entries"]


def test_every_kind_of_privileged_call_is_written_down_with_who_made_it(root, context):
    context.store.add_policy(
        Policy(id="p7", number=7, base_model="x", base_revision=None, adapter_path=None, adapter_sha256=None, parent_id="policy0",
               round_id=None, created_at=START)
    )  # fmt: skip
    grace = root.post("/api/v1/users", json={"name": "Grace"}).json()
    token = root.post("/api/v1/tokens", json={"name": "bot", "scope": "research"}).json()
    calls = [
        ("POST", f"/api/v1/users/{grace['id']}/invite", {}),
        ("POST", f"/api/v1/users/{grace['id']}/sign-out", {}),
        ("POST", f"/api/v1/users/{grace['id']}/disable", {}),
        ("DELETE", f"/api/v1/tokens/{token['id']}", {}),
        ("PUT", "/api/v1/campaign", {"json": {"overlap": 2}}),
        ("POST", "/api/v1/policies/7/promote", {}),
        ("POST", "/api/v1/imports/prompts?filename=p.jsonl", {"content": b'{"prompt": "Why?"}'}),
        ("GET", "/api/v1/exports/raw", {}),
        ("POST", "/api/v1/backups", {}),
    ]
    for method, path, body in calls:
        assert root.request(method, path, **body).status_code < 400, path
    called = {entry["subject"] for entry in entries(root, kind="api.") if entry["actor"] == "root"}
    expected = {f"{method} {path.split('?')[0]}" for method, path, _ in calls}
    assert called == expected | {"POST /api/v1/users", "POST /api/v1/tokens"}
    done = {entry["kind"]: entry for entry in entries(root)}
    assert {"user.added", "user.invited", "user.disabled", "token.created", "token.revoked", "campaign.changed"} <= set(done)
    assert {"policy.promoted", "session.opened"} <= set(done)
    assert (done["user.added"]["actor_name"], done["user.added"]["about"]) == ("Root", "Grace")
    assert json.loads(done["token.created"]["data"]) == {"name": "bot", "scope": "research"}


def test_a_refused_call_and_labelling_leave_no_entry_but_the_refusal_is_in_the_apps_own_log(app, client, context, caplog):
    before = context.store.list_events()
    assert client.post("/api/v1/leases").status_code == 200
    assert client.post("/api/v1/users", json={"name": "Mallory"}).status_code == 403
    assert context.store.list_events() == before
    assert client.post("/api/v1/users/x%0Aforged line/invite").status_code == 403
    assert "POST /api/v1/users was refused to 'program'" in caplog.text
    assert "\nforged" not in caplog.text  # a path cannot begin a line of the log


def test_nothing_secret_is_in_the_log(root, context):
    secret = root.post("/api/v1/tokens", json={"name": "bot", "scope": "admin"}).json()["token"]
    link = root.post("/api/v1/users/ada/invite").json()["link"]
    browser = TestClient(root.app)
    browser.post(link, data={"password": "correct horse battery", "again": "correct horse battery"})
    study = root.post("/api/v1/crowd", json={"name": "tone", "labels": 5}).json()
    told = json.dumps(entries(root), default=str)
    assert "crowd.opened" in told
    for word in (
        study["code"],
        study["path"].split("?")[0].split("/")[-1],
        secret,
        link.split("=")[1],
        "correct horse",
        "argon2",
        *browser.cookies.values(),
    ):
        assert word not in told


def test_nothing_secret_is_logged_even_with_every_logger_talking(root, context, caplog):
    caplog.set_level("DEBUG")
    bearer = root.post("/api/v1/tokens", json={"name": "bot", "scope": "admin"}).json()["token"]
    link = root.post("/api/v1/users/ada/invite").json()["link"]
    password = "correct horse battery"
    browser = TestClient(root.app, raise_server_exceptions=False, follow_redirects=False)
    browser.get(link)
    browser.post(link, data={"password": password, "again": password})
    browser.post("/sign-in", data={"name": "Ada", "password": password + " wrong"})
    browser.get("/api/v1/me", headers={"Authorization": f"Bearer {bearer}"})
    browser.get("/api/v1/users", headers={"Authorization": f"Bearer {bearer}x"})
    browser.post("/api/v1/users", headers={"X-Nashloop": "1"}, json={"name": "x"})
    told = " ".join(r.getMessage() for r in caplog.records if not r.name.startswith("httpx"))  # that is the client of this test
    for word in (bearer, link.split("=")[1], password, context.session_secret, *browser.cookies.values()):
        assert word not in told


def test_the_log_is_read_page_by_page_newest_first(root):
    for k in range(5):
        root.post("/api/v1/users", json={"name": f"person {k}"})
    first = entries(root, kind="user.added", limit=2)
    rest = entries(root, kind="user.added", before=first[-1]["seq"])
    assert [entry["about"] for entry in first + rest] == [f"person {k}" for k in (4, 3, 2, 1, 0)]


def test_only_admins_read_it_and_hostile_names_stay_text(visitor, context):
    issue_token(context.store, name="<img src=x onerror=alert(1)>", scope="label", actor="rosa")
    visitor.post(issue_signin_link(context.store, context.store.get_user("rosa")))
    assert visitor.get("/api/v1/audit").status_code == 403
    assert visitor.get("/console/audit").status_code == 403
    visitor.post(issue_signin_link(context.store, context.store.get_user("root")))
    page = visitor.get("/console/audit").text
    assert "&lt;img" in page and "<img" not in page
    assert re.search(r"<td>Rosa</td><td>token.created</td>", page)
