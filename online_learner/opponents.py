"""Win rates against opponents from outside the group: samples of a half step, or the mixture that is the anchor."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from online_learner.fitting import FitInput
from online_learner.jobs import Job
from online_learner.judging import by_id, load_judge
from online_learner.policy.adapters import PolicyScorer, TrainedAdapter
from online_learner.policy.groups import Groups
from online_learner.responses import (
    load_by_id,
    sample_responses,
    save_by_id,
    write_responses,
)
from online_learner.targets import group_win_rates

WIN_RATES = "win_rates.safetensors"


def with_scores(fit_input: FitInput, scores: Tensor) -> FitInput:
    """The same fit with these scores (N, K) of its responses."""
    groups = fit_input.groups
    return replace(fit_input, groups=replace(groups, facts=replace(groups.facts, scores=scores)))


def save_win_rates(job: Job, adapter: TrainedAdapter, groups: Groups, out: Path) -> None:
    """Sample the adapter's policy on the groups' prompts and write each response's win rate against its samples, by prompt id."""
    prompts = [job.prompts[prompt] for prompt in dict.fromkeys(groups.prompt_ids)]
    model = PolicyScorer(job.base.model).use(adapter.deltas())
    rows = sample_responses(
        job,
        model,
        policy_id="half step",
        prompts=prompts,
        num_responses=job.settings.generation.num_responses,
        role="opponent",
        progress=lambda share: job.progress.tell(0.9 + 0.05 * share, f"answering {len(prompts)} prompts"),
    )
    write_responses(out / "samples.parquet", rows)
    drawn: dict[str, list[str]] = {}
    for row in rows:
        drawn.setdefault(row["prompt_id"], []).append(row["response_id"])
    known = load_by_id(job.stage_dir("preference_model") / "features.safetensors")
    judge = load_judge(job, by_id(rows), known)

    def rates(ids: Sequence[str], others: Sequence[str]) -> Tensor:
        return torch.sigmoid(judge.between(ids, others).mean(0)).mean(-1)

    own = [[groups.response_ids[row] for row in members if row >= 0] for members in groups.members.tolist()]
    save_by_id(out / WIN_RATES, {prompt: rates(ids, drawn[prompt]) for prompt, ids in zip(groups.prompt_ids, own, strict=True)})


def opponent_win_rates(job: Job, fit_input: FitInput) -> tuple[Tensor, dict[str, float]]:
    """Win rates (N, K) against the rule's opponent, and what is worth knowing of it for the report."""
    groups = fit_input.groups
    if fit_input.objective.rule.opponent == "half_step":
        found = load_by_id(job.stage_dir("half_step") / WIN_RATES)
        rates = torch.full(groups.members.shape, 0.5)
        for n, prompt in enumerate(groups.prompt_ids):
            rates[n, : len(found[prompt])] = found[prompt]
        return rates, {}
    parent = groups.spread(load_by_id(job.stage_dir("anchors") / "logps.safetensors")[job.lineage["parent"]])
    weights = mixture_weights(fit_input.anchor_logps, parent, groups.members >= 0)
    effective = float((1 / (weights**2).sum(-1)).mean())
    return group_win_rates(groups.preferences, weights), {"opponent_effective_samples": effective}


def mixture_weights(mixture_logps: Tensor, parent_logps: Tensor, present: Tensor) -> Tensor:
    """Weights (N, K) that make the parent's responses a sample of the mixture, mixture / parent, sum 1 over those present.

    The paper's algorithm for language models samples its opponent from a token-wise mixture of logits, an approximation of the
    mixture of whole responses (arXiv:2312.00886); reweighting has the latter as its limit for large K and decodes nothing anew.
    A response meets itself too, as in every win rate of a group.
    """
    return torch.softmax((mixture_logps - parent_logps).masked_fill(~present, -torch.inf), dim=-1)
