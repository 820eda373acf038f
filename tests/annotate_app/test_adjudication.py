"""One more opinion where two people want opposite things, a researcher's verdict where votes stay split, nobody twice."""

import pytest
from fastapi.testclient import TestClient

from annotate_app.adjudication import FurtherOpinions, adjudicate_next, contested, waiting_for_adjudication
from annotate_app.annotators import exclude, find_annotator
from annotate_app.auth import issue_token
from annotate_app.web import build_app
from storage.campaign import Campaign, build_campaign
from storage.errors import UserError
from storage.records import Annotator, JudgmentInput
from tests.storage.builders import START, fill


def answer(store, pair, response_id, **more):
    """Prefer this response of a leased pair, whatever was shown first."""
    verdict = "a" if pair.response_a_id == response_id else "b"
    result = store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=verdict, **more), annotator_id=pair.annotator_id)
    assert result.status == "stored"
    return result.judgment


def vote(store, votes):
    """(annotator, task number, "1" or "2", strength) of tasks that both are wanted for."""
    for who, number, side, strength in votes:
        [pair] = [p for p in store.lease(who, 50, resume=True) if p.task_id == f"t{number}"]
        answer(store, pair, f"q{number}-{side}", strength=strength)


@pytest.fixture
def split(store):
    """Two people: t0 opposite, t1 the same, t2 opposite but slightly; two more people have judged nothing."""
    fill(store, wanted=2, num_annotators=4)
    store.set_campaign(Campaign(overlap=2, overlap_max=3), actor="rosa")
    vote(store, [("ann0", 0, "1", None), ("ann0", 1, "1", None), ("ann0", 2, "1", 1)])
    vote(store, [("ann1", 0, "2", 2), ("ann1", 1, "1", None), ("ann1", 2, "2", 1)])
    return store


def test_a_third_person_is_asked_only_where_two_disagree_and_it_matters(split):
    opinions = FurtherOpinions(split, refresh_seconds=0)
    assert opinions.lease("ann0", 5) == []  # they disagree themselves
    [pair] = opinions.lease("ann2", 5)
    assert {pair.response_a_id, pair.response_b_id} == {"q0-1", "q0-2"} and pair.purpose == "label"
    assert opinions.lease("ann3", 5) == []  # one is enough
    assert [held.lease_id for held in opinions.lease("ann2", 5, resume=True)] == [pair.lease_id]
    answer(split, pair, "q0-1")
    assert opinions.lease("ann3", 5) == []  # three people, as the campaign says
    [row] = [row for row in contested(split) if row["first"] == "q0-1"]
    assert (row["for_first"], row["for_second"]) == (2, 1)
    [kept] = split.query("SELECT selection_rule, count(*) AS n FROM judged_pairs j JOIN tasks ON tasks.id = task_id"
                         " WHERE selection_rule = 'further opinion' GROUP BY ALL").to_pylist()  # fmt: skip
    assert kept["n"] == 1


def test_without_overlap_max_nobody_more_is_asked_and_an_excluded_person_never(split):
    exclude(split, find_annotator(split, "ann2"), actor="rosa", reason="a test")
    assert FurtherOpinions(split).lease("ann2", 5) == []
    split.set_campaign(Campaign(overlap=2), actor="rosa")
    assert FurtherOpinions(split).lease("ann3", 5) == []
    with pytest.raises(UserError, match="overlap_max 3 must be above overlap 3"):
        build_campaign({"overlap": 3, "overlap_max": 3})


def test_researchers_adjudicate_blind_what_stays_contested(split):
    split.add_annotator(Annotator(id="rosa", handle="Rosa", kind="human", created_at=START))
    waiting = waiting_for_adjudication(split)
    assert [row["task_id"] for row in waiting] == ["t2"]  # of t0 one more person will be asked first
    pair = adjudicate_next(split, "rosa")
    assert pair is not None and pair.purpose == "audit" and {pair.response_a_id, pair.response_b_id} == {"q2-1", "q2-2"}
    again = adjudicate_next(split, "rosa")
    assert again is not None and again.lease_id == pair.lease_id  # a retry
    assert split.lease("ann3", 5) == []  # the verdict is the researcher's
    judgment = answer(split, pair, "q2-2", rationale="It answers the question.")
    assert judgment.annotator_id == "rosa"
    assert waiting_for_adjudication(split) == [] and adjudicate_next(split, "rosa") is None
    split.set_campaign(Campaign(overlap=2), actor="rosa")  # nobody more is asked: t0 waits too
    assert [row["task_id"] for row in waiting_for_adjudication(split)] == ["t0"]
    assert adjudicate_next(split, "rosa", "t1") is None and adjudicate_next(split, "rosa", "t0") is not None


def test_a_researcher_adjudicates_over_http(context):
    fill(context.store, num_tasks=0, num_annotators=0)
    store = context.store
    store.close_tasks([task.id for task in store.open_tasks()], actor="test", reason="another is wanted")
    from tests.storage.builders import make_task

    store.add_tasks([make_task("both", "q0", "q0-1", "q0-2", wanted=2)])
    for who, side in (("ann0", "1"), ("ann2", "2")):
        [pair] = store.lease(who, 1)
        answer(store, pair, f"q0-{side}")
    client = TestClient(build_app(context, pages=False))
    _, secret = issue_token(store, name="rosa's", scope="research", annotator_handle="Rosa")
    header = {"authorization": f"Bearer {secret}"}
    told = client.get("/api/v1/adjudication", headers=header).json()
    assert [row["task_id"] for row in told["waiting"]] == ["both"] and told["adjudicated"] == 0
    [lease] = client.post("/api/v1/adjudication/next", json={}, headers=header).json()["leases"]
    done = client.post("/api/v1/judgments", json={"lease_id": lease["lease_id"], "verdict": "a"}, headers=header)
    assert done.status_code == 201
    told = client.get("/api/v1/adjudication", headers=header).json()
    assert told == {"waiting": [], "adjudicated": 1}
    assert client.post("/api/v1/adjudication/next", json={}, headers=header).json() == {"leases": []}
    page = client.get("/console/pairs?only=disagreement", headers=header | {"accept": "text/html"}).text
    assert "wait for a researcher" in page or "Nothing waits for adjudication" in page


def test_who_skips_a_contested_pair_leaves_it_to_somebody_else(split):
    opinions = FurtherOpinions(split, refresh_seconds=0)
    [pair] = opinions.lease("ann2", 1)
    split.submit(JudgmentInput(lease_id=pair.lease_id, verdict="skip"), annotator_id="ann2")
    assert FurtherOpinions(split).lease("ann2", 1) == []
    [other] = FurtherOpinions(split).lease("ann3", 1)
    assert {other.response_a_id, other.response_b_id} == {"q0-1", "q0-2"}
