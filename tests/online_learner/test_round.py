"""Rounds beyond the usual: every update rule, other models, and everything a person can get wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch

from annotate_app.bootstrap import built_in_model_dir
from online_learner.__main__ import main
from online_learner.policy.base_model import load_base_model, tokenise_prompt
from online_learner.round import run_job
from online_learner.update_rules import UPDATE_RULES
from storage.contract.schemas import RESPONSES
from storage.contract.sealing import sha256
from tests.contract.learner_jobs import BASE, Lineage, prefer_short, prompt, read_report, read_rows, write_job

STORIES = Path(__file__).parents[2].parent / "shared" / "models" / "stories260K"
QUESTIONS = ["How do I cook rice?", "What helps against a cold?", "How can I sleep better?", "How do I clean a window?"]
FAST = {
    "generation": {"max_new_tokens": 16},
    "preference": {"models": ["bradley_terry"], "num_heads": 2, "min_judgments": 4},
    "update": {"epochs": 1, "learning_rate": 1e-3, "prompts_per_step": 2},
}


@pytest.fixture(scope="module")
def model() -> str:
    if not (built_in_model_dir() / "model.safetensors").exists():
        pytest.skip("the built-in model has not been trained yet: run scripts/train_tiny_policy.py")
    return str(built_in_model_dir())


def some_prompts() -> list[dict]:
    train = [prompt(f"p{i}", text, "train") for i, text in enumerate(QUESTIONS)]
    return [*train, prompt("h1", "How do I boil an egg?", "heldout"), prompt("h2", "How do I save money?", "heldout")]


@pytest.fixture(scope="module")
def candidates(model, tmp_path_factory) -> list[dict]:
    job = write_job(tmp_path_factory.mktemp("base"), "generate", 1, Lineage(model), some_prompts(), **FAST)
    return read_rows(run_job(job) / "responses.parquet")


def round_job(data: Path, model: str, candidates: list[dict], **settings) -> Path:
    merged = FAST | settings
    return write_job(data, "round", 2, Lineage(model), some_prompts(), candidates, prefer_short(candidates, 20), **merged)


@pytest.mark.parametrize("rule", UPDATE_RULES)
def test_every_rule_makes_a_policy(model, candidates, tmp_path, rule):
    artifact = run_job(round_job(tmp_path, model, candidates, update={**FAST["update"], "rule": rule}))
    report = read_report(artifact)
    assert report["picked"]["rule"] == rule
    assert set(report["picked"]) >= set(UPDATE_RULES[rule].settings)
    assert sum(report["auxiliary"].values()) == pytest.approx(1.0)
    assert (artifact / "adapter" / "adapter_model.safetensors").exists()
    steps = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines() if "update/loss" in line]
    groups = report["update"]["all"]["num_groups"]  # prompts, or judged pairs for rules that train on verdicts
    assert len(steps) == -(-groups // 2) * UPDATE_RULES[rule].fits


def test_verdicts_of_a_dataset_rule_train_on_judged_pairs_only(model, candidates, tmp_path):
    artifact = run_job(round_job(tmp_path, model, candidates, update={**FAST["update"], "rule": "dpo"}))
    assert read_report(artifact)["update"]["all"]["num_groups"] == 20  # judgments of 20 different pairs


def test_random_pairs_are_half_of_all(model, candidates, tmp_path):
    artifact = run_job(round_job(tmp_path, model, candidates, update={**FAST["update"], "pairs": "random"}))
    whole = run_job(round_job(tmp_path / "all", model, candidates))
    name = "adapter/adapter_model.safetensors"
    assert sha256(artifact / name) != sha256(whole / name)


def test_a_limit_that_is_left_fails_the_round_with_a_sentence(model, candidates, tmp_path):
    settings = {"num_responses": 16, "max_kl_to_parent_nats": 0.001}
    update = {**FAST["update"], "learning_rate": 2e-2, "epochs": 5}
    report = read_report(run_job(round_job(tmp_path, model, candidates, update=update, evaluation=settings)))
    assert report["status"] == "failed"
    assert "KL to the parent" in report["reasons"][0]


def test_automatic_settings_say_why(model, candidates, tmp_path):
    report = read_report(run_job(round_job(tmp_path, model, candidates, update={**FAST["update"], "learning_rate": "auto"})))
    assert 0 < report["picked"]["learning_rate"] <= 3e-3
    assert {"learning_rate", "step_size", "kl_coef"} <= report["picked_why"].keys()
    assert (report["picked"]["step_size"], report["picked"]["kl_coef"]) == (5.0, 0.01)  # no cycles were found


def test_a_model_without_chat_template_continues_the_text(tmp_path):
    """The whole round on a real story model; its directory knows no sentences, so text quality is unknown."""
    if not STORIES.exists():
        pytest.skip(f"{STORIES} is not on this machine")
    base = load_base_model(str(STORIES), device="cpu")
    opening = [{"role": "user", "content": "Once upon a time, a cat"}]
    assert base.tokenizer.decode(tokenise_prompt(base, opening, "p"), skip_special_tokens=True) == "Once upon a time, a cat"
    prompts = [prompt(f"p{i}", f"Once upon a time, a {w}", "train") for i, w in enumerate(("cat", "dog", "girl", "tree"))]
    prompts.append(prompt("h", "One day, a bird", "heldout"))
    lineage = Lineage(str(STORIES))
    found = read_rows(run_job(write_job(tmp_path, "generate", 1, lineage, prompts, **FAST)) / "responses.parquet")
    judgments = prefer_short(found, 20)
    report = read_report(run_job(write_job(tmp_path, "round", 2, lineage, prompts, found, judgments, **FAST)))
    assert report["evaluation"].get("text_quality") is None
    assert not any(row["text"].startswith("Once upon") for row in found)  # the response, without its prompt


def test_judgments_of_imported_responses_count(model, candidates, tmp_path):
    """A response known only as text: no tokens, no log-probability, a prompt that is neither trained on nor sampled."""
    imported = [
        dict.fromkeys(RESPONSES.names)
        | {"response_id": f"i{k}", "prompt_id": "old", "policy_id": "x", "text": text, "finish_reason": "imported"}
        | {"sampler": "{}", "role": "candidate"}
        for k, text in enumerate(["Short.", "A very long answer that goes on and on."])
    ]
    prompts = [*some_prompts(), prompt("old", "A question from elsewhere?", "imported")]
    judgments = [*prefer_short(candidates, 20), *(j | {"judgment_id": "imported"} for j in prefer_short(imported, 1))]
    for rule in ("onpo_ref", "ipo"):
        update = {**FAST["update"], "rule": rule}
        settings = FAST | {"update": update}
        data = tmp_path / rule
        artifact = run_job(write_job(data, "round", 2, Lineage(model), prompts, [*candidates, *imported], judgments, **settings))
        report = read_report(artifact)
        assert report["data"]["num_judgments"] == 21
        assert report["update"]["all"]["num_groups"] == (21 if rule == "ipo" else 4)
        assert not any(row["prompt_id"] == "old" for row in read_rows(artifact / "responses.parquet"))


# What a person can get wrong: each a sentence that names the value


def refused(capsys, job: Path) -> str:
    """Standard error of the command, which must end with exit code 2."""
    assert main(["run", str(job)]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"update": {"rule": "ppo"}}, ["'ppo'", "onpo_ref", "iterative_dpo"]),
        ({"preference": {"models": ["elo"]}}, ["'elo'", "bradley_terry", "bt_gpm"]),
        ({"update": {"step_size": 30.0, "kl_coef": 0.05}}, ["30.0 * 0.05"]),
        ({"preference": {"min_judgments": 500}}, ["20", "500"]),
    ],
)
def test_settings_that_cannot_work_are_named(model, candidates, tmp_path, capsys, settings, words):
    merged = {section: FAST[section] | settings.get(section, {}) for section in FAST}
    message = refused(capsys, round_job(tmp_path, model, candidates, **merged))
    assert all(word in message for word in words), message


def test_no_judgments_at_all(model, candidates, tmp_path, capsys):
    job = write_job(tmp_path, "round", 2, Lineage(model), some_prompts(), candidates, [], **FAST)
    assert "no judgments" in refused(capsys, job)


def test_a_prompt_longer_than_the_context(model, tmp_path, capsys):
    prompts = [*some_prompts(), prompt("epic", "and then " * 600, "train")]
    message = refused(capsys, write_job(tmp_path, "generate", 1, Lineage(model), prompts, **FAST))
    assert "epic" in message and "512" in message  # the built-in model's context


def test_a_model_that_is_not_there(tmp_path, capsys):
    message = refused(capsys, write_job(tmp_path, "generate", 1, Lineage(str(tmp_path / "gone")), some_prompts(), **FAST))
    assert str(tmp_path / "gone") in message and "does not exist" in message


@pytest.mark.parametrize(
    ("missing", "word"), [("config.json", "config.json"), ("tokenizer*", "tokenizer"), ("model.*", "loaded")]
)
def test_a_model_directory_that_lacks_something(model, tmp_path, capsys, missing, word):
    broken = Path(shutil.copytree(model, tmp_path / "model"))
    for path in broken.glob(missing):
        path.unlink()
    assert word in refused(capsys, write_job(tmp_path, "generate", 1, Lineage(str(broken)), some_prompts(), **FAST))


def test_a_hub_model_that_cannot_be_reached(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # without it the hub is tried for a minute
    message = refused(capsys, write_job(tmp_path, "generate", 1, Lineage("nobody/no-such-model"), some_prompts(), **FAST))
    assert "nobody/no-such-model" in message


def test_an_adapter_that_was_changed(model, candidates, tmp_path, capsys):
    artifact = run_job(round_job(tmp_path, model, candidates))
    lineage = Lineage(model)
    lineage.promote(artifact)
    weights = artifact / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert str(weights) in refused(capsys, write_job(tmp_path, "evaluate", 3, lineage, some_prompts(), **FAST))


def test_a_job_that_was_changed(model, tmp_path, capsys):
    job = write_job(tmp_path, "generate", 1, Lineage(model), some_prompts(), **FAST)
    (job / "config.toml").write_text("seed = 1\n")
    assert "config.toml" in refused(capsys, job)


def test_a_parent_without_candidates(model, tmp_path, capsys, candidates):
    others = [row | {"policy_id": "someone else"} for row in candidates]
    assert "Generate candidates" in refused(capsys, round_job(tmp_path, model, others))


def test_no_directory(tmp_path, capsys):
    assert main(["run", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_rules_are_listed_without_torch():
    code = "import sys, online_learner.__main__ as m; m.main(['rules', '--json']); sys.exit('torch' in sys.modules)"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    assert [rule["name"] for rule in json.loads(listed.stdout)] == list(UPDATE_RULES)


@pytest.mark.gpu
def test_a_round_runs_on_a_gpu(model, candidates, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    report = read_report(run_job(round_job(tmp_path, model, candidates, device="cuda")))
    assert report["picked"]["device"].startswith("cuda")
    assert report["evaluation"]["kl_to_parent_nats"]["mean"] < 5
    assert report["new_policy"] != BASE
