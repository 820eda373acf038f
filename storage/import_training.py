"""Training pairs from a file: prompt, response_a, response_b, verdict, perhaps explanation. Importing again adds nothing."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.import_judgments import Messages
from storage.import_records import content_id, prompt_record
from storage.import_rows import BadRow, convert, messages_from, read_rows, refuse, text_of
from storage.records import Response, Task
from storage.store import Store

KNOWN_VERDICTS = ("a", "b", "tie", "both_bad")
_MODEL = "training"  # stands for whoever wrote these responses


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPair:
    prompt: Messages
    response_a: str
    response_b: str
    verdict: str
    explanation: str | None


def import_training(store: Store, path: Path, *, skip_bad: bool = False) -> dict[str, Any]:
    """Add training pairs: {"rows", "pairs" (new ones), "answers" (new or changed), "bad_rows"}.

    The pairs come in one transaction, the known answers after it; a pair without one is not given to anybody.
    """
    path = Path(path)
    rows = read_rows(path)
    pairs, bad = convert(rows, _read)
    if bad and not skip_bad:
        refuse(path, bad, len(rows))
    now = datetime.now(UTC)
    known = {row["id"] for row in store.query("SELECT id FROM tasks WHERE purpose = 'gold'").to_pylist()}
    batch = [(pair, *_records(pair, path.stem, now)) for pair in pairs]
    store.add_batch(
        prompts=[prompt for _, prompt, _, _ in batch],
        responses=[response for _, _, responses, _ in batch for response in responses],
        tasks=[task for _, _, _, task in batch],
    )
    answers = {task.id: {"verdict": pair.verdict, "explanation": pair.explanation} for pair, _, _, task in batch}
    told = {event.subject: event.data for event in store.list_events(kind_prefix="task.answer", limit=1_000_000)}
    changed = {task_id: answer for task_id, answer in answers.items() if told.get(task_id) != answer}
    for task_id, answer in changed.items():
        store.append_event(actor="system", kind="task.answer", subject=task_id, data=answer)
    return {"rows": len(rows), "pairs": len(answers.keys() - known), "answers": len(changed), "bad_rows": bad}


def _read(values: dict[str, Any]) -> TrainingPair:
    verdict = values.get("verdict")
    if verdict not in KNOWN_VERDICTS:
        raise BadRow(f"verdict is {verdict!r}, expected one of {', '.join(KNOWN_VERDICTS)}")
    first, second = text_of(values, "response_a"), text_of(values, "response_b")
    if first.strip() == second.strip():
        raise BadRow("response_a and response_b are the same text")
    return TrainingPair(
        prompt=messages_from(values.get("prompt"), "prompt"),
        response_a=first,
        response_b=second,
        verdict=verdict,
        explanation=str(values.get("explanation") or "").strip() or None,
    )


def _records(pair: TrainingPair, source: str, now: datetime) -> tuple[Any, list[Response], Task]:
    prompt_id = content_id("training prompt", pair.prompt)
    prompt = prompt_record(pair.prompt, split="imported", source=source, tags=(), now=now, id_=prompt_id)
    responses = [_response(text, prompt_id, now) for text in (pair.response_a, pair.response_b)]
    first, second = (response.id for response in responses)
    task = Task(
        id=content_id("training pair", prompt_id, first, second),
        prompt_id=prompt_id,
        response_1_id=first,
        response_2_id=second,
        purpose="gold",
        wanted=0,  # everybody answers it; no number of judgments is wanted
        selection_rule="training",
        selection_score=None,
        selection_prob=1.0,
        created_at=now,
    )
    return prompt, responses, task


def _response(text: str, prompt_id: str, now: datetime) -> Response:
    return Response(
        id=content_id("response", prompt_id, _MODEL, [], text),
        prompt_id=prompt_id,
        policy_id=content_id("model", _MODEL),
        text=text,
        token_ids=None,
        sum_logp=None,
        finish_reason="imported",
        sampler={"model": _MODEL},
        seed=None,
        role="candidate",
        created_at=now,
    )
