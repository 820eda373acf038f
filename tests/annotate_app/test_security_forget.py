"""Forgetting somebody by command, API and retention setting."""

import time
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from annotate_app.auth import issue_signin_link, issue_token
from annotate_app.cli import app as command_line
from annotate_app.retention import forget_due, retention
from storage.accounts import forgotten_name
from storage.state import utcnow


@pytest.fixture
def root(visitor, context):
    visitor.post(issue_signin_link(context.store, context.store.get_user("root")))
    visitor.headers["X-Nashloop"] = "1"
    return visitor


def test_an_admin_forgets_a_person_who_is_out_at_once(root, app, context):
    ada = TestClient(app, follow_redirects=False)
    ada.post(issue_signin_link(context.store, context.store.get_user("ada")))
    assert ada.get("/api/v1/me").status_code == 200
    answer = root.post("/api/v1/users/ada/forget", json={"texts": True})
    assert answer.json() == {"id": "ada", "name": forgotten_name("ada")}
    assert ada.get("/api/v1/me").status_code == 401
    assert "Ada" not in root.get("/api/v1/users").text
    assert "Ada" not in root.get("/api/v1/audit").text
    [event] = context.store.list_events(kind_prefix="user.forgotten")
    assert (event.actor, event.data) == ("root", {"texts": True})


def test_one_does_not_forget_oneself_and_only_admins_forget(root, visitor, context):
    assert "That is you" in root.post("/api/v1/users/root/forget").json()["error"]["message"]
    assert root.post("/api/v1/users/nobody/forget").status_code == 404
    visitor.post(issue_signin_link(context.store, context.store.get_user("rosa")))
    assert visitor.post("/api/v1/users/ada/forget").status_code == 403


def test_who_was_shut_out_is_forgotten_when_their_days_are_over(context):
    store = context.store
    store.append_event(actor="root", kind="user.disabled", subject="ada")
    assert forget_due(store, days=30, now=utcnow() + timedelta(days=29)) == []
    assert forget_due(store, days=30, now=utcnow() + timedelta(days=30)) == ["ada"]
    assert forget_due(store, days=30, now=utcnow() + timedelta(days=31)) == []  # once
    assert {user.name for user in store.list_users()} == {forgotten_name("ada"), "Rosa", "Root"}


def test_the_app_looks_by_itself_where_days_are_set(context):
    context.store.append_event(actor="root", kind="user.disabled", subject="ada")
    with retention(context.store, None):
        pass
    assert context.store.list_events(kind_prefix="user.forgotten") == []
    with retention(context.store, 0):
        for _ in range(500):
            if context.store.list_events(kind_prefix="user.forgotten"):
                break
            time.sleep(0.01)
    assert context.store.get_user("ada").name == forgotten_name("ada")


def test_the_command_asks_first_and_says_what_is_left(tmp_path):
    run = CliRunner().invoke
    data = ["--data", str(tmp_path / "data")]
    assert run(command_line, ["users", "add", "Grace", *data]).exit_code == 0
    kept = run(command_line, ["users", "forget", "Grace", *data], input="n\n")
    assert kept.exit_code != 0
    assert "Grace" in run(command_line, ["users", "list", *data]).stdout
    done = run(command_line, ["users", "forget", "Grace", "--yes", *data])
    assert done.exit_code == 0 and "made anew at the next start" in done.stdout
    assert "Grace" not in run(command_line, ["users", "list", *data]).stdout
    audit = run(command_line, ["report", "audit", "--kind", "user.", *data]).stdout
    assert "user.forgotten" in audit and "command line" in audit


def test_a_token_cannot_be_forgotten_but_names_nobody(context):
    token, _ = issue_token(context.store, name="Ada's laptop", scope="label", user_id="ada")
    context.store.forget_user("ada", actor="root")
    [kept] = [t for t in context.store.list_tokens() if t.id == token.id]
    assert (kept.name, kept.revoked) == (forgotten_name("ada"), True)
