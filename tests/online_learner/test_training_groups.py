"""What each sampler gives a rule to train on: which responses, which pairs, which labels. One small job for all."""

import dataclasses
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from annotate_app.bootstrap import built_in_model_dir
from online_learner.features import extract_features
from online_learner.jobs import Job, open_job, run_stages
from online_learner.opponents import mixture_weights
from online_learner.policy.groups import Group, Groups, collate
from online_learner.preference_models.fitted import load_preference
from online_learner.responses import load_by_id
from online_learner.round import run_job, stages_of
from online_learner.rule_values import pick_settings
from online_learner.training_groups import training_groups, uncertainty
from storage.contract.schemas import RESPONSES
from storage.errors import UserError
from tests.contract.learner_jobs import Lineage, prefer_short, prompt, read_rows, write_job

QUESTIONS = ["How do I cook rice?", "What helps against a cold?", "How can I sleep better?"]
SETTINGS = {
    "generation": {"max_new_tokens": 16},
    "preference": {"models": ["bradley_terry"], "num_heads": 3, "min_judgments": 4},
    "update": {"epochs": 1, "learning_rate": 1e-3, "prompts_per_step": 2, "num_candidates": 8},
}


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    """A round over three prompts with four responses each, stages up to the preference model done."""
    if not (built_in_model_dir() / "model.safetensors").exists():
        pytest.skip("the built-in model has not been trained yet: run scripts/train_tiny_policy.py")
    data = tmp_path_factory.mktemp("groups")
    prompts = [prompt(f"p{i}", text, "train") for i, text in enumerate(QUESTIONS)]
    prompts.append(prompt("h", "How do I boil an egg?", "heldout"))
    lineage = Lineage(str(built_in_model_dir()))
    candidates = read_rows(run_job(write_job(data, "generate", 1, lineage, prompts, **SETTINGS)) / "responses.parquet")
    said = [
        row | {"strength": 3, "rationale": "Short.", "aspects": json.dumps({"kind": 1 if row["verdict"] == "a" else -3})}
        for row in prefer_short(candidates, 10)
    ]
    written = dict.fromkeys(RESPONSES.names) | {"response_id": "d", "prompt_id": "p1", "text": "Drink tea and rest."}
    written |= {"finish_reason": "imported", "sampler": "{}", "role": "demonstration"}
    opened = open_job(write_job(data, "round", 2, lineage, prompts, [*candidates, written], said, **SETTINGS))
    run_stages(opened, stages_of(opened)[:2])
    return opened


def with_rule(job: Job, rule: str, last_stage: str | None = None, **changes: object) -> Job:
    """The same job with another rule, its own stages run up to one of them."""
    update = job.settings.update.model_copy(update={"rule": rule, **changes})
    other = dataclasses.replace(job, settings=job.settings.model_copy(update={"update": update}))
    if last_stage:
        names = [stage.name for stage in stages_of(other)]
        for name in names[2:]:  # another rule's left-overs
            shutil.rmtree(job.stage_dir(name), ignore_errors=True)
        run_stages(other, stages_of(other)[: names.index(last_stage) + 1])
    return other


def of_group(groups: Groups, n: int) -> list[str]:
    """Response ids of the n-th group."""
    return [groups.response_ids[row] for row in groups.members[n].tolist() if row >= 0]


def policies(job: Job, ids: list[str]) -> list[str]:
    return [job.responses[name]["policy_id"] for name in ids]


def test_a_rule_on_policy_trains_on_all_pairs_of_the_parents_responses(job):
    groups = training_groups(with_rule(job, "onpo_ref"))
    assert len(groups) == 3 and groups.members.shape == (3, 4)
    assert groups.pair_weights.sum((-1, -2)).tolist() == [6.0] * 3
    torch.testing.assert_close(groups.preferences + groups.preferences.mT, torch.ones(3, 4, 4))  # the model's probabilities


def test_best_against_worst_trains_on_one_pair_of_each_prompt_where_a_bench_asks_for_it(job):
    everything = training_groups(with_rule(job, "onpo_ref"))
    groups = training_groups(with_rule(job, "onpo_ref", pairs="best_worst", for_comparison=True))
    assert groups.pair_weights.sum((-1, -2)).tolist() == [1.0] * 3
    rates = everything.preferences.mean(-1)
    for n, (first, second) in enumerate(groups.pair_weights.nonzero()[:, 1:].tolist()):
        assert {first, second} == {int(rates[n].argmax()), int(rates[n].argmin())}
    with pytest.raises(UserError, match="is refused for update rule onpo_ref"):
        training_groups(with_rule(job, "onpo_ref", pairs="best_worst"))


