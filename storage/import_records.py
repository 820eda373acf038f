"""Records made from imported rows. Ids are derived from content: the same content has the same id in every file and store."""

import json
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from storage.import_judgments import ImportedPair, Messages
from storage.records import Annotator, Judgment, Message, Prompt, Response, Task
from storage.tables import spans_of

NAMESPACE = uuid.UUID("6d0d8f5e-3d6c-5c4e-9c0a-5d1f2b7a9e41")


def content_id(kind: str, *parts: Any) -> str:
    """The id of something that is the same wherever its content is the same (UUID version 5)."""
    return str(uuid.uuid5(NAMESPACE, json.dumps([kind, *parts], ensure_ascii=False, sort_keys=True)))


def prompt_record(
    messages: Messages, *, split: str, source: str, tags: tuple[str, ...], now: datetime, id_: str | None = None
) -> Prompt:
    return Prompt(
        id=id_ or content_id("prompt", messages),
        messages=tuple(Message(**message) for message in messages),
        split=split,
        source=source,
        tags=tags,
        created_at=now,
    )


def build_batch(pairs: Sequence[ImportedPair], *, default_source: str, now: datetime) -> dict[str, list[Any]]:
    """Records of imported judgments, each once. The n-th of several equal rows without a key is a judgment of its own."""
    prompts: dict[str, Prompt] = {}
    responses: dict[str, Response] = {}
    tasks: dict[str, Task] = {}
    annotators: dict[str, Annotator] = {}
    judgments: dict[str, Judgment] = {}
    seen: Counter[str] = Counter()
    for pair in pairs:
        source = pair.source or default_source
        prompt = _judged_prompt(pair, source, now)
        sides = [_response(pair, side, prompt.id, source, now) for side in "ab"]
        annotator = _annotator(pair, source, now)
        task = _task(pair, prompt.id, sides, now)
        judgment = _judgment(pair, task.id, sides, annotator.id, seen, now)
        prompts.setdefault(prompt.id, prompt)
        for response in sides:
            responses.setdefault(response.id, response)
        tasks.setdefault(task.id, task)
        annotators.setdefault(annotator.id, annotator)
        judgments.setdefault(judgment.id, judgment)
    wanted = Counter(judgment.task_id for judgment in judgments.values() if judgment.verdict != "skip")
    return {
        "prompts": list(prompts.values()),
        "responses": list(responses.values()),
        "tasks": [replace(task, wanted=wanted[task.id]) for task in tasks.values()],
        "annotators": list(annotators.values()),
        "judgments": list(judgments.values()),
    }


def _judged_prompt(pair: ImportedPair, source: str, now: datetime) -> Prompt:
    """A prompt that no policy is asked to answer; an id apart, so that it stays so whatever prompts are imported later.

    Prompts of our own raw export are taken over as they were.
    """
    if pair.kept:
        split, id_ = pair.kept.get("split") or "imported", pair.kept["prompt_id"]
    else:
        split, id_ = "imported", content_id("judged prompt", pair.prompt)
    return prompt_record(pair.prompt, split=split, source=source, tags=pair.tags, now=now, id_=id_)


def _response(pair: ImportedPair, side: str, prompt_id: str, source: str, now: datetime) -> Response:
    """A reply that some model gave; ``policy_id`` stands for that model and is no policy of ours."""
    text, context, model = getattr(pair, f"response_{side}"), getattr(pair, f"context_{side}"), getattr(pair, f"model_{side}")
    model = model or f"unknown ({source})"
    kept = pair.kept or {}
    return Response(
        id=kept.get(f"response_{side}_id") or content_id("response", prompt_id, model, context, text),
        prompt_id=prompt_id,
        policy_id=kept.get(f"policy_{side}_id") or content_id("model", model),
        text=text,
        token_ids=None,
        sum_logp=None,
        finish_reason="imported",
        sampler={"model": model, "context": context} if context else {"model": model},
        seed=None,
        role="candidate",
        created_at=now,
    )


def _annotator(pair: ImportedPair, source: str, now: datetime) -> Annotator:
    """Judgments without a name are one annotator per source."""
    if pair.kept:
        id_ = pair.kept["annotator_id"]
        return Annotator(id=id_, handle=pair.annotator or id_, kind="imported", created_at=now)
    handle = f"{source}/{pair.annotator or 'anonymous'}"
    return Annotator(id=content_id("annotator", handle), handle=handle, kind="imported", created_at=now)


def _task(pair: ImportedPair, prompt_id: str, sides: Sequence[Response], now: datetime) -> Task:
    """One task for both orders of a pair. It is full: nobody here is asked to judge it again."""
    first, second = sorted(response.id for response in sides)
    kept = pair.kept or {}
    return Task(
        id=kept.get("task_id") or content_id("task", prompt_id, first, second),
        prompt_id=prompt_id,
        response_1_id=first,
        response_2_id=second,
        purpose=kept.get("purpose") or "label",
        wanted=0,
        selection_rule=kept.get("selection_rule") or "imported",
        selection_score=kept.get("selection_score"),
        selection_prob=kept.get("selection_prob") or 1.0,
        created_at=now,
    )


def _judgment(
    pair: ImportedPair, task_id: str, sides: Sequence[Response], annotator_id: str, seen: Counter[str], now: datetime
) -> Judgment:
    kept = pair.kept or {}
    shown = [response.id for response in sides]
    content = content_id("judgment", shown, pair.verdict, pair.strength, pair.rationale, annotator_id, pair.key)
    seen[content] += 1
    repeat = () if pair.key or seen[content] == 1 else (seen[content],)
    return Judgment(
        id=kept.get("judgment_id") or (content_id("repeated", content, *repeat) if repeat else content),
        seq=0,
        task_id=task_id,
        annotator_id=annotator_id,
        prompt_id=sides[0].prompt_id,
        response_a_id=shown[0],
        response_b_id=shown[1],
        verdict=pair.verdict,  # pyright: ignore[reportArgumentType] checked when the row was read
        strength=pair.strength,
        aspects=json.loads(kept.get("aspects") or "{}"),
        rationale=pair.rationale,
        reasons=tuple(kept.get("reasons") or ()),
        edited_text=kept.get("edited_text"),
        shown_at=pair.shown_at,
        submitted_at=pair.submitted_at or now,
        supersedes=kept.get("supersedes"),
        spans=spans_of(kept.get("spans") or "[]"),
    )
