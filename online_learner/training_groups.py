"""Whose responses a rule trains on, as its row says: one function for each sampler; the one place to add a sampler.

k responses of a group, E heads of the preference model. Groups come in the order of their prompts; nothing here is random.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor

from online_learner.degraded import NUM_DEGREES, degraded_sequences, variant_id
from online_learner.jobs import Job
from online_learner.judging import Judge, by_id, load_judge
from online_learner.logps import TokenisedResponse
from online_learner.mirror_descent import choose_pairs
from online_learner.pair_weights import certainty
from online_learner.policy.groups import Group, Groups, collate
from online_learner.rationales import rationale_sequences
from online_learner.responses import Row, candidates_of_all_rounds, load_by_id, parents_candidates, tokenised_responses
from online_learner.seeds import stream
from online_learner.update_rule import UpdateRule
from online_learner.update_rules import get_rule
from storage.errors import UserError

VERDICT_VALUES = {"a": 1.0, "tie": 0.5, "b": 0.0}
SAMPLES, RATIONALES, DEGRADED = "samples", "rationales", "degraded"  # extra terms that read responses outside the pairs


@dataclass(frozen=True)
class Material:
    """What the earlier stages of a job left for the fit."""

    job: Job

    @cached_property
    def rule(self) -> UpdateRule:
        return get_rule(self.job.settings.update.rule)

    @cached_property
    def candidates(self) -> dict[str, list[str]]:
        """Prompt id -> the parent's own responses."""
        return parents_candidates(self.job)

    @cached_property
    def samples(self) -> dict[str, list[str]]:
        """Prompt id -> responses of the reference policy that the samples stage drew for this rule."""
        found: dict[str, list[str]] = defaultdict(list)
        for row in self._sample_rows:
            found[row["prompt_id"]].append(row["response_id"])
        return dict(found)

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Every response by id."""
        return {**self.job.responses, **{row["response_id"]: row for row in self._sample_rows}}

    @cached_property
    def judgments(self) -> list[dict[str, Any]]:
        """Judgments that prefer one of two responses, or neither."""
        return [row for row in self.job.table("judgments").to_pylist() if row["verdict"] in VERDICT_VALUES]

    def heads(self, ids: Sequence[str]) -> Tensor:
        """Logits of each head of the preference model, (E, k, k)."""
        return self._judge.between(ids, ids)

    def logits(self, ids: Sequence[str]) -> Tensor:
        """Mean logits, (k, k)."""
        return self.heads(ids).mean(0)

    @cached_property
    def _sample_rows(self) -> list[dict[str, Any]]:
        path = self.job.stage_dir("samples") / "samples.parquet"
        return pq.read_table(path).to_pylist() if path.exists() else []

    @cached_property
    def _judge(self) -> Judge:
        paths = [self.job.stage_dir(stage) / "features.safetensors" for stage in ("preference_model", "samples")]
        features = dict(chain.from_iterable(load_by_id(path).items() for path in paths if path.exists()))
        return load_judge(self.job, by_id(self._sample_rows), features)


def training_groups(job: Job) -> Groups:
    """The groups that the job's rule trains on; UserError where there are none."""
    material = Material(job)
    rule = material.rule
    source = _verdicts if rule.sampler == "on_policy" and rule.labels == "hard" else SOURCES[rule.sampler]
    groups = [_with_facts(material, group) for group in source(material)]
    if not groups:
        raise UserError(
            f"Update rule {rule.name} has no pair to train on: the parent policy has no prompt with two responses"
            f"{' that were judged' if rule.labels == 'hard' else ''}. Generate candidates from it and label them first."
        )
    reasons = rationale_sequences(job, material.judgments) if "rationales" in rule.needs else {}
    told = {name: sequence for own in reasons.values() for name, sequence in own.items()}
    if "degraded" in rule.needs:
        told |= degraded_sequences(job, filter(None, map(_winner, groups)))
    groups = [_with_extra_members(material, group, reasons, told) for group in groups]
    needed = {response for group in groups for response in group.response_ids}
    rows = [row for response, row in material.rows.items() if response in needed]
    collated = collate(groups, {**tokenised_responses(job, rows), **told})
    selection = job.settings.update.pairs
    if selection != "all" and source in (_of_parent, _kept):
        update, generator = job.settings.update, stream(job.settings.seed, "pairs")
        chosen = choose_pairs(rule, selection, collated.preferences, generator, for_comparison=update.for_comparison)
        collated.pair_weights.mul_(chosen + chosen.mT)  # a pair is trained on once, in either order
    return collated


