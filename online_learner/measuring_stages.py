"""The stages in which a job samples and measures: evaluation, new candidates, and the kinds that only generate or evaluate."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from online_learner.evaluation import kl_from_samples, length_controlled_win_rate, response_duality_gap, win_rate
from online_learner.jobs import Job, finite, write_json
from online_learner.judging import Judge, by_id, load_judge
from online_learner.logps import response_logps
from online_learner.policy.adapters import PolicyScorer, adapter_deltas, extrapolated
from online_learner.preference_models.bradley_terry import BRADLEY_TERRY
from online_learner.preference_models.plackett_luce import PLACKETT_LUCE
from online_learner.responses import (
    Row,
    load_by_id,
    parents_candidates,
    sample_responses,
    split_rows,
    tokenised_responses,
    write_responses,
)
from online_learner.rule_values import picked_settings
from online_learner.text_quality import load_known_sentences, text_quality
from online_learner.update_rules import get_rule
from storage.contract.schemas import PAIR_SCORES

NUM_EXAMPLES = 10


def generate_stage(job: Job, out: Path) -> None:
    """New candidates from the parent, for every training prompt."""
    _write_candidates(job, out, job.deltas(job.lineage["parent"]), job.lineage["parent"])


def candidates_stage(job: Job, out: Path) -> None:
    """Candidates from the new policy, and what the preference model says about each of their pairs.

    A rule with momentum answers from further along the step just taken; the new policy itself is what is delivered.
    """
    new, deltas, momentum = job.lineage["new_policy"], adapter_deltas(_new_adapter(job), job.base.device), 0.0
    if get_rule(job.settings.update.rule).sampler == "extrapolated":
        momentum = picked_settings(job).momentum
        deltas = extrapolated(deltas, job.deltas(job.lineage["parent"]), momentum)
    rows = _write_candidates(job, out, deltas, new, momentum)
    groups: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        groups[row["prompt_id"]].append(row["response_id"])
    _write_pair_scores(out / "pair_scores.parquet", load_judge(job, by_id(rows)), groups)


def scores_stage(job: Job, out: Path) -> None:
    """Of a fit job: what the fitted model says about the pairs of the parent's candidates."""
    groups = parents_candidates(job)
    rows = [job.responses[response] for ids in groups.values() for response in ids]
    _write_pair_scores(out / "pair_scores.parquet", load_judge(job, by_id(rows)), groups)


def evaluate_stage(job: Job, out: Path) -> None:
    """Of an evaluate job: held-out samples of the parent, their KL to the reference and their text quality."""
    parent, reference = job.lineage["parent"], job.lineage["reference"]
    scorer = PolicyScorer(job.base.model)
    deltas = job.deltas(parent)
    rows = _held_out_samples(job, scorer.use(deltas), parent, lambda share: job.progress.tell(0.8 * share, "sampling"))
    write_responses(out / "responses.parquet", rows)
    prompt_ids = [row["prompt_id"] for row in rows]
    logps = {name: _logps(job, scorer, job.deltas(name), rows) for name in (parent, reference)}
    measured = {
        "kl_to_base_nats": kl_from_samples(logps[parent], logps[reference], prompt_ids),
        "text_quality": quality_of(job, rows),
        "mean_tokens": {"policy": _mean_tokens(rows)},
    }
    write_json(out / "evaluation.json", {"evaluation": finite(measured), "examples": []})


