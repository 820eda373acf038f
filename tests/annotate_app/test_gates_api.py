"""People's comparisons of policies over HTTP and in `nashloop round show`."""

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_token
from annotate_app.commands.rounds import _gate_text
from storage.campaign import build_campaign
from storage.records import JudgmentInput
from tests.annotate_app.finished_rounds import add_finished_round
from tests.storage.builders import make_prompt, make_response


@pytest.fixture
def rosa(app, context):
    """A researcher's client; policy 1 of round 1 is compared with policy 0, which serves, on eight held-out prompts."""
    store = context.store
    store.append_event(actor="system", kind="policy.promoted", subject="policy0")
    round_ = add_finished_round(context)
    store.add_prompts([make_prompt(f"h{k}", split="heldout") for k in range(8)])
    store.add_responses(
        [make_response(f"p{n}-h{k}", f"h{k}", policy_id=f"policy{n}", role="gate") for n in (0, 1) for k in range(8)]
    )
    store.set_campaign(build_campaign({"gate_share": 0.5}), actor="rosa")
    context.rounds._policies.compare(store.get_policy(round_.new_policy_id))
    _, secret = issue_token(store, name="console", scope="research")
    return TestClient(app, headers={"Authorization": f"Bearer {secret}"}, raise_server_exceptions=False)


def test_votes_bounds_and_what_is_still_needed_are_told(rosa, context):
    for pair in context.store.lease("ann0", 20):
        if pair.purpose == "gate":
            verdict = "a" if pair.response_a_id.startswith("p1-") else "b"
            context.store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=verdict), annotator_id="ann0")
    [gate] = rosa.get("/api/v1/gates").json()["gates"]
    assert (gate["candidate"], gate["opponent"]) == (1, 0)
    assert (gate["wins"], gate["ties"], gate["losses"], gate["pairs_waiting"]) == (8, 0, 0, 0)
    assert (gate["action"], gate["decided"]) == ("hold", None)
    assert gate["more_needed"] == 4  # twelve wins in a row decide
    assert rosa.get("/api/v1/rounds/1/gate").json() == gate
    text = _gate_text(gate)
    assert "policy 1 against 0" in text
    assert "about 4 more votes" in text


def test_a_round_that_people_do_not_vote_on_has_no_gate(rosa):
    answer = rosa.get("/api/v1/rounds/99/gate")
    assert answer.status_code == 404
    assert rosa.get("/api/v1/next-round").json() == {"reason": None, "sentence": "Rounds are started by hand."}


def test_annotators_are_not_told_which_pairs_are_of_a_gate(client, rosa):
    assert client.get("/api/v1/gates").status_code == 403
    leases = client.post("/api/v1/leases", json={"count": 8}).json()["leases"]
    assert len(leases) == 8
    assert len({frozenset(lease) for lease in leases}) == 1  # the same fields
    assert {lease["kind"] for lease in leases} == {"pair"}
    assert not any("gate" in str(value) or "policy" in str(value) for lease in leases for value in lease.values())


def test_people_are_asked_about_any_policy_that_answered_the_same_prompts(rosa, context):
    def ask(number: int):
        return rosa.post("/api/v1/gates", json={"policy": number})

    assert "serves" in ask(0).json()["error"]["message"]
    assert ask(1).json()["pairs_waiting"] == 8  # they are asked already
    add_finished_round(context, 2)
    assert "have not answered the same held-out prompts" in ask(2).json()["error"]["message"]
    context.store.add_responses([make_response("p2-h0", "h0", policy_id="policy2", role="gate")])
    answer = ask(2)
    assert (answer.status_code, answer.json()["opponent"], answer.json()["pairs_waiting"]) == (201, 0, 1)
    assert ask(99).status_code == 404
    context.store.set_campaign(build_campaign({}), actor="rosa")
    assert "gate_share is 0" in ask(2).json()["error"]["message"]


def test_the_console_tells_what_votes_and_triggers_will_decide(rosa, context):
    page = rosa.get("/api/v1/now.html").text
    assert "People compare policy 1 with policy 0. No votes yet." in page
    assert "next round" not in page
    context.store.set_campaign(build_campaign({"gate_share": 0.5, "round_every_labels": 400}), actor="rosa")
    assert "The next round begins after 400 more labels." in rosa.get("/api/v1/now.html").text
