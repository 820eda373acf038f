"""The journal: every row that is committed, in a file of its own beside the database, written and flushed before the COMMIT.

It does not depend on the database engine: what a damaged write-ahead log or an old backup lacks is put back from it at the
next start (replay.py). One line is the rows of one commit (of many rows: several lines, the last one carries the totals):

    CRC32 of the rest as 8 hex digits, a space, JSON or base64 of deflated JSON, newline

The first line names the database and how many rows each table had when the journal was begun. Renewals are not kept: without
them a lease lapses earlier, and nothing is lost by that.
"""

import base64
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.contract.sealing import flush
from storage.errors import UserError
from storage.tables import SCHEMAS

Totals = dict[str, int]  # table -> rows since the database was made
Row = tuple[str, dict[str, Any]]  # table and values by column

TABLES = tuple(table for table, schema in SCHEMAS.items() if "seq" in schema.names)
UNFLUSHED = {"leases"}  # a lease alone is no promise; the next judgment flushes it
ROWS_PER_LINE = 1000
DEFLATE_BYTES = 512
TAIL_BYTES = 1 << 22
_flush_data = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


def journal_path(database: Path) -> Path:
    return database.with_name(database.name + ".journal")


@dataclass(slots=True, kw_only=True)
class Commit:
    """Rows of one commit, the totals after it, and where in the file it ends."""

    rows: list[Row]
    totals: Totals
    end: int


@dataclass(slots=True, kw_only=True)
class Reading:
    """What could be read of a journal. ``damaged``: offsets of whole lines that are not what was written."""

    database: str | None = None
    end: int = 0  # of the last whole commit; what follows was never acknowledged unless it is damaged
    totals: Totals = field(default_factory=dict)
    damaged: list[int] = field(default_factory=list)
    torn_bytes: int = 0


class Journal:
    """The file, open for appending. Used by the writer thread only."""

    def __init__(self, path: Path, totals: Totals, end: int) -> None:
        self.path, self.totals = path, dict(totals)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._end = end
        self._before = (end, dict(totals))
        os.ftruncate(self._file, end)

    def append(self, rows: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Write the rows of one commit, given in column order; on stable storage when this returns, unless all are leases.

        Raises OSError where there is no room, and leaves the file as it was.
        """
        self._before = (self._end, dict(self.totals))
        if not rows:
            return
        try:
            for first in range(0, len(rows), ROWS_PER_LINE):
                part = rows[first : first + ROWS_PER_LINE]
                for table, _ in part:
                    self.totals[table] = self.totals.get(table, 0) + 1
                last = first + ROWS_PER_LINE >= len(rows)
                named = [(table, dict(zip(SCHEMAS[table].names, row, strict=True))) for table, row in part]
                self._write(encode({"rows": named} | ({"totals": self.totals} if last else {})))
            if any(table not in UNFLUSHED for table, _ in rows):
                _flush_data(self._file)
        except OSError:
            self.take_back()
            raise

    def take_back(self) -> None:
        """Forget the last ``append``: its rows were not committed."""
        self._end, totals = self._before
        self.totals = dict(totals)
        os.ftruncate(self._file, self._end)

    def close(self) -> None:
        os.close(self._file)

    def _write(self, line: bytes) -> None:
        while line:
            written = os.write(self._file, line)
            self._end += written
            line = line[written:]


def begin(path: Path, database: str, totals: Totals) -> Journal:
    """A new journal that goes on from these totals; one that is there is kept under another name."""
    set_aside(path)
    part = path.with_name(path.name + ".part")
    line = encode({"journal": 1, "database": database, "totals": totals})
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    flush(path.parent)
    return Journal(path, totals, len(line))


def set_aside(path: Path) -> Path | None:
    """Rename the journal so that another can be begun; its new name, None if there was none."""
    if not path.exists():
        return None
    kept = path.with_name(f"{path.name}.{datetime.now(UTC):%Y%m%d-%H%M%S-%f}")
    os.replace(path, kept)
    return kept


def read(path: Path, reading: Reading, start: int = 0) -> Iterator[Commit]:
    """Whole commits from ``start``, the first byte of any line on; ``reading`` tells about the rest afterwards.

    A damaged line is passed over; the rows around it are given.
    """
    waiting: list[Row] = []
    with path.open("rb") as file:
        file.seek(start)
        offset = start
        for line in file:
            offset, at = offset + len(line), offset
            if not line.endswith(b"\n"):
                reading.torn_bytes = len(line)
                break
            values = decode(line)
            if values is None:
                reading.damaged.append(at)
                continue
            if "journal" in values:
                reading.database = values["database"]
            waiting += [(table, row) for table, row in values.get("rows", [])]
            if "totals" in values:
                reading.end, reading.totals = offset, values["totals"]
                yield Commit(rows=waiting, totals=values["totals"], end=offset)
                waiting = []


def read_header(path: Path) -> Reading:
    """Which database the journal belongs to; ``database`` stays None if its first line cannot be read."""
    reading = Reading()
    next(read(path, reading), None)
    return reading


def last_lines(path: Path) -> int:
    """Offset of a line start at most TAIL_BYTES before the end; 0 where the file is shorter."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size <= TAIL_BYTES:
            return 0
        file.seek(size - TAIL_BYTES)
        file.readline()
        return file.tell()


def encode(values: dict[str, Any]) -> bytes:
    payload = json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()
    if len(payload) > DEFLATE_BYTES:
        payload = base64.b64encode(zlib.compress(payload, 1))
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def decode(line: bytes) -> dict[str, Any] | None:
    """The values of a whole line, None if it is not what was written."""
    payload = line[9:-1]
    if line[:9] != b"%08x " % zlib.crc32(payload):
        return None
    return json.loads(payload if payload.startswith(b"{") else zlib.decompress(base64.b64decode(payload)))


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise UserError(f"{value!r} cannot be kept in the journal.")
