"""Storage writes a job, the learner reads it: what is in the sealed directory, and what the real process makes of it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from online_learner.round import run_job
from storage.campaign import Campaign
from storage.contract.schemas import JUDGMENTS, PROMPTS, RESPONSES
from storage.contract.sealing import read_manifest
from storage.contract.settings import build_settings, load_settings
from storage.duckdb_store import open_store
from storage.errors import UserError
from storage.imports import import_judgments
from storage.records import JudgmentInput
from storage.round_export import build_lineage, export_job
from tests.storage.builders import fill, judge, make_policy, make_prompt, make_response, make_task
from tests.storage.test_rankings import add_rankings, rank

ROOT = Path(__file__).parents[2]
TINY = ROOT / "online_learner" / "tiny_policy"
SETTINGS = build_settings({
    "seed": 3, "device": "cpu", "generation": {"max_new_tokens": 8, "num_responses": 2},
    "preference": {"min_judgments": 4, "num_heads": 2},
})  # fmt: skip


@pytest.fixture
def store():
    """Six judged pairs of policy 0 on training prompts, two held-out prompts, one response of policy 1 nobody judged."""
    store = open_store()
    fill(store, num_tasks=6, num_annotators=2)
    store.add_prompts([make_prompt(f"h{i}", split="heldout") for i in range(2)])
    store.add_policy(make_policy(1, parent_id="policy0", adapter_path="artifacts/0002-round/adapter", adapter_sha256="ab" * 32))
    store.add_responses([make_response("unjudged", "q0", policy_id="policy1")])
    for verdict in ("a", "b", "a", "tie"):
        judge(store, "ann0", verdict, strength=2)
    judge(store, "ann1", "skip")
    store.set_campaign(Campaign(aspects=("helpful", "short")), actor="rosa")
    judge(store, "ann1", "a", rationale="Says why", aspects={"helpful": 1, "short": -1})
    yield store
    store.close()


def add_imported(store, tmp_path):
    turns = [{"role": "assistant", "content": "First."}, {"role": "user", "content": "Again?"}]
    row = {"prompt": "Imported?", "response_a": "Second.", "context_a": turns, "response_b": "No.", "label": "b"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row))
    import_judgments(store, tmp_path / "pairs.jsonl")


def export(store, tmp_path, kind, **more):
    """The sealed directory and its three tables as dictionaries by id."""
    job_dir = export_job(store, tmp_path / "jobs" / f"0007-{kind}", SETTINGS, kind=kind, number=7, policy_id="policy0", **more)
    tables = {}
    for name, schema in (("prompts", PROMPTS), ("responses", RESPONSES), ("judgments", JUDGMENTS)):
        table = pq.read_table(job_dir / f"{name}.parquet")
        assert table.schema.equals(schema)
        tables[name] = {row[schema.names[0]]: row for row in table.to_pylist()}
    return job_dir, tables


def test_a_round_gets_standing_judgments_and_all_they_refer_to(store, tmp_path):
    [withdrawn] = [j for j in store.list_judgments(annotator_id="ann0") if j.task_id == "t0"]
    assert store.withdraw(withdrawn.id, annotator_id="ann0") is not None
    add_imported(store, tmp_path)
    job_dir, tables = export(store, tmp_path, "round", new_policy_id="policy2")
    standing = {judgment.id: judgment for judgment in store.list_judgments()}
    assert tables["judgments"].keys() == standing.keys()
    assert withdrawn.id not in standing
    for judgment_id, row in tables["judgments"].items():
        kept = standing[judgment_id]
        assert (row["verdict"], row["strength"], row["annotator_id"]) == (kept.verdict, kept.strength, kept.annotator_id)
        assert (row["response_a_id"], row["response_b_id"]) == (kept.response_a_id, kept.response_b_id)
        assert (row["rationale"], json.loads(row["aspects"])) == (kept.rationale, kept.aspects)
        assert {row["response_a_id"], row["response_b_id"]} <= tables["responses"].keys()
        assert row["prompt_id"] in tables["prompts"]
    assert [row["rationale"] for row in tables["judgments"].values()].count("Says why") == 1
    assert [row["split"] for row in tables["prompts"].values()] == ["train"] * 6 + ["heldout"] * 2 + ["imported"]
    assert "unjudged" not in tables["responses"]  # of another policy than the parent
    assert {f"q{i}-{k}" for i in range(6) for k in (1, 2)} <= tables["responses"].keys()
    manifest = read_manifest(job_dir)
    assert (manifest["kind"], manifest["number"], manifest["parent"], manifest["seeds"]) == ("round", 7, "policy0", {"job": 3})
    assert load_settings(job_dir / "config.toml") == SETTINGS.model_copy(update={"kind": "round"})


def test_turns_before_an_imported_reply_are_part_of_its_text(store, tmp_path):
    add_imported(store, tmp_path)
    _, tables = export(store, tmp_path, "fit")
    texts = {row["text"] for row in tables["responses"].values() if row["finish_reason"] == "imported"}
    assert texts == {"First.\n\nAgain?\n\nSecond.", "No."}


def test_imported_judgments_can_be_left_out(store, tmp_path):
    add_imported(store, tmp_path)
    _, tables = export(store, tmp_path, "round", with_imported=False)
    assert len(tables["judgments"]) == 6
    assert {row["split"] for row in tables["prompts"].values()} == {"train", "heldout"}
    assert all(row["finish_reason"] == "stop" for row in tables["responses"].values())


def test_what_an_annotator_edited_is_a_demonstration(store, tmp_path):
    made = judge(store, "ann0", "a", edited_text="Better put.")  # of q4, which the other annotator skipped
    _, tables = export(store, tmp_path, "round")
    [row] = [row for row in tables["responses"].values() if row["role"] == "demonstration"]
    assert (row["prompt_id"], row["text"], row["policy_id"]) == ("q4", "Better put.", None)
    assert (row["response_id"], row["token_ids"]) == (f"{made}-edited", None)
    assert list(tables["responses"])[-1] == row["response_id"]


@pytest.mark.parametrize(
    ("kind", "more", "prompts"),
    [
        ("generate", {}, [f"q{i}" for i in range(6)]),
        ("generate", {"max_prompts": 2}, ["q0", "q1"]),
        ("evaluate", {}, ["h0", "h1"]),
    ],
)
def test_sampling_jobs_get_prompts_only(store, tmp_path, kind, more, prompts):
    _, tables = export(store, tmp_path, kind, **more)
    assert list(tables["prompts"]) == prompts
    assert (tables["responses"], tables["judgments"]) == ({}, {})


def test_a_rule_of_all_rounds_gets_the_candidates_of_all_ancestors(store, tmp_path):
    """policy1 was made from policy0; a response of policy0 that nobody judged counts for xpo, not for other rules."""
    store.add_responses([make_response("old", "q1", policy_id="policy0")])
    held = {}
    for rule in ("xpo", "onpo_ref"):
        settings = build_settings({"preference": {"min_judgments": 4}, "update": {"rule": rule}})
        job_dir = export_job(store, tmp_path / "jobs" / f"0001-{rule}", settings, kind="round", number=1, policy_id="policy1")
        held[rule] = set(pq.read_table(job_dir / "responses.parquet")["response_id"].to_pylist())
    assert {"unjudged", "old"} <= held["xpo"]
    assert held["xpo"] - held["onpo_ref"] >= {"old"} and "unjudged" in held["onpo_ref"]


def test_the_lineage_names_parent_reference_and_mixture():
    policies = {
        f"policy{i}": make_policy(i, parent_id=f"policy{i - 1}", adapter_path=f"artifacts/{i}/adapter", adapter_sha256="cd" * 32)
        for i in range(1, 5)
    }
    policies["policy0"] = make_policy(0)
    policies["policy4"] = replace(policies["policy4"], auxiliary={"policy3": 1.75, "policy1": -0.75})
    lineage = build_lineage(policies, "policy4", new_policy_id="new", base_model="/models/base", data_dir=Path("/data"))
    adapter = {"adapter_sha256": "cd" * 32}
    assert lineage == {
        "base_model": "/models/base",
        "base_revision": None,
        "parent": "policy4",
        "previous": "policy3",
        "reference": "policy0",
        "new_policy": "new",
        "auxiliary": {"policy3": 1.75, "policy1": -0.75},
        "policies": {
            "policy0": {"number": 0, "adapter_dir": None, "adapter_sha256": None},
            "policy1": {"number": 1, "adapter_dir": "/data/artifacts/1/adapter", **adapter},
            "policy3": {"number": 3, "adapter_dir": "/data/artifacts/3/adapter", **adapter},
            "policy4": {"number": 4, "adapter_dir": "/data/artifacts/4/adapter", **adapter},
        },
    }
    assert build_lineage(policies, "policy1")["auxiliary"] == {"policy1": 1.0}
    assert "new_policy" not in build_lineage(policies, "policy1")
    assert build_lineage(policies, "policy0")["previous"] is None
    assert "policy2" in build_lineage(policies, "policy3")["policies"]  # its adapter, for rules with momentum
    del policies["policy3"]
    with pytest.raises(UserError, match="builds on policies that are not registered: policy3"):
        build_lineage(policies, "policy4")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"settings": build_settings({"preference": {"min_judgments": 9}})},
            "only 4 decided judgments so far and a round needs 9",
        ),
        ({"policy_id": "policy9"}, "there is no policy policy9"),
    ],
)
def test_a_job_that_cannot_run_is_refused_and_leaves_nothing(store, tmp_path, change, why):
    asked = {"settings": SETTINGS, "policy_id": "policy0"} | change
    with pytest.raises(UserError, match=why):
        export_job(store, tmp_path / "jobs" / "0001-round", asked.pop("settings"), kind="round", number=1, **asked)
    assert list(tmp_path.rglob("*")) == []


def test_a_round_without_held_out_prompts_is_refused(tmp_path):
    store = open_store()
    fill(store, num_tasks=4)
    for _ in range(4):
        judge(store, "ann0")
    with pytest.raises(UserError, match="no prompts of split 'heldout'"):
        export(store, tmp_path, "round")
    store.close()


def test_a_sealed_job_is_never_replaced(store, tmp_path):
    job_dir, _ = export(store, tmp_path, "generate")
    before = (job_dir / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="already exists"):
        export(store, tmp_path, "generate")
    assert (job_dir / "manifest.json").read_bytes() == before
    assert [path.name for path in job_dir.parent.iterdir()] == ["0007-generate"]


@pytest.mark.skipif(not (TINY / "model.safetensors").exists(), reason=f"no built-in model at {TINY}")
@pytest.mark.parametrize("kind", ["generate", "fit"])
def test_the_learner_runs_an_exported_job(store, tmp_path, kind):
    store.add_tasks([make_task(f"more{i}", f"q{i}", f"q{i}-2", f"q{i}-1") for i in range(6)])
    for pair in store.lease("ann1", 6):
        store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a"), annotator_id="ann1")
    add_imported(store, tmp_path)
    job_dir, tables = export(store, tmp_path, kind, base_model=str(TINY))
    command = [sys.executable, "-m", "online_learner", "run", str(job_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    artifact = tmp_path / "artifacts" / job_dir.name
    assert read_manifest(artifact)["number"] == 7
    report = json.loads((artifact / "report.json").read_text())
    if kind == "fit":
        assert report["data"]["num_judgments"] == len(tables["judgments"]) == 13
    else:
        made = pq.read_table(artifact / "responses.parquet").to_pylist()
        assert sorted(row["prompt_id"] for row in made) == sorted([*tables["prompts"], *tables["prompts"]])  # two each
        assert {row["policy_id"] for row in made} == {"policy0"}


@pytest.mark.skipif(not (TINY / "model.safetensors").exists(), reason=f"no built-in model at {TINY}")
def test_the_learner_counts_a_ranking_once(tmp_path):
    """Four rankings of four responses are exported as 24 pairs and read as four observations."""
    store = open_store()
    add_rankings(store, num_tasks=4)
    for _ in range(4):
        rank(store, "ann0", (("d",), ("a", "c"), ("b",)))
    settings = build_settings({"device": "cpu", "preference": {"models": ["plackett_luce"], "min_judgments": 4, "num_heads": 2}})
    job_dir = tmp_path / "jobs" / "0001-fit"
    export_job(store, job_dir, settings, kind="fit", number=1, policy_id="policy0", base_model=str(TINY))
    store.close()
    report = json.loads((run_job(job_dir) / "report.json").read_text())
    assert report["data"]["num_judgments"] == 24
    assert (report["preference"]["selected"], report["preference"]["num_rankings"]) == ("plackett_luce", 4)
    assert (report["preference"]["num_decided"], report["preference"]["num_ties"]) == (20, 4)
