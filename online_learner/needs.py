"""Whether a job can give its update rule what the rule needs; asked before any work, answered in words."""

from collections.abc import Callable

from online_learner.jobs import Job
from online_learner.rationales import has_reason
from online_learner.responses import momentum_of
from online_learner.training_groups import mean_aspect
from online_learner.update_rule import UpdateRule
from storage.errors import UserError

DECIDED = ("a", "b")


def check_needs(rule: UpdateRule, job: Job) -> None:
    """UserError that says what the rule lacks in this job and what to do; nothing where the round can run."""
    _check_sampler(rule, job)
    for need in rule.needs:
        missing = MISSING.get(need, lambda job: None)(job)
        if missing:
            raise UserError(f"Update rule {rule.name} cannot run on this job: {missing}")


def _check_sampler(rule: UpdateRule, job: Job) -> None:
    """Samples that were drawn ahead of the parent are not its own: only the rule that asked for them may train on them."""
    own = [row for row in job.responses.values() if row["policy_id"] == job.lineage["parent"] and row["role"] == "candidate"]
    ahead = sorted({momentum_of(row) for row in own} - {0.0})
    if not ahead:
        return
    if rule.sampler != "extrapolated" and all(momentum_of(row) for row in own):
        raise UserError(
            f"Update rule {rule.name} needs the parent's own responses, and this parent's were sampled with momentum "
            f"{ahead[0]:g} by the rule apo. Run a generate job from this policy and label those, or go on with apo."
        )
    wanted = job.settings.update.momentum
    if rule.sampler == "extrapolated" and wanted not in ("auto", ahead[0]):
        raise UserError(
            f"The parent's responses were sampled with momentum {ahead[0]:g}, and update.momentum is {wanted:g}: the step "
            f"would start from another policy than the one that answered. Set update.momentum = {ahead[0]:g} or auto."
        )


def _no_demonstrations(job: Job) -> str | None:
    answered = {r["prompt_id"] for r in job.responses.values() if r["policy_id"] == job.lineage["parent"]}
    if any(row["role"] == "demonstration" and row["prompt_id"] in answered for row in job.responses.values()):
        return None
    return (
        "it holds no demonstration, a response that a person wrote, for a prompt that the parent answered. Edit responses "
        "while labelling, then start again; or choose a rule that learns from comparisons."
    )


def _no_strengths(job: Job) -> str | None:
    if any(row["strength"] and row["verdict"] in DECIDED for row in _judgments(job)):
        return None
    return "none of its verdicts says how much better. Ask for the strength while labelling, or use dpo."


def _no_objectives(job: Job) -> str | None:
    if any(mean_aspect(row) for row in _judgments(job)):
        return None
    return "none of its verdicts rates an aspect. Ask for aspects while labelling, or use dpo."


def _no_reasons(job: Job) -> str | None:
    if any(has_reason(row) for row in _judgments(job)):
        return None
    return "none of its verdicts gives a reason in words. Ask for reasons while labelling, or use dpo."


def _one_head(job: Job) -> str | None:
    heads = job.settings.preference.num_heads
    return None if heads > 1 else f"preference.num_heads is {heads}, and one head has no uncertainty. Set it to 8."


def _judgments(job: Job) -> list[dict]:
    return job.table("judgments").to_pylist()


MISSING: dict[str, Callable[[Job], str | None]] = {
    "demonstrations": _no_demonstrations,
    "strengths": _no_strengths,
    "objectives": _no_objectives,
    "rationales": _no_reasons,
    "ensemble": _one_head,
}
