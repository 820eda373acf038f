"""The stages in which a round learns: judgments, preference model, anchors, policy update (DESIGN 4.1 to 4.4)."""

import json
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from online_learner.anchor_mixture import anchor_mixture
from online_learner.fitting import TRAINING_FACTS, FitInput, fit_at_a_suitable_rate
from online_learner.job_models import fit_models
from online_learner.jobs import Job, finite, read_json, write_json
from online_learner.logps import response_logps
from online_learner.mirror_descent import mix_logps
from online_learner.opponents import opponent_win_rates, save_win_rates, with_scores
from online_learner.policy.adapters import CONFIG, PolicyScorer, TrainedAdapter, check_adapter
from online_learner.policy.groups import Groups
from online_learner.policy.objective import Objective
from online_learner.policy.step import group_logps
from online_learner.policy.train import diagnostics
from online_learner.responses import candidates_of_all_rounds, features_of, load_by_id, parents_candidates, save_by_id
from online_learner.rule_values import as_json, pick_settings, picked_settings
from online_learner.seeds import stream, stream_seed
from online_learner.targets import group_win_rates
from online_learner.training_groups import training_groups
from online_learner.update_rules import get_rule
from storage.errors import UserError

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
    """Features of judged responses and of the parent's candidates, preference models, audit."""
    of_all_rounds = job.settings.kind == "round" and get_rule(job.settings.update.rule).sampler == "all_rounds_and_reference"
    candidates = candidates_of_all_rounds(job) if of_all_rounds else parents_candidates(job)
    judgments = job.table("judgments")
    judged = {*judgments["response_a_id"].to_pylist(), *judgments["response_b_id"].to_pylist()}
    needed = judged | {response for ids in candidates.values() for response in ids}
    rows = [row for row in job.responses.values() if row["response_id"] in needed]
    features = features_of(job, rows, lambda share: job.progress.tell(share / 2, f"features of {len(rows)} responses"))
    job.progress.tell(0.5, f"fitting {', '.join(job.settings.preference.models)}", always=True)
    found = fit_models(
        job,
        {response: row for response, row in features.items() if response in judged},
        lambda sentence: job.progress.tell(0.5, sentence, always=True),
    )
    found.saved.save(out / "preference_model")
    fitted = found.fitted
    chosen = fitted.report["models"][fitted.name]
    job.progress.tell(1.0, "fitted", {"preference/log_loss": chosen["log_loss"], "preference/accuracy": chosen["accuracy"]})
    write_json(out / "preference.json", finite(fitted.report))
    write_json(out / "audit.json", finite(found.audit))
    save_by_id(out / "features.safetensors", features)


def anchors_stage(job: Job, out: Path) -> None:
    """Settings left on auto, the anchor mixture, and each of its policies' log-probabilities of the training responses."""
    rule = get_rule(job.settings.update.rule)
    settings, why = pick_settings(job)
    groups = training_groups(job)
    mixture = anchor_mixture(job, rule.anchors(settings), drop_small=True)
    read = list(mixture)
    if rule.opponent == "mixture" and job.lineage["parent"] not in mixture:
        read.append(job.lineage["parent"])
    scorer = PolicyScorer(job.base.model)
    logps: dict[str, Tensor] = {}
    with torch.no_grad():
        for i, policy_id in enumerate(read):

            def on_progress(share: float, i: int = i) -> None:
                message = f"policy {i + 1} of {len(read)} on {len(groups.sequences)} responses"
                job.progress.tell((i + share) / len(read), message)

            model = scorer.use(job.deltas(policy_id))
            logps[policy_id] = response_logps(model, groups.sequences, on_progress).cpu()
    save_by_id(out / "logps.safetensors", logps)
    write_json(out / "picked.json", {"settings": as_json(settings), "why": why, "anchors": mixture})


def half_step_stage(job: Job, out: Path) -> None:
    """The first fit of a rule that plays against its own half step: its samples, and how often each response beats them."""
    fit_input = fit_inputs(job)
    rates = group_win_rates(fit_input.groups.preferences, fit_input.groups.facts.opponent_weights)
    adapter, _, _ = _fit(job, with_scores(fit_input, rates))
    save_win_rates(job, adapter, fit_input.groups, out)


def update_stage(job: Job, out: Path) -> None:
    """The fit, or both fits of a two-fit rule: adapter/ and how well its margins reach their targets."""
    fit_input = fit_inputs(job)
    opponent: dict[str, float] = {}
    if fit_input.objective.rule.opponent != "group":
        rates, opponent = opponent_win_rates(job, fit_input)
        fit_input = with_scores(fit_input, rates)
    adapter, rate, (why, anchor) = _fit(job, fit_input)
    with torch.no_grad():
        reached = group_logps(adapter.model, fit_input.groups).cpu()
    train, held_out = fit_input.split
    measured = {"num_groups": len(train), "num_heldout_groups": len(held_out), **opponent}
    for name, rows in (("train", train), ("heldout", held_out)):
        if rows:
            found = diagnostics(fit_input.objective, fit_input.groups.select(rows), reached[rows], anchor[rows])
            measured |= {f"{name}_{key}": value for key, value in found.items()}
    adapter.save(out / "adapter")
    config = json.loads((out / "adapter" / CONFIG).read_text())
    write_json(out / "adapter" / CONFIG, config | {"base_model_name_or_path": job.lineage["base_model"]})
    write_json(out / "adapter" / TRAINING_FACTS, {"learning_rate": rate})
    write_json(out / "update.json", finite({**measured, "learning_rate": rate, "learning_rate_why": why}))


def fit_inputs(job: Job) -> FitInput:
    """What a fit of this job starts from, out of the files of earlier stages."""
    picked = read_json(job.stage_dir("anchors") / "picked.json")
    groups, logps = training_groups(job), load_by_id(job.stage_dir("anchors") / "logps.safetensors")
    anchors = picked["anchors"]
    return FitInput(
        objective=Objective(rule=get_rule(job.settings.update.rule), settings=picked_settings(job)),
        groups=groups,
        anchor_logps=groups.spread(mix_logps(logps, anchors)) if anchors else torch.zeros(groups.members.shape),
        split=_split(groups, stream(job.settings.seed, "held-out groups")),
    )


def _fit(job: Job, fit_input: FitInput) -> tuple[TrainedAdapter, float, tuple[str, Tensor]]:
    """The fitted adapter, its learning rate, and why that rate with the anchor (N, K) of the last fit."""
    update, parent = job.settings.update, parent_adapter(job)
    adapter = TrainedAdapter(
        job.base.model,
        rank=update.lora_rank,
        alpha=update.lora_alpha,
        parent=parent,
        seed=stream_seed(job.settings.seed, "adapter") % 2**31,
    )
    rate, why, anchor = fit_at_a_suitable_rate(job, adapter, fit_input, parent)
    return adapter, rate, (why, anchor)


def parent_adapter(job: Job) -> Path | None:
    """Directory of the parent's adapter, None for the base policy."""
    return check_adapter(job.lineage["parent"], job.lineage["policies"][job.lineage["parent"]])


def _split(groups: Groups, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to watch, by prompt; few groups are all trained on."""
    prompts = list(dict.fromkeys(groups.prompt_ids))
    if len(prompts) < MIN_GROUPS_TO_HOLD_OUT:
        return list(range(len(groups))), []
    order = torch.randperm(len(prompts), generator=generator).tolist()
    watched = {prompts[i] for i in order[: round(HELD_OUT_SHARE * len(prompts))]}
    rows = range(len(groups))
    return [i for i in rows if groups.prompt_ids[i] not in watched], [i for i in rows if groups.prompt_ids[i] in watched]
