"""Comparisons of policies by people, on a real store: their pairs in the queue, and what the votes bring about."""

import random
import threading
from itertools import islice

import pytest

from annotate_app.human_gate import gate_pairs, places_among
from annotate_app.labelling_queue import QueueOptions
from annotate_app.policies import PolicyService
from storage.campaign import build_campaign
from storage.errors import UserError
from storage.records import Annotator, JudgmentInput, Policy
from tests.storage.builders import START, Clock, fill, make_policy, make_prompt, make_response, make_task

NUM_HELDOUT = 24


@pytest.fixture
def policies(store, tmp_path):
    """Policy 0 serves with twelve label pairs; policies 1 and 2 have answered the same held-out prompts. People decide."""
    fill(store, num_tasks=0, num_annotators=4)
    names = [f"q{k:02d}" for k in range(12)]
    store.add_prompts([make_prompt(name) for name in names])
    store.add_responses([make_response(f"{name}-{k}", name) for name in names for k in (1, 2)])
    store.add_tasks([make_task(f"t-{n}", n, f"{n}-1", f"{n}-2", priority=-k / 12) for k, n in enumerate(names)])
    store.append_event(actor="system", kind="policy.promoted", subject="policy0")
    store.add_prompts([make_prompt(f"h{k:02d}", split="heldout") for k in range(NUM_HELDOUT)])
    store.add_policy(make_policy(1, parent_id="policy0"))
    store.add_policy(make_policy(2, parent_id="policy0"))
    store.add_responses(
        [
            make_response(f"p{n}-h{k:02d}-{i}", f"h{k:02d}", policy_id=f"policy{n}", role="gate")
            for n in range(3)
            for k in range(NUM_HELDOUT)
            for i in range(2)
        ]
    )
    service = PolicyService(store, tmp_path, QueueOptions(overlap=1), Clock(), threading.RLock())
    campaign(store)
    return service


def campaign(store, **values) -> None:
    store.set_campaign(build_campaign({"gate": "human", "gate_share": 0.25, **values}), actor="rosa")


def policy(store, number: int) -> Policy:
    return store.get_policy(f"policy{number}")


def gate_tasks(store) -> list:
    return [task for task in store.open_tasks() if task.purpose == "gate"]


def vote(store, service, winner: str, most: int, *, annotators: int = 4) -> int:
    """Annotators take turns; on gate pairs they prefer the named policy's response. Returns the gate votes given."""
    given = 0
    for turn in range(1000):
        who = f"ann{turn % annotators}"
        leased = store.lease(who, 1)
        if not leased or given == most:
            break
        [pair] = leased
        verdict = "a" if pair.response_a_id.startswith(f"p{winner}-") else "b"
        store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=verdict), annotator_id=who)
        if pair.purpose == "gate":
            given += 1
            service.follow_votes()
    return given


def test_the_pairs_of_a_comparison_stand_in_the_queue_at_the_campaigns_share(store, policies):
    policies.compare(policy(store, 1))
    assert len(gate_tasks(store)) == 20
    handed_out = [pair.purpose for pair in store.lease("ann0", 100)]
    before = [handed_out[:place].count("label") for place, purpose in enumerate(handed_out) if purpose == "gate"]
    # one of the gate for three label pairs, each at random in its own three, until the twelve label pairs are used up
    assert all(3 * k <= labels <= 3 * (k + 1) for k, labels in enumerate(before[:4]))
    assert before[:4] != [3, 6, 9, 12]
    assert before[4:] == [12] * 16
    policies.compare(policy(store, 1))  # again, as after a crash
    assert len(gate_tasks(store)) == 20