def test_judged_pairs_carry_verdicts_strengths_ratings_and_reasons(job):
    """Every verdict of the ten says 3, rates `kind` +1 for a or -3 against it, and says why."""
    judged = {tuple(sorted((r["response_a_id"], r["response_b_id"]))): r for r in job.table("judgments").to_pylist()}
    odpo, modpo = training_groups(with_rule(job, "odpo")), training_groups(with_rule(job, "modpo"))
    assert odpo.facts.strengths is not None and modpo.facts.scores is not None
    for n in range(len(odpo)):
        first, second = of_group(odpo, n)
        row = judged[first, second]
        a_first = row["response_a_id"] == first
        value = {"a": 1.0, "tie": 0.5, "b": 0.0}[row["verdict"]]
        assert float(odpo.preferences[n, 0, 1]) == (value if a_first else 1 - value)
        assert odpo.facts.strengths[n].tolist() == [[3.0, 3.0], [3.0, 3.0]]
        rating = (1 if row["verdict"] == "a" else -3) * (1 if a_first else -1)
        assert modpo.facts.scores[n].tolist() == [rating / 2, -rating / 2]
    explained = training_groups(with_rule(job, "rationale_dpo"))
    reasons = explained.members_of["rationales"]
    decided = sum(row["verdict"] in ("a", "b") for row in judged.values())
    assert reasons.sum() == decided and explained.pair_weights.sum() == len(judged)
    tokenizer = job.base.tokenizer
    for row in explained.members[reasons > 0].tolist():
        sequence = explained.sequences[row]
        assert "Why is the first answer preferred?" in tokenizer.decode(sequence.prompt_ids)
        assert tokenizer.decode(sequence.response_ids, skip_special_tokens=True).strip() == "Short."


def test_hypo_sees_the_parents_samples_beside_the_judged_pairs(job):
    groups = training_groups(with_rule(job, "hypo"))
    for n in range(len(groups)):
        ids = of_group(groups, n)
        samples = {name for name, inside in zip(ids, groups.members_of["samples"][n].tolist(), strict=False) if inside}
        assert len(samples) == 4 and set(policies(job, list(samples))) == {job.lineage["parent"]}
        assert groups.facts.drawn_logps is not None
        drawn = groups.facts.drawn_logps[n].tolist()
        assert drawn[: len(ids)] == pytest.approx([job.responses[name]["sum_logp"] for name in ids], rel=1e-6)
        assert groups.pair_weights[n].nonzero().tolist() == [[0, 1]]


def test_a_demonstration_beats_each_of_the_parents_responses(job):
    groups = training_groups(with_rule(job, "spin"))
    assert groups.prompt_ids == ["p1"] and of_group(groups, 0)[0] == "d"
    assert groups.pair_weights[0].nonzero().tolist() == [[0, k] for k in (1, 2, 3, 4)]
    assert groups.preferences[0, 0, 1:].tolist() == [1.0] * 4


def test_xpo_compares_the_parent_with_fresh_samples_of_the_reference(job):
    groups = training_groups(with_rule(job, "xpo", "samples"))
    rows = pq.read_table(job.stage_dir("samples") / "samples.parquet").to_pylist()
    fresh = {row["response_id"] for row in rows}
    assert len(fresh) == 12 and {row["role"] for row in rows} == {"training"}
    for n in range(3):
        assert [name in fresh for name in of_group(groups, n)] == [False] * 4 + [True] * 4
        assert groups.pair_weights[n].nonzero().tolist() == [[i, j] for i in range(4) for j in range(4, 8)]
        assert groups.members_of["samples"][n].tolist() == [0.0] * 4 + [1.0] * 4


def test_xpo_keeps_the_responses_of_earlier_rounds(job, tmp_path):
    """A response of the policy before the parent joins its prompt's group, on the parent's side, and has a label."""
    prompts, rows, said = (job.table(name).to_pylist() for name in ("prompts", "responses", "judgments"))
    same = next(row for row in rows if row["prompt_id"] == "p2")
    earlier = same | {"response_id": "earlier", "policy_id": "the policy before"}
    settings = SETTINGS | {"update": SETTINGS["update"] | {"rule": "xpo"}}
    path = write_job(tmp_path, "round", 3, Lineage(job.lineage["base_model"]), prompts, [*rows, earlier], said, **settings)
    older = open_job(path)
    run_stages(older, stages_of(older)[:3])
    groups = training_groups(older)
    assert [len(of_group(groups, n)) for n in range(3)] == [8, 8, 9]
    ids = of_group(groups, 2)
    place = ids.index("earlier")
    weights, preferences = groups.pair_weights[2], groups.preferences[2]
    assert weights[place].tolist() == weights[0].tolist() and weights[place].sum() == 4
    # the same text as one of the parent's: the same probabilities against every sample
    twin = ids.index(same["response_id"])
    assert torch.allclose(preferences[place, 5:], preferences[twin, 5:], atol=1e-6)
    assert set(older.responses) >= set(ids[:5]) and not set(older.responses) & set(ids[5:])


