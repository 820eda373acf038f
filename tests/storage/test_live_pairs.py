"""Live pairs: stored whole, held by their author alone, and open to nobody else, also after a restart."""

import pytest

from storage.duckdb_store import open_store
from storage.records import JudgmentInput
from tests.storage.builders import Clock, fill, judge, make_prompt, make_response, make_task


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "nashloop.duckdb"


@pytest.fixture
def store(path, clock):
    with_live = open_store(path, clock=clock)
    fill(with_live, num_tasks=1)
    yield with_live
    with_live.close()


def ask(store, annotator_id="ann0"):
    prompt = make_prompt("live", split="live")
    responses = [make_response(f"live-{k}", "live", role="live") for k in (1, 2)]
    task = make_task("live-task", "live", "live-1", "live-2", wanted=0, selection_rule="live", selection_prob=1.0)
    return store.add_live_pair(prompt, responses, task, annotator_id=annotator_id)


def test_the_author_judges_it_like_any_other_pair(store):
    pair = ask(store)
    assert (pair.prompt[0].content, pair.response_a_id, pair.response_b_id) == ("Question live?", "live-1", "live-2")
    assert ask(store) == pair  # a retry
    answer = JudgmentInput(lease_id=pair.lease_id, verdict="b")
    assert store.submit(answer, annotator_id="ann0").status == "stored"
    assert ask(store) is None
    [judgment] = store.list_judgments(annotator_id="ann0")
    assert (judgment.task_id, judgment.verdict) == ("live-task", "b")
    again = store.withdraw(judgment.id, annotator_id="ann0")
    assert again.response_a_id == "live-1" and again.supersedes == judgment.id


def test_nobody_else_is_given_it_even_when_its_lease_has_lapsed(store, clock, path):
    pair = ask(store)
    assert [task.id for task in store.open_tasks()] == ["t0"]
    clock.advance(3600)
    for who in ("ann1", "ann2"):
        assert "live-task" not in [leased.task_id for leased in store.lease(who, 5)]
    store.close()
    reopened = open_store(path, clock=clock)
    assert reopened.lease("ann2", 5) == []
    assert "live-task" in [leased.task_id for leased in reopened.lease("ann0", 5)]  # its author, again
    reopened.close()
    assert pair.expires_at < clock.now


def test_a_skipped_live_pair_goes_to_nobody(store):
    pair = ask(store)
    store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="skip"), annotator_id="ann0")
    assert [leased.task_id for leased in store.lease("ann1", 5)] == ["t0"]
    assert ask(store) is None


def test_all_of_it_is_stored_or_nothing(store):
    prompt, response = make_prompt("live", split="live"), make_response("live-1", "live", role="live")
    task = make_task("live-task", "live", "live-1", "ghost", wanted=0)
    with pytest.raises(ValueError, match="ghost"):
        store.add_live_pair(prompt, [response], task, annotator_id="ann0")
    assert store.list_prompts("live") == [] and store.list_responses(role="live") == []
    judge(store, "ann0")  # the queue goes on
