"""What an answer may say over HTTP, corrections, and messages to researchers."""

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_token
from storage.campaign import Campaign

API = "/api/v1"


@pytest.fixture
def other(app, context):
    """A program that labels as ann1."""
    _, secret = issue_token(context.store, name="other", scope="label", annotator_handle="Annotator 1")
    return TestClient(app, headers={"Authorization": f"Bearer {secret}"}, raise_server_exceptions=False)


@pytest.fixture
def researcher(app, context):
    """A program of scope research that does not label."""
    _, secret = issue_token(context.store, name="study", scope="research")
    return TestClient(app, headers={"Authorization": f"Bearer {secret}"}, raise_server_exceptions=False)


def judge(client, **body):
    """Lease a pair and answer it."""
    [pair] = client.post(f"{API}/leases").json()["leases"]
    return client.post(f"{API}/judgments", json={"lease_id": pair["lease_id"], "verdict": "a"} | body)


def told(answer):
    assert answer.status_code == 422
    return answer.json()["error"]["message"]


def test_aspects_spans_and_reasons_are_kept_as_they_were_sent(client, context):
    context.store.set_campaign(Campaign(aspects=("helpful", "safe")), actor="rosa")
    spans = [{"side": "b", "start": 2, "end": 9, "note": "wrong"}, {"side": "a", "start": 0, "end": 1, "note": None}]
    said = {"aspects": {"helpful": 3, "safe": -1}, "spans": spans, "reasons": ["too long"], "strength": 2}
    answer = judge(client, **said)
    assert answer.status_code == 201
    assert {name: answer.json()["judgment"][name] for name in said} == said
    assert answer.json()["judgment"]["ranking"] is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"aspects": {"kind": 1}}, "aspects.kind is not an aspect of this campaign. Its aspects: helpful."),
        ({"aspects": {"helpful": 4}}, "aspects.helpful = 4"),
        ({"spans": [{"side": "a", "start": 5, "end": 5}]}, "from 5 to 5 marks nothing"),
        ({"spans": [{"side": "c", "start": 0, "end": 5}]}, "'c' was sent"),
        ({"spans": [{"side": "a", "start": 0, "end": 5}] * 21}, "at most 20"),
        ({"ranking": [["a"], ["b"]]}, "two responses were shown"),
        ({"rationale": "  too short  "}, "rationale has 9 characters, this campaign asks for 10"),
        ({"edited_text": "Better.", "rationale": "long enough"}, "does not ask for edits"),
        ({"verdict": None}, "verdict is missing"),
    ],
)
def test_what_was_not_asked_is_refused_and_nothing_is_stored(client, context, body, words):
    context.store.set_campaign(Campaign(aspects=("helpful",), min_rationale=10, allow_edits=False), actor="rosa")
    assert words in told(judge(client, **body))
    assert context.store.list_judgments() == []


def test_ties_and_skips_need_no_rationale(client, context):
    context.store.set_campaign(Campaign(min_rationale=10), actor="rosa")
    assert [judge(client, verdict=verdict).status_code for verdict in ("tie", "both_bad", "skip")] == [201, 201, 201]


def test_a_retry_is_recognised_although_the_campaign_asks_for_more_by_now(client, context):
    made = judge(client).json()["judgment"]["id"]
    context.store.set_campaign(Campaign(min_rationale=10), actor="rosa")
    assert client.post(f"{API}/judgments", json={"lease_id": made, "verdict": "a"}).status_code == 200


def test_a_correction_supersedes_and_needs_no_lease(client, context):
    made = judge(client, shown_at="2026-01-01T00:00:00Z").json()["judgment"]
    answer = client.post(f"{API}/judgments/{made['id']}/correct", json={"verdict": "b", "rationale": "Misread."})
    new = answer.json()["judgment"]
    assert (answer.status_code, new["supersedes"], new["verdict"], new["rationale"]) == (201, made["id"], "b", "Misread.")
    [standing] = context.store.list_judgments()
    assert standing.id == new["id"] != made["id"]
    before = context.store.get_judgment(made["id"])
    assert (before.verdict, before.response_a_id) == ("a", standing.response_a_id)
    # the place of the pair stays taken, and the correction can be corrected
    assert client.post(f"{API}/judgments/{new['id']}/correct", json={"verdict": "tie"}).status_code == 201
    assert [j.verdict for j in context.store.list_judgments()] == ["tie"]