def evaluation_stage(job: Job, out: Path) -> None:
    """The new policy against its parent and the base on held-out prompts, as the preference model sees it."""
    new, parent, base = job.lineage["new_policy"], job.lineage["parent"], job.lineage["reference"]
    scorer = PolicyScorer(job.base.model)
    deltas = {new: adapter_deltas(_new_adapter(job), job.base.device)}
    deltas |= {name: job.deltas(name) for name in (parent, base)}
    samples: dict[str, list[dict[str, Any]]] = {}
    for i, (name, delta) in enumerate(deltas.items()):

        def on_progress(share: float, i: int = i) -> None:
            job.progress.tell(0.8 * (i + share) / len(deltas), f"sampling policy {i + 1} of {len(deltas)}")

        samples[name] = _held_out_samples(job, scorer.use(delta), name, on_progress)
    rows = [row for own in samples.values() for row in own]
    write_responses(out / "responses.parquet", rows)
    job.progress.tell(0.8, "comparing", always=True)
    judge = load_judge(job, by_id(rows))
    own, prompt_ids = samples[new], [row["prompt_id"] for row in samples[new]]
    logps = {name: _logps(job, scorer, delta, own) for name, delta in deltas.items()}
    outcomes = {name: _outcomes(judge, own, samples[name]) for name in (parent, base)}
    measured = {
        "win_rate_vs_parent": win_rate(outcomes[parent].wins, outcomes[parent].prompt_ids),
        "length_controlled_vs_parent": length_controlled_win_rate(
            outcomes[parent].wins, outcomes[parent].length_differences, outcomes[parent].prompt_ids
        ),
        "win_rate_vs_base": win_rate(outcomes[base].wins, outcomes[base].prompt_ids),
        "kl_to_parent_nats": kl_from_samples(logps[new], logps[parent], prompt_ids),
        "kl_to_base_nats": kl_from_samples(logps[new], logps[base], prompt_ids),
        "text_quality": quality_of(job, own),
        "mean_tokens": {"parent": _mean_tokens(samples[parent]), "policy": _mean_tokens(own)},
        "restricted_duality_gap": _restricted_gap(judge, own, rows),
        "value_vs_base": _value(job, judge, own, samples[base]),
        "num_prompts": len(set(prompt_ids)),
        "num_comparisons": len(outcomes[parent].wins),
    }
    curves = ("win_rate_vs_parent", "win_rate_vs_base", "kl_to_parent_nats", "kl_to_base_nats")
    job.progress.tell(1.0, "compared", {f"policy/{name}": measured[name]["mean"] for name in curves})
    write_json(out / "evaluation.json", {"evaluation": finite(measured), "examples": _examples(job, samples[parent], own)})


def quality_of(job: Job, rows: Sequence[Row]) -> float | None:
    """Share of responses made of sentences the model's directory knows; None for models that ship no such list."""
    known = load_known_sentences(job.lineage["base_model"])
    if known is None:
        return None
    questions = [job.prompts[row["prompt_id"]]["messages"][-1]["content"] for row in rows]
    return text_quality(known, questions, [row["text"] for row in rows])


class _Outcomes:
    """Every sample of one policy against every sample of another on the same prompt."""

    def __init__(self) -> None:
        self.wins: list[float] = []
        self.length_differences: list[float] = []
        self.prompt_ids: list[str] = []


def _outcomes(judge: Judge, own: Sequence[Row], others: Sequence[Row]) -> _Outcomes:
    found = _Outcomes()
    for prompt, mine, theirs in _by_prompt(own, others):
        pairs = [(a, b) for a in mine for b in theirs]
        logits = judge.between(_ids(mine), _ids(theirs)).mean(0)
        found.wins += torch.sigmoid(logits).flatten().tolist()
        found.length_differences += [float(len(x["token_ids"]) - len(y["token_ids"])) for x, y in pairs]
        found.prompt_ids += [prompt] * len(pairs)
    return found


def _restricted_gap(judge: Judge, own: Sequence[Row], pool: Sequence[Row]) -> dict[str, Any]:
    found = [judge.between(_ids(theirs), _ids(mine)).mean(0) for _, mine, theirs in _by_prompt(own, pool)]
    matrices = [torch.sigmoid(logits).numpy() for logits in found]
    return {
        "value": response_duality_gap(np.stack(matrices)),
        "search_set": "the held-out samples of the new policy, its parent and the base policy",
    }


