"""Queues of rankings: which responses are ranked together, filling again, switching between pairs and rankings."""

import random
from collections import Counter

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_token
from annotate_app.labelling_queue import QueueOptions, make_tasks
from annotate_app.pair_selection import Pair
from annotate_app.selection_draws import UNIFORM_SHARE, select_sets
from storage.campaign import Campaign
from storage.records import Annotator, JudgmentInput
from tests.annotate_app.test_candidates import NOW, add_policy
from tests.storage.builders import make_prompt, make_response

API = "/api/v1"
ABCD = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]


@pytest.fixture
def queue(store):
    """A store with the prompts p0 and p1 and the annotator ann."""
    store.add_prompts([make_prompt("p0"), make_prompt("p1")])
    store.add_annotator(Annotator(id="ann", handle="ann", kind="human", created_at=NOW))
    return store


def pairs(*two, logit=None):
    return [Pair(prompt_id="p", response_1_id=x, response_2_id=y, mean_logit=logit) for x, y in two]


def test_all_responses_are_one_set_when_there_are_no_more():
    [chosen] = select_sets(pairs(*ABCD), "random", rng=random.Random(0), size=5)
    assert (sorted(chosen.response_ids), chosen.probability, chosen.score) == (["a", "b", "c", "d"], 1.0, None)


def test_sets_are_drawn_by_the_scores_of_their_pairs():
    # near_tie scores: a pair at logit 0 counts 1, one at logit 40 nothing. Only b-c-d holds three undecided pairs, the three
    # sets with a hold one each: 3 of 6, and 1 of 6 each.
    some = pairs(("b", "c"), ("b", "d"), ("c", "d"), logit=0.0) + pairs(("a", "b"), ("a", "c"), ("a", "d"), logit=40.0)
    drawn = Counter(
        tuple(sorted(chosen.response_ids))
        for seed in range(4000)
        for chosen in select_sets(some, "near_tie", rng=random.Random(seed), size=3)
    )
    expected = UNIFORM_SHARE / 4 + (1 - UNIFORM_SHARE) * 3 / 6
    assert drawn["b", "c", "d"] / 4000 == pytest.approx(expected, abs=0.03)  # four standard errors
    [chosen] = (c for c in select_sets(some, "near_tie", rng=random.Random(1), size=3))
    part = 3 / 6 if set(chosen.response_ids) == set("bcd") else 1 / 6
    assert chosen.probability == pytest.approx(UNIFORM_SHARE / 4 + (1 - UNIFORM_SHARE) * part)


def fill_queue(store, tmp_path, policy, promotion, **options):
    return make_tasks(store, tmp_path, policy, promotion, QueueOptions(**options), now=NOW)


def shown(store):
    """Number of responses of each open task by prompt."""
    return Counter((task.prompt_id, len(task.shown_ids)) for task in store.open_tasks())


def test_each_prompt_is_one_ranking_and_two_different_texts_are_a_pair(queue, tmp_path):
    queue.set_campaign(Campaign(responses_per_prompt=4, overlap=3), actor="rosa")
    policy, promotion = add_policy(queue, 0, {"p0": ["a", "b", "c", "d", "c "], "p1": ["x", "y", "x"]})
    assert fill_queue(queue, tmp_path, policy, promotion) == 2
    assert shown(queue) == {("p0", 4): 1, ("p1", 2): 1}
    assert {task.wanted for task in queue.open_tasks()} == {3}
    texts = {response.id: response.text.strip() for response in queue.list_responses()}
    [ranking] = [task for task in queue.open_tasks() if task.more_response_ids]
    assert sorted(texts[i] for i in ranking.shown_ids) == ["a", "b", "c", "d"]
    assert fill_queue(queue, tmp_path, policy, promotion) == 0


