"""The stages in which a round learns: judgments, preference model, anchors, policy update (DESIGN 4.1 to 4.4)."""

import json
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from online_learner.fitting import TRAINING_FACTS, fit_at_a_suitable_rate
from online_learner.jobs import Job, finite, read_json, write_json
from online_learner.logps import response_logps
from online_learner.mirror_descent import choose_pairs, mix_logps
from online_learner.policy.adapters import CONFIG, PolicyScorer, TrainedAdapter, check_adapter
from online_learner.policy.groups import Groups, groups_of_candidates, groups_of_verdicts
from online_learner.policy.train import Objective, diagnostics, group_logps
from online_learner.preference_models.audit import fit_and_audit
from online_learner.responses import (
    features_of,
    load_by_id,
    parents_candidates,
    save_by_id,
    stack_features,
    tokenised_responses,
)
from online_learner.seeds import stream, stream_seed
from online_learner.update_rule import RuleSettings, mix_anchors
from online_learner.update_rules import check_pair_selection, get_rule
from storage.errors import UserError

AUTO = {True: (4.0, 0.05), False: (5.0, 0.01)}  # (step_size, kl_coef) with and without cycles
HELD_OUT_SHARE = 0.1  # of the groups, to watch the fit on prompts it does not see
MIN_GROUPS_TO_HOLD_OUT = 20


def labels_stage(job: Job, out: Path) -> None:
    """Count what the annotators said; UserError where nothing was said at all."""
    rows = job.table("judgments").to_pylist()
    if not rows:
        raise UserError("The job has no judgments. Label some pairs, then start the round again.")
    counts = {
        "num_judgments": len(rows),
        "verdicts": dict(Counter(row["verdict"] for row in rows).most_common()),
        "num_annotators": len({row["annotator_id"] for row in rows}),
        "num_prompts": len(job.prompts),
        "num_responses": len(job.responses),
    }
    write_json(out / "data.json", counts)


def preference_stage(job: Job, out: Path) -> None:
    """Features, preference models, audit; and the probability of every pair of the parent's candidates."""
    candidates = parents_candidates(job)
    judgments = job.table("judgments")
    judged = {*judgments["response_a_id"].to_pylist(), *judgments["response_b_id"].to_pylist()}
    needed = judged | {response for ids in candidates.values() for response in ids}
    rows = [row for row in job.responses.values() if row["response_id"] in needed]
    features = features_of(job, rows, lambda share: job.progress.tell(share / 2, f"features of {len(rows)} responses"))
    job.progress.tell(0.5, f"fitting {', '.join(job.settings.preference.models)}", always=True)
    preference = job.settings.preference
    fitted, audit = fit_and_audit(
        {response: row for response, row in features.items() if response in judged},
        judgments,
        seed=stream_seed(job.settings.seed, "preference"),
        models=preference.models,
        num_heads=preference.num_heads,
        min_judgments=preference.min_judgments,
    )
    fitted.save(out / "preference_model")
    chosen = fitted.report["models"][fitted.name]
    job.progress.tell(1.0, "fitted", {"preference/log_loss": chosen["log_loss"], "preference/accuracy": chosen["accuracy"]})
    write_json(out / "preference.json", finite(fitted.report))
    write_json(out / "audit.json", finite(audit))
    probabilities = {prompt: torch.sigmoid(fitted.logits(stack_features(features, ids)))[0] for prompt, ids in candidates.items()}
    save_by_id(out / "probabilities.safetensors", probabilities or {"": torch.zeros(1)})


def anchors_stage(job: Job, out: Path) -> None:
    """Settings left on auto, the anchor mixture, and each of its policies' log-probabilities of the training responses."""
    update = job.settings.update
    rule = get_rule(update.rule)
    check_pair_selection(rule, update.pairs)
    step_size, kl_coef, why = _picked(job)
    settings = RuleSettings(step_size=step_size, kl_coef=kl_coef, beta=update.beta)
    rule.check(settings)
    lineage = job.lineage
    mixture = mix_anchors(rule.anchors(settings), lineage["auxiliary"], lineage["parent"], lineage["reference"], drop_small=True)
    groups = training_groups(job)
    scorer = PolicyScorer(job.base.model)
    logps: dict[str, Tensor] = {}
    with torch.no_grad():
        for i, policy_id in enumerate(mixture):

            def on_progress(share: float, i: int = i) -> None:
                message = f"policy {i + 1} of {len(mixture)} on {len(groups.sequences)} responses"
                job.progress.tell((i + share) / len(mixture), message)

            model = scorer.use(job.deltas(policy_id))
            logps[policy_id] = response_logps(model, groups.sequences, on_progress).cpu()
    save_by_id(out / "logps.safetensors", logps)
    write_json(out / "picked.json", {"step_size": step_size, "kl_coef": kl_coef, "why": why, "anchors": mixture})