def _value(job: Job, judge: Judge, own: Sequence[Row], base: Sequence[Row]) -> dict[str, float] | None:
    """Mean utility of the policy above the base, logits, and the least that the judgments allow; None without a utility."""
    preference = judge.fitted
    if preference.model.family not in (BRADLEY_TERRY, PLACKETT_LUCE) or not judge.features:
        return None
    judged = load_by_id(job.stage_dir("preference_model") / "features.safetensors")
    plausible = preference.plausible_utilities(judged, job.table("judgments"))
    ours, theirs = (torch.stack([judge.features[row["response_id"]] for row in side]) for side in (own, base))
    return plausible.value(preference.standardised(ours).mean(0), preference.standardised(theirs).mean(0))


def _by_prompt(own: Sequence[Row], others: Sequence[Row]) -> list[tuple[str, list[Row], list[Row]]]:
    groups: dict[str, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((own, others)):
        for row in rows:
            groups[row["prompt_id"]][side].append(row)
    return [(prompt, mine, theirs) for prompt, (mine, theirs) in groups.items() if mine and theirs]


def _held_out_samples(job: Job, model: Any, policy_id: str, progress: Any = lambda share: None) -> list[dict[str, Any]]:
    return sample_responses(
        job,
        model,
        policy_id=policy_id,
        prompts=split_rows(job, "heldout"),
        num_responses=job.settings.evaluation.num_responses,
        role="gate",
        progress=progress,
    )


def _write_candidates(
    job: Job, out: Path, deltas: Mapping[str, Tensor], policy_id: str, momentum: float = 0.0
) -> list[dict[str, Any]]:
    prompts = split_rows(job, "train")
    rows = sample_responses(
        job,
        PolicyScorer(job.base.model).use(deltas),
        policy_id=policy_id,
        prompts=prompts,
        num_responses=job.settings.generation.num_responses,
        role="candidate",
        momentum=momentum,
        progress=lambda share: job.progress.tell(share, f"answering {len(prompts)} prompts"),
    )
    write_responses(out / "responses.parquet", rows)
    return rows


def _ids(rows: Sequence[Row]) -> list[str]:
    return [row["response_id"] for row in rows]


def _write_pair_scores(path: Path, judge: Judge, groups: Mapping[str, Sequence[str]]) -> None:
    rows = []
    for prompt, ids in groups.items():
        heads = judge.between(ids, ids)  # (H, K, K)
        mean = heads.mean(0)
        for i, j in combinations(range(len(ids)), 2):
            rows.append(
                {
                    "prompt_id": prompt,
                    "response_1_id": ids[i],
                    "response_2_id": ids[j],
                    "mean_logit": float(mean[i, j]),
                    "ensemble_logits": heads[:, i, j].tolist(),
                }
            )
    pq.write_table(pa.Table.from_pylist(rows, schema=PAIR_SCORES), path, compression="zstd")


def _logps(job: Job, scorer: PolicyScorer, deltas: Mapping[str, Tensor], rows: Sequence[Row]) -> list[float]:
    sequences = tokenised_responses(job, rows)
    with torch.no_grad():
        return response_logps(scorer.use(deltas), [sequences[row["response_id"]] for row in rows]).tolist()


def _examples(job: Job, before: Sequence[Row], after: Sequence[Row]) -> list[dict[str, str]]:
    return [
        {
            "prompt": job.prompts[prompt]["messages"][-1]["content"],
            "before": theirs[0]["text"],
            "after": mine[0]["text"],
        }
        for prompt, mine, theirs in _by_prompt(after, before)[:NUM_EXAMPLES]
    ]


def _mean_tokens(rows: Sequence[Row]) -> float:
    return sum(len(row["token_ids"]) for row in rows) / len(rows)


def _new_adapter(job: Job) -> Path:
    return job.stage_dir("update") / "adapter"
