"""Every kind of job: a sealed directory in, a sealed directory out (DESIGN 3)."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from annotate_app.bootstrap import built_in_model_dir
from online_learner.policy.adapters import adapter_deltas
from online_learner.policy.base_model import load_base_model, tokenise_prompt
from online_learner.preference_models.fitted import load_preference
from online_learner.round import run_job
from storage.contract.jobs import ROUND_STAGES, work_dir
from storage.contract.schemas import PAIR_SCORES, RESPONSES
from storage.contract.sealing import read_manifest
from tests.contract.learner_jobs import BASE, Lineage, prefer_short, prompt, read_report, read_rows, write_job

NUM_TRAIN, NUM_HELD_OUT = 24, 4
ROUND_FILES = {"adapter", "preference_model", "responses.parquet", "pair_scores.parquet", "metrics.jsonl", "report.json"}


def built_in_prompts() -> list[dict]:
    lines = [json.loads(line) for line in (built_in_model_dir() / "prompts.jsonl").read_text().splitlines()]
    rows = [prompt(f"p{i}", line["prompt"][0]["content"], line["split"]) for i, line in enumerate(lines)]
    train = [row for row in rows if row["split"] == "train"][:NUM_TRAIN]
    return train + [row for row in rows if row["split"] == "heldout"][:NUM_HELD_OUT]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Artifacts by name: candidates of the base, a round from them, a second round, a fit and an evaluation."""
    if not (built_in_model_dir() / "model.safetensors").exists():
        pytest.skip("the built-in model has not been trained yet: run scripts/train_tiny_policy.py")
    data, prompts = tmp_path_factory.mktemp("data"), built_in_prompts()
    lineage = Lineage(str(built_in_model_dir()))
    found = {"generate": run_job(write_job(data, "generate", 1, lineage, prompts))}
    candidates = read_rows(found["generate"] / "responses.parquet")
    judgments = prefer_short(candidates, 100)
    found["round"] = run_job(write_job(data, "round", 2, lineage, prompts, candidates, judgments))
    found["fit"] = run_job(write_job(data, "fit", 3, lineage, prompts, candidates, judgments))
    lineage.promote(found["round"])
    later = [row for row in read_rows(found["round"] / "responses.parquet") if row["role"] == "candidate"]
    all_judgments = judgments + prefer_short(later, 60, seed=1)
    found["second"] = run_job(write_job(data, "round", 4, lineage, prompts, candidates + later, all_judgments))
    found["evaluate"] = run_job(write_job(data, "evaluate", 5, lineage, prompts))
    return {"data": data, "prompts": prompts, "lineage": lineage, **found}


@pytest.mark.parametrize("name", ["generate", "round", "second", "fit", "evaluate"])
def test_every_artifact_is_sealed_and_says_what_it_is(done, name):
    manifest = read_manifest(done[name])
    report = read_report(done[name])
    assert (manifest["kind"], manifest["number"]) == (report["kind"], report["number"])
    assert report["status"] == "passed", report["reasons"]
    assert {"report.json", "metrics.jsonl"} <= set(manifest["files"])
    assert not list(done["data"].glob("artifacts/.*")), "nothing half-written is left"


def test_generation_answers_every_training_prompt(done):
    table = pq.read_table(done["generate"] / "responses.parquet")
    assert table.schema.equals(RESPONSES)
    rows = table.to_pylist()
    train = [row["prompt_id"] for row in done["prompts"] if row["split"] == "train"]
    assert [row["prompt_id"] for row in rows] == [prompt_id for prompt_id in train for _ in range(4)]
    assert {(row["policy_id"], row["role"]) for row in rows} == {(BASE, "candidate")}
    assert len({row["response_id"] for row in rows}) == len(rows)


