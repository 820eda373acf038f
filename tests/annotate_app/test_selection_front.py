"""The front of the queue over a real store in memory."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotate_app.labelling_queue import QueueOptions, make_tasks, renew_front
from annotate_app.selection_front import FRONT, is_front, is_short
from annotate_app.selection_queue import longer_wins, next_places
from storage.contract.jobs import artifact_dir
from storage.contract.schemas import PAIR_SCORES
from storage.duckdb_store import open_store
from storage.records import Annotator, JudgmentInput, Message, Policy, Prompt, Response, Round

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NUM_PROMPTS = 30
OPTIONS = QueueOptions(selection="mix")


@pytest.fixture
def queue(tmp_path):
    """A store with 30 prompts of four candidates, the policy and its promotion, and a function that writes scores of a fit."""
    store = open_store(None)
    message = (Message(role="user", content="?"),)
    store.add_prompts(
        [Prompt(id=f"p{n:02d}", messages=message, split="train", source="t", created_at=NOW) for n in range(NUM_PROMPTS)]
    )
    policy = Policy(
        id="policy", number=0, base_model="m", base_revision=None, adapter_path=None, adapter_sha256=None, parent_id=None,
        round_id=None, created_at=NOW,
    )  # fmt: skip
    store.add_policy(policy)
    given = {"token_ids": (1,), "sum_logp": -1.0, "finish_reason": "stop", "sampler": {}, "seed": 0, "role": "candidate"}
    ids = [(f"p{n:02d}", f"p{n:02d}-{k}") for n in range(NUM_PROMPTS) for k in range(4)]
    store.add_responses(
        [Response(id=i, prompt_id=p, policy_id="policy", text=i + "." * int(i[-1]), created_at=NOW, **given) for p, i in ids]
    )
    promotion = store.append_event(actor="test", kind="policy.promoted", subject="policy")
    store.add_annotator(Annotator(id="ann", handle="ann", kind="human", created_at=NOW))

    def fit(number: int, loud: set[str]) -> None:
        """Members disagree about prompts of ``loud`` and agree about the others."""
        round_ = Round(
            id=f"fit{number}", number=number, kind="fit", parent_policy_id="policy", new_policy_id=None,
            job_dir=f"jobs/{number:04d}-fit", settings={}, created_at=NOW,
        )  # fmt: skip
        store.add_round(round_)
        directory = artifact_dir(tmp_path / round_.job_dir)
        directory.mkdir(parents=True)
        rng = np.random.default_rng(number)
        rows = [
            {
                "prompt_id": f"p{n:02d}",
                "response_1_id": f"p{n:02d}-{i}",
                "response_2_id": f"p{n:02d}-{j}",
                "mean_logit": 0.0,
                "ensemble_logits": (rng.normal(size=8) * (3.0 if f"p{n:02d}" in loud else 0.01)).tolist(),
            }
            for n in range(NUM_PROMPTS)
            for i in range(4)
            for j in range(i + 1, 4)
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=PAIR_SCORES), directory / "pair_scores.parquet")

    yield store, policy, promotion, fit
    store.close()


def judge(store, num: int) -> list:
    pairs = store.lease("ann", num)
    for pair in pairs:
        store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a", strength=2), annotator_id="ann")
    return pairs


def renew(queue, tmp_path, *, minute: int = 0) -> int:
    store, policy, promotion, _ = queue
    return renew_front(store, tmp_path, policy, promotion, OPTIONS, now=NOW + timedelta(minutes=minute))


def fill(queue, tmp_path) -> int:
    store, policy, promotion, _ = queue
    return make_tasks(store, tmp_path, policy, promotion, OPTIONS, now=NOW)


def test_before_a_model_is_fitted_everything_is_random_with_its_probability(queue, tmp_path):
    store = queue[0]
    assert fill(queue, tmp_path) == 6 * NUM_PROMPTS and renew(queue, tmp_path) == 0
    tasks = sorted(store.open_tasks(), key=lambda task: -task.priority)
    assert {task.selection_rule for task in tasks} == {"random"} and not any(map(is_front, tasks))
    assert [task.selection_prob for task in tasks[:3]] == pytest.approx([1 / 180, 1 / 179, 1 / 178])  # pairs left
    assert is_short(store)


def test_the_front_asks_what_the_model_does_not_know_and_takes_its_pairs_from_behind(queue, tmp_path):
    store, _, _, fit = queue
    fill(queue, tmp_path)
    loud = {f"p{n:02d}" for n in range(12)}  # 72 of 180 pairs
    fit(1, loud)
    made = renew(queue, tmp_path)
    front = [task for task in store.open_tasks() if is_front(task)]
    assert len(front) == made and sum(task.wanted for task in front) >= FRONT and not is_short(store)
    chosen = [task for task in front if task.selection_rule in ("d_optimal", "bald")]
    assert len(chosen) > made / 2 and all(task.prompt_id in loud and task.selection_score for task in chosen)
    assert {task.purpose for task in front} <= {"label", "audit", "repeat"}
    assert all(task.selection_score is None for task in front if task not in chosen)
    pairs = [frozenset(task.shown_ids) for task in store.open_tasks() if task.purpose == "label"]
    assert len(pairs) == len(set(pairs))  # nothing is asked twice
    assert {pair.task_id for pair in store.lease("ann", 5)} <= {task.id for task in front}


def test_a_newer_model_replaces_what_was_not_handed_out(queue, tmp_path):
    store, _, _, fit = queue
    fill(queue, tmp_path)
    fit(1, {f"p{n:02d}" for n in range(12)})
    renew(queue, tmp_path)
    judged = {pair.task_id for pair in judge(store, 10)}
    held = {pair.task_id for pair in store.lease("ann", 3)}
    fit(2, {f"p{n:02d}" for n in range(18, 30)})
    renew(queue, tmp_path, minute=1)
    front = {task.id: task for task in store.open_tasks() if is_front(task)}
    assert held <= front.keys() and not judged & {i for i, t in front.items() if t.purpose == "label"}
    fresh = [task for task in front.values() if task.id not in held and task.selection_rule in ("d_optimal", "bald")]
    assert fresh and all(task.prompt_id >= "p18" for task in fresh)
    assert fill(queue, tmp_path) >= 0  # what the old front had waits behind again
    known = {frozenset(t.shown_ids) for t in store.open_tasks() if t.purpose != "repeat"}
    known |= {frozenset(j.shown_ids) for j in store.list_judgments()}
    assert len(known) == 6 * NUM_PROMPTS


def test_people_who_label_on_are_given_every_pair_and_then_the_front_ends(queue, tmp_path):
    store, _, _, fit = queue
    fill(queue, tmp_path)
    fit(1, {f"p{n:02d}" for n in range(12)})
    minute = 0
    while not minute or judge(store, 20):
        minute += 1
        renew(queue, tmp_path, minute=minute)
        assert minute < 40
    asked = {frozenset(j.shown_ids) for j in store.list_judgments()}
    assert len(asked) == 6 * NUM_PROMPTS and renew(queue, tmp_path, minute=minute + 1) == 0


def test_the_next_places_say_why_in_the_order_in_which_pairs_are_handed_out(queue, tmp_path):
    store, _, _, fit = queue
    fill(queue, tmp_path)
    fit(1, {f"p{n:02d}" for n in range(12)})
    renew(queue, tmp_path)
    places = next_places(store, 50)
    assert [place["place"] for place in places] == list(range(1, 51))
    assert [pair.task_id for pair in store.lease("ann", 5)] == [place["task_id"] for place in places[:5]]
    assert all(0 < place["probability"] <= 1 and place["rule"] for place in places)


def test_pairs_per_prompt_holds_in_the_front(queue, tmp_path):
    store, policy, promotion, fit = queue
    options = QueueOptions(selection="mix", pairs_per_prompt=1)
    fit(1, {"p00"})
    for minute in range(6):
        make_tasks(store, tmp_path, policy, promotion, options, now=NOW)
        renew_front(store, tmp_path, policy, promotion, options, now=NOW + timedelta(minutes=minute))
        judge(store, random.Random(minute).randrange(5, 15))
    pairs = {(j.prompt_id, frozenset(j.shown_ids)) for j in store.list_judgments()}
    assert len(pairs) > 20 and max(Counter(prompt for prompt, _ in pairs).values()) == 1


def test_a_queue_by_one_rule_has_no_front(queue, tmp_path):
    store, policy, promotion, fit = queue
    fit(1, {"p00"})
    options = QueueOptions(selection="bald")
    make_tasks(store, tmp_path, policy, promotion, options, now=NOW)
    assert renew_front(store, tmp_path, policy, promotion, options, now=NOW) == 0
    assert {task.selection_rule for task in store.open_tasks()} == {"bald"}


def test_win_rates_say_how_they_undo_the_choice_of_pairs(queue, tmp_path):
    store, _, _, fit = queue
    fill(queue, tmp_path)
    assert longer_wins(store) is None
    judge_longer(store, 15)
    [even] = longer_wins(store) or []
    assert (even["method"], even["n"], even["mean"]) == ("naive average", 15, 1.0)
    fit(1, {f"p{n:02d}" for n in range(12)})
    renew(queue, tmp_path)
    judge_longer(store, 30)
    found = longer_wins(store) or []
    assert [e["method"] for e in found] == ["inverse probability", "random share", "naive average"]
    assert [e["mean"] for e in found] == pytest.approx([1.0] * 3)  # whatever the weights, the longer one won always
    assert found[0]["n"] > found[1]["n"] >= 15


def judge_longer(store, num: int) -> None:
    """The longer response wins; texts of one prompt differ in length."""
    for pair in store.lease("ann", num):
        verdict = "a" if len(pair.response_a) > len(pair.response_b) else "b"
        store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=verdict, strength=2), annotator_id="ann")
