"""Pairs on which everybody agreed become training pairs with their answer; those that are contested do not."""

import json
import random

import pytest
from typer.testing import CliRunner

from annotate_app.annotators import exclude, find_annotator, known_of_annotators
from annotate_app.cli import app as command_line
from annotate_app.commands.compose import open_context
from annotate_app.handing_out import HandingOut
from annotate_app.unanimous import promote_unanimous
from storage.campaign import Campaign
from storage.errors import UserError
from storage.records import JudgmentInput
from tests.storage.builders import fill, make_task


def prefer(store, annotator_id, task_id, response_id):
    """Judge one task in favour of a response, whatever was shown first."""
    for pair in store.lease(annotator_id, 50, resume=True):
        if pair.task_id == task_id:
            verdict = "a" if pair.response_a_id == response_id else "b"
            return store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=verdict), annotator_id=annotator_id)
    raise AssertionError(f"{task_id} was not offered to {annotator_id}")


@pytest.fixture
def voted(store):
    """t0: three for q0-2. t1: two to one. t2: two for q2-1, the third has not judged."""
    fill(store, wanted=3)
    votes = {"ann0": ("q0-2", "q1-1", "q2-1"), "ann1": ("q0-2", "q1-1", "q2-1"), "ann2": ("q0-2", "q1-2")}
    for who, chosen in votes.items():
        for number, response_id in enumerate(chosen):
            prefer(store, who, f"t{number}", response_id)
    return store


def test_unanimous_pairs_become_training_pairs_once(voted):
    assert promote_unanimous(voted, 3, actor="rosa") == {"unanimous": 1, "pairs": 1}
    assert promote_unanimous(voted, 2, actor="rosa", limit=5) == {"unanimous": 2, "pairs": 1}
    assert promote_unanimous(voted, 2, actor="rosa") == {"unanimous": 2, "pairs": 0}
    gold = voted.query("SELECT id, response_2_id, selection_rule FROM tasks WHERE purpose = 'gold' ORDER BY seq").to_pylist()
    assert [row["response_2_id"] for row in gold] == ["q0-2", "q2-2"]
    answers = {event.subject: event.data["verdict"] for event in voted.list_events(kind_prefix="task.answer")}
    assert answers == {gold[0]["id"]: "b", gold[1]["id"]: "a"}
    voted.set_campaign(Campaign(pass_mark=0.5, num_training=2), actor="rosa")
    [pair] = voted.lease("ann0", 1)
    assert pair.purpose == "gold"
    told = voted.submit(JudgmentInput(lease_id=pair.lease_id, verdict="tie"), annotator_id="ann0").feedback
    assert told is not None and not told.right and told.explanation == "3 of 3 people preferred it."


def test_who_is_excluded_does_not_spoil_unanimity(voted):
    exclude(voted, find_annotator(voted, "ann2"), actor="rosa", reason="a test")
    assert promote_unanimous(voted, 2, actor="rosa") == {"unanimous": 3, "pairs": 3}
    with pytest.raises(UserError, match="one person is always of one mind"):
        promote_unanimous(voted, 1, actor="rosa")


def test_the_command_says_how_many(tmp_path):
    data = ["--data", str(tmp_path / "data")]
    with open_context(tmp_path / "data", create=True) as context:
        fill(context.store, wanted=3)
        for who in ("ann0", "ann1"):
            prefer(context.store, who, "t0", "q0-1")
    run = CliRunner().invoke
    told = run(command_line, ["prompts", "gold", "--from-unanimous", "2", "--json", *data])
    assert json.loads(told.stdout) == {"unanimous": 1, "pairs": 1}
    neither = run(command_line, ["prompts", "gold", *data])
    assert isinstance(neither.exception, UserError) and "one of them" in str(neither.exception)


def test_checks_come_silently_once_and_tell_how_often_somebody_is_right(context):
    store = context.store
    store.close_tasks([task.id for task in store.open_tasks()], actor="test", reason="others are wanted")
    store.add_tasks([make_task("agreed", "q0", "q0-1", "q0-2", wanted=2), make_task("plain", "q1", "q1-1", "q1-2", wanted=3)])
    for who in ("ann0", "ann1"):
        prefer(store, who, "agreed", "q0-2")
    assert promote_unanimous(store, 2, actor="rosa")["pairs"] == 1
    handing_out = HandingOut(store, random.Random(0))
    [real] = handing_out.lease("ann2", 1)
    assert real.task_id == "plain"  # no share of checks yet
    store.set_campaign(Campaign(check_share=0.5), actor="rosa")
    assert all(pair.task_id == "plain" for pair in handing_out.lease("ann0", 20, resume=True))  # ann0 made the answer known
    found = [pair for _ in range(20) for pair in handing_out.lease("ann2", 1)]
    [check] = found  # of forty places half would be checks, but nobody gets a pair twice
    assert check.purpose == "audit" and {check.response_a_id, check.response_b_id} == {"q0-1", "q0-2"}
    verdict = "a" if check.response_a_id == "q0-1" else "b"
    result = store.submit(JudgmentInput(lease_id=check.lease_id, verdict=verdict), annotator_id="ann2")
    assert result.feedback is None and result.training is None  # nobody is told
    people = {person["annotator_id"]: person for person in known_of_annotators(context)["annotators"]}
    assert people["ann2"]["known_right"] == (0, 1) and people["ann0"]["known_right"] is None
    assert store.count_judgments() == 3  # a check counts as one more judgment


def test_nobody_in_training_or_excluded_gets_a_check(context):
    store = context.store
    store.close_tasks([task.id for task in store.open_tasks()], actor="test", reason="others are wanted")
    store.add_tasks([make_task("agreed", "q0", "q0-1", "q0-2", wanted=2)])
    for who in ("ann0", "ann1"):
        prefer(store, who, "agreed", "q0-2")
    promote_unanimous(store, 2, actor="rosa")
    store.set_campaign(Campaign(check_share=0.5, pass_mark=1.0, num_training=1), actor="rosa")
    assert {pair.purpose for pair in HandingOut(store, random.Random(0)).lease("ann2", 20)} == {"gold"}
    store.set_campaign(Campaign(check_share=0.5), actor="rosa")
    exclude(store, find_annotator(store, "ann2"), actor="rosa", reason="a test")
    assert HandingOut(store, random.Random(0)).lease("ann2", 20) == []
