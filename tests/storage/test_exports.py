"""Export formats: golden files (NASHLOOP_REGENERATE_GOLDEN=1 writes them anew), what they leave out, what reads them."""

import csv
import hashlib
import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import storage.exports as exports
from storage.campaign import Campaign
from storage.duckdb_store import open_store
from storage.errors import UserError
from storage.exports import EXPORT_FORMATS, write_export
from storage.imports import import_judgments
from storage.records import Annotator, JudgmentInput
from tests.storage.builders import START, Clock, fill, judge, make_policy, make_prompt, make_response, make_task

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = [name for name in EXPORT_FORMATS if name not in ("hf", "training")]


@pytest.fixture
def judged(monkeypatch):
    """One judgment of every verdict, one taken back and made anew, one imported with turns in between; fixed ids."""
    numbers = iter(range(1, 100))
    for module in ("labelling", "corrections"):
        monkeypatch.setattr(f"storage.{module}.new_id", lambda: f"lease-{next(numbers)}")
    store = open_store(clock=Clock(), rng=FixedSides())
    store.set_campaign(Campaign(aspects=("honest",)), actor="rosa")
    fill(store, num_tasks=6, num_annotators=2)
    store.add_policy(make_policy(1))
    store.add_responses([make_response("q6-1", "q0", policy_id="policy1", text="Antwort:\n\n- **größer** 🙂")])
    store.add_tasks([make_task("t6", "q0", "q0-1", "q6-1", purpose="gate")])
    for verdict, strength in (("a", 3), ("b", 1), ("tie", 0), ("both_bad", None)):
        judge(store, "ann0", verdict, strength=strength, shown_at=START - timedelta(seconds=20))
    judge(store, "ann0", "skip", reasons=("language",))
    again = store.withdraw(judge(store, "ann0", "a"), annotator_id="ann0")
    assert again is not None
    said = JudgmentInput(lease_id=again.lease_id, verdict="b", rationale='Said "no"', aspects={"honest": 2}, reasons=("x", "y"))
    store.submit(said, annotator_id="ann0")
    store.close_tasks(["t4"], actor="system", reason="test")
    judge(store, "ann1", "b", edited_text="größer")
    add_imported(store)
    yield store
    store.close()


class FixedSides:
    """Draws that leave the first response on side a."""

    def random(self):
        return 0.9


def add_imported(store):
    turns = [{"role": "assistant", "content": "First reply."}, {"role": "user", "content": "And now shorter."}]
    context = {"model": "vicuna-13b", "context": turns}
    store.add_batch(
        prompts=[make_prompt("imported", split="imported")],
        responses=[
            make_response("i-1", "imported", policy_id="x", sampler=context, finish_reason="imported", seed=None),
            make_response("i-2", "imported", policy_id="y", sampler={"model": "gpt-4"}, finish_reason="imported", seed=None),
        ],
        tasks=[make_task("ti", "imported", "i-1", "i-2", selection_rule="imported", wanted=1, selection_prob=1.0)],
        annotators=[Annotator(id="expert", handle="mt_bench/expert", kind="imported", created_at=START)],
    )
    first = store.list_judgments(limit=1)[0]
    imported = {
        "task_id": "ti",
        "annotator_id": "expert",
        "prompt_id": "imported",
        "response_a_id": "i-1",
        "response_b_id": "i-2",
    }
    store.add_imported_judgments([replace(first, id="judgment-i", edited_text=None, verdict="a", **imported)])


@pytest.mark.parametrize("name", FILES)
def test_each_format_writes_its_golden_file(judged, tmp_path, name):
    golden = GOLDEN / f"export-{name}.jsonl"
    write_export(judged, name, tmp_path / "out.jsonl")
    written = (tmp_path / "out.jsonl").read_text()
    if os.environ.get("NASHLOOP_REGENERATE_GOLDEN"):
        golden.write_text(written)
    assert written == golden.read_text()