def update_stage(job: Job, out: Path) -> None:
    """The fit, or both fits of a two-fit rule: adapter/ and how well its margins reach their targets."""
    update, picked = job.settings.update, read_json(job.stage_dir("anchors") / "picked.json")
    objective = Objective(
        rule=get_rule(update.rule),
        settings=RuleSettings(step_size=picked["step_size"], kl_coef=picked["kl_coef"], beta=update.beta),
    )
    groups = training_groups(job)
    anchor = groups.spread(mix_logps(load_by_id(job.stage_dir("anchors") / "logps.safetensors"), picked["anchors"]))
    train, held_out = _split(groups, stream(job.settings.seed, "held-out groups"))
    parent = parent_adapter(job)
    adapter = TrainedAdapter(
        job.base.model,
        rank=update.lora_rank,
        alpha=update.lora_alpha,
        parent=parent,
        seed=stream_seed(job.settings.seed, "adapter") % 2**31,
    )
    rate, why, anchor = fit_at_a_suitable_rate(job, adapter, objective, groups, (train, held_out), anchor, parent)
    with torch.no_grad():
        reached = group_logps(adapter.model, groups).cpu()
    measured = {"num_groups": len(train), "num_heldout_groups": len(held_out)}
    for name, rows in (("train", train), ("heldout", held_out)):
        if rows:
            found = diagnostics(objective, groups.select(rows), reached[rows], anchor[rows])
            measured |= {f"{name}_{key}": value for key, value in found.items()}
    adapter.save(out / "adapter")
    config = json.loads((out / "adapter" / CONFIG).read_text())
    write_json(out / "adapter" / CONFIG, config | {"base_model_name_or_path": job.lineage["base_model"]})
    write_json(out / "adapter" / TRAINING_FACTS, {"learning_rate": rate})
    write_json(out / "update.json", finite({**measured, "learning_rate": rate, "learning_rate_why": why}))


def training_groups(job: Job) -> Groups:
    """What the rule trains on: the parent's candidates with modelled probabilities, or judged pairs with people's verdicts."""
    rule = get_rule(job.settings.update.rule)
    candidates = parents_candidates(job)
    if rule.labels == "soft":
        probabilities = load_by_id(job.stage_dir("preference_model") / "probabilities.safetensors")
        own = [job.responses[response] for ids in candidates.values() for response in ids]
        groups = groups_of_candidates(candidates, tokenised_responses(job, own), probabilities)
        if job.settings.update.pairs != "all" and len(groups):
            chosen = choose_pairs(rule, job.settings.update.pairs, groups.preferences, stream(job.settings.seed, "pairs"))
            groups.pair_weights.mul_(chosen)
    else:
        of_parent = {response for ids in candidates.values() for response in ids}
        rows = [r for r in job.responses.values() if rule.sampler == "dataset" or r["response_id"] in of_parent]
        groups = groups_of_verdicts(job.table("judgments").to_pylist(), tokenised_responses(job, rows))
    if not len(groups):
        raise UserError(
            f"Update rule {rule.name} has no pair to train on: the parent policy has no prompt with two responses"
            f"{' that were judged' if rule.labels == 'hard' else ''}. Generate candidates from it and label them first."
        )
    return groups


def parent_adapter(job: Job) -> Path | None:
    """Directory of the parent's adapter, None for the base policy."""
    return check_adapter(job.lineage["parent"], job.lineage["policies"][job.lineage["parent"]])


def _picked(job: Job) -> tuple[float, float, dict[str, str]]:
    update = job.settings.update
    audit = read_json(job.stage_dir("preference_model") / "audit.json")
    automatic = dict(zip(("step_size", "kl_coef"), AUTO[audit["cyclic"] is True], strict=True))
    reason = "the audit found cycles" if audit["cyclic"] is True else "the audit did not find cycles"
    own = get_rule(update.rule).auto or {}
    values, why = {}, {}
    for name in ("step_size", "kl_coef"):
        wanted = getattr(update, name)
        values[name] = float(own.get(name, automatic[name]) if wanted == "auto" else wanted)
        if wanted == "auto":
            why[name] = f"automatic: suits {update.rule}" if name in own else f"automatic: {reason}"
    return values["step_size"], values["kl_coef"], why


def _split(groups: Groups, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to watch, by prompt; few groups are all trained on."""
    prompts = list(dict.fromkeys(groups.prompt_ids))
    if len(prompts) < MIN_GROUPS_TO_HOLD_OUT:
        return list(range(len(groups))), []
    order = torch.randperm(len(prompts), generator=generator).tolist()
    watched = {prompts[i] for i in order[: round(HELD_OUT_SHARE * len(prompts))]}
    rows = range(len(groups))
    return [i for i in rows if groups.prompt_ids[i] not in watched], [i for i in rows if groups.prompt_ids[i] in watched]
