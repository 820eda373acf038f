"""Responses as the stages handle them: sampled from a policy, tokenised for scoring, with features for the preference model."""

import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file
from torch import Tensor

from online_learner.features import extract_features, load_encoder
from online_learner.generation.registry import GENERATION_BACKENDS
from online_learner.jobs import Job
from online_learner.logps import TokenisedResponse
from online_learner.policy.base_model import BaseModel, tokenise_prompt, tokenise_response
from online_learner.seeds import stream_seed
from online_learner.update_rules import get_rule
from storage.contract.schemas import RESPONSES

NAMESPACE = uuid.UUID("0f6e6173-686c-5f6f-8f70-726573706f6e")

Row = Mapping[str, Any]
LEARNT = {("candidate", "train"), ("live", "live")}  # roles of responses with splits of their prompts


def sample_responses(
    job: Job,
    model: Any,
    *,
    policy_id: str,
    prompts: Sequence[Row],
    num_responses: int,
    role: str,
    momentum: float = 0.0,
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[dict[str, Any]]:
    """Rows of responses.parquet: ``num_responses`` samples of each prompt from ``model``, which holds the policy's weights.

    Ids and the random stream depend on the job, the policy and the role only. momentum: how far ahead of the policy the model
    was moved, kept with the sampler's settings.
    """
    settings, base = job.settings.generation, job.base
    tokenised = [tokenise_prompt(base, prompt["messages"], prompt["prompt_id"]) for prompt in prompts]
    number = job.lineage["policies"].get(policy_id, {}).get("number", "new")
    seed = stream_seed(job.settings.seed, f"{job.number}/{role}/{number}")  # two jobs of one policy draw different samples
    groups = GENERATION_BACKENDS["transformers"](
        model,
        tokenised,
        num_responses=num_responses,
        settings=settings,
        end_ids=base.end_ids,
        context=base.context,
        seed=seed,
        progress=progress,
    )
    facts = {"temperature": settings.temperature, "top_p": settings.top_p, "max_new_tokens": settings.max_new_tokens}
    sampler = json.dumps(facts | ({"momentum": momentum} if momentum else {}))
    return [
        {
            "response_id": str(uuid.uuid5(NAMESPACE, f"{job.number}/{policy_id}/{prompt['prompt_id']}/{role}/{k}")),
            "prompt_id": prompt["prompt_id"],
            "policy_id": policy_id,
            "text": response_text(base, ids, sample.token_ids),
            "token_ids": list(sample.token_ids),
            "sum_logp": sample.sum_logp,
            "finish_reason": sample.finish_reason,
            "sampler": sampler,
            "seed": seed,
            "role": role,
        }
        for prompt, ids, samples in zip(prompts, tokenised, groups, strict=True)
        for k, sample in enumerate(samples)
    ]


def response_text(base: BaseModel, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
    """The response as text. Decoded behind its prompt, because some tokenizers drop the space a text begins with."""
    spoken = [token for token in token_ids if token not in base.end_ids]
    before = base.tokenizer.decode(list(prompt_ids), skip_special_tokens=True)
    whole = base.tokenizer.decode([*prompt_ids, *spoken], skip_special_tokens=True)
    if whole.startswith(before):
        return whole[len(before) :].strip()
    return base.tokenizer.decode(spoken, skip_special_tokens=True).strip()


def tokenised_responses(job: Job, rows: Iterable[Row]) -> dict[str, TokenisedResponse]:
    """Response id -> tokens of its prompt and of itself; imported responses are tokenised from their text."""
    prompts: dict[str, tuple[int, ...]] = {}
    found = {}
    for row in rows:
        prompt_id = row["prompt_id"]
        if prompt_id not in prompts:
            prompts[prompt_id] = tokenise_prompt(job.base, job.prompts[prompt_id]["messages"], prompt_id)
        if row["token_ids"]:
            found[row["response_id"]] = TokenisedResponse(prompts[prompt_id], tuple(row["token_ids"]))
        elif row["text"]:
            found[row["response_id"]] = tokenise_response(job.base, prompts[prompt_id], row["text"])
    return found


def parents_candidates(job: Job) -> dict[str, list[str]]:
    """Prompt id -> ids of the parent's own candidate responses on training prompts: what an on-policy step trains on.

    Where the job's rule samples ahead of the parent with momentum, those that were sampled so, if there are any.
    """
    ahead: dict[str, list[str]] = defaultdict(list)
    own: dict[str, list[str]] = defaultdict(list)
    for row in job.responses.values():
        of_parent = row["policy_id"] == job.lineage["parent"] and (row["role"], job.prompts[row["prompt_id"]]["split"]) in LEARNT
        if of_parent and row["token_ids"]:
            (ahead if momentum_of(row) else own)[row["prompt_id"]].append(row["response_id"])
    if job.settings.kind != "round":  # scored only, nothing is trained
        return {prompt: own[prompt] + ahead[prompt] for prompt in {**own, **ahead}}
    wants_ahead = get_rule(job.settings.update.rule).sampler == "extrapolated"
    return dict(ahead if ahead and wants_ahead else own)


def candidates_of_all_rounds(job: Job) -> dict[str, list[str]]:
    """Prompt id -> ids of the candidate responses of the parent and of the policies before it, as far as the job holds them."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in job.responses.values():
        sampled = row["policy_id"] is not None and row["role"] == "candidate" and row["token_ids"] and not momentum_of(row)
        if sampled and job.prompts[row["prompt_id"]]["split"] == "train":
            found[row["prompt_id"]].append(row["response_id"])
    return dict(found)


def momentum_of(row: Row) -> float:
    """How far ahead of its policy a response was sampled; 0 for the policy itself."""
    return float(json.loads(row["sampler"] or "{}").get("momentum", 0.0))


def features_of(job: Job, rows: Sequence[Row], progress: Callable[[float], None] = lambda fraction: None) -> dict[str, Tensor]:
    """Response id -> frozen features (d,), of the encoder that the settings name or of the bare base model."""
    encoder = job.settings.preference.encoder
    model, tokenizer = load_encoder(encoder) if encoder else (job.base.model, job.base.tokenizer)
    messages = [job.prompts[row["prompt_id"]]["messages"] for row in rows]
    features = extract_features(model, tokenizer, messages, [row["text"] for row in rows], progress=progress)
    return {row["response_id"]: feature for row, feature in zip(rows, features, strict=True)}


def write_responses(path: Path, rows: Sequence[Row]) -> None:
    """responses.parquet with the contract's columns."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=RESPONSES), path, compression="zstd")


def save_by_id(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors by id as safetensors."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def load_by_id(path: Path) -> dict[str, Tensor]:
    """What ``save_by_id`` wrote."""
    return load_file(path)


def split_rows(job: Job, split: str) -> list[dict[str, Any]]:
    """The job's prompts of one split, in file order."""
    return [row for row in job.prompts.values() if row["split"] == split]
