"""Judgments made elsewhere: one reader per file format, all giving the same ``ImportedPair``.

The one place to add a format for judgments: a function, a line in JUDGMENT_FORMATS.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from storage.import_rows import BadRow, messages_from, text_of

Messages = list[dict[str, str]]
Values = dict[str, Any]
_VERDICTS = {
    "a": "a", "b": "b", "tie": "tie", "both_bad": "both_bad", "skip": "skip", "model_a": "a", "model_b": "b",
    "tie (bothbad)": "both_bad", "bothbad": "both_bad",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedPair:
    """One judgment of two responses; ``context_a``/``context_b`` are turns between the prompt and a side's last reply."""

    prompt: Messages
    response_a: str
    response_b: str
    context_a: Messages
    context_b: Messages
    verdict: str
    strength: int | None
    annotator: str | None
    model_a: str | None
    model_b: str | None
    source: str | None
    key: str | None = None  # what the file itself calls this judgment
    tags: tuple[str, ...] = ()
    rationale: str | None = None
    shown_at: datetime | None = None
    submitted_at: datetime | None = None
    kept: Values | None = None  # raw export: ids and other columns that are taken over as they are


def read_raw(values: Values) -> ImportedPair | None:
    """A row of our own raw export: ids, selection and times are kept. None for a judgment that was taken back."""
    if values.get("standing") in (False, "false", "False"):
        return None
    pair = _pair(values, prompt=messages_from(values["messages"], "messages"), label="verdict", key="judgment_id")
    for name in ("prompt_id", "task_id", "response_a_id", "response_b_id", "annotator_id"):
        text_of(values, name)
    return pair


def read_pairs(values: Values) -> ImportedPair:
    """prompt, response_a, response_b and label or verdict; optional context_a/b, model_a/b, annotator_id, strength ..."""
    label = "label" if "label" in values else "verdict"
    return _pair(values, prompt=messages_from(values.get("prompt"), "prompt"), label=label, key="pair_id")


def read_trl(values: Values) -> ImportedPair:
    """TRL preference with an explicit prompt; chosen and rejected are text or messages."""
    prompt = messages_from(values.get("prompt"), "prompt")
    replies = [_replies(values.get(name), name) for name in ("chosen", "rejected")]
    return _chosen_pair(values, prompt, *replies)


def read_trl_implicit(values: Values) -> ImportedPair:
    """TRL preference without prompt: the turns that both conversations begin with are the prompt."""
    conversations = [_conversation(values.get(name), name) for name in ("chosen", "rejected")]
    return _chosen_pair(values, *_split_common(*conversations))


def read_arena(values: Values) -> ImportedPair:
    """A battle as Chatbot Arena publishes them: winner is model_a, model_b, tie or tie (bothbad)."""
    conversations = [_conversation(values.get(name), name) for name in ("conversation_a", "conversation_b")]
    prompt, (context_a, response_a), (context_b, response_b) = _split_common(*conversations)
    return _pair(
        values | {"response_a": response_a, "response_b": response_b, "context_a": context_a, "context_b": context_b},
        prompt=prompt, label="winner", key="question_id",
    )  # fmt: skip


def read_helpsteer(values: Values) -> ImportedPair:
    """HelpSteer3 preference: overall_preference from -3 (response1 much better) to 3 (response2 much better)."""
    score = values.get("overall_preference")
    if not isinstance(score, int | float) or not -3 <= score <= 3:
        raise BadRow(f"overall_preference is {score!r}, expected a number from -3 to 3")
    more = {
        "response_a": values.get("response1"),
        "response_b": values.get("response2"),
        "label": "tie" if score == 0 else "a" if score < 0 else "b",
        "strength": min(3, round(abs(score))) or None,
    }
    return _pair(values | more, prompt=messages_from(values.get("context"), "context"), label="label", key="id")


Reader = Callable[[Values], ImportedPair | None]
# name -> (columns by which the format is recognised, reader); the first that fits counts
JUDGMENT_FORMATS: dict[str, tuple[frozenset[str], Reader]] = {
    "raw": (frozenset({"judgment_id", "messages", "response_a", "response_b", "verdict", "task_id"}), read_raw),
    "pairs": (frozenset({"prompt", "response_a", "response_b", "label"}), read_pairs),
    "pairs with verdict": (frozenset({"prompt", "response_a", "response_b", "verdict"}), read_pairs),
    "arena": (frozenset({"conversation_a", "conversation_b", "winner"}), read_arena),
    "helpsteer": (frozenset({"context", "response1", "response2", "overall_preference"}), read_helpsteer),
    "trl": (frozenset({"prompt", "chosen", "rejected"}), read_trl),
    "trl-implicit": (frozenset({"chosen", "rejected"}), read_trl_implicit),
}


