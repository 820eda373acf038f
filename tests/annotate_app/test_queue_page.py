"""What is asked next and why, as the API and the console tell it."""

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_token
from storage.records import Task
from tests.storage.builders import START, make_prompt, make_response

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def researcher(app, context):
    _, secret = issue_token(context.store, name="looker", scope="research")
    return TestClient(app, headers={"Authorization": f"Bearer {secret}", "Accept": "text/html"}, raise_server_exceptions=False)


@pytest.fixture
def waiting(context):
    store = context.store
    store.add_prompts([make_prompt("q", text=f"Which? {EVIL}")])
    store.add_responses([make_response(f"q-{k}", "q") for k in range(4)])
    chosen = [
        ("repeat", "repeat", None, 0.5, 7.0),
        ("label", "d_optimal", 0.25, 0.01, 9.0),
        ("audit", "triangle", None, 1.0, 8.0),
    ]
    store.add_tasks(
        [
            Task(
                id=rule, prompt_id="q", response_1_id="q-0", response_2_id=f"q-{k}", purpose=purpose, priority=priority,
                wanted=3 if purpose == "audit" else 1, selection_rule=rule, selection_score=score, selection_prob=chance,
                created_at=START,
            )
            for k, (purpose, rule, score, chance, priority) in enumerate(chosen, 1)
        ]
    )  # fmt: skip


def test_the_next_pairs_come_in_the_order_they_are_handed_out_with_their_reasons(researcher, waiting):
    told = researcher.get("/api/v1/queue", params={"count": 3}).json()
    assert [(p["place"], p["rule"], p["judgments"]) for p in told["places"]] == [
        (1, "d_optimal", 1), (2, "triangle", 3), (3, "repeat", 1),
    ]  # fmt: skip
    assert (told["places"][0]["score"], told["places"][0]["probability"]) == (0.25, 0.01)
    assert told["selection"] == "mix" and told["chosen_by"] is None


def test_the_page_says_why_and_shows_hostile_questions_as_text(researcher, waiting):
    page = researcher.get("/console/queue").text
    assert EVIL not in page and "&lt;script&gt;" in page
    assert "its answer shrinks the uncertainty most" in page and "0.25" in page and "0.01" in page
    assert "all of them are random" in page


def test_only_researchers_see_the_queue(app, context):
    _, secret = issue_token(context.store, name="worker", scope="label")
    client = TestClient(app, headers={"Authorization": f"Bearer {secret}"}, raise_server_exceptions=False)
    assert client.get("/api/v1/queue").status_code == 403
    assert client.get("/console/queue", follow_redirects=False).status_code in (303, 401, 403)
