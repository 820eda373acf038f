"""Finding judgments, what was said of a pair, an annotator's page, and policies side by side; hostile text stays text."""

from dataclasses import replace
from urllib.parse import parse_qs, urlparse

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_token
from annotate_app.browse import PAGE, PairFilter, find_pairs
from annotate_app.pages.lineage_html import lineage_svg
from storage.records import Annotator, JudgmentInput, Span
from tests.storage.builders import START, make_prompt, make_response, make_task

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture
def researcher(app, context):
    _, secret = issue_token(context.store, name="looker", scope="research")
    return TestClient(app, headers={"Authorization": f"Bearer {secret}", "Accept": "text/html"}, raise_server_exceptions=False)


def judge(store, annotator_id, wanted_task, verdict, **more):
    """Judge one task; verdicts are on the task's first and second response, whatever was shown first."""
    for pair in store.lease(annotator_id, 50, resume=True):
        if pair.task_id == wanted_task:
            first = next(t for t in store.open_tasks() if t.id == wanted_task).response_1_id
            turned = {"a": "b", "b": "a"}.get(verdict, verdict) if pair.response_a_id != first else verdict
            return store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=turned, **more), annotator_id=annotator_id).judgment
    raise AssertionError(f"{wanted_task} was not offered")


@pytest.fixture
def judged(context):
    """Two people on a contested pair, one on an agreed one, with everything that can be said."""
    store = context.store
    for name in ("contested", "agreed"):
        store.add_prompts([make_prompt(name, text=f"Prompt of {name} {EVIL}")])
        store.add_responses([make_response(f"{name}-{k}", name, text=f"Answer {k} {EVIL}") for k in (1, 2)])
        store.add_tasks([make_task(name, name, f"{name}-1", f"{name}-2", wanted=2, priority=9.0)])
    judge(
        store,
        "ann0",
        "contested",
        "a",
        rationale=f"needle {EVIL}",
        reasons=("too long",),
        spans=(Span(side="a", start=0, end=6),),
    )
    judge(store, "ann1", "contested", "b", edited_text="Better.")
    judge(store, "ann0", "agreed", "tie")
    judge(store, "ann1", "agreed", "tie")
    store.append_event(actor="Ada", kind="pair.flagged", subject="agreed", data={"annotator_id": "ann0", "reason": "harmful"})
    return store


@pytest.mark.parametrize(
    ("asked", "tasks"),
    [
        ({}, ["agreed", "agreed", "contested", "contested"]),
        ({"q": "NEEDLE"}, ["contested"]),
        ({"verdict": "tie"}, ["agreed", "agreed"]),
        ({"annotator": "Annotator 1"}, ["agreed", "contested"]),
        ({"reason": "too long"}, ["contested"]),
        ({"only": "disagreement"}, ["contested", "contested"]),
        ({"only": "flagged"}, ["agreed", "agreed"]),
        ({"only": "edited"}, ["contested"]),
        ({"only": "marked"}, ["contested"]),
        ({"policy": "0", "purpose": "label"}, ["agreed", "agreed", "contested", "contested"]),
        ({"policy": "7"}, []),
        ({"since": "2000-01-01", "until": "2000-01-02"}, []),
        ({"since": "nonsense"}, []),
    ],
)
def test_every_filter(judged, asked, tasks):
    found = find_pairs(judged, PairFilter(**asked))
    assert [row["task_id"] for row in found["pairs"]] == tasks
    assert found["total"] == len(tasks)


def test_pages_follow_each_other_without_gaps(context):
    store = context.store
    for n in range(PAGE + 5):
        name = f"n{n:03d}"
        store.add_prompts([make_prompt(name)])
        store.add_responses([make_response(f"{name}-{k}", name) for k in (1, 2)])
        store.add_tasks([make_task(name, name, f"{name}-1", f"{name}-2", priority=9.0)])
    for pair in store.lease("ann0", PAGE + 5):
        store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="tie"), annotator_id="ann0")
    first, second = (find_pairs(store, PairFilter(page=page)) for page in (1, 2))
    assert (first["pages"], len(first["pairs"]), len(second["pairs"])) == (2, PAGE, 5)
    assert len({row["judgment_id"] for row in first["pairs"] + second["pairs"]}) == PAGE + 5


def test_a_link_says_the_search_and_a_new_search_begins_at_the_first_page():
    asked = PairFilter(q="a b&c", verdict="a", page=4)
    assert parse_qs(urlparse(asked.link(page=5)).query) == {"q": ["a b&c"], "verdict": ["a"], "page": ["5"]}
    assert parse_qs(urlparse(asked.link(verdict="tie")).query) == {"q": ["a b&c"], "verdict": ["tie"]}


@pytest.mark.parametrize(
    "path", ["pairs", "pairs?only=disagreement", "pairs/contested", "annotators", "annotators/ann0", "lineage"]
)
def test_pages_show_hostile_text_as_text(researcher, judged, path):
    answer = researcher.get(f"/console/{path}")
    assert answer.status_code == 200
    assert "<script>" not in answer.text and "<img" not in answer.text
    if path.startswith("pairs"):
        assert "&lt;script&gt;" in answer.text


def test_one_pair_tells_all_that_was_said(researcher, judged):
    text = researcher.get("/console/pairs/contested").text
    for part in (
        "response 1 is better",
        "response 2 is better",
        "needle",
        "too long",
        "<q>Answer</q>",
        "Edited text",
        "Annotator 1",
    ):
        assert part in text
    assert "flagged it as <b>harmful</b>" in researcher.get("/console/pairs/agreed").text


def test_annotators_cannot_look(client, judged):
    assert client.get("/api/v1/pairs").status_code == 403
    assert client.get("/console/pairs").status_code == 403


def test_what_is_not_there_is_said(researcher, judged):
    for path in ("/api/v1/pairs/nowhere", "/console/annotators/nobody", "/console/lineage?a=0&b=0&prompt=none"):
        assert researcher.get(path).status_code == 404


def test_the_same_as_json(researcher, judged):
    assert researcher.get("/api/v1/pairs", params={"verdict": "tie"}).json()["total"] == 2
    people = researcher.get("/api/v1/annotators").json()["annotators"]
    assert {(p["annotator"], p["labels"]) for p in people} == {("Annotator 0", 2), ("Annotator 1", 2)}
    assert researcher.get("/api/v1/policies/matrix").json()["policies"][0]["number"] == 0


def test_two_policies_on_one_prompt(researcher, judged):
    text = researcher.get("/console/lineage?a=0&b=0&prompt=agreed").text
    assert text.count("Answer 1 &lt;script&gt;") == 2


def test_the_tree_of_policies_gives_siblings_lines_of_their_own():
    policies = [{"number": n, "parent": parent, "status": "retired"} for n, parent in ((0, None), (1, 0), (2, 1), (3, 1), (4, 3))]
    svg = lineage_svg(policies)
    assert svg.count("<path") == 4 and "policy 3 from 1" in svg
    assert 'viewBox="0 0 524 148"' in svg  # columns 0 to 3: 4 x 120 + 44; two lines of 74


def test_an_annotator_without_judgments_is_no_page(researcher, context):
    context.store.add_annotator(Annotator(id="new", handle="New", kind="human", created_at=START))
    assert researcher.get("/console/annotators/new").status_code == 404
    assert replace(PairFilter(), q="x").link() == "/console/pairs?q=x"
