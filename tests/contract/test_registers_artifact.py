"""The real learner seals artifacts and the app registers them: one first start and one round of the built-in policy."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from annotate_app.bootstrap import built_in_model_dir
from annotate_app.candidates import register_artifact
from annotate_app.rounds import RoundService
from storage.contract.jobs import artifact_dir
from storage.contract.sealing import sha256
from storage.contract.settings import build_settings
from storage.duckdb_store import open_store
from storage.ids import new_id
from storage.imports import import_prompts
from storage.records import Annotator, JudgmentInput

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NUM_PROMPTS = 8
SMALL = build_settings(
    {
        "device": "cpu",
        "generation": {"max_new_tokens": 40},
        "preference": {"models": ["bradley_terry"], "num_heads": 2, "min_judgments": 10},
        "update": {"epochs": 1, "learning_rate": 1e-3, "prompts_per_step": 4},
        "evaluation": {"num_responses": 2, "min_text_quality": 0.0, "max_kl_to_parent_nats": 50.0},
    }
)


@pytest.fixture(scope="module")
def looped(tmp_path_factory):
    """Store and service after: first start, 30 labels (the shorter response wins), one round promoted by hand."""
    if not (built_in_model_dir() / "model.safetensors").exists():
        pytest.skip("the built-in model has not been trained yet")
    data = tmp_path_factory.mktemp("looped")
    store = open_store(data / "nashloop.duckdb")
    some_prompts(data / "prompts.jsonl")
    import_prompts(store, data / "prompts.jsonl")
    rounds = RoundService(store, data, device="cpu")
    rounds.ensure_started()
    first = rounds.wait(1, 300)
    assert first.status == "done", rounds.log_tail(1)
    label_shorter(store, 30)
    started = rounds.start(SMALL, actor="tester", options={"promote": "manual"})
    done = rounds.wait(started.number, 300)
    assert done.status == "done", done.message
    rounds.promote(done.new_policy_id, actor="tester")
    yield store, rounds, data, done
    rounds.close(stop_jobs=True)
    store.close()


def some_prompts(path: Path) -> None:
    lines = (built_in_model_dir() / "prompts.jsonl").read_text().splitlines()
    train = [line for line in lines if '"train"' in line][:NUM_PROMPTS]
    heldout = [line for line in lines if '"heldout"' in line][:4]
    path.write_text("\n".join(train + heldout) + "\n")


def label_shorter(store, count: int) -> None:
    annotator = Annotator(id=new_id(), handle="brief", kind="simulated", created_at=NOW)
    store.add_annotator(annotator)
    for pair in store.lease(annotator.id, count):
        verdict = "a" if len(pair.response_a) < len(pair.response_b) else "b"
        store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=verdict), annotator_id=annotator.id)


def test_the_first_job_brings_four_candidates_of_every_training_prompt(looped):
    store, _, _, _ = looped
    base = store.list_policies()[0]
    responses = store.list_responses(policy_id=base.id, role="candidate")
    per_prompt = {prompt.id: sum(r.prompt_id == prompt.id for r in responses) for prompt in store.list_prompts("train")}
    assert set(per_prompt.values()) == {4}
    assert all(response.token_ids and response.sum_logp < 0 for response in responses)


def test_the_policy_is_registered_with_the_adapter_that_was_sealed(looped):
    store, _, data, done = looped
    policy = store.get_policy(done.new_policy_id)
    assert (policy.number, policy.parent_id, policy.round_id) == (1, done.parent_policy_id, done.id)
    weights = data / policy.adapter_path / "adapter_model.safetensors"
    assert weights.parent == artifact_dir(data / done.job_dir) / "adapter"
    assert sha256(weights) == policy.adapter_sha256
    assert sum(policy.auxiliary.values()) == pytest.approx(1.0)  # the mixture of the next optimistic anchor


def test_new_candidates_are_queued_and_gate_samples_are_kept_apart(looped):
    store, _, _, done = looped
    own = {response.id for response in store.list_responses(policy_id=done.new_policy_id, role="candidate")}
    tasks = store.open_tasks()
    assert len(own) == NUM_PROMPTS * 4
    assert tasks
    assert all({task.response_1_id, task.response_2_id} <= own for task in tasks)
    heldout = {prompt.id for prompt in store.list_prompts("heldout")}
    gate = store.list_responses(role="gate")
    assert {response.policy_id for response in gate} >= {done.new_policy_id, done.parent_policy_id}
    assert {response.prompt_id for response in gate} == heldout


def test_the_report_and_the_progress_can_be_shown(looped):
    _, rounds, _, done = looped
    report = rounds.report(done.number)
    win_rate = report["evaluation"]["win_rate_vs_parent"]
    assert 0 <= win_rate["low"] <= win_rate["mean"] <= win_rate["high"] <= 1
    assert report["new_policy"] == done.new_policy_id
    progress = rounds.progress(done.number)
    assert (progress.status, progress.fraction) == ("done", 1.0)
    assert any(key.startswith("update/") for metric in progress.metrics for key in metric)


def test_registering_and_starting_again_add_nothing(looped):
    store, rounds, data, done = looped
    before = (len(store.list_policies()), len(store.list_responses()), len(store.open_tasks()), len(store.list_rounds()))
    register_artifact(store, data, done, now=NOW)
    rounds.ensure_started()
    after = (len(store.list_policies()), len(store.list_responses()), len(store.open_tasks()), len(store.list_rounds()))
    assert after == before
