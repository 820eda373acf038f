"""Rounds beyond the usual: every update rule, other models, and everything a person can get wrong."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch

from annotate_app.bootstrap import built_in_model_dir
from online_learner.__main__ import main
from online_learner.logps import TokenisedResponse, response_logps
from online_learner.policy.adapters import PolicyScorer, adapter_deltas, extrapolated
from online_learner.policy.base_model import load_base_model, tokenise_prompt
from online_learner.round import run_job
from online_learner.update_rules import UPDATE_RULES
from storage.contract.jobs import work_dir
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


def round_job(data: Path, model: str, candidates: list[dict], judgments: list[dict] | None = None, **settings) -> Path:
    merged = FAST | settings
    said = prefer_short(candidates, 20) if judgments is None else judgments
    return write_job(data, "round", 2, Lineage(model), some_prompts(), candidates, said, **merged)


def telling(judgments: list[dict]) -> list[dict]:
    """The same verdicts with everything an annotator may add."""
    asides = [{"strength": 1 + n % 3, "rationale": "It comes to the point."} for n in range(len(judgments))]
    rated = [{"aspects": json.dumps({"helpful": 1 if row["verdict"] == "a" else -1, "polite": 0})} for row in judgments]
    return [row | aside | aspects for row, aside, aspects in zip(judgments, asides, rated, strict=True)]


def demonstrations() -> list[dict]:
    """What people wrote for two of the prompts."""
    return [
        dict.fromkeys(RESPONSES.names)
        | {"response_id": f"d{i}", "prompt_id": f"p{i}", "text": "Put it in water and wait.", "finish_reason": "imported"}
        | {"sampler": "{}", "role": "demonstration"}
        for i in range(2)
    ]


ONE_PER_MECHANISM = (
    "onpo_ref", "onpo_two_fit", "nash_md", "egpo", "dpo", "rationale_dpo", "xpo", "hypo", "preference_degree", "upo", "odpo",
    "modpo", "pessimistic_dpo", "simpo", "rso", "spin", "tpo",
)  # fmt: skip
RULES = [pytest.param(rule, marks=[] if rule in ONE_PER_MECHANISM else [pytest.mark.slow]) for rule in UPDATE_RULES]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_makes_a_policy(model, candidates, tmp_path, rule):
    """With annotators who say all that can be said, every rule finds what it needs."""
    said = telling(prefer_short(candidates, 20))
    update = {**FAST["update"], "rule": rule}
    artifact = run_job(round_job(tmp_path, model, [*candidates, *demonstrations()], said, update=update))
    report = read_report(artifact)
    assert report["picked"]["rule"] == rule
    assert set(report["picked"]) >= set(UPDATE_RULES[rule].settings)
    assert sum(report["auxiliary"].values()) == pytest.approx(1.0)
    assert (artifact / "adapter" / "adapter_model.safetensors").exists()
    lines = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]
    losses = [line["update/loss"] for line in lines if "update/loss" in line]
    groups = report["update"]["all"]["num_groups"]  # prompts, or judged pairs for rules that train on verdicts
    assert len(losses) == -(-groups // 2) * UPDATE_RULES[rule].fits
    assert all(math.isfinite(value) for value in [*losses, *filter(None, report["update"]["all"].values())] if value != "")
    assert report["evaluation"]["kl_to_parent_nats"]["mean"] != 0  # it moved
    assert "kl_to_parent_nats" in report["meaning"]
    assert report["evaluation"]["value_vs_base"]["pessimistic"] < report["evaluation"]["value_vs_base"]["mean"]
    assert ("train_r2" in report["meaning"]) == (UPDATE_RULES[rule].pair_loss == "square")  # others have no target to reach


@pytest.mark.parametrize(
    ("rule", "missing"),
    [
        ("spin", "holds no demonstration, a response that a person wrote"),
        ("odpo", "none of its verdicts says how much better"),
        ("modpo", "none of its verdicts rates an aspect"),
        ("rationale_dpo", "none of its verdicts gives a reason in words"),
        ("upo", "preference.num_heads is 1, and one head has no uncertainty"),
    ],
)
def test_a_rule_that_lacks_something_says_what_before_any_work(model, candidates, tmp_path, capsys, rule, missing):
    settings = {"update": {**FAST["update"], "rule": rule}, "preference": {**FAST["preference"], "num_heads": 1}}
    job = round_job(tmp_path, model, candidates, None, **settings)
    message = refused(capsys, job)
    assert f"Update rule {rule} cannot run on this job" in message and missing in message
    assert not (work_dir(job) / "stages").exists()


def test_momentum_starts_with_the_second_round_and_moves_only_the_sampler(model, candidates, tmp_path):
    """APO delivers the fit itself; the next responses come from (1 + a) fit - a parent, which then anchors the next fit."""
    update = {**FAST["update"], "rule": "apo", "momentum": 0.5, "learning_rate": 1e-2}
    lineage = Lineage(model)
    first = run_job(round_job(tmp_path, model, candidates, update=update))
    assert read_report(first)["update"]["anchors"] == {BASE: 1.0}  # the first parent has not moved yet
    lineage.promote(first)
    ahead = [row for row in read_rows(first / "responses.parquet") if row["role"] == "candidate"]
    assert {json.loads(row["sampler"])["momentum"] for row in ahead} == {0.5}
    job = write_job(tmp_path, "round", 3, lineage, some_prompts(), ahead, prefer_short(ahead, 20), **FAST | {"update": update})
    second = read_report(run_job(job))
    assert second["update"]["anchors"] == {lineage.parent: 1.5, BASE: -0.5}
    base = load_base_model(model, device="cpu")
    deltas = adapter_deltas(first / "adapter", base.device)
    moved = PolicyScorer(base.model).use(extrapolated(deltas, {}, 0.5))
    tokens = [
        TokenisedResponse(tokenise_prompt(base, some_prompts()[0]["messages"], "p0"), tuple(row["token_ids"]))
        for row in ahead
        if row["prompt_id"] == "p0"
    ]
    with torch.no_grad():
        scored = response_logps(moved, tokens).tolist()
    assert scored == pytest.approx([row["sum_logp"] for row in ahead if row["prompt_id"] == "p0"], abs=1e-3)


def test_samples_ahead_of_the_parent_train_only_the_rule_that_asked_for_them(model, candidates, tmp_path, capsys):
    ahead = [row | {"sampler": json.dumps({"momentum": 0.3})} for row in candidates]
    assert "sampled with momentum 0.3" in refused(capsys, round_job(tmp_path / "other", model, ahead))
    update = {**FAST["update"], "rule": "apo", "momentum": 0.5}
    assert "Set update.momentum = 0.3 or auto" in refused(capsys, round_job(tmp_path / "apo", model, ahead, update=update))


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