def test_a_correction_sent_again_is_200_and_another_one_404(client, context):
    path = f"{API}/judgments/{judge(client).json()['judgment']['id']}/correct"
    first = client.post(path, json={"verdict": "b"})
    again = client.post(path, json={"verdict": "b"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert client.post(path, json={"verdict": "tie"}).status_code == 404
    assert len(context.store.list_judgments()) == 1


def test_only_ones_own_standing_judgments_can_be_corrected(client, other, context):
    made = judge(client).json()["judgment"]["id"]
    assert other.post(f"{API}/judgments/{made}/correct", json={"verdict": "b"}).status_code == 404
    assert client.post(f"{API}/judgments/nothing/correct", json={"verdict": "b"}).status_code == 404
    client.post(f"{API}/judgments/{made}/withdraw")
    assert client.post(f"{API}/judgments/{made}/correct", json={"verdict": "b"}).status_code == 404
    assert context.store.list_judgments() == []


def test_a_corrected_judgment_cannot_be_taken_back_but_its_correction_can(client, context):
    made = judge(client).json()["judgment"]["id"]
    new = client.post(f"{API}/judgments/{made}/correct", json={"verdict": "b"}).json()["judgment"]["id"]
    assert client.post(f"{API}/judgments/{made}/withdraw").status_code == 404
    [lease] = [client.post(f"{API}/judgments/{new}/withdraw").json()["lease"]]
    assert lease["supersedes"] == new
    assert context.store.list_judgments() == []


def test_a_flag_reaches_researchers_once_and_the_pair_stays_open(client, researcher):
    [pair] = client.post(f"{API}/leases").json()["leases"]
    flag = {"lease_id": pair["lease_id"], "reason": "private data", "comment": "A phone number."}
    answers = [client.post(f"{API}/flags", json=flag) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    [shown] = researcher.get(f"{API}/flags").json()["flags"]
    assert (shown["reason"], shown["comment"], shown["annotator"]) == ("private data", "A phone number.", "Annotator 0")
    assert (shown["task_id"], shown["prompt"], shown["verdict"]) == ("t0", "Question q0?", None)
    assert client.post(f"{API}/judgments", json={"lease_id": pair["lease_id"], "verdict": "tie"}).status_code == 201
    assert researcher.get(f"{API}/flags").json()["flags"][0]["verdict"] == "tie"


def test_notes_are_about_a_pair_or_not(client, researcher):
    [pair] = client.post(f"{API}/leases").json()["leases"]
    assert client.post(f"{API}/notes", json={"text": "The guidelines contradict themselves."}).status_code == 201
    assert client.post(f"{API}/notes", json={"text": "This one?", "lease_id": pair["lease_id"]}).status_code == 201
    newest, first = researcher.get(f"{API}/notes").json()["notes"]
    assert (newest["text"], newest["task_id"], newest["prompt"]) == ("This one?", "t0", "Question q0?")
    assert (first["text"], first["task_id"], first["annotator"]) == (
        "The guidelines contradict themselves.", None, "Annotator 0",
    )  # fmt: skip


def test_flags_and_notes_need_a_lease_of_ones_own_and_are_read_by_researchers_only(client, other):
    [pair] = client.post(f"{API}/leases").json()["leases"]
    flag = {"lease_id": pair["lease_id"], "reason": "spam"}
    assert other.post(f"{API}/flags", json=flag).status_code == 404
    assert other.post(f"{API}/notes", json={"text": "x", "lease_id": pair["lease_id"]}).status_code == 404
    assert client.post(f"{API}/flags", json=flag | {"reason": " "}).status_code == 422
    assert [client.get(f"{API}/{what}").status_code for what in ("flags", "notes")] == [403, 403]


def test_a_ranking_that_does_not_name_the_two_shown_first_is_refused(client):
    [pair] = client.post(f"{API}/leases").json()["leases"]
    for ranking in ([], [["a"]], [["b"]], [["a", "a"]], [["c"]]):
        for path in ("judgments", f"judgments/{pair['lease_id']}/correct"):
            body = {"ranking": ranking} | ({"lease_id": pair["lease_id"]} if path == "judgments" else {})
            answer = client.post(f"{API}/{path}", json=body)
            assert answer.status_code == 422, (path, ranking, answer.text)
            assert "must name each of a, b once" in answer.json()["error"]["message"]
