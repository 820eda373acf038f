"""The stage in which a round draws what its rule trains on beside the parent's responses: samples of the reference policy."""

from pathlib import Path
from typing import Any

import torch

from online_learner.jobs import Job
from online_learner.judging import Judge, by_id, load_judge
from online_learner.policy.adapters import PolicyScorer
from online_learner.responses import sample_responses, save_by_id, split_rows, write_responses
from online_learner.samplers import multi_step_rejection_sample, path_of_temperatures, rejection_sample
from online_learner.seeds import stream
from online_learner.update_rule import UpdateRule
from online_learner.update_rules import get_rule

REJECTION = ("rejection", "multi_step_rejection")


def needs_samples(rule: UpdateRule) -> bool:
    """Whether the round has this stage."""
    return rule.sampler in (*REJECTION, "all_rounds_and_reference") or "reference_samples" in rule.needs


def samples_stage(job: Job, out: Path) -> None:
    """Samples of the reference on the training prompts, with features; for rejection rules only those that are kept."""
    rule, reference = get_rule(job.settings.update.rule), job.lineage["reference"]
    rejecting = rule.sampler in REJECTION
    prompts = split_rows(job, "train")
    rows = sample_responses(
        job,
        PolicyScorer(job.base.model).use(job.deltas(reference)),
        policy_id=reference,
        prompts=prompts,
        num_responses=job.settings.update.num_candidates if rejecting else job.settings.generation.num_responses,
        role="training",
        progress=lambda share: job.progress.tell(0.7 * share, f"answering {len(prompts)} prompts"),
    )
    say = f"features of {len(rows)} responses"
    judge = load_judge(job, by_id(rows), progress=lambda share: job.progress.tell(0.7 + 0.3 * share, say))
    if rejecting and rows:
        rows = _kept(job, rule, rows, judge)
    write_responses(out / "samples.parquet", rows)
    kept = by_id(rows)
    save_by_id(out / "features.safetensors", {name: row for name, row in judge.features.items() if name in kept})


def _kept(job: Job, rule: UpdateRule, rows: list[dict[str, Any]], judge: Judge) -> list[dict[str, Any]]:
    """The rows that rejection sampling keeps, as many for each prompt as it has candidates in other rules."""
    update, num_kept = job.settings.update, job.settings.generation.num_responses
    pools = [rows[i : i + update.num_candidates] for i in range(0, len(rows), update.num_candidates)]
    named = [[row["response_id"] for row in pool] for pool in pools]
    # (N, C): mean logit against the pool, a reward up to a constant
    rewards = torch.stack([judge.between(ids, ids).mean(0).mean(-1) for ids in named])
    generator = stream(job.settings.seed, "rejection")
    if rule.sampler == "rejection":
        kept = rejection_sample(rewards, min(num_kept, update.num_candidates), update.sampling_temperature, generator)
    else:
        path = path_of_temperatures(update.sampling_temperature, update.sampling_steps)
        kept = multi_step_rejection_sample(rewards, num_kept, path, generator)
    return [pool[i] for pool, chosen in zip(pools, kept.tolist(), strict=True) for i in dict.fromkeys(chosen)]