def _pair(values: Values, *, prompt: Messages, label: str, key: str) -> ImportedPair:
    said = values.get(label)
    verdict = _VERDICTS.get(said.strip().lower()) if isinstance(said, str) else None
    if verdict is None:
        raise BadRow(f"{label} is {said!r}, expected one of a, b, tie, both_bad, skip")
    return ImportedPair(
        prompt=prompt,
        response_a=_response(values, "response_a"),
        response_b=_response(values, "response_b"),
        context_a=_context(values, "context_a"),
        context_b=_context(values, "context_b"),
        verdict=verdict,
        strength=_strength(values.get("strength")),
        annotator=_name(values, "annotator", "annotator_id", "judge"),
        model_a=_name(values, "model_a"),
        model_b=_name(values, "model_b"),
        source=_name(values, "source"),
        key=_name(values, key),
        tags=_tags(values),
        rationale=_name(values, "rationale"),
        shown_at=_time(values.get("shown_at")),
        submitted_at=_time(values.get("submitted_at") or values.get("tstamp")),
        kept=values if label == "verdict" and "task_id" in values else None,
    )


def _chosen_pair(values: Values, prompt: Messages, chosen: tuple[Messages, str], rejected: tuple[Messages, str]) -> ImportedPair:
    """Which side was shown first is not known: it is drawn from the content, the same way every time."""
    digest = hashlib.sha256(json.dumps([prompt, chosen, rejected]).encode()).digest()
    first, second = (chosen, rejected) if digest[0] % 2 else (rejected, chosen)
    sides = {"context_a": first[0], "response_a": first[1], "context_b": second[0], "response_b": second[1]}
    return _pair(values | sides | {"label": "a" if digest[0] % 2 else "b"}, prompt=prompt, label="label", key="judgment_id")


def _replies(value: Any, name: str) -> tuple[Messages, str]:
    """A side given as text or messages, as the turns before its last reply and that reply."""
    if isinstance(value, str):
        return [], value
    messages = messages_from(value, name)
    if messages[-1]["role"] != "assistant":
        raise BadRow(f"{name} ends with a message of the {messages[-1]['role']}, expected the assistant's reply")
    return messages[:-1], messages[-1]["content"]


def _split_common(left: Messages, right: Messages) -> tuple[Messages, tuple[Messages, str], tuple[Messages, str]]:
    """The turns both conversations begin with, and what follows on each side."""
    shared = 0
    while shared < min(len(left), len(right)) - 1 and left[shared] == right[shared]:
        shared += 1
    if not shared:
        raise BadRow("the two conversations have no common beginning that could be the prompt")
    return left[:shared], _replies(left[shared:], "the first conversation"), _replies(right[shared:], "the second conversation")


def _conversation(value: Any, name: str) -> Messages:
    """Messages, or text in the form of the HH releases (Human: ... Assistant: ...)."""
    if not isinstance(value, str):
        return messages_from(value, name)
    turns = re.split(r"(?:^|\n\n)(Human|Assistant):", value)
    if len(turns) < 5 or turns[0].strip():
        raise BadRow(f"{name} is text without a prompt; give a prompt column, messages, or Human:/Assistant: turns")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(turns[1::2], turns[2::2], strict=True)]


def _response(values: Values, name: str) -> str:
    if not isinstance(values.get(name), str):
        raise BadRow(f"{name} is missing or not text")
    return values[name]


def _context(values: Values, name: str) -> Messages:
    return messages_from(values[name], name) if values.get(name) else []


def _strength(value: Any) -> int | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if number not in (0, 1, 2, 3):
        raise BadRow(f"strength is {value!r}, expected 0, 1, 2, 3 or nothing")
    return int(number)


def _name(values: Values, *names: str) -> str | None:
    """The first of these fields that is there, as text."""
    return next((str(values[name]) for name in names if values.get(name) not in (None, "")), None)


def _tags(values: Values) -> tuple[str, ...]:
    named = {"group": values.get("prompt_group"), "license": values.get("license"), "language": values.get("language")}
    given = values.get("tags")
    return (*(given if isinstance(given, list) else ()), *(f"{name}:{value}" for name, value in named.items() if value))


def _time(value: Any) -> datetime | None:
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, int | float):
            value = datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise BadRow(f"the time {value!r} cannot be read; give ISO 8601 or Unix seconds") from error
    if value is None or isinstance(value, datetime):
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)
    raise BadRow(f"the time {value!r} cannot be read; give ISO 8601 or Unix seconds")
