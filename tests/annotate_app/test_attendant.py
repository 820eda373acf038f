"""The attendant over a real store and a child process that obeys the directory contract: rounds that begin by themselves."""

import time
from datetime import timedelta

import pytest

from annotate_app.attendant import Attendant
from annotate_app.context import AppContext
from annotate_app.selection_front import is_front
from storage.campaign import build_campaign
from storage.records import JudgmentInput
from tests.annotate_app.test_rounds import FEW, build_service, fresh_store, label, serving

ROUND = {"preference": {"min_judgments": 5}, "selection": "near_tie"}


@pytest.fixture
def started(tmp_path):
    """A data directory after its first start, and the app's attendant."""
    store = fresh_store(tmp_path)
    rounds = build_service(store, tmp_path)
    rounds.ensure_started()
    rounds.wait(1, 30)
    context = AppContext(store=store, rounds=rounds, data_dir=tmp_path, session_secret="only for tests")
    yield context
    rounds.close(stop_jobs=True)
    store.close()


def campaign(context: AppContext, **values) -> None:
    context.store.set_campaign(build_campaign({"round": ROUND, **values}), actor="rosa")


def num_rounds(context: AppContext) -> int:
    return sum(round_.kind == "round" for round_ in context.store.list_rounds())


def test_a_round_begins_by_itself_after_so_many_labels_with_the_campaigns_settings(started):
    campaign(started, round_every_labels=20)
    attendant = Attendant(started)
    label(started.store, 19)
    attendant.look()
    assert num_rounds(started) == 0
    assert attendant.next_round().sentence == "The next round begins after 1 more labels."
    label(started.store, 1, "another")
    attendant.look()
    assert num_rounds(started) == 1
    done = started.rounds.wait(2, 30)
    assert done.settings["options"]["selection"] == "near_tie"
    [fired] = started.store.list_events(kind_prefix="trigger.fired")
    assert (fired.subject, fired.data) == (done.id, {"reason": "20 new labels"})
    attendant.look()  # the labels before it count no more
    assert num_rounds(started) == 1


def test_a_round_begins_by_schedule(started):
    campaign(started, round_every_hours=12)
    label(started.store, 8)
    now = started.store.list_judgments()[-1].submitted_at
    Attendant(started, clock=lambda: now + timedelta(hours=11.9)).look()
    assert num_rounds(started) == 0
    Attendant(started, clock=lambda: now + timedelta(hours=12)).look()
    assert num_rounds(started) == 1


def test_a_round_begins_when_the_queue_has_little_left_to_tell(started):
    label(started.store, 8)
    number = started.rounds.start(FEW, actor="rosa").number
    started.rounds.wait(number, 30)
    assert serving(started.store) == 1
    # its ensemble says 0 and 1 logits of every pair: p = .5 and .731, H(mean) - mean H = .961 - (1 + .840) / 2 = .041 bits
    campaign(started, round_below_bits=0.040)
    label(started.store, 8)
    Attendant(started).look()
    assert num_rounds(started) == 1
    campaign(started, round_below_bits=0.042)
    assert Attendant(started).next_round().reason == "the waiting pairs tell 0.041 bits each"
    Attendant(started).look()
    assert num_rounds(started) == 2


def test_the_thread_follows_votes_until_the_candidate_serves(started):
    campaign(started, gate="human", gate_share=0.5, round_every_labels=20)
    label(started.store, 8)
    number = started.rounds.start(FEW, actor="rosa").number
    done = started.rounds.wait(number, 30)
    assert done.message == "Policy 1. People decide, in blind comparisons with the serving policy."
    assert serving(started.store) == 0
    own = {r.id for r in started.store.list_responses(policy_id=done.new_policy_id, role="gate")}
    ann = started.store.get_annotator("ann")
    assert "people" not in Attendant(started).next_round().sentence
    for pair in started.store.lease(ann.id, 40):
        verdict = "a" if pair.response_a_id in own else "b"
        if pair.purpose == "gate":
            started.store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=verdict), annotator_id=ann.id)
    with Attendant(started).running():
        end = time.monotonic() + 20
        while serving(started.store) == 0 and time.monotonic() < end:
            time.sleep(0.1)
    assert serving(started.store) == 1
    assert "People prefer it" in (started.store.get_round(number).message or "")


def test_the_model_that_chooses_pairs_is_fitted_anew_after_every_batch_of_labels(started):
    campaign(started, refit_every_labels=25)
    store, attendant = started.store, Attendant(started)
    label(store, 24)
    attendant.look()
    assert [r.kind for r in store.list_rounds()] == ["generate"]
    label(store, 1, "another")
    attendant.look()
    assert [r.kind for r in store.list_rounds()] == ["fit", "generate"]
    done = started.rounds.wait(2, 30)
    assert done.status == "done" and done.settings["preference"]["num_heads"] == 16
    front = [task for task in store.open_tasks() if is_front(task)]
    assert any(task.selection_rule != "random" for task in front)  # the fit's ensemble chose
    attendant.look()
    assert len(store.list_rounds()) == 2  # the same labels are not fitted again


def test_nothing_is_fitted_by_itself_where_the_campaign_does_not_want_it(started):
    campaign(started, refit_every_labels=None)
    label(started.store, 30)
    Attendant(started).look()
    assert [r.kind for r in started.store.list_rounds()] == ["generate"]


def test_a_fit_in_the_background_makes_way_for_a_round(started):
    campaign(started, refit_every_labels=25)
    label(started.store, 30)
    Attendant(started).look()
    [fit] = [r for r in started.store.list_rounds() if r.kind == "fit"]
    number = started.rounds.start(FEW, actor="rosa").number  # would be refused if the fit held the accelerator
    assert started.rounds.wait(number, 30).status == "done"
    assert started.store.get_round(fit.number).status in ("cancelled", "done")
