"""The wall: nothing without signing in, nothing from other sites, a nonce on every script. Both Gradio pages behind it."""

import re

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_signin_link, issue_token
from annotate_app.web import build_app

PAGE = {"accept": "text/html,application/xhtml+xml"}
# What Gradio leaves open by itself (it asks only on some routes), on both mounts.
GRADIO_ROUTES = [
    "config",
    "theme.css",
    "gradio_api/heartbeat/x",
    "gradio_api/info",
    "gradio_api/app_id",
    "gradio_api/startup-events",
]
GRADIO_ROUTES += [
    "gradio_api/file=/etc/passwd",
    "gradio_api/queue/data",
    "monitoring",
    "assets/none.js",
    "logout",
    "openapi.json",
]


@pytest.fixture
def whole_app(context):
    """With both Gradio pages."""
    return build_app(context)


@pytest.fixture
def browser(whole_app, context):
    with TestClient(whole_app, follow_redirects=False, raise_server_exceptions=False) as client:
        yield client


def sign_in(browser, context, user_id):
    assert browser.post(issue_signin_link(context.store, context.store.get_user(user_id))).status_code == 303


def test_nothing_of_gradio_is_open_to_strangers(browser):
    for mount in ("/", "/console/"):
        for route in GRADIO_ROUTES:
            answer = browser.get(mount + route)
            assert answer.status_code == 401, f"{mount}{route} answered {answer.status_code}"
        for route in ("queue/join", "run/predict", "upload", "reset", "cancel", "component_server"):
            assert browser.post(f"{mount}gradio_api/{route}", json={}).status_code == 401
        page = browser.get(mount, headers=PAGE)
        assert (page.status_code, page.headers["location"]) == (303, "/sign-in")


def test_an_annotator_reaches_the_labelling_page_and_not_the_console(browser, context):
    sign_in(browser, context, "ada")
    page = browser.get("/", headers=PAGE)
    assert page.status_code == 200
    assert '"island-host"' in browser.get("/config").text
    assert browser.get("/console/", headers=PAGE).status_code == 403
    assert browser.get("/console/config").status_code == 403
    assert browser.post("/console/gradio_api/queue/join", json={}).status_code == 403
    assert browser.post("/gradio_api/upload").status_code == 403  # the labelling page uploads nothing


def test_a_researcher_reaches_both(browser, context):
    sign_in(browser, context, "rosa")
    assert browser.get("/console", headers=PAGE).headers["location"] == "/console/"
    assert browser.get("/console/", headers=PAGE).status_code == 200
    assert browser.get("/", headers=PAGE).status_code == 200


def test_no_page_holds_a_connection_open(browser, context):
    sign_in(browser, context, "rosa")
    for mount in ("/", "/console/"):
        assert browser.get(mount + "config").json()["connect_heartbeat"] is False
        assert browser.get(mount + "gradio_api/heartbeat/abc").status_code == 204


def test_every_script_carries_the_nonce_of_the_policy(browser, context):
    sign_in(browser, context, "rosa")
    seen = set()
    for path in ("/", "/console/"):
        page = browser.get(path, headers=PAGE)
        policy = page.headers["content-security-policy"]
        nonce = re.search(r"'nonce-([^']+)'", policy).group(1)
        scripts = re.findall(r"<script[^>]*>", page.text)
        assert scripts
        assert all(f'nonce="{nonce}"' in tag for tag in scripts)
        assert "unsafe-eval" not in policy
        assert "unsafe-inline" not in policy.split("style-src")[0]
        seen.add(nonce)
    assert len(seen) == 2


def test_a_session_does_not_act_for_another_site(visitor, context):
    sign_in(visitor, context, "ada")
    ours = {"X-Nashloop": "1"}
    for foreign in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert visitor.post("/api/v1/leases", headers=ours | foreign).status_code == 403
    assert visitor.post("/api/v1/leases").status_code == 403  # no header: a plain form could have sent it
    assert visitor.post("/sign-out", headers={"origin": "https://evil.example"}).status_code == 403
    assert visitor.post("/api/v1/leases", headers=ours | {"origin": "http://testserver"}).status_code == 200
    assert visitor.post("/api/v1/leases", headers=ours | {"sec-fetch-site": "same-origin"}).status_code == 200


def test_foreign_origins_are_never_allowed_to_read(browser, context):
    sign_in(browser, context, "rosa")
    for path in ("/config", "/console/config", "/api/v1/me"):
        answer = browser.get(path, headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers


def test_every_answer_has_the_security_headers(visitor):
    for path in ("/sign-in", "/healthz", "/api/v1/me", "/ui/labelling.js", "/nothing"):
        headers = visitor.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_health_and_metrics_need_no_sign_in(visitor, client):
    assert visitor.get("/healthz").json() == {"status": "ok"}
    assert visitor.get("/readyz").status_code == 200
    lease = client.post("/api/v1/leases").json()["leases"][0]
    client.post("/api/v1/judgments", json={"lease_id": lease["lease_id"], "verdict": "a"})
    client.post("/api/v1/leases")
    here = TestClient(client.app, client=("127.0.0.1", 5))
    lines = here.get("/metrics").text.splitlines()
    assert "nashloop_judgments_total 1" in lines
    assert "nashloop_open_leases 1" in lines
    assert "nashloop_open_tasks 2" in lines
    labels = 'method="POST",route="/api/v1/leases",status="200"'
    assert f"nashloop_http_request_seconds_count{{{labels}}} 2" in lines
    assert f'nashloop_http_request_seconds_bucket{{{labels},le="+Inf"}} 2' in lines


def test_numbers_of_the_campaign_are_for_this_machine_and_researchers(visitor, client, context, app):
    here = TestClient(app, client=("127.0.0.1", 5))
    assert here.get("/metrics").status_code == 200
    for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"):  # a proxy here asks for somebody elsewhere
        assert here.get("/metrics", headers={header: "203.0.113.7"}).status_code == 401
    assert visitor.get("/metrics").status_code == 401
    assert client.get("/metrics").status_code == 403
    _, secret = issue_token(context.store, name="prometheus", scope="research")
    assert visitor.get("/metrics", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_readiness_fails_when_the_writer_has_stopped(visitor, context):
    context.store.close()
    assert visitor.get("/readyz").status_code == 503
    assert visitor.get("/healthz").status_code == 200


def test_the_api_documents_itself_without_foreign_scripts(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/api/v1/leases", "/api/v1/judgments", "/api/v1/rounds"} <= set(paths)
    page = client.get("/docs").text
    assert "/api/v1/leases" in page
    assert "<script" not in page


def test_a_label_token_does_not_open_the_console(whole_app, context):
    _, secret = issue_token(context.store, name="t", scope="label")
    answer = TestClient(whole_app).get("/console/config", headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 403
