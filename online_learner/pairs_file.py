"""Pairs files: two responses to a prompt with somebody's verdict, one row each, as Parquet or JSON Lines.

Columns: prompt (text or list of {role, content}), response_a, response_b, label (a | b | tie | both_bad | skip); optional
context_a / context_b (turns between prompt and response, where the sides differ), strength, annotator_id, source,
prompt_group (rows that must not be split between folds; the prompt itself where absent), ranking_id (pairs of one ranking).
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from online_learner.preference_models.observations import NO_PREFERENCE, VERDICT_SIGN
from storage.errors import UserError

REQUIRED = ("prompt", "response_a", "response_b", "label")
SWAPPED = {"a": "b", "b": "a"}

Turns = tuple[tuple[str, str], ...]  # (role, content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One response and everything said before it."""

    turns: Turns
    response: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as chat messages."""
        return [{"role": role, "content": content} for role, content in self.turns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One row."""

    a: Side
    b: Side
    verdict: str
    strength: int | None
    annotator: str | None
    source: str
    group: str
    ranking: str | None = None


def load_pairs(path: Path) -> list[Pair]:
    """All rows of a pairs file; UserError names the first row that cannot be used and why."""
    rows = _read_rows(path)
    if not rows:
        raise UserError(f"{path} has no rows. Give a file with judged pairs.")
    missing = [name for name in REQUIRED if name not in rows[0]]
    if missing:
        raise UserError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has {', '.join(rows[0])}. "
            f"A pairs file needs {', '.join(REQUIRED)}."
        )
    return [_pair(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]


def shuffle_sides(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Each pair with its sides swapped or not by a seeded coin.

    A pairs file does not say which response was shown first, and in some releases a wins more often than b.
    """
    coin = random.Random(seed)
    return [_swap(pair) if coin.random() < 0.5 else pair for pair in pairs]


def judgments_table(pairs: Sequence[Pair], row_ids: Sequence[tuple[str, str]]) -> pa.Table:
    """The columns of contract.schemas.JUDGMENTS that a fit reads, with two row ids per pair; the group stands for the prompt."""
    return pa.table(
        {
            "prompt_id": [pair.group for pair in pairs],
            "response_a_id": [a for a, _ in row_ids],
            "response_b_id": [b for _, b in row_ids],
            "verdict": [pair.verdict for pair in pairs],
            "strength": pa.array([pair.strength for pair in pairs], pa.int8()),
            "annotator_id": pa.array([pair.annotator for pair in pairs], pa.string()),
        }
    )


def _swap(pair: Pair) -> Pair:
    return replace(pair, a=pair.b, b=pair.a, verdict=SWAPPED.get(pair.verdict, pair.verdict))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist. Name a Parquet or JSON Lines file of judged pairs.")
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path).to_pylist()
        if path.suffix in (".jsonl", ".ndjson"):
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{path} cannot be read as {path.suffix[1:]}: {error}. Export it again.") from error
    raise UserError(f"{path} ends in {path.suffix!r}. Pairs files are .parquet or .jsonl; convert it.")


def _pair(row: Mapping[str, Any], where: str) -> Pair:
    verdict = row.get("label")
    if verdict not in VERDICT_SIGN and verdict not in NO_PREFERENCE:
        allowed = ", ".join([*VERDICT_SIGN, *NO_PREFERENCE])
        raise UserError(f"{where}: label {verdict!r} is unknown. Labels are {allowed}; correct the file.")
    for name in ("response_a", "response_b"):
        if not isinstance(row.get(name), str):
            raise UserError(f"{where}: {name} is {row.get(name)!r}, not text. Correct or remove the row.")
    prompt = _turns(row.get("prompt"), where)
    strength = row.get("strength")
    if strength is not None and strength not in range(4):
        raise UserError(f"{where}: strength {strength!r} is not one of 0, 1, 2, 3. Correct it or leave it empty.")
    annotator = row.get("annotator_id")
    return Pair(
        a=Side(turns=prompt + _turns(row.get("context_a") or [], where), response=row["response_a"]),
        b=Side(turns=prompt + _turns(row.get("context_b") or [], where), response=row["response_b"]),
        verdict=verdict,
        strength=None if strength is None else int(strength),
        annotator=None if annotator is None else str(annotator),
        source=str(row.get("source") or "all"),
        group=str(row.get("prompt_group") or prompt),
        ranking=None if row.get("ranking_id") is None else str(row["ranking_id"]),
    )


def _turns(value: Any, where: str) -> Turns:
    if isinstance(value, str):
        return (("user", value),)
    try:
        return tuple((str(message["role"]), str(message["content"])) for message in value)
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{where}: a prompt must be text or a list of {{role, content}}, got {value!r}. Correct the row."
        ) from error