def test_responses_say_how_they_were_made(done):
    """Tokens decode to the text, and the sum of log-probabilities is what the model says about those tokens."""
    base = load_base_model(str(built_in_model_dir()), device="cpu")
    messages = {row["prompt_id"]: row["messages"] for row in done["prompts"]}
    for row in read_rows(done["generate"] / "responses.parquet")[:6]:
        stopped = row["token_ids"][-1] in base.end_ids
        assert stopped == (row["finish_reason"] == "stop")
        spoken = row["token_ids"][:-1] if stopped else row["token_ids"]
        assert base.tokenizer.decode(spoken).strip() == row["text"]
        ids = [*tokenise_prompt(base, messages[row["prompt_id"]], row["prompt_id"]), *row["token_ids"]]
        logps = base.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        start = len(ids) - len(row["token_ids"])
        total = sum(logps[place - 1, ids[place]].item() for place in range(start, len(ids)))
        assert row["sum_logp"] == pytest.approx(total, abs=1e-3)
        assert json.loads(row["sampler"]) == {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 32}


def test_a_round_leaves_all_its_files(done):
    assert {path.name for path in done["round"].iterdir()} == ROUND_FILES | {"manifest.json"}
    rows = read_rows(done["round"] / "responses.parquet")
    new = read_report(done["round"])["new_policy"]
    kinds = {(row["policy_id"], row["role"]) for row in rows}
    assert kinds == {(new, "candidate"), (new, "gate"), (BASE, "gate")}
    second = {(row["policy_id"], row["role"]) for row in read_rows(done["second"] / "responses.parquet")}
    newest = read_report(done["second"])["new_policy"]
    assert second == {(newest, "candidate"), (newest, "gate"), (new, "gate"), (BASE, "gate")}  # parent and base


def test_every_pair_of_new_candidates_is_scored(done):
    table = pq.read_table(done["round"] / "pair_scores.parquet")
    assert table.schema.equals(PAIR_SCORES)
    scores = table.to_pylist()
    candidates = [row for row in read_rows(done["round"] / "responses.parquet") if row["role"] == "candidate"]
    assert len(scores) == NUM_TRAIN * 6  # 4 responses make 6 pairs
    assert {row["response_1_id"] for row in scores} | {row["response_2_id"] for row in scores} == {
        row["response_id"] for row in candidates
    }
    for row in scores:
        assert len(row["ensemble_logits"]) == 2
        assert row["mean_logit"] == pytest.approx(sum(row["ensemble_logits"]) / 2, abs=1e-5)


def test_the_scores_prefer_what_the_judgments_preferred(done):
    text = {row["response_id"]: row["text"] for row in read_rows(done["round"] / "responses.parquet")}
    scores = read_rows(done["round"] / "pair_scores.parquet")
    clear = [row for row in scores if abs(len(text[row["response_1_id"]]) - len(text[row["response_2_id"]])) > 30]
    right = [(len(text[row["response_1_id"]]) < len(text[row["response_2_id"]])) == (row["mean_logit"] > 0) for row in clear]
    assert len(clear) > 20
    assert sum(right) / len(right) > 0.8


def test_the_saved_preference_model_can_be_read(done):
    assert load_preference(done["round"] / "preference_model").name in ("bradley_terry", "bt_gpm")
    assert load_preference(done["fit"] / "preference_model").model.weights.shape[0] == 2
    fit_scores = read_rows(done["fit"] / "pair_scores.parquet")
    of_parent = {row["response_id"] for row in read_rows(done["generate"] / "responses.parquet")}
    assert len(fit_scores) == NUM_TRAIN * 6
    assert all({row["response_1_id"], row["response_2_id"]} <= of_parent for row in fit_scores)


def test_the_policy_moved_towards_short_answers(done):
    evaluation = read_report(done["second"])["evaluation"]
    assert evaluation["mean_tokens"]["policy"] < evaluation["mean_tokens"]["parent"] + 3
    assert evaluation["win_rate_vs_base"]["mean"] > 0.5
    assert any(delta.abs().max() > 0 for delta in adapter_deltas(done["round"] / "adapter", torch.device("cpu")).values())


def test_a_second_round_continues_the_first_one_s_adapter(done):
    first, second = (load_file(done[name] / "adapter" / "adapter_model.safetensors") for name in ("round", "second"))
    assert first.keys() == second.keys()
    shares = [torch.nn.functional.cosine_similarity(first[k].flatten(), second[k].flatten(), dim=0) for k in first]
    assert torch.stack(shares).mean() > 0.8  # a fresh start would be near zero in the random half


