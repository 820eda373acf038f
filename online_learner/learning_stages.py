"""The stages in which a round learns: judgments, preference model, anchors, policy update (DESIGN 4.1 to 4.4)."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from online_learner.jobs import Job, finite, read_json, write_json
from online_learner.learning_rate import BACK_OFF, MAX_FITS, allowed_kl, exact_step_kl, starting_rate
from online_learner.logps import response_logps
from online_learner.mirror_descent import choose_pairs, mix_logps
from online_learner.policy.adapters import CONFIG, PolicyScorer, TrainedAdapter, adapter_deltas, check_adapter
from online_learner.policy.groups import Groups, groups_of_candidates, groups_of_verdicts
from online_learner.policy.train import Objective, Schedule, diagnostics, fit, group_logps
from online_learner.preference_models.audit import fit_and_audit
from online_learner.responses import (
    features_of,
    load_by_id,
    parents_candidates,
    sample_responses,
    save_by_id,
    split_rows,
    stack_features,
    tokenised_responses,
)
from online_learner.seeds import stream, stream_seed
from online_learner.update_rules import check_pair_selection, get_rule, mix_anchors
from storage.errors import UserError

AUTO = {True: (4.0, 0.05), False: (5.0, 0.01)}  # (step_size, kl_coef) with and without cycles
HELD_OUT_SHARE = 0.1  # of the groups, to watch the fit on prompts it does not see
MIN_GROUPS_TO_HOLD_OUT = 20
REPORT_EVERY = 8  # optimiser steps between looks at the held-out groups
NUM_PROMPTS_FOR_KL = 96
TRAINING_FACTS = "nashloop.json"  # beside an adapter: what later rounds reuse


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
    rule.check(step_size=step_size, kl_coef=kl_coef, beta=update.beta)
    lineage = job.lineage
    mixture = mix_anchors(
        rule.anchors(step_size, kl_coef), lineage["auxiliary"], lineage["parent"], lineage["reference"], drop_small=True
    )
    groups = training_groups(job)
    scorer = PolicyScorer(job.base.model)
    logps: dict[str, Tensor] = {}
    with torch.no_grad():
        for i, policy_id in enumerate(mixture):

            def on_progress(share: float, i: int = i) -> None:
                message = f"policy {i + 1} of {len(mixture)} on {len(groups.sequences)} responses"
                job.progress.tell((i + share) / len(mixture), message)

            model = scorer.use(policy_deltas(job, policy_id))
            logps[policy_id] = response_logps(model, groups.sequences, on_progress).cpu()
    save_by_id(out / "logps.safetensors", logps)
    write_json(out / "picked.json", {"step_size": step_size, "kl_coef": kl_coef, "why": why, "anchors": mixture})


def update_stage(job: Job, out: Path) -> None:
    """The fit, or both fits of a two-fit rule: adapter/ and how well its margins reach their targets."""
    update, picked = job.settings.update, read_json(job.stage_dir("anchors") / "picked.json")
    objective = Objective(rule=get_rule(update.rule), step_size=picked["step_size"], kl_coef=picked["kl_coef"], beta=update.beta)
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
    rate, why, anchor = _fit_at_a_suitable_rate(job, adapter, objective, groups, (train, held_out), anchor, parent)
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


def policy_deltas(job: Job, policy_id: str) -> dict[str, Tensor]:
    """What to write into a PolicyScorer for a policy of the lineage."""
    return adapter_deltas(check_adapter(policy_id, job.lineage["policies"][policy_id]), job.base.device)


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


def _fit_at_a_suitable_rate(
    job: Job,
    adapter: TrainedAdapter,
    objective: Objective,
    groups: Groups,
    split: tuple[list[int], list[int]],
    anchor: Tensor,
    parent: Path | None,
) -> tuple[float, str, Tensor]:
    """Fit, and again at a third of the rate while the policy moves further than the step asks for (learning_rate.py).

    Returns the rate, why it was taken (empty where a person chose it), and the anchor (N, K) of the last fit.
    """
    wanted = job.settings.update.learning_rate
    earlier = read_json(parent / TRAINING_FACTS).get("learning_rate") if parent else None
    config: Any = job.base.model.config
    width = config.get_text_config().hidden_size
    rate = float(wanted) if wanted != "auto" else earlier or starting_rate(width)
    exact = exact_step_kl(objective, groups.preferences)
    start = adapter.state()
    attempt, kl, last_anchor = 0, 0.0, anchor
    while True:
        adapter.restore(start)
        last_anchor = anchor
        for index in range(objective.rule.fits):
            if index == 1:  # the second fit is anchored at what the first one reached
                with torch.no_grad():
                    last_anchor = group_logps(adapter.model, groups).cpu()
            _fit(job, adapter, objective, groups, split, last_anchor, rate, index)
        kl = _kl_to_parent(job, adapter)
        job.progress.tell(1.0, f"moved {kl:.2f} nats", {"update/kl_to_parent_nats": kl})
        if wanted != "auto":
            return rate, "", last_anchor
        if kl <= allowed_kl(exact) or attempt == MAX_FITS - 1:
            break
        rate, attempt = rate / BACK_OFF, attempt + 1
    source = "of the parent's round" if earlier else f"for a model of width {width}"
    backed_off = f", divided by {BACK_OFF:g} {attempt} times because the policy moved too far" if attempt else ""
    why = f"automatic: the rate {source}{backed_off}; the policy moved {kl:.2f} nats, up to {allowed_kl(exact):.2f} suit the step"
    return rate, why, last_anchor


def _kl_to_parent(job: Job, adapter: TrainedAdapter) -> float:
    """Mean log-ratio of the trained policy to its parent on its own samples, one for each of some training prompts."""
    scorer, parent = PolicyScorer(job.base.model), job.lineage["parent"]
    trained = scorer.use(adapter.deltas())
    prompts = split_rows(job, "train")[:NUM_PROMPTS_FOR_KL]
    rows = sample_responses(job, trained, policy_id="trained", prompts=prompts, num_responses=1, role="probe")
    sequences = list(tokenised_responses(job, rows).values())
    with torch.no_grad():
        own = response_logps(trained, sequences)
        return float((own - response_logps(scorer.use(policy_deltas(job, parent)), sequences)).mean())


def _schedule(job: Job, rate: float, index: int) -> Schedule:
    update = job.settings.update
    seed = stream_seed(job.settings.seed, f"order/{index}") % 2**62
    return Schedule(epochs=update.epochs, groups_per_step=update.prompts_per_step, learning_rate=rate, seed=seed)


def _fit(
    job: Job,
    adapter: TrainedAdapter,
    objective: Objective,
    groups: Groups,
    split: tuple[list[int], list[int]],
    anchor: Tensor,
    rate: float,
    index: int,
) -> None:
    train, held_out = split
    fits = objective.rule.fits

    def on_step(step: int, num_steps: int, loss: float) -> None:
        metrics: dict[str, Any] = {"update/loss": loss}
        if held_out and (step % REPORT_EVERY == 0 or step == num_steps):
            watched = groups.select(held_out)
            with torch.no_grad():
                logps = group_logps(adapter.model, watched).cpu()
            found = diagnostics(objective, watched, logps, anchor[held_out])
            metrics |= {"update/heldout_loss": found["loss"], "update/heldout_r2": found["r2"]}
        share = 0.9 * (index + step / num_steps) / fits
        fit_name = f"fit {index + 1} of {fits}, " if fits > 1 else ""
        job.progress.tell(share, f"{fit_name}step {step} of {num_steps}", metrics)

    fit(adapter, objective, groups.select(train), anchor[train], _schedule(job, rate, index), on_step)
