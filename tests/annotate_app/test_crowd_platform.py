"""People from a crowd platform: in by the study's link, a code after so many pairs, abandoned pairs given to others."""

import re

import pytest
from typer.testing import CliRunner

from annotate_app.auth import issue_token
from annotate_app.cli import app as command_line
from annotate_app.commands.compose import open_context
from annotate_app.crowd_platform import close_study, join, labels_left, open_study, participants, studies
from storage.duckdb_store import open_store
from storage.errors import UserError
from storage.records import JudgmentInput
from storage.store import LEASE_SECONDS
from tests.storage.builders import Clock, fill

OURS = {"X-Nashloop": "1"}


@pytest.fixture
def study(context):
    return open_study(context.store, "tone", labels=2, actor="rosa", code="C0DE")


def enter(browser, study, participant="5f3a1b"):
    """As from the platform: open the link, press the button."""
    shown = browser.get(f"/join/{study.key}?PROLIFIC_PID={participant}&STUDY_ID=s1&SESSION_ID=x1")
    assert shown.status_code == 200 and participant in shown.text
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', shown.text))
    return browser.post(f"/join/{study.key}", data=fields)


def judge_one(browser):
    [lease] = browser.post("/api/v1/leases", json={"count": 1}, headers=OURS).json()["leases"]
    done = browser.post("/api/v1/judgments", json={"lease_id": lease["lease_id"], "verdict": "a"}, headers=OURS)
    assert done.status_code == 201


def test_the_link_signs_in_and_the_code_comes_after_the_last_pair(visitor, context, study):
    entered = enter(visitor, study)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert visitor.get("/api/v1/me").json()["name"] == "tone:5f3a1b"
    assert visitor.get("/console/", headers={"accept": "application/json"}).status_code == 403
    judge_one(visitor)
    assert visitor.get("/api/v1/me/progress").json()["study"] == {"labels": 2, "done": 1}
    early = visitor.get("/completion").text
    assert "1 of 2 pairs" in early and "C0DE" not in early
    judge_one(visitor)
    assert visitor.post("/api/v1/leases", json={"count": 1}, headers=OURS).json() == {"leases": []}  # a third pair is open
    late = visitor.get("/completion").text
    assert "C0DE" in late and 'href="https://app.prolific.com/submissions/complete?cc=C0DE"' in late
    [row] = participants(context.store, study)
    assert (row["annotator"], row["labels"], row["state"]) == ("tone:5f3a1b", 2, "finished")


def test_who_comes_again_goes_on_where_they_were(visitor, context, study):
    enter(visitor, study)
    judge_one(visitor)
    first = context.store.list_users()[-1]
    assert enter(visitor, study).status_code == 303
    assert context.store.list_users()[-1] == first and len(participants(context.store, study)) == 1
    assert labels_left(context.store, first.annotator_id or "", with_held=True) == 1


def test_no_more_pairs_are_held_than_are_left_to_judge(visitor, context, study):
    enter(visitor, study)
    assert len(visitor.post("/api/v1/leases", json={"count": 5}, headers=OURS).json()["leases"]) == 2
    assert visitor.post("/api/v1/leases", json={"count": 5}, headers=OURS).json()["leases"] == []
    assert len(visitor.post("/api/v1/leases", json={"count": 5, "resume": True}, headers=OURS).json()["leases"]) == 2


def test_nobody_comes_in_without_the_key_an_id_or_to_a_closed_study(visitor, context, study):
    assert visitor.get("/join/guess?PROLIFIC_PID=5f3a1b").status_code == 410
    assert visitor.post("/join/guess", data={"participant": "5f3a1b"}).status_code == 410
    assert "lacks your participant id" in visitor.get(f"/join/{study.key}").text
    assert visitor.post(f"/join/{study.key}", data={"participant": "<script>"}).status_code == 422
    assert "<script>" not in visitor.get(f"/join/{study.key}?PROLIFIC_PID=<script>alert(1)</script>").text
    close_study(context.store, study, actor="rosa")
    assert visitor.post(f"/join/{study.key}", data={"participant": "5f3a1b"}).status_code == 410