def test_the_report_says_what_ran(done):
    report = read_report(done["round"])
    assert report["picked"]["rule"] == "onpo_ref"
    assert report["picked"]["learning_rate"] == 3e-3
    assert set(report["picked_why"]) >= {"step_size", "kl_coef"}
    assert set(report["seconds"]) == set(ROUND_STAGES) - {"seal"}
    assert sum(report["data"]["verdicts"].values()) == report["data"]["num_judgments"] == 100
    assert sum(report["auxiliary"].values()) == pytest.approx(1.0)
    evaluation = report["evaluation"]
    for name in ("win_rate_vs_parent", "win_rate_vs_base", "length_controlled_vs_parent"):
        assert 0 <= evaluation[name]["low"] <= evaluation[name]["mean"] <= evaluation[name]["high"] <= 1
    assert evaluation["win_rate_vs_parent"] == evaluation["win_rate_vs_base"]  # the base is the parent of the first round
    assert 0 <= evaluation["text_quality"] <= 1
    assert "samples" in evaluation["restricted_duality_gap"]["search_set"]
    assert len(report["examples"]) == NUM_HELD_OUT


def test_the_auxiliary_mixture_follows_the_rule(done):
    """q = 1 - eta tau; c' = {new: 1 / (1 + q), auxiliary: q / (1 + q)} (ALGORITHMS 1.9), the base being the first auxiliary."""
    report = read_report(done["round"])
    kept = 1 - report["picked"]["step_size"] * report["picked"]["kl_coef"]
    assert report["auxiliary"] == pytest.approx({report["new_policy"]: 1 / (1 + kept), BASE: kept / (1 + kept)})
    anchors = read_report(done["second"])["update"]["anchors"]
    assert set(anchors) == {report["new_policy"], BASE}
    assert sum(anchors.values()) == pytest.approx(1.0)


def test_evaluation_measures_the_parent_on_held_out_prompts(done):
    rows = read_rows(done["evaluate"] / "responses.parquet")
    assert len(rows) == NUM_HELD_OUT * 2
    assert {row["role"] for row in rows} == {"gate"}
    measured = read_report(done["evaluate"])["evaluation"]
    assert measured["kl_to_base_nats"]["low"] <= measured["kl_to_base_nats"]["mean"] <= measured["kl_to_base_nats"]["high"]
    assert measured["text_quality"] is not None
    assert measured["mean_tokens"]["policy"] == pytest.approx(sum(len(row["token_ids"]) for row in rows) / len(rows))


def test_progress_only_moves_forward_and_names_every_stage(done):
    lines = [
        json.loads(line) for line in (work_dir(done["data"] / "jobs/0002-round") / "progress.jsonl").read_text().splitlines()
    ]
    assert list(dict.fromkeys(line["stage"] for line in lines)) == list(ROUND_STAGES)
    fractions = [line["fraction"] for line in lines]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    metrics = {name for line in lines for name in line["metrics"] or {}}
    assert {"update/loss", "preference/log_loss", "policy/kl_to_base_nats", "policy/win_rate_vs_parent"} <= metrics
    kept = [json.loads(line) for line in (done["round"] / "metrics.jsonl").read_text().splitlines()]
    assert sum("update/loss" in row for row in kept) == 12  # 24 prompts, 10 % watched, 4 a step: 6 steps, 2 epochs


def test_the_fit_is_kept_at_the_epoch_that_suits_unseen_prompts_best(done):
    for name in ("round", "second"):
        metrics = [json.loads(line) for line in (done[name] / "metrics.jsonl").read_text().splitlines()]
        seen = [row["update/heldout_loss"] for row in metrics if "update/heldout_loss" in row]
        assert len(seen) == 2  # two epochs
        assert read_report(done[name])["update"]["all"]["heldout_loss"] == pytest.approx(min(seen), rel=1e-4)


def test_more_candidates_of_one_policy_are_other_samples(done):
    job = write_job(done["data"], "generate", 6, Lineage(str(built_in_model_dir())), done["prompts"][:4])
    more = {row["text"] for row in read_rows(run_job(job) / "responses.parquet")}
    first = {row["text"] for row in read_rows(done["generate"] / "responses.parquet")[:16]}
    assert more != first
