"""The labelling queue over a real store in memory; what jobs bring is covered by test_rounds.py."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotate_app.candidates import pair_scores
from annotate_app.labelling_queue import QueueOptions, _pairs, make_tasks
from storage.contract.jobs import artifact_dir
from storage.contract.schemas import PAIR_SCORES
from storage.duckdb_store import open_store
from storage.errors import UserError
from storage.records import Annotator, JudgmentInput, Message, Policy, Prompt, Response, Round
from tests.storage.builders import make_response

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store():
    store = open_store(None)
    for number, split in enumerate(["train", "train", "heldout"]):
        message = Message(role="user", content=f"Question {number}?")
        store.add_prompts([Prompt(id=f"p{number}", messages=(message,), split=split, source="test", created_at=NOW)])
    yield store
    store.close()


def add_policy(store, number: int, texts: dict[str, list[str]]):
    """A policy with candidates by prompt, put in service; returns it and the promotion."""
    base = {
        "base_model": "m",
        "base_revision": None,
        "adapter_path": None,
        "adapter_sha256": None,
        "parent_id": None,
        "round_id": None,
    }
    policy = Policy(id=f"policy-{number}", number=number, created_at=NOW, **base)
    store.add_policy(policy)
    responses = [response(policy, prompt, k, text) for prompt, given in texts.items() for k, text in enumerate(given)]
    store.add_responses(responses)
    return policy, store.append_event(actor="test", kind="policy.promoted", subject=policy.id)


def response(policy: Policy, prompt: str, k: int, text: str) -> Response:
    made = {
        "token_ids": (1,),
        "sum_logp": -1.0,
        "finish_reason": "stop",
        "sampler": {},
        "seed": 0,
        "role": "candidate",
        "created_at": NOW,
    }
    return Response(id=f"{policy.id}-{prompt}-{k}", prompt_id=prompt, policy_id=policy.id, text=text, **made)


def test_equal_texts_are_not_compared_and_heldout_prompts_are_not_labelled(store, tmp_path):
    policy, promotion = add_policy(store, 0, {"p0": ["yes", "no", "yes "], "p1": ["x", "y"], "p2": ["x", "y"]})
    assert make_tasks(store, tmp_path, policy, promotion, QueueOptions(), now=NOW) == 3
    texts = {r.id: r.text.strip() for r in store.list_responses()}
    asked = {(t.prompt_id, *sorted((texts[t.response_1_id], texts[t.response_2_id]))) for t in store.open_tasks()}
    assert asked == {("p0", "no", "yes"), ("p1", "x", "y")}


def test_filling_again_adds_nothing_and_judged_pairs_count(store, tmp_path):
    policy, promotion = add_policy(store, 0, {"p0": ["a", "b", "c", "d"]})
    options = QueueOptions(pairs_per_prompt=3)
    assert make_tasks(store, tmp_path, policy, promotion, options, now=NOW) == 3
    assert make_tasks(store, tmp_path, policy, promotion, options, now=NOW) == 0
    store.add_annotator(Annotator(id="ann", handle="ann", kind="human", created_at=NOW))
    for pair in store.lease("ann", 3):
        store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="tie"), annotator_id="ann")
    assert store.open_tasks() == []
    assert make_tasks(store, tmp_path, policy, promotion, options, now=NOW) == 0
    assert make_tasks(store, tmp_path, policy, promotion, QueueOptions(pairs_per_prompt=5), now=NOW) == 2


def test_the_queue_of_another_policy_is_closed(store, tmp_path):
    old, first = add_policy(store, 0, {"p0": ["a", "b"]})
    make_tasks(store, tmp_path, old, first, QueueOptions(), now=NOW)
    new, second = add_policy(store, 1, {"p0": ["c", "d"], "p1": ["e", "f"]})
    make_tasks(store, tmp_path, new, second, QueueOptions(), now=NOW)
    assert {task.response_1_id.split("-p")[0] for task in store.open_tasks()} == {"policy-1"}
    assert {event.subject for event in store.list_events(kind_prefix="task.closed")} != set()


def test_one_seed_gives_one_order_and_another_seed_another(tmp_path):
    def order(seed: int) -> list[str]:
        store = open_store(None)
        message = (Message(role="user", content="?"),)
        prompts = [Prompt(id=f"p{n}", messages=message, split="train", source="t", created_at=NOW) for n in range(9)]
        store.add_prompts(prompts)
        policy, promotion = add_policy(store, 0, {f"p{n}": ["a", "b"] for n in range(9)})
        make_tasks(store, tmp_path, policy, promotion, QueueOptions(seed=seed), now=NOW)
        tasks = sorted(store.open_tasks(), key=lambda task: -task.priority)
        store.close()
        return [task.prompt_id for task in tasks]

    assert order(1) == order(1) != order(2)


def test_scores_of_the_preference_model_reach_the_tasks_whichever_way_round_the_pair_is_written(store, tmp_path):
    policy, promotion = add_policy(store, 0, {"p0": ["a", "b"]})
    fit = Round(
        id="fit", number=3, kind="fit", parent_policy_id=policy.id, new_policy_id=None, job_dir="jobs/0003-fit",
        settings={}, created_at=NOW,
    )  # fmt: skip
    store.add_round(fit)
    directory = artifact_dir(tmp_path / fit.job_dir)
    directory.mkdir(parents=True)
    ids = [r.id for r in store.list_responses()]
    for first, second in [ids, ids[::-1]]:
        row = {"prompt_id": "p0", "response_1_id": first, "response_2_id": second, "mean_logit": 0.0, "ensemble_logits": [1.0]}
        pq.write_table(pa.Table.from_pylist([row], schema=PAIR_SCORES), directory / "pair_scores.parquet")
        assert set(pair_scores(store, tmp_path, policy)) == {(first, second)}
    make_tasks(store, tmp_path, policy, promotion, QueueOptions(selection="near_tie"), now=NOW)
    (task,) = store.open_tasks()
    assert (task.selection_rule, task.selection_score, task.selection_prob) == ("near_tie", 1.0, 1.0)  # a coin flip: 4/2/2


def test_without_scores_the_queue_is_random_and_says_so(store, tmp_path):
    policy, promotion = add_policy(store, 0, {"p0": ["a", "b"]})
    make_tasks(store, tmp_path, policy, promotion, QueueOptions(selection="bald"), now=NOW)
    (task,) = store.open_tasks()
    assert (task.selection_rule, task.selection_score) == ("random", None)


@pytest.mark.parametrize("options", [{"selection": "best"}, {"overlap": 0}, {"pairs_per_prompt": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError):
        QueueOptions(**options)


def test_which_of_two_equal_texts_is_asked_about_does_not_depend_on_their_ids():
    texts = ("yes", "no", "yes")
    runs = [[make_response(name, "q0", text=text) for name, text in zip(names, texts, strict=True)] for names in ("abc", "cba")]
    places = [{response.id: place for place, response in enumerate(run)} for run in runs]
    pairs = [
        [(place[pair.response_1_id], place[pair.response_2_id]) for pair in _pairs(run, {})]
        for run, place in zip(runs, places, strict=True)
    ]
    assert pairs == [[(1, 0), (1, 2)]] * 2  # in the order of texts, equal ones as stored
