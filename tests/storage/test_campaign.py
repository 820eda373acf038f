"""The campaign record: its defaults, what it refuses, and that the last one is kept over a restart."""

import pytest

from storage.campaign import Campaign, build_campaign, campaign_values
from storage.errors import UserError
from tests.storage.builders import fill, judge


def test_a_new_store_has_the_default_campaign(store):
    assert store.campaign() == Campaign()
    assert store.list_events(kind_prefix="campaign.") == []


def test_the_campaign_set_last_counts_after_a_restart_too(reopen):
    store = reopen()
    store.set_campaign(Campaign(aspects=("helpful",), overlap=3), actor="rosa")
    last = Campaign(aspects=("helpful", "safe"), pass_mark=0.8, num_training=5, round={"update": {"rule": "onpo"}})
    store.set_campaign(last, actor="rosa")
    assert store.campaign() == last
    assert reopen().campaign() == last


def test_setting_the_same_campaign_again_writes_nothing(store):
    for _ in range(2):
        store.set_campaign(Campaign(min_rationale=10), actor="rosa")
    [event] = store.list_events(kind_prefix="campaign.")
    assert (event.kind, event.actor, event.data["min_rationale"]) == ("campaign.changed", "rosa", 10)


def test_plain_values_and_back():
    campaign = Campaign(reason_tags=("too long", "wrong"), break_minutes=45, price_per_label=0.2, guidelines="# Look")
    assert build_campaign(campaign_values(campaign)) == campaign


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"overlap": 0}, "overlap = 0"),
        ({"min_rationale": "many"}, "min_rationale = 'many'"),
        ({"aspects": ["safe", " "]}, "aspects.1 = ' '"),
        ({"aspects": ["safe", "safe"]}, "names 'safe' twice"),
        ({"language": "English"}, "language = 'English'"),
        ({"responses_per_prompt": 6}, "responses_per_prompt = 6"),
        ({"pass_mark": 0.8}, "needs num_training"),
        ({"pass_mark": 80, "num_training": 5}, "pass_mark = 80"),
        ({"budget": 5}, "'budget' is not a field"),
    ],
)
def test_a_wrong_value_is_named(values, told):
    with pytest.raises(UserError, match="campaign: ") as caught:
        build_campaign(values)
    assert told in str(caught.value)


def test_the_budget_counts_labels_and_pairs_handed_out_and_forgets_lapsed_ones(reopen, clock):
    store = reopen()
    fill(store, num_tasks=6)
    store.set_campaign(Campaign(budget_labels=3), actor="rosa")
    judge(store, "ann0")
    assert len(store.lease("ann1", 9)) == 2
    assert (store.lease("ann0", 1), store.budget_spent()) == ([], True)
    clock.advance(601)  # nobody answered
    assert not store.budget_spent()
    judge(store, "ann0")
    store = reopen()
    assert not store.budget_spent()
    judge(store, "ann0")
    assert (store.budget_spent(), reopen().budget_spent()) == (True, True)


def test_without_a_budget_everything_is_handed_out(store):
    fill(store, num_tasks=6)
    assert len(store.lease("ann0", 9)) == 6
    assert not store.budget_spent()
