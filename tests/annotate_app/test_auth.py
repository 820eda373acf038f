"""Who may come in: links that work once, sessions that end with the user, tokens kept as hashes."""

import json

import pytest

from annotate_app.auth import issue_signin_link, issue_token

PAGE = {"accept": "text/html"}
OURS = {"X-Nashloop": "1"}


@pytest.fixture
def sign_in(context):
    def go(browser, user_id):
        link = issue_signin_link(context.store, context.store.get_user(user_id))
        assert browser.get(link).status_code == 200
        answer = browser.post(link)
        assert answer.status_code == 303
        return answer

    return go


def test_a_link_signs_in_once(visitor, context, sign_in):
    link = issue_signin_link(context.store, context.store.get_user("ada"))
    for _ in range(3):  # previews in chats and mail open links; only the button uses them up
        assert "<form" in visitor.get(link).text
    first = visitor.post(link)
    assert (first.status_code, first.headers["location"]) == (303, "/")
    assert visitor.get("/api/v1/me").json() == {"name": "Ada", "role": "annotator", "annotator_id": "ann0"}
    second = visitor.post(link)
    assert second.status_code == 410
    assert "used before" in second.text


def test_the_session_cookie_is_out_of_scripts_and_other_sites_reach(visitor, sign_in):
    cookie = sign_in(visitor, "ada").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


def test_a_disabled_user_is_out_at_once(visitor, context, sign_in):
    sign_in(visitor, "ada")
    unused = issue_signin_link(context.store, context.store.get_user("ada"))
    context.store.append_event(actor="rosa", kind="user.disabled", subject="ada")
    assert visitor.get("/api/v1/me").status_code == 401
    assert visitor.post(unused).status_code == 410


def test_a_forged_cookie_is_nobody(visitor, context, sign_in):
    sign_in(visitor, "ada")
    name = next(name for name in visitor.cookies if not name.endswith("_page"))
    value = visitor.cookies[name]
    visitor.cookies.clear()
    visitor.cookies.set(name, ("A" if value[0] != "A" else "B") + value[1:])
    assert visitor.get("/api/v1/me").status_code == 401


def test_signing_out_ends_the_session(visitor, sign_in):
    sign_in(visitor, "ada")
    assert "<form" in visitor.get("/sign-out").text
    assert visitor.post("/sign-out").headers["location"] == "/sign-in"
    assert visitor.get("/api/v1/me").status_code == 401


def test_an_annotator_labels_a_researcher_runs_the_campaign_and_an_admin_does_everything(visitor, sign_in):
    sign_in(visitor, "ada")
    assert visitor.get("/api/v1/stats").status_code == 403
    assert visitor.get("/console/", headers=PAGE).status_code == 403
    sign_in(visitor, "rosa")
    assert visitor.get("/api/v1/stats").status_code == 200
    assert visitor.get("/api/v1/users").status_code == 403
    sign_in(visitor, "root")
    assert visitor.get("/api/v1/users").status_code == 200


def test_secrets_are_kept_only_as_hashes(context):
    token, secret = issue_token(context.store, name="t", scope="admin")
    link = issue_signin_link(context.store, context.store.get_user("ada"))
    kept = json.dumps(context.store.query("SELECT * FROM tokens").to_pylist(), default=str)
    assert secret.startswith("nl_")
    assert len(secret) == 35  # 3 + 32
    assert token.sha256 in kept
    assert secret not in kept
    assert link.split("=")[1] not in kept


def test_a_sign_in_secret_is_not_a_bearer_token(app, visitor, context):
    secret = issue_signin_link(context.store, context.store.get_user("rosa")).split("=")[1]
    assert visitor.get("/api/v1/me", headers={"Authorization": f"Bearer {secret}"}).status_code == 401


def test_a_wrong_token_is_refused_even_with_a_good_session(visitor, sign_in):
    sign_in(visitor, "ada")
    assert visitor.get("/api/v1/me", headers={"Authorization": "Bearer nl_wrong"}).status_code == 401


def test_a_label_token_without_annotator_makes_judgments_under_its_own_name(visitor, context):
    _, secret = issue_token(context.store, name="my-script", scope="label")
    me = visitor.get("/api/v1/me", headers={"Authorization": f"Bearer {secret}"}).json()
    assert me["annotator_id"] == context.store.get_annotator("my-script").id
    _, research = issue_token(context.store, name="reader", scope="research")
    refused = visitor.post("/api/v1/leases", headers={"Authorization": f"Bearer {research}"}, json={})
    assert refused.status_code == 403
    assert "--annotator" in refused.json()["error"]["message"]


def test_a_hostile_sign_in_token_is_shown_harmlessly(visitor):
    shown = visitor.get("/sign-in", params={"token": '"><script>alert(1)</script>'}).text
    assert "<script" not in shown