def test_a_program_cannot_invent_participants_without_end(visitor, context, study):
    answers = []
    for k in range(90):
        answers.append(visitor.post(f"/join/{study.key}", data={"participant": f"p{k}"}))
        visitor.cookies.clear()
    assert [answer.status_code for answer in answers[:60]] == [303] * 60  # a room of people behind one address
    refused = [answer for answer in answers[60:] if answer.status_code == 429]
    assert refused and "Too many people came from your address" in refused[0].text
    assert visitor.get("/api/v1/me").status_code == 401


def test_a_name_that_looks_like_a_participant_is_not_taken_over(context, study):
    from storage.records import User
    from tests.storage.builders import START

    context.store.add_user(User(id="boss", name="tone:abc", role="admin", annotator_id=None, created_at=START))
    with pytest.raises(UserError, match="may not take part"):
        join(context.store, study, "abc")
    user = join(context.store, study, "def")
    context.store.append_event(actor="rosa", kind="user.disabled", subject=user.id)
    with pytest.raises(UserError, match="may not take part"):
        join(context.store, study, "def")
    with pytest.raises(UserError, match="already"):
        open_study(context.store, "tone", labels=2, actor="rosa")
    with pytest.raises(UserError, match="https://"):
        open_study(context.store, "other", labels=2, actor="rosa", return_url="javascript:alert(1)")


def test_abandoned_pairs_go_to_others():
    clock = Clock()
    store = open_store(clock=clock)
    fill(store, num_tasks=1, num_annotators=1)
    study = open_study(store, "tone", labels=1, actor="rosa")
    gone = join(store, study, "gone")
    [pair] = store.lease(gone.annotator_id or "", 1)
    assert store.lease("ann0", 1) == []  # somebody holds it
    clock.advance(LEASE_SECONDS + 1)
    [again] = store.lease("ann0", 1)
    assert again.task_id == pair.task_id
    late = store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a"), annotator_id=gone.annotator_id or "")
    assert late.status == "expired"
    [row] = participants(store, study)  # the clock of the tests lies in the past, so everybody is long quiet
    assert (row["labels"], row["held"], row["given_back"], row["state"]) == (0, 0, 1, "abandoned")
    store.close()


def test_researchers_open_follow_and_close_studies(visitor, context, tmp_path):
    _, secret = issue_token(context.store, name="rosa's", scope="research")
    header = {"authorization": f"Bearer {secret}"}
    made = visitor.post("/api/v1/crowd", json={"name": "tone", "labels": 3}, headers=header).json()
    assert made["path"].startswith("/join/") and "{{%PROLIFIC_PID%}}" in made["path"] and len(made["code"]) == 8
    assert visitor.get("/api/v1/crowd/tone", headers=header).json()["participants"] == []
    assert visitor.post("/api/v1/crowd/tone/close", headers=header).json()["closed"] is True
    assert studies(context.store)["tone"].closed
    assert visitor.get("/api/v1/crowd/nothing", headers=header).status_code == 422
    data = ["--data", str(tmp_path / "data")]
    with open_context(tmp_path / "data", create=True) as other:
        fill(other.store)
    run = CliRunner().invoke
    told = run(command_line, ["crowd", "open", "tone", "--labels", "3", "--code", "XYZ", *data])
    assert told.exit_code == 0 and "/join/" in told.stdout and "Completion code: XYZ, shown after 3" in told.stdout
    assert "Nobody has joined yet" in run(command_line, ["crowd", "show", "tone", *data]).stdout
    assert "closed" in run(command_line, ["crowd", "close", "tone", *data]).stdout
    assert "XYZ" in run(command_line, ["crowd", "list", *data]).stdout
