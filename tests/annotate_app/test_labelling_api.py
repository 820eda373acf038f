"""Labelling over HTTP: the status codes of DESIGN 6, undo, own progress."""

from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_token
from annotate_app.web import build_app
from storage.duckdb_store import open_store
from tests.storage.builders import Clock, fill

API = "/api/v1"


def lease(client, **body):
    return client.post(f"{API}/leases", json=body).json()["leases"]


def judge(client, lease_id, **body):
    return client.post(f"{API}/judgments", json={"lease_id": lease_id, "verdict": "a"} | body)


def test_a_lease_shows_the_pair_and_not_who_wrote_it(client):
    [pair] = lease(client)
    assert set(pair) == {
        "lease_id", "task_id", "kind", "prompt", "prompt_html", "response_a", "response_b", "expires_at", "supersedes",
    }  # fmt: skip
    assert (pair["kind"], pair["response_a"]["label"], pair["response_b"]["label"]) == ("pair", "a", "b")
    assert pair["prompt"] == [{"role": "user", "content": "Question q0?"}]
    assert {pair["response_a"]["text"], pair["response_b"]["text"]} == {"Answer q0-1.", "Answer q0-2."}
    assert pair["response_a"]["html"] == f"<p>{pair['response_a']['text']}</p>"
    assert datetime.fromisoformat(pair["expires_at"]) > datetime.now(UTC)


def test_a_verdict_is_stored_and_brings_the_next_pairs(client, context):
    [pair] = lease(client)
    shown = (datetime.now(UTC) - timedelta(seconds=7)).isoformat()
    answer = judge(client, pair["lease_id"], strength=2, rationale=" because ", next=5, shown_at=shown)
    assert answer.status_code == 201
    assert [p["prompt"][0]["content"] for p in answer.json()["next"]] == ["Question q1?", "Question q2?"]
    kept = context.store.get_judgment(pair["lease_id"])
    assert (kept.verdict, kept.strength, kept.rationale, kept.annotator_id) == ("a", 2, "because", "ann0")
    assert (kept.submitted_at - kept.shown_at).total_seconds() == pytest.approx(7, abs=1)
    assert answer.json()["judgment"]["id"] == pair["lease_id"]
    assert "response_a_id" not in answer.json()["judgment"]


def test_the_same_answer_again_is_200_and_another_is_409(client, context):
    [pair] = lease(client)
    assert judge(client, pair["lease_id"], strength=1, next=1).status_code == 201
    again = judge(client, pair["lease_id"], strength=1)
    assert (again.status_code, again.json()["judgment"]["id"]) == (200, pair["lease_id"])
    other = judge(client, pair["lease_id"], verdict="b")
    assert other.status_code == 409
    assert other.json()["error"]["message"]
    assert context.store.count_judgments() == 1


def test_an_unknown_lease_or_somebody_elses_is_404(client, app, context):
    assert judge(client, "no-such-lease").status_code == 404
    _, secret = issue_token(context.store, name="other", scope="label", annotator_handle="Annotator 1")
    other = TestClient(app, headers={"Authorization": f"Bearer {secret}"})
    [pair] = lease(other)
    assert judge(client, pair["lease_id"]).status_code == 404


