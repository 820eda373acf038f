"""Files of rows: JSONL, JSON, CSV or Parquet as dictionaries, and what is wrong with a row in words."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import UserError

T = TypeVar("T")
SHOWN = 10
UNPACKED_LIMIT = 2_000_000_000  # bytes of a Parquet file in memory
BATCH_ROWS = 256


class BadRow(ValueError):
    """Why one row cannot be imported; the file may go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    number: int  # as a person counts: line of a JSONL file, record of the others, from 1
    values: dict[str, Any]
    problem: str | None = None


def read_rows(path: Path) -> list[FileRow]:
    """The rows of a file by its ending; UserError where it is missing, empty, or not of that kind."""
    readers: dict[str, Callable[[Path], list[FileRow]]] = {
        ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet,
    }  # fmt: skip
    if path.suffix.lower() not in readers:
        raise UserError(f"{path.name}: files ending in {path.suffix!r} are not read. Use {', '.join(readers)}.")
    if not path.is_file():
        raise UserError(f"{path} does not exist. Name a {', '.join(readers)} file.")
    rows = readers[path.suffix.lower()](path)
    if not rows:
        raise UserError(f"{path.name} holds no rows. Nothing was imported.")
    return rows


def convert(rows: Iterable[FileRow], read: Callable[[dict[str, Any]], T]) -> tuple[list[T], list[str]]:
    """Each row read, and for each row that cannot be, its number and why."""
    good, bad = [], []
    for row in rows:
        try:
            if row.problem:
                raise BadRow(row.problem)
            good.append(read(row.values))
        except BadRow as error:
            bad.append(f"row {row.number}: {error}")
    return good, bad


def refuse(path: Path, bad: list[str], total: int) -> None:
    """UserError naming the first bad rows and how many there are."""
    shown = "\n".join(f"  {line}" for line in bad[:SHOWN])
    more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    raise UserError(
        f"{path.name}: {len(bad)} of {total} rows cannot be imported, so nothing was.\n{shown}{more}\n"
        "Correct them, or leave them out with --skip-bad."
    )


def text_of(values: dict[str, Any], name: str) -> str:
    """A field that must be non-empty text."""
    value = values.get(name)
    if not isinstance(value, str):
        raise BadRow(f"{name} is {_shown(value)}, expected text")
    if not value.strip():
        raise BadRow(f"{name} is empty")
    return value


def messages_from(value: Any, name: str) -> list[dict[str, str]]:
    """A prompt given as text or as chat messages, as messages."""
    if isinstance(value, str):
        return [{"role": "user", "content": text_of({name: value}, name)}]
    if not isinstance(value, list) or not value:
        raise BadRow(f"{name} is {_shown(value)}, expected text or chat messages")
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise BadRow(f"{name} has the message {_shown(message)}, expected role and content")
        if message.get("role") not in ("system", "user", "assistant"):
            raise BadRow(f"{name} has the role {_shown(message.get('role'))}, expected system, user or assistant")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _shown(value: Any) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _jsonl(path: Path) -> list[FileRow]:
    rows = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            rows.append(_json_row(number, line))
    return rows


def _json_row(number: int, line: str) -> FileRow:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return FileRow(number=number, values={}, problem=f"not JSON: {error}")
    return _object_row(number, values)


def _object_row(number: int, values: Any) -> FileRow:
    if isinstance(values, dict):
        return FileRow(number=number, values=values)
    return FileRow(number=number, values={}, problem=f"{_shown(values)} is not an object with named fields")


def _json(path: Path) -> list[FileRow]:
    try:
        values = json.loads(_text(path))
    except (ValueError, RecursionError):
        return _jsonl(path)  # many .json files are JSON Lines
    return [_object_row(number, row) for number, row in enumerate(values if isinstance(values, list) else [values], start=1)]


def _csv(path: Path) -> list[FileRow]:
    try:
        records = list(csv.DictReader(io.StringIO(_text(path), newline=""), strict=True))
    except csv.Error as error:
        raise UserError(f"{path.name} is not readable as CSV: {error}. Check quotes and separators.") from error
    rows = []
    for number, record in enumerate(records, start=1):
        problem = "it has more fields than the header" if None in record else None
        values = {name: value or None for name, value in record.items() if name is not None}
        rows.append(FileRow(number=number, values=values, problem=problem))
    return rows


def _parquet(path: Path) -> list[FileRow]:
    records: list[dict[str, Any]] = []
    try:
        with pq.ParquetFile(path) as file:
            _check_size(path, sum(_unpacked_sizes(file)))
            come = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):  # what a file says of itself may be false
                come += batch.nbytes
                _check_size(path, come)
                records.extend(batch.to_pylist())
    except (pa.ArrowException, OSError, OverflowError) as error:
        raise UserError(f"{path.name} is not readable as Parquet: {str(error).splitlines()[0]}. Check the file.") from error
    return [FileRow(number=number, values=values) for number, values in enumerate(records, start=1)]


def _unpacked_sizes(file: pq.ParquetFile) -> Iterator[int]:
    for group in range(file.metadata.num_row_groups):
        chunks = file.metadata.row_group(group)
        yield max(chunks.total_byte_size, sum(chunks.column(k).total_uncompressed_size for k in range(chunks.num_columns)))


def _check_size(path: Path, size: int) -> None:
    """UserError where a small file unpacks to more than memory should hold."""
    if size > UNPACKED_LIMIT:
        raise UserError(f"{path.name} unpacks to more than {UNPACKED_LIMIT / 1e9:g} GB. Split it into smaller files.")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
