"""Jobs whose preference model reads texts: whole rounds, what their judge says, and what is refused with the reason."""

from pathlib import Path

import pytest
import torch

from annotate_app.bootstrap import built_in_model_dir
from online_learner.job_models import judged_pairs
from online_learner.jobs import Job, open_job, run_stages
from online_learner.judging import FeatureJudge, TextJudge, job_encoder, load_judge, text_pair
from online_learner.preference_models.text_fit import load_text_preference
from online_learner.round import run_job, stages_of
from tests.contract.learner_jobs import Lineage, prefer_short, prompt, read_report, read_rows, write_job
from tests.online_learner.test_round import refused

QUESTIONS = ["How do I cook rice?", "What helps against a cold?", "How can I sleep better?", "How do I clean a window?"]
SETTINGS = {
    "generation": {"max_new_tokens": 16},
    "preference": {"num_heads": 2, "min_judgments": 4},
    "update": {"epochs": 1, "learning_rate": 1e-3, "prompts_per_step": 2},
}


def prompts() -> list[dict]:
    return [
        *(prompt(f"p{i}", text, "train") for i, text in enumerate(QUESTIONS)),
        prompt("h", "How do I boil an egg?", "heldout"),
    ]


@pytest.fixture(scope="module")
def lineage() -> Lineage:
    if not (built_in_model_dir() / "model.safetensors").exists():
        pytest.skip("the built-in model has not been trained yet: run scripts/train_tiny_policy.py")
    return Lineage(str(built_in_model_dir()))


@pytest.fixture(scope="module")
def candidates(lineage, tmp_path_factory) -> list[dict]:
    job = write_job(tmp_path_factory.mktemp("base"), "generate", 1, lineage, prompts(), **SETTINGS)
    return read_rows(run_job(job) / "responses.parquet")


def job_with(lineage: Lineage, candidates: list[dict], data: Path, kind: str = "round", **preference) -> Path:
    settings = SETTINGS | {"preference": SETTINGS["preference"] | preference}
    return write_job(data, kind, 2, lineage, prompts(), candidates, prefer_short(candidates, 20), **settings)


def fitted_job(lineage: Lineage, candidates: list[dict], data: Path, *models: str, **preference) -> Job:
    """A round, its stages run up to the preference model."""
    job = open_job(job_with(lineage, candidates, data, models=models, **preference))
    run_stages(job, stages_of(job)[:2])
    return job


def judge_of(job: Job):
    return load_judge(job, {name: row for name, row in job.responses.items() if row["prompt_id"] == "p0"})


def ids_of(job: Job) -> list[str]:
    return [name for name, row in job.responses.items() if row["prompt_id"] == "p0"]


@pytest.mark.parametrize("model", ["bradley_terry", "bt_gpm", "cross_encoder", "bt_gpm_gated"])
def test_a_judge_is_skew_symmetric_and_says_the_same_of_a_pair_in_any_company(lineage, candidates, tmp_path, model):
    job = fitted_job(lineage, candidates, tmp_path, model)
    judge, ids = judge_of(job), ids_of(job)
    assert isinstance(judge, FeatureJudge if model in ("bradley_terry", "bt_gpm") else TextJudge)
    heads = judge.between(ids, ids)
    assert heads.shape == (2, 4, 4)
    assert torch.allclose(heads, -heads.transpose(1, 2), atol=1e-5)
    assert torch.equal(heads.diagonal(dim1=1, dim2=2), torch.zeros(2, 4))
    fresh = judge_of(job)
    assert torch.allclose(fresh.between(ids[2:], ids[:1]), heads[:, 2:, :1], atol=1e-5)


def test_a_cross_encoders_judge_says_what_the_model_says_of_the_two_texts(lineage, candidates, tmp_path):
    job = fitted_job(lineage, candidates, tmp_path, "cross_encoder")
    first, second = ids_of(job)[:2]
    text = load_text_preference(job.stage_dir("preference_model") / "preference_model", job_encoder(job))
    pair = text_pair(job, job.responses[first], job.responses[second])
    expected = float(text.fitted.pair_logits(*text.pair_features([pair])))
    assert float(judge_of(job).between([first], [second]).mean()) == pytest.approx(expected, abs=1e-5)
    assert expected != 0


def test_judgments_become_pairs_of_text_in_their_order(lineage, candidates, tmp_path):
    job = open_job(job_with(lineage, candidates, tmp_path))
    rows = job.table("judgments").to_pylist()
    pairs = judged_pairs(job)
    assert [pair.verdict for pair in pairs] == [row["verdict"] for row in rows]
    assert [pair.a.response for pair in pairs] == [job.responses[row["response_a_id"]]["text"] for row in rows]
    assert pairs[0].a.messages == job.prompts[rows[0]["prompt_id"]]["messages"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "preference"),
    [
        ("onpo_ref", {"models": ["bradley_terry", "cross_encoder"]}),
        ("rso", {"models": ["cross_encoder"]}),
        ("egpo", {"models": ["bt_gpm_gated"]}),
        ("onpo_ref", {"models": ["bt_gpm"], "tune": "backbone", "tune_epochs": 1}),
    ],
)
def test_a_round_takes_its_preferences_from_a_model_of_text(lineage, candidates, tmp_path, rule, preference):
    settings = SETTINGS | {"preference": SETTINGS["preference"] | preference, "update": SETTINGS["update"] | {"rule": rule}}
    path = write_job(tmp_path, "round", 2, lineage, prompts(), candidates, prefer_short(candidates, 20), **settings)
    artifact = run_job(path)
    report = read_report(artifact)
    assert set(report["preference"]["models"]) == set(preference["models"])
    assert report["preference"]["selected"] in preference["models"]
    assert 0 < report["evaluation"]["win_rate_vs_parent"]["mean"] < 1
    assert "sentence" in report["audit"]
    scores = read_rows(artifact / "pair_scores.parquet")
    assert len(scores) == 4 * 6 and any(row["mean_logit"] for row in scores)


@pytest.mark.parametrize(
    ("preference", "words"),
    [
        ({"models": ["few_shot"]}, "predicts one annotator, whose past judgments it reads"),
        ({"models": ["bt_gpm_gated"], "tune": "backbone"}, "reads prompts with an untrained encoder"),
        ({"label_map": "flip", "tune": "backbone"}, "maps labels for heads on frozen features"),
        ({"models": ["elo"]}, "Unknown preference model 'elo'"),
    ],
)
def test_a_model_that_a_job_cannot_use_is_refused_before_any_work(lineage, candidates, tmp_path, capsys, preference, words):
    path = job_with(lineage, candidates, tmp_path, **preference)
    assert words in refused(capsys, path)