def test_a_lease_that_expired_and_was_given_away_is_410(context):
    clock = Clock()
    store = open_store(clock=clock, lease_seconds=60)
    fill(store, num_tasks=1, num_annotators=2)
    moved = build_app(
        type(context)(store=store, rounds=context.rounds, data_dir=context.data_dir, session_secret="x"), pages=False
    )
    people = []
    for n in (0, 1):
        _, secret = issue_token(store, name=f"p{n}", scope="label", annotator_handle=f"Annotator {n}")
        people.append(TestClient(moved, headers={"Authorization": f"Bearer {secret}"}))
    [late] = lease(people[0])
    assert lease(people[1]) == []  # one judgment is wanted and somebody is at it
    clock.advance(61)
    [taken] = lease(people[1])
    answer = judge(people[0], late["lease_id"])
    assert answer.status_code == 410
    assert "expired" in answer.json()["error"]["message"]
    assert judge(people[1], taken["lease_id"]).status_code == 201
    store.close()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"verdict": "better"}, "verdict"),
        ({"strength": 4}, "strength"),
        ({"strength": "2"}, "strength"),
        ({"lease_id": 7}, "lease_id"),
        ({"lease_id": None}, "lease_id"),
        ({"colour": "red"}, "colour"),
        ({"next": 1000}, "next"),
        ({"rationale": "x" * 20_001}, "rationale"),
        ({"shown_at": "yesterday"}, "shown_at"),
        ({"shown_at": "2026-01-01T00:00:00"}, "shown_at"),  # whose time?
        ({"reasons": "broken"}, "reasons"),
        ({"aspects": {"helpful": "very"}}, "aspects.helpful"),
    ],
)
def test_a_malformed_verdict_is_422_and_names_the_field(client, context, body, field):
    [pair] = lease(client)
    answer = client.post(f"{API}/judgments", json={"lease_id": pair["lease_id"], "verdict": "a"} | body)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field
    assert context.store.count_judgments() == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_body_that_is_not_an_object_is_422(client, content):
    answer = client.post(f"{API}/judgments", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"]


def test_undo_gives_the_pair_back_with_its_sides(client, context):
    [pair] = lease(client)
    judge(client, pair["lease_id"], verdict="b")
    answer = client.post(f"{API}/judgments/{pair['lease_id']}/withdraw")
    again = answer.json()["lease"]
    assert again["supersedes"] == pair["lease_id"]
    assert (again["response_a"], again["response_b"]) == (pair["response_a"], pair["response_b"])
    assert client.post(f"{API}/judgments/{pair['lease_id']}/withdraw").json()["lease"]["lease_id"] == again["lease_id"]
    assert context.store.count_judgments() == 0
    assert judge(client, again["lease_id"], verdict="tie").status_code == 201
    assert [j.verdict for j in context.store.list_judgments()] == ["tie"]
    assert client.post(f"{API}/judgments/nothing/withdraw").status_code == 404


def test_resume_returns_what_is_held_and_renew_what_is_still_ours(client):
    first = lease(client, count=2)
    assert [p["lease_id"] for p in lease(client, count=3, resume=True)][:2] == [p["lease_id"] for p in first]
    ids = [p["lease_id"] for p in first]
    assert client.post(f"{API}/leases/renew", json={"lease_ids": [*ids, "foreign"]}).json() == {"lease_ids": ids}


def test_when_nothing_is_left_the_list_is_empty(client):
    for pair in lease(client, count=100):
        judge(client, pair["lease_id"])
    assert lease(client) == []


def test_own_progress_counts_verdicts_skips_and_what_is_left(client, context):
    first, second = lease(client, count=2)
    shown = (datetime.now(UTC) - timedelta(seconds=10)).isoformat()
    judge(client, first["lease_id"], shown_at=shown)
    judge(client, second["lease_id"], verdict="skip", reasons=["unclear_prompt"])
    numbers = client.get(f"{API}/me/progress").json()
    assert numbers["median_seconds"] == pytest.approx(10, abs=1)
    assert {k: numbers[k] for k in ("done_today", "done_total", "skipped", "remaining", "preparing")} == {
        "done_today": 1, "done_total": 1, "skipped": 1, "remaining": 1, "preparing": False,
    }  # fmt: skip
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert client.get(f"{API}/me/progress", params={"since": tomorrow}).json()["done_today"] == 0
    mine = client.get(f"{API}/me/judgments", params={"limit": 1}).json()["judgments"]
    assert [(j["verdict"], j["reasons"]) for j in mine] == [("skip", ["unclear_prompt"])]


def test_guidelines_of_the_data_directory_replace_the_built_in_ones(client, context):
    assert "rather receive" in client.get(f"{API}/guidelines").json()["html"]
    (context.data_dir / "guidelines.md").write_text("Prefer **kind** answers. <script>alert(1)</script>")
    html = client.get(f"{API}/guidelines").json()["html"]
    assert "<strong>kind</strong>" in html
    assert "<script" not in html