def test_rejection_keeps_some_of_many_samples_of_the_reference(job):
    groups = training_groups(with_rule(job, "rso", "samples"))
    assert groups.members.shape == (3, 4) and not set(groups.response_ids) & set(job.responses)
    again = training_groups(with_rule(job, "rso", "samples"))
    assert again.response_ids == groups.response_ids  # the same draws


def test_the_half_step_is_beaten_as_often_as_the_preference_model_says(job):
    """Win rates of EGPO's second fit, against each pair's probability computed one by one."""
    other = with_rule(job, "egpo", "half_step")
    found = load_by_id(other.stage_dir("half_step") / "win_rates.safetensors")
    opponents = [r for r in pq.read_table(other.stage_dir("half_step") / "samples.parquet").to_pylist() if r["prompt_id"] == "p2"]
    assert len(opponents) == 4
    own = of_group(training_groups(other), 2)
    preference = load_preference(other.stage_dir("preference_model") / "preference_model")
    rows = [job.responses[name] for name in own] + opponents
    messages = [job.prompts["p2"]["messages"]] * len(rows)
    features = extract_features(job.base.model, job.base.tokenizer, messages, [row["text"] for row in rows])
    for k in range(4):
        wins = [float(torch.sigmoid(preference.pair_logits(features[k][None], features[4 + j][None]))) for j in range(4)]
        assert float(found["p2"][k]) == pytest.approx(sum(wins) / 4, abs=1e-5)


def test_settings_left_on_auto_come_from_the_rule_the_data_or_the_usual_value(job):
    flips = json.loads((job.stage_dir("preference_model") / "preference.json").read_text())["annotator_flips"]
    settings, why = pick_settings(with_rule(job, "rdpo", beta=0.3))
    assert settings.beta == 0.3 and "beta" not in why
    assert settings.flip_rate == pytest.approx(sum(flips.values()) / len(flips)) and "preference model" in why["flip_rate"]
    settings, why = pick_settings(with_rule(job, "simpo"))
    assert (settings.beta, settings.margin_coef) == (2.0, 0.5) and why["beta"] == "automatic: suits simpo"
    assert why["momentum"] == "automatic: the usual value"
    with pytest.raises(UserError, match=r"step_size \* kl_coef must be in"):
        pick_settings(with_rule(job, "inpo", step_size=30.0, kl_coef=0.05))


def test_the_mixture_is_the_parent_reweighted():
    """Parent (.5, .5), reference (.9, .1), mixture parent^.75 ref^.25: weights (.9^.25, .1^.25) / sum = .6340, .3660."""
    parent, reference = torch.tensor([[0.5, 0.5, 1.0]]).log(), torch.tensor([[0.9, 0.1, 1.0]]).log()
    weights = mixture_weights(0.75 * parent + 0.25 * reference, parent, torch.tensor([[True, True, False]]))
    assert weights[0].tolist() == pytest.approx([0.6340, 0.3660, 0.0], abs=1e-4)


def test_uncertainty_is_the_spread_of_what_the_heads_say():
    """Two heads give the first response 2 and 4 logits against the second: 1 and 2 against the group of both, spread .5."""
    heads = torch.tensor([[[0.0, 2.0], [-2.0, 0.0]], [[0.0, 4.0], [-4.0, 0.0]]])
    assert uncertainty(heads).tolist() == [0.5, 0.5]


def test_padding_is_neutral(job):
    """A pair beside a group of three: the third place of the pair has no response, no pair, and takes part in no extra term."""
    pair, three = (
        Group(
            prompt_id=ids,
            response_ids=list(ids),
            preferences=torch.full((len(ids), len(ids)), 0.5),
            weights=torch.ones(len(ids), len(ids)).triu(1),
            facts={"strengths": torch.full((len(ids), len(ids)), 3.0)},
            members_of={"samples": torch.ones(len(ids))},
        )
        for ids in ("ab", "ace")
    )
    found = collate([pair, three], dict.fromkeys("abce", training_groups(with_rule(job, "onpo_ref")).sequences[0]))
    assert found.members.tolist() == [[0, 1, -1], [0, 2, 3]]
    assert found.preferences[0, 2].tolist() == [0.5] * 3 and found.pair_weights[0].sum() == 1
    assert found.facts.strengths is not None and found.facts.strengths[0, 2].tolist() == [1.0] * 3
    assert found.members_of["samples"][0].tolist() == [1.0, 1.0, 0.0]
    assert found.select([1]).members_of["samples"].tolist() == [[1.0] * 3]


def test_the_stages_of_a_round_are_those_that_its_rule_asks_for(job):
    def names(rule: str) -> list[str]:
        return [stage.name for stage in stages_of(with_rule(job, rule))]

    assert names("onpo_ref") == ["labels", "preference_model", "anchors", "update", "evaluation", "candidates", "seal"]
    assert names("rso")[2:4] == ["samples", "anchors"]
    assert names("egpo")[3:5] == ["half_step", "update"]
    assert Path(job.stage_dir("preference_model")).exists()