def test_pairs_that_others_were_put_before_come_back_near_the_head(store, policies):
    policies.compare(policy(store, 1))
    answered = 0
    for pair in store.lease("ann0", 4):
        answered += pair.purpose == "gate"
        store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a"), annotator_id="ann0")
    names = [f"new{k:03d}" for k in range(90)]
    store.add_prompts([make_prompt(name) for name in names])
    store.add_responses([make_response(f"{name}-{k}", name) for name in names for k in (1, 2)])
    store.add_tasks([make_task(f"t-{n}", n, f"{n}-1", f"{n}-2", priority=5 - k / 100) for k, n in enumerate(names)])
    policies.follow_votes()
    assert len(gate_tasks(store)) == 8  # with the next 24 others they are a quarter
    assert min(task.priority for task in gate_tasks(store)) >= 5 - 24 / 100
    rows = store.query("SELECT response_1_id, response_2_id, num_made FROM task_status WHERE purpose = 'gate'").to_pylist()
    again = {(row["response_1_id"], row["response_2_id"]) for row in rows}
    assert len(again) == 20  # the same pairs
    assert answered == sum(row["num_made"] for row in rows) > 0


def test_the_pairs_are_of_both_policies_on_one_heldout_prompt_and_each_prompt_comes_first_once(store, policies):
    policies.compare(policy(store, 1))
    tasks = gate_tasks(store)
    assert len({task.prompt_id for task in tasks}) == 20
    for task in tasks:
        assert task.response_1_id.startswith(f"p1-{task.prompt_id}")
        assert task.response_2_id.startswith(f"p0-{task.prompt_id}")


def test_the_candidate_serves_once_people_prefer_it_and_the_round_says_so(store, policies):
    policies.compare(policy(store, 1))
    vote(store, policies, "1", most=11)
    assert store.serving_policy().id == "policy0"
    vote(store, policies, "1", most=1)  # the twelfth win in a row: test_gate.py has the arithmetic
    assert store.serving_policy().id == "policy1"
    [promotion] = [e for e in store.list_events(kind_prefix="policy.promoted") if e.subject == "policy1"]
    assert promotion.actor == "system"
    assert "win rate 1.00" in promotion.data["reason"]


def test_a_candidate_that_people_do_not_like_is_retired_and_its_pairs_are_closed(store, policies):
    policies.compare(policy(store, 1))
    vote(store, policies, "0", most=12)
    assert store.serving_policy().id == "policy0"
    assert policy(store, 1).status == "retired"
    assert gate_tasks(store) == []
    with pytest.raises(UserError, match="give a reason"):
        policies.promote("policy1", actor="rosa", reason=None)
    policies.promote("policy1", actor="rosa", reason="shorter answers are wanted")
    [overruled] = store.list_events(kind_prefix="gate.overruled")
    assert (overruled.actor, overruled.data["reason"]) == ("rosa", "shorter answers are wanted")
    policies.follow_votes()
    assert store.serving_policy().id == "policy1"  # who overrules votes is not overruled by them


def test_a_serving_policy_is_rolled_back_when_people_turn_out_to_prefer_the_one_before(store, policies):
    campaign(store, gate="model")
    policies.compare(policy(store, 1))
    policies.put_in_service(policy(store, 1), actor="system", reason="the model expects it to win")
    vote(store, policies, "0", most=12)
    assert store.serving_policy().id == "policy0"
    assert policy(store, 1).status == "retired"
    assert gate_tasks(store) == []


def test_with_the_gate_by_hand_votes_only_tell(store, policies):
    campaign(store, gate="manual")
    policies.compare(policy(store, 1))
    vote(store, policies, "1", most=15)
    assert store.serving_policy().id == "policy0"
    [comparison] = policies.comparisons.all()
    assert policies.comparisons.standing(comparison).action == "promote"
    policies.promote("policy1", actor="rosa", reason=None)
    assert store.serving_policy().id == "policy1"


def test_promoting_before_people_have_decided_needs_a_reason(store, policies):
    policies.compare(policy(store, 1))
    with pytest.raises(UserError, match="No votes yet"):
        policies.promote("policy1", actor="rosa", reason=None)


def test_a_comparison_ends_when_a_third_policy_serves(store, policies):
    policies.compare(policy(store, 1))
    policies.promote("policy2", actor="rosa", reason=None)
    policies.follow_votes()
    [comparison] = policies.comparisons.all()
    assert comparison.decided.data["action"] == "stopped"
    assert gate_tasks(store) == []