def _of_parent(material: Material) -> Iterator[Group]:
    """All pairs of the parent's responses, with the preference model's probabilities."""
    for prompt, ids in material.candidates.items():
        if len(ids) >= 2:
            yield _all_pairs(material, prompt, ids)


def _kept(material: Material) -> Iterator[Group]:
    """All pairs of the reference's responses that rejection sampling kept; one kept twice counts once."""
    for prompt, ids in material.samples.items():
        distinct = list(dict.fromkeys(ids))
        if len(distinct) >= 2:
            yield _all_pairs(material, prompt, distinct)


def _all_rounds_against_reference(material: Material) -> Iterator[Group]:
    """Every response of the parent and of the policies before it against every sample of the reference."""
    for prompt, own in candidates_of_all_rounds(material.job).items():
        ids = [*own, *material.samples.get(prompt, [])]
        weights = torch.zeros(len(ids), len(ids))
        weights[: len(own), len(own) :] = 1
        if weights.any():
            yield Group(prompt_id=prompt, response_ids=ids, preferences=torch.sigmoid(material.logits(ids)), weights=weights)


def _demonstrations(material: Material) -> Iterator[Group]:
    """A person's response preferred to each of the parent's own."""
    for row in material.job.responses.values():
        own = material.candidates.get(row["prompt_id"], [])
        if row["role"] == "demonstration" and own:
            k = 1 + len(own)
            preferences, weights = torch.full((k, k), 0.5), torch.zeros(k, k)
            preferences[0, 1:], preferences[1:, 0], weights[0, 1:] = 1, 0, 1
            ids = [row["response_id"], *own]
            yield Group(prompt_id=row["prompt_id"], response_ids=ids, preferences=preferences, weights=weights)


def _verdicts(material: Material) -> Iterator[Group]:
    """One group of two for each judged pair, its preference the mean verdict; the parent's own responses, or anybody's."""
    own = {response for ids in material.candidates.values() for response in ids}
    known = {name for name, row in material.job.responses.items() if row["token_ids"] or row["text"]}
    usable = known if material.rule.sampler == "dataset" else known & own
    judged: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in material.judgments:
        first, second = sorted((row["response_a_id"], row["response_b_id"]))
        if first in usable and second in usable:
            judged[row["prompt_id"], first, second].append(row)
    for (prompt, first, second), rows in sorted(judged.items(), key=lambda pair: pair[0]):
        values = [_from_first(row, first, VERDICT_VALUES[row["verdict"]]) for row in rows]
        p = sum(values) / len(values)
        said = torch.tensor([[0.5, p], [1 - p, 0.5]])
        soft = material.rule.labels != "hard"
        yield Group(
            prompt_id=prompt,
            response_ids=(first, second),
            preferences=torch.sigmoid(material.logits((first, second))) if soft else said,
            weights=torch.tensor([[0.0, float(len(rows))], [0.0, 0.0]]),
            facts=_judged_facts(material.rule, rows, first),
        )


SOURCES: dict[str, Callable[[Material], Iterator[Group]]] = {
    "on_policy": _of_parent,
    "extrapolated": _of_parent,
    "dataset": _verdicts,
    "all_rounds_and_reference": _all_rounds_against_reference,
    "demonstrations": _demonstrations,
    "rejection": _kept,
    "multi_step_rejection": _kept,
}


def _all_pairs(material: Material, prompt: str, ids: Sequence[str]) -> Group:
    weights = torch.ones(len(ids), len(ids)).triu(1)
    return Group(prompt_id=prompt, response_ids=ids, preferences=torch.sigmoid(material.logits(ids)), weights=weights)


def _from_first(row: Row, first: str, value: float) -> float:
    """A verdict in [0, 1] as seen from the pair's first response."""
    return value if first == row["response_a_id"] else 1 - value


