from datetime import timedelta
from typing import Any

import pytest

from annotate_app.triggers import Facts, has_triggers, next_round
from storage.campaign import Campaign, build_campaign

FACTS: dict[str, Any] = {"new_labels": 150, "all_labels": 400, "since_last": timedelta(hours=3), "information": 0.08}


def due(campaign: dict, **facts):
    return next_round(build_campaign(campaign), Facts(**{"running": None, "undecided": None, **FACTS, **facts}), 20)


def test_by_default_rounds_are_started_by_hand():
    assert not has_triggers(Campaign())
    assert due({}) == due({}, new_labels=10_000)
    assert due({}).sentence == "Rounds are started by hand."


@pytest.mark.parametrize(
    ("campaign", "facts", "reason"),
    [
        ({"round_every_labels": 151}, {}, None),
        ({"round_every_labels": 150}, {}, "150 new labels"),
        ({"round_every_hours": 3.1}, {}, None),
        ({"round_every_hours": 3}, {}, "3 hours have passed"),
        ({"round_every_hours": 3}, {"new_labels": 0}, None),  # there is nothing to learn from
        ({"round_every_hours": 3}, {"since_last": None, "new_labels": 0}, None),
        ({"round_below_bits": 0.08}, {}, None),
        ({"round_below_bits": 0.081}, {}, "the waiting pairs tell 0.080 bits each"),
        ({"round_below_bits": 0.05}, {"information": 0.0}, "no pair waits"),
        ({"round_below_bits": 0.05}, {"information": None}, None),  # nothing has scored the pairs yet
        ({"round_every_labels": 500, "round_every_hours": 2}, {}, "2 hours have passed"),  # whichever comes first
    ],
)
def test_each_trigger_fires_at_its_limit(campaign, facts, reason):
    assert due(campaign, **facts).reason == reason


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"running": "fit"}, "when the running fit has ended"),
        ({"undecided": 3}, "when people have decided about policy 3"),
        ({"all_labels": 19}, "only 19 of the 20 decided labels"),
    ],
)
def test_a_due_round_waits_for_what_it_needs_and_says_so(facts, told):
    found = due({"round_every_labels": 100, "gate": "human", "gate_share": 0.2}, **facts)
    assert found.reason is None
    assert told in found.sentence


def test_what_is_missing_is_told():
    sentence = due({"round_every_labels": 400, "round_every_hours": 24, "round_below_bits": 0.01}).sentence
    assert sentence == (
        "The next round begins after 250 more labels or in 21.0 hours or when waiting pairs tell less than 0.01 bits each,"
        " now 0.080."
    )