def test_a_rollback_by_hand_is_not_undone_by_votes(store, policies):
    policies.compare(policy(store, 1))
    vote(store, policies, "1", most=12)
    assert store.serving_policy().id == "policy1"
    policies.rollback(actor="rosa", reason="it is rude")
    policies.follow_votes()
    assert store.serving_policy().id == "policy0"


def test_a_comparison_ends_undecided_with_its_most_votes(store, policies):
    campaign(store, gate_votes=20)
    policies.compare(policy(store, 1))
    for turn in range(40):
        for pair in store.lease("ann0", 1):
            favoured = "01"[turn % 2] if pair.purpose == "gate" else "1"
            verdict = "a" if pair.response_a_id.startswith(f"p{favoured}-") else "b"
            store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=verdict), annotator_id="ann0")
            policies.follow_votes()
    [comparison] = policies.comparisons.all()
    assert comparison.decided.data["action"] == "stopped"
    assert comparison.decided.data["figures"]["wins"] + comparison.decided.data["figures"]["losses"] == 20


def test_without_a_share_nobody_is_asked(store, policies):
    campaign(store, gate="model", gate_share=0)
    policies.compare(policy(store, 1))
    assert gate_tasks(store) == []
    with pytest.raises(UserError, match="gate_share"):
        campaign(store, gate_share=0)


def test_equal_texts_are_not_asked_and_no_response_comes_twice_before_all_came_once():
    ours = [make_response(f"a{k}", "q", text=f"text {k}") for k in range(3)]
    theirs = [make_response(f"b{k}", "q", text=f"text {k + 1}") for k in range(3)]
    pairs = gate_pairs(ours, theirs, seed="x")
    assert len(pairs) == 7  # nine less text 1 and text 2 against themselves
    assert {(x.text, y.text) for x, y in pairs} == {(f"text {i}", f"text {j}") for i in range(3) for j in range(1, 4) if i != j}
    complete = gate_pairs(ours, [make_response(f"c{k}", "q", text=f"other {k}") for k in range(3)], seed="x")
    assert len({x.id for x, _ in complete[:3]}) == len({y.id for _, y in complete[:3]}) == 3


def test_places_count_the_judgments_still_wanted_of_the_other_pairs():
    class Middle(random.Random):
        def random(self) -> float:
            return 0.5

    queue = [{"priority": -k, "left": 2} for k in range(6)]
    # a share of one fifth: in the middle of the first, second, third four others, so after 2, 6, 10 of them: pairs 0, 2, 4
    assert list(islice(places_among(queue, 0.2, Middle(), after=0), 4)) == [0, -2, -4, -5]  # the end takes all that are left
    assert list(islice(places_among(queue, 0.2, Middle(), after=1), 2)) == [-2, -4]
    assert list(islice(places_among(queue, 0.5, random.Random(0), after=90), 2)) == [-5, -5]
    assert list(islice(places_among([], 0.2, random.Random(0), after=0), 2)) == [0.0, 0.0]


def test_votes_of_the_gate_are_kept_from_training_unless_asked(store, policies, tmp_path):
    from storage.contract.settings import build_settings
    from storage.round_export import export_job

    def num_judged(number: int) -> int:
        import pyarrow.parquet as pq

        settings = build_settings({"preference": {"min_judgments": 1}})
        job = tmp_path / "jobs" / f"{number:04d}-fit"
        export_job(store, job, settings, kind="fit", number=number, policy_id="policy0")
        return pq.read_table(job / "judgments.parquet").num_rows

    store.add_annotator(Annotator(id="ann9", handle="Nine", kind="human", created_at=START))
    policies.compare(policy(store, 1))
    for pair in store.lease("ann9", 8):
        store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a"), annotator_id="ann9")
    assert num_judged(1) == 6  # two of the eight were the gate's
    campaign(store, gate_trains=True)
    assert num_judged(2) == 8
