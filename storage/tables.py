"""Columns of every table in writing order, and records to rows and back. The one place that knows how a field is kept."""

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import cache
from typing import Any, TypeVar

import pyarrow as pa

from storage.contract.schemas import MESSAGE
from storage.records import (
    Annotator,
    Credential,
    Event,
    Judgment,
    Message,
    Policy,
    Prompt,
    Response,
    Round,
    Span,
    Task,
    Token,
    User,
)

R = TypeVar("R")

_TEXT, _INT, _REAL, _TEXTS = pa.string(), pa.int64(), pa.float64(), pa.list_(pa.string())
_TIME = pa.timestamp("us", tz="UTC")


def _schema(*columns: tuple[str, pa.DataType] | str) -> pa.Schema:
    """Columns given by name alone are text; ``id`` and ``seq`` come first in every table."""
    typed = [column if isinstance(column, tuple) else (column, _TEXT) for column in columns]
    return pa.schema([("id", _TEXT), ("seq", _INT), *typed])


SCHEMAS: dict[str, pa.Schema] = {
    "prompts": _schema(("messages", pa.list_(MESSAGE)), "split", "source", ("tags", _TEXTS), ("created_at", _TIME)),
    "policies": _schema(
        ("number", _INT), "base_model", "base_revision", "adapter_path", "adapter_sha256", "parent_id", "round_id",
        "auxiliary", ("created_at", _TIME),
    ),
    "responses": _schema(
        "prompt_id", "policy_id", "text", ("token_ids", pa.list_(pa.int32())), ("sum_logp", _REAL), "finish_reason",
        "sampler", ("seed", _INT), "role", ("created_at", _TIME),
    ),
    "tasks": _schema(
        "prompt_id", "response_1_id", "response_2_id", "purpose", ("priority", _REAL), ("wanted", _INT),
        "selection_rule", ("selection_score", _REAL), ("selection_prob", _REAL), ("created_at", _TIME),
        ("more_response_ids", _TEXTS),
    ),
    "annotators": _schema("handle", "kind", ("created_at", _TIME)),
    "leases": _schema(
        "task_id", "annotator_id", ("slot", _INT), "response_a_id", "response_b_id", ("issued_at", _TIME),
        ("expires_at", _TIME), "supersedes", ("more_response_ids", _TEXTS),
    ),
    "renewals": pa.schema([("lease_id", _TEXT), ("renewed_at", _TIME), ("expires_at", _TIME)]),
    "judgments": _schema(
        "task_id", "annotator_id", ("revision", _INT), "prompt_id", "response_a_id", "response_b_id", "verdict",
        ("strength", _INT), "aspects", "rationale", ("reasons", _TEXTS), "edited_text", ("shown_at", _TIME),
        ("submitted_at", _TIME), "supersedes", ("more_response_ids", _TEXTS), "ranking", "spans",
    ),
    "users": _schema("name", "role", "annotator_id", ("created_at", _TIME)),
    "tokens": _schema(
        "sha256", "kind", "name", "scope", "user_id", "annotator_id", ("expires_at", _TIME), ("created_at", _TIME)
    ),
    "credentials": _schema("user_id", "kind", "secret", ("created_at", _TIME)),
    "rounds": _schema(
        ("number", _INT), "kind", "parent_policy_id", "new_policy_id", "job_dir", "settings", ("created_at", _TIME)
    ),
    "events": _schema(("at", _TIME), "actor", "kind", "subject", "data"),
}  # fmt: skip

TABLE_OF: dict[type, str] = {
    Prompt: "prompts",
    Policy: "policies",
    Response: "responses",
    Task: "tasks",
    Annotator: "annotators",
    Judgment: "judgments",
    User: "users",
    Token: "tokens",
    Credential: "credentials",
    Round: "rounds",
    Event: "events",
}

_JSON_FIELDS = {"auxiliary", "sampler", "aspects", "settings", "data"}
_TUPLE_FIELDS = {"tags", "token_ids", "reasons", "more_response_ids"}


def to_row(record: Any, **more: Any) -> list[Any]:
    """A record as one row of its table, in column order. ``more`` gives columns that are not fields (seq, revision)."""
    row = []
    for name in SCHEMAS[TABLE_OF[type(record)]].names:
        row.append(more[name] if name in more else _encode(name, getattr(record, name)))
    return row


def from_row(kind: type[R], row: dict[str, Any]) -> R:
    """The record that a row of its table or status view holds; columns that are not fields are ignored."""
    return kind(**{name: _decoder(name)(row[name]) for name in _field_names(kind) if name in row})


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _encode(name: str, value: Any) -> Any:
    if name in _JSON_FIELDS:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    if name == "messages":
        return [{"role": message.role, "content": message.content} for message in value]
    if name == "spans":
        return json.dumps([asdict(span) for span in value], ensure_ascii=False) if value else "[]"
    if name == "ranking":
        return None if value is None else json.dumps(value)
    return list(value) if isinstance(value, tuple) else value


def _decoder(name: str) -> Callable[[Any], Any]:
    if name in _JSON_FIELDS:
        return json.loads
    if name in _DECODERS:
        return _DECODERS[name]
    return (lambda value: None if value is None else tuple(value)) if name in _TUPLE_FIELDS else (lambda value: value)


def messages_of(value: list[dict[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(role=message["role"], content=message["content"]) for message in value)


def spans_of(value: str) -> tuple[Span, ...]:
    return tuple(Span(**span) for span in json.loads(value))


def _ranking_of(value: str | None) -> tuple[tuple[str, ...], ...] | None:
    return None if value is None else tuple(tuple(group) for group in json.loads(value))


_DECODERS: dict[str, Callable[[Any], Any]] = {"messages": messages_of, "spans": spans_of, "ranking": _ranking_of}