def _judged_facts(rule: UpdateRule, rows: Sequence[Row], first: str) -> dict[str, Tensor]:
    """strengths: the mean stated strength, at least 1, an unstated one. scores: the mean aspect rating, shared by both sides."""
    facts = {}
    if "strengths" in rule.needs:
        stated = [max(1, row["strength"]) for row in rows if row["strength"] is not None]
        facts["strengths"] = torch.full((2, 2), sum(stated) / len(stated) if stated else 1.0)
    if "objectives" in rule.needs:
        rated = [mean_aspect(row) * (1 if first == row["response_a_id"] else -1) for row in rows]
        mean = sum(rated) / len(rated)
        facts["scores"] = torch.tensor([mean / 2, -mean / 2])
    return facts


def mean_aspect(row: Row) -> float:
    """Mean of a judgment's aspect ratings, above 0 where a is better; 0 where none was rated."""
    ratings = list(json.loads(row.get("aspects") or "{}").values())
    return sum(ratings) / len(ratings) if ratings else 0.0


def _with_facts(material: Material, group: Group) -> Group:
    """The group with what the rule reads of the preference model."""
    rule, ids, k = material.rule, group.response_ids, len(group.response_ids)
    facts = dict(group.facts)
    if rule.target_kind in ("win_rate", "logit") or rule.labels == "ranking" or rule.weight == "ndcg":
        facts["opponent_weights"] = torch.full((k,), 1 / k)  # groups may differ in size
    if "model_logits" in rule.needs:
        facts["model_logits"] = material.logits(ids)
    if rule.weight == "certainty":
        facts["certainty"] = certainty(material.heads(ids).unsqueeze(1))[0]
    if rule.target_kind == "score" and "ensemble" in rule.needs:
        others = [response for response in material.candidates.get(group.prompt_id, []) if response not in ids]
        facts["scores"] = uncertainty(material.heads([*ids, *others]))[:k]
    return replace(group, facts=facts)


def uncertainty(heads: Tensor) -> Tensor:
    """Spread over heads of each response's mean logit against its group, (E, k, k) -> (k,), logits."""
    return heads.mean(-1).std(0, correction=0)


def _winner(group: Group) -> str | None:
    """The preferred response of a judged pair; None where people disagree evenly."""
    p = float(group.preferences[0, 1])
    return None if p == 0.5 else group.response_ids[0 if p > 0.5 else 1]


def _with_extra_members(
    material: Material,
    group: Group,
    reasons: Mapping[tuple[str, ...], Mapping[str, TokenisedResponse]],
    told: Mapping[str, TokenisedResponse],
) -> Group:
    """The group with the responses that only the rule's extra terms read."""
    rule, pair = material.rule, tuple(group.response_ids[:2])
    if "rationales" in rule.needs:
        group = _with_members(group, dict.fromkeys(reasons.get(pair, {}), 1.0), RATIONALES)
    if "policy_samples" in rule.needs:  # of the policy as it is when the fit starts: fresh ones would cost a sampling an epoch
        group = _with_members(group, dict.fromkeys(material.candidates.get(group.prompt_id, []), 1.0), SAMPLES)
        drawn = torch.tensor([material.rows[name]["sum_logp"] or 0.0 for name in group.response_ids])
        group = replace(group, facts={**group.facts, "drawn_logps": drawn})
    if "reference_samples" in rule.needs:
        group = _with_members(group, dict.fromkeys(material.samples.get(group.prompt_id, []), 1.0), SAMPLES)
    if "degraded" in rule.needs:
        names = {variant_id(_winner(group) or "", degree): degree + 1.0 for degree in range(NUM_DEGREES)}
        group = _with_members(group, {name: weight for name, weight in names.items() if name in told}, DEGRADED)
    return group


def _with_members(group: Group, weight_of: Mapping[str, float], term: str) -> Group:
    """The group with these responses in an extra term; those that are new to it are in no pair."""
    members = [*group.response_ids, *(response for response in weight_of if response not in group.response_ids)]
    old, new = len(group.response_ids), len(members)
    preferences, weights = torch.full((new, new), 0.5), torch.zeros(new, new)
    preferences[:old, :old], weights[:old, :old] = group.preferences, group.weights
    facts = {name: torch.nn.functional.pad(value, (0, new - old) * value.ndim) for name, value in group.facts.items()}
    members_of = {name: torch.nn.functional.pad(value, (0, new - old)) for name, value in group.members_of.items()}
    members_of[term] = torch.tensor([weight_of.get(response, 0.0) for response in members])
    return replace(group, response_ids=members, preferences=preferences, weights=weights, facts=facts, members_of=members_of)