@pytest.mark.parametrize("name", FILES)
def test_parquet_holds_the_same_rows_as_jsonl(judged, tmp_path, name):
    num_rows = write_export(judged, name, tmp_path / "out.parquet")
    write_export(judged, name, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert json.loads(json.dumps(rows, default=lambda moment: moment.isoformat())) == lines
    assert num_rows == len(lines) > 0


@pytest.mark.parametrize("name", FILES)
def test_windows_do_not_change_an_export(judged, tmp_path, name, monkeypatch):
    write_export(judged, name, tmp_path / "whole.jsonl")
    monkeypatch.setattr(exports, "WINDOW", 2)
    write_export(judged, name, tmp_path / "pieces.jsonl")
    write_export(judged, name, tmp_path / "pieces.parquet")
    assert (tmp_path / "pieces.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert pq.read_table(tmp_path / "pieces.parquet").num_rows == len((tmp_path / "whole.jsonl").read_text().splitlines())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("container", ["jsonl", "parquet"])
def test_an_empty_store_exports_no_rows(tmp_path, name, container):
    store = open_store()
    assert write_export(store, name, tmp_path / "out", container) == 0
    assert (tmp_path / "out").exists()
    store.close()


def test_each_format_keeps_what_it_can_say(judged, tmp_path):
    # standing: a, b, tie, both_bad, skip, b (made anew), b (other annotator), a (imported); raw also has the one taken back
    expected = {"raw": 9, "trl": 5, "trl-implicit": 5, "unpaired": 2 * 6, "arena": 7}
    assert {name: write_export(judged, name, tmp_path / f"{name}.jsonl") for name in FILES} == expected


def test_unknown_formats_and_suffixes_are_refused(judged, tmp_path):
    with pytest.raises(UserError, match="no export format 'xml'"):
        write_export(judged, "xml", tmp_path / "out.jsonl")
    with pytest.raises(UserError, match="'xlsx' is unknown"):
        write_export(judged, "raw", tmp_path / "out.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_people_are_pseudonyms_unless_names_are_asked_for(judged, tmp_path):
    def people(path, **wanted):
        write_export(judged, "raw", path, **wanted)
        return {row["annotator"] for row in pq.read_table(path).to_pylist()}

    # sha256 of ann0 and of ann1; imported people keep the name that their data set gave them
    pseudonyms = {"annotator-" + hashlib.sha256(name.encode()).hexdigest()[:8] for name in ("ann0", "ann1")}
    assert people(tmp_path / "one.parquet") == pseudonyms | {"mt_bench/expert"}
    assert people(tmp_path / "two.parquet", with_names=True) == {"Annotator 0", "Annotator 1", "mt_bench/expert"}
    for name in FILES:  # no other format names anybody
        write_export(judged, name, tmp_path / f"{name}.jsonl")
        assert "Annotator 0" not in (tmp_path / f"{name}.jsonl").read_text()


def test_a_table_for_spreadsheets_holds_no_formula(judged, tmp_path, monkeypatch):
    hostile = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://evil.example")', "plain, with a comma"]
    table = pa.table({"text": hostile, "number": [-1.5] * 8, "list": [["=1"]] * 8, "none": [None] * 8})
    monkeypatch.setitem(EXPORT_FORMATS, "raw", lambda query: table)
    assert write_export(judged, "raw", tmp_path / "out.csv") == 8
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["'" + text for text in hostile[:-1]] + ["plain, with a comma"]
    assert {(row["number"], row["list"], row["none"]) for row in rows} == {("-1.5", '["=1"]', "")}  # a number is no formula
    monkeypatch.undo()
    write_export(judged, "raw", tmp_path / "real.csv")
    write_export(judged, "raw", tmp_path / "real.jsonl")
    with (tmp_path / "real.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len((tmp_path / "real.jsonl").read_text().splitlines())


def test_an_export_that_fails_leaves_nothing(judged, tmp_path, monkeypatch):
    def fail(query):
        raise OSError("no space")

    monkeypatch.setitem(EXPORT_FORMATS, "raw", fail)
    with pytest.raises(OSError, match="no space"):
        write_export(judged, "raw", tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_judgments_made_during_an_export_do_not_wait(judged, tmp_path, monkeypatch):
    judged.add_tasks([make_task("late", "q1", "q1-1", "q1-2")])
    write_export(judged, "raw", tmp_path / "before.jsonl")
    kept = EXPORT_FORMATS["raw"]

    def judge_meanwhile(query):
        judge(judged, "ann1")
        return kept(query)

    monkeypatch.setitem(EXPORT_FORMATS, "raw", judge_meanwhile)
    write_export(judged, "raw", tmp_path / "during.jsonl")
    assert (tmp_path / "during.jsonl").read_text() == (tmp_path / "before.jsonl").read_text()
    assert judged.list_judgments(limit=1)[0].task_id == "late"


def test_a_raw_export_makes_the_same_raw_export_elsewhere(judged, tmp_path):
    write_export(judged, "raw", tmp_path / "one.parquet")
    other = open_store()
    result = import_judgments(other, tmp_path / "one.parquet")
    assert (result["judgments"], result["taken_back"]) == (8, 1)
    write_export(other, "raw", tmp_path / "two.parquet")
    changed = {"seq", "annotator_kind"}  # numbered anew; our people are imported people there

    def rows(name):
        return [{k: v for k, v in row.items() if k not in changed} for row in pq.read_table(tmp_path / name).to_pylist()]

    assert rows("two.parquet") == [row for row in rows("one.parquet") if row["standing"]]
    assert import_judgments(judged, tmp_path / "one.parquet")["judgments"] == 0
    other.close()


def test_the_dataset_folder_has_a_card_and_loads(judged, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert write_export(judged, "hf", tmp_path / "set") == 5
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == ["prompt", "chosen", "rejected", "judgment_id", "strength"]
    assert loaded[0]["chosen"] == [{"role": "assistant", "content": "Answer q0-1."}]
    card = (tmp_path / "set" / "README.md").read_text()
    assert "5 decided pairs out of 8 judgments by 3 annotators" in card
    assert "| both_bad | 1 |" in card
    with pytest.raises(UserError, match="exists already"):
        write_export(judged, "hf", tmp_path / "set")