def test_switching_closes_the_other_kind_and_back_again_brings_it_back(queue, tmp_path):
    policy, promotion = add_policy(queue, 0, {"p0": ["a", "b", "c"]})
    assert fill_queue(queue, tmp_path, policy, promotion) == 3
    [pair] = queue.lease("ann", 1)
    queue.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a"), annotator_id="ann")
    queue.set_campaign(Campaign(responses_per_prompt=3), actor="rosa")
    assert fill_queue(queue, tmp_path, policy, promotion) == 1
    assert shown(queue) == {("p0", 3): 1}
    queue.set_campaign(Campaign(), actor="rosa")
    assert fill_queue(queue, tmp_path, policy, promotion) == 2  # the judged pair is not asked again
    assert shown(queue) == {("p0", 2): 2}
    queue.set_campaign(Campaign(responses_per_prompt=3), actor="rosa")
    assert fill_queue(queue, tmp_path, policy, promotion) == 1
    [leased] = queue.lease("ann", 1)
    assert len(leased.more_responses) == 1
    ranking = JudgmentInput(lease_id=leased.lease_id, verdict="tie", ranking=(("a", "b", "c"),))
    queue.submit(ranking, annotator_id="ann")
    for campaign in (Campaign(responses_per_prompt=3), Campaign()):  # everything is judged
        queue.set_campaign(campaign, actor="rosa")
        assert fill_queue(queue, tmp_path, policy, promotion) == 0


def test_the_campaigns_overlap_counts_unless_a_round_says_otherwise(queue, tmp_path):
    queue.set_campaign(Campaign(overlap=2), actor="rosa")
    policy, promotion = add_policy(queue, 0, {"p0": ["a", "b"]})
    fill_queue(queue, tmp_path, policy, promotion)
    assert [task.wanted for task in queue.open_tasks()] == [2]
    newer, promoted = add_policy(queue, 1, {"p0": ["a", "b"]})
    fill_queue(queue, tmp_path, newer, promoted, overlap=1)
    assert [task.wanted for task in queue.open_tasks()] == [1]


def test_setting_the_campaign_over_http_turns_the_queue_into_rankings_which_are_answered_in_letters(app, context):
    store = context.store
    store.close_tasks([task.id for task in store.open_tasks()], actor="system", reason="rankings are tested")
    store.add_responses([make_response(f"q0-{k}", "q0", created_at=NOW) for k in (3, 4)])
    store.append_event(actor="system", kind="policy.promoted", subject="policy0")
    _, secret = issue_token(store, name="study", scope="research", annotator_handle="Annotator 0")
    client = TestClient(app, headers={"Authorization": f"Bearer {secret}"})
    assert client.put(f"{API}/campaign", json={"responses_per_prompt": 4}).status_code == 200
    leases = client.post(f"{API}/leases", json={"count": 9}).json()["leases"]
    assert sorted(len(lease.get("responses", [])) for lease in leases) == [0, 0, 4]
    [lease] = [lease for lease in leases if lease["kind"] == "ranking"]
    assert [response["label"] for response in lease["responses"]] == ["a", "b", "c", "d"]
    said = {"lease_id": lease["lease_id"], "ranking": [["c"], ["b", "d"], ["a"]]}
    answer = client.post(f"{API}/judgments", json=said)
    assert (answer.status_code, answer.json()["judgment"]["verdict"]) == (201, "b")
    assert answer.json()["judgment"]["ranking"] == said["ranking"]
    assert client.post(f"{API}/judgments", json=said).status_code == 200
    [past] = client.get(f"{API}/me/judgments").json()["judgments"]
    assert (past["kind"], past["ranking"], past["responses"]) == ("ranking", said["ranking"], lease["responses"])
    assert not {"response_a_id", "more_response_ids"} & set(past)
    corrected = client.post(f"{API}/judgments/{past['id']}/correct", json={"ranking": [["a"], ["b"], ["c"], ["d"]]})
    assert corrected.json()["judgment"]["verdict"] == "a"
    bad = client.post(f"{API}/judgments", json=said | {"ranking": [["c"], ["b"]]})
    assert (bad.status_code, "once" in bad.json()["error"]["message"]) == (422, True)
