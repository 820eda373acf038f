"""The reading copy: records of PostgreSQL in a DuckDB file of this process, where reports, exports and pages read.

Their SQL is written once, for DuckDB, and runs here over the same tables and views. Records are append-only and ``seq`` has no
gaps (postgres_connection.py, ``take``), so bringing the copy up to date is reading the rows after the last ones, in batches, as
Arrow. It is up to date whenever a cursor is taken, costs one short query when nothing is new, and is thrown away at the end.
"""

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from psycopg.rows import tuple_row

from storage.database import Database, fetch_rows
from storage.forgetting import redact_file
from storage.postgres_connection import Server, Transaction
from storage.tables import SCHEMAS

BATCH = 5_000
MEMORY = "1GB"  # for queries and what they sort; the rest stays in the file
_PREFIX = "reading-"
_COUNTERS = "SELECT name, last FROM counters"


class Mirror(Database):
    """A database that reads what others have written whenever somebody asks it."""

    def __init__(self, server: Server, folder: Path | None = None) -> None:
        self._server = server
        self._folder = _fresh_folder(folder or Path(tempfile.gettempdir()))
        super().__init__(self._folder / "reading.duckdb")
        self.connection.execute(f"SET GLOBAL memory_limit = '{MEMORY}'")
        self._seen = dict.fromkeys(SCHEMAS, 0)
        self._reading = threading.Lock()
        self._began = 0.0  # the reading that ended last, on the monotonic clock

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        self.catch_up()
        with super().cursor() as cursor:
            yield cursor

    def catch_up(self) -> None:
        """Bring in what was committed before this call. Of those who wait meanwhile, one reads for all."""
        called = time.monotonic()
        with self._reading:
            if self._began > called:
                return
            began = time.monotonic()
            if self._new_in(self._server.rows(_COUNTERS)):
                self._seen = self._server.run(self._read, snapshot=True)
            self._began = began

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # other replicas have theirs there
            self._folder.parent.rmdir()

    def _read(self, transaction: Transaction) -> dict[str, int]:
        """Append what is new, all of one moment; the last ``seq`` of each table."""
        seen = dict(self._seen)
        self.connection.begin()
        try:
            for table in self._new_in(transaction.rows(_COUNTERS)):
                for columns, last in new_rows(transaction, table, seen[table]):
                    append_rows(self.connection, table, columns)
                    seen[table] = last
            self._forget(after=self._seen["events"])
            self.connection.commit()
        except BaseException:
            self.connection.rollback()
            raise
        return seen

    def _new_in(self, counters: list[dict[str, Any]]) -> list[str]:
        """The tables that have grown, in the order of SCHEMAS."""
        last = {row["name"]: row["last"] for row in counters}
        return [table for table, seen in self._seen.items() if last[table] > seen]

    def _forget(self, after: int) -> None:
        """Rows that came before their person was forgotten."""
        said = "SELECT subject, data FROM events WHERE kind = 'user.forgotten' AND seq > $after ORDER BY seq"
        for event in fetch_rows(self.connection, said, {"after": after}):
            redact_file(self.connection, event["subject"], texts=bool(json.loads(event["data"])["texts"]))


def new_rows(transaction: Transaction, table: str, after: int) -> Iterator[tuple[pa.Table, int]]:
    """Rows of a table with ``seq`` above ``after``, batch by batch, each with its last ``seq``."""
    schema = SCHEMAS[table]
    names = ", ".join(f'"{name}"' for name in schema.names)
    with transaction.connection.cursor(f"read_{table}", row_factory=tuple_row, binary=True) as cursor:  # pyright: ignore
        cursor.execute(f"SELECT {names}, seq FROM {table} WHERE seq > %s ORDER BY seq", [after])  # pyright: ignore
        while rows := cursor.fetchmany(BATCH):
            *columns, seqs = zip(*rows, strict=True)
            arrays = [pa.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)]
            yield pa.Table.from_arrays(arrays, schema=schema), seqs[-1]


def append_rows(connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    """Append rows to the table of this name."""
    names = ", ".join(f'"{name}"' for name in rows.schema.names)
    connection.register("new_rows", rows)
    try:
        connection.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM new_rows")
    finally:
        connection.unregister("new_rows")


def _fresh_folder(parent: Path) -> Path:
    """A folder for this process; those of processes that were killed are removed."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{_PREFIX}*"):
        if not _is_alive(left.name.removeprefix(_PREFIX).split("-")[0]):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))


def _is_alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):
        pass
    return True
