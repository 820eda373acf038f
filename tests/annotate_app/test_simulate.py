"""The simulation: its parts by hand, and one small run of the whole loop with the real app, the real API and the real learner."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotate_app.auth import issue_token
from annotate_app.client import http_client
from annotate_app.commands.compose import build_api
from annotate_app.context import AppContext
from annotate_app.rounds import RoundService
from annotate_app.server import serve_in_background
from annotate_app.simulate import Labeller, Plan, RoundTruth, label_pairs, read_samples
from annotate_app.simulate_report import as_json, as_table, save_plot
from annotate_app.worlds import Person, cyclic
from storage.contract.schemas import RESPONSES
from storage.duckdb_store import DuckDBStore, open_store
from storage.ids import new_id
from storage.records import Message, Prompt, Response, Task

ROOT = Path(__file__).parents[2]
ROW = RoundTruth(
    round=0,
    win_rate_vs_base=0.5,
    win_rate_low=0.5,
    win_rate_high=0.5,
    true_duality_gap=0.3,
    average_gap=0.2,
    kl_to_base_nats=0.0,
    text_quality=0.9,
    labels=0,
    seconds=4.0,
)
STEPS, CHATTY = (
    "1. Rinse it.\n2. Boil it.",
    "There is quite a lot to say about rice, so let me start at the very beginning of it all.",
)

PLAIN = Person(skip_rate=0.0, both_bad_rate=0.0)


@dataclass
class Desk:
    """A served store with pairs to label, and how to seat annotators at it."""

    store: DuckDBStore
    url: str
    stack: ExitStack

    def seat(self, *people: Person) -> list[Labeller]:
        seated = []
        for k, person in enumerate(people):
            _, secret = issue_token(self.store, name=f"robot {k}", scope="label", annotator_handle=f"robot {k}")
            seated.append(Labeller(self.stack.enter_context(http_client(self.url, secret)), person, random.Random(k)))
        return seated

    def verdicts(self) -> list[str]:
        return [judgment.verdict for judgment in self.store.list_judgments()]


@pytest.fixture
def desk(tmp_path):
    """Forty prompts with one pair each, behind the real API."""
    now, store = datetime.now(UTC), open_store(None, rng=random.Random(1))
    policy = new_id()
    prompts = [
        Prompt(id=new_id(), messages=(Message(role="user", content=f"Rice {k}?"),), split="train", source="test", created_at=now)
        for k in range(40)
    ]
    store.add_prompts(prompts)
    for prompt in prompts:
        pair = [
            Response(
                id=new_id(),
                prompt_id=prompt.id,
                policy_id=policy,
                text=text,
                token_ids=None,
                sum_logp=None,
                finish_reason="stop",
                sampler={},
                seed=0,
                role="candidate",
                created_at=now,
            )
            for text in (STEPS, CHATTY)
        ]
        store.add_responses(pair)
        task = Task(
            id=new_id(),
            prompt_id=prompt.id,
            response_1_id=pair[0].id,
            response_2_id=pair[1].id,
            selection_rule="random",
            selection_score=None,
            selection_prob=1.0,
            created_at=now,
        )
        store.add_tasks([task])
    context = AppContext(store=store, rounds=RoundService(store, tmp_path), data_dir=tmp_path, session_secret="test")
    with ExitStack() as stack:
        stack.callback(store.close)
        stack.callback(context.rounds.close)
        yield Desk(store, stack.enter_context(serve_in_background(build_api(context))), stack)


def test_annotators_take_turns_until_the_labels_are_there(desk):
    assert label_pairs(desk.seat(PLAIN, PLAIN), cyclic(), 30) == 30
    judgments = desk.store.list_judgments()
    assert sorted(Counter(judgment.annotator_id for judgment in judgments).values()) == [15, 15]
    assert {judgment.strength for judgment in judgments if judgment.verdict in "ab"} <= {1, 2, 3}


def test_what_annotators_prefer_reaches_the_store_whichever_side_was_shown_first(desk):
    label_pairs(desk.seat(PLAIN), cyclic(), 40)
    texts = {response.id: response.text for response in desk.store.list_responses()}
    won = [j.response_a_id if j.verdict == "a" else j.response_b_id for j in desk.store.list_judgments() if j.verdict in "ab"]
    share = sum(texts[response] == STEPS for response in won) / len(won)
    assert share == pytest.approx(0.8, abs=0.2)  # three standard errors of 40 answers at 80:20
    shown_first = {texts[judgment.response_a_id] for judgment in desk.store.list_judgments()}
    assert shown_first == {STEPS, CHATTY}


def test_skips_are_sent_but_do_not_count_as_labels(desk):
    doubtful = Person(skip_rate=0.5, both_bad_rate=0.0)
    assert label_pairs(desk.seat(doubtful, doubtful), cyclic(), 12) == 12
    verdicts = desk.verdicts()
    assert len(verdicts) - verdicts.count("skip") == 12
    assert verdicts.count("skip") > 3


def test_labelling_ends_when_nothing_is_left(desk):
    assert label_pairs(desk.seat(PLAIN, PLAIN, PLAIN), cyclic(), 100) == 40


def test_samples_are_read_by_prompt_in_one_order(tmp_path):
    columns = dict.fromkeys(RESPONSES.names)
    rows = [{**columns, "prompt_id": prompt, "text": text} for prompt, text in [("q", "3"), ("p", "1"), ("q", "4"), ("p", "2")]]
    pq.write_table(pa.Table.from_pylist(rows, schema=RESPONSES), tmp_path / "responses.parquet")
    assert list(read_samples(tmp_path / "responses.parquet").items()) == [("p", ["1", "2"]), ("q", ["3", "4"])]


def test_the_json_has_the_fields_other_scripts_rely_on():
    rows = [ROW, replace(ROW, round=1, labels=400), replace(ROW, round=2, labels=380)]
    shown = as_json(Plan(world="cyclic", seed=4), rows, 12.0)
    assert list(shown) == ["world", "model", "seed", "rounds", "labels_total", "seconds_total"]
    assert (shown["world"], shown["model"], shown["seed"], shown["labels_total"]) == ("cyclic", "tiny", 4, 780)
    fields = "round win_rate_vs_base win_rate_low win_rate_high true_duality_gap average_gap kl_to_base_nats text_quality"
    fields += " labels seconds"
    assert list(shown["rounds"][1]) == fields.split()


def test_the_table_names_the_search_set_of_the_gap():
    assert "exact over classes" in as_table(Plan(world="cyclic"), [ROW]).caption
    assert "restricted to the sampled responses" in as_table(Plan(world="transitive"), [ROW]).caption


@pytest.mark.parametrize("quality", [0.9, None])
def test_the_picture_is_a_png_with_or_without_text_quality(quality, tmp_path):
    rows = [replace(ROW, text_quality=quality), replace(ROW, round=1, text_quality=quality)]
    save_plot(Plan(), rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def simulate(*arguments: str, timeout: int = 600) -> dict:
    """Standard output of the real command as JSON; nothing else may be there."""
    command = [sys.executable, "-m", "annotate_app.cli", "simulate", "--json", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """One round on 60 labels with a few optimiser steps, kept on disk."""
    kept = tmp_path_factory.mktemp("simulation") / "data"
    settings = [f"--set={setting}" for setting in ("update.learning_rate=0.003", "update.epochs=1")]
    return simulate("--rounds", "1", "--labels", "60", "--seed", "5", "--world", "crowd", "--data", str(kept), *settings), kept


def test_a_small_simulation_runs_the_whole_loop(small_run):
    shown, kept = small_run
    base, after = shown["rounds"]
    assert (base["round"], base["win_rate_vs_base"], base["labels"], base["kl_to_base_nats"]) == (0, pytest.approx(0.5), 0, 0.0)
    assert after["labels"] == 60 == shown["labels_total"]
    assert after["win_rate_low"] < after["win_rate_vs_base"] < after["win_rate_high"]
    assert after["kl_to_base_nats"] > 0  # the policy moved
    assert sorted(path.name for path in (kept / "artifacts").iterdir()) == [
        "0001-generate",
        "0002-evaluate",
        "0003-round",
        "0004-evaluate",
    ]


def test_the_kept_data_directory_holds_what_the_annotators_said(small_run):
    _, kept = small_run
    store = open_store(kept / "nashloop.duckdb")
    judgments, annotators = store.list_judgments(), {a.id: a for a in store.list_annotators()}
    store.close()
    assert sum(judgment.verdict != "skip" for judgment in judgments) == 60
    assert {annotators[judgment.annotator_id].kind for judgment in judgments} == {"simulated"}
    assert len({judgment.annotator_id for judgment in judgments}) == 8


@pytest.mark.slow
def test_three_rounds_reach_the_promised_win_rate_in_the_transitive_world():
    shown = simulate("--rounds", "3", "--labels", "400", "--world", "transitive", "--seed", "0", timeout=1500)
    last = shown["rounds"][-1]
    assert last["win_rate_vs_base"] > 0.72  # .75 is promised for the mean of five seeds
    assert last["win_rate_low"] > 0.68
    assert last["text_quality"] >= 0.75


@pytest.mark.slow
def test_a_real_model_learns_from_story_openings():
    model = ROOT.parent / "shared" / "models" / "stories260K"
    if not model.exists():
        pytest.skip("../shared/models/stories260K is not there")
    openings = ROOT / "docs" / "examples" / "story_openings.jsonl"
    shown = simulate("--rounds", "3", "--labels", "400", "--model", str(model), "--prompts", str(openings), timeout=1500)
    assert shown["rounds"][-1]["win_rate_vs_base"] >= 0.62
    assert shown["rounds"][-1]["text_quality"] is None
