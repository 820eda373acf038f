"""The reading copy: records of PostgreSQL in a DuckDB file of this process, where reports, exports and pages read.

Their SQL is written once, for DuckDB, and runs here over the same tables and views. Records are append-only and ``seq`` has no
gaps (postgres_connection.py, ``take``), so bringing the copy up to date is reading the rows after the last ones, in batches, as
Arrow. It is up to date whenever a cursor is taken, costs one short query when nothing is new, and is kept for the next start.
"""

import json
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from psycopg.rows import tuple_row

from storage.database import Database, fetch_rows
from storage.errors import UserError
from storage.forgetting import redact_file
from storage.owner import become_owner, give_up
from storage.postgres_connection import Server, Transaction
from storage.tables import SCHEMAS

logger = logging.getLogger(__name__)

BATCH = 5_000
MEMORY = "1GB"  # for queries and what they sort; the rest stays in the file
_COUNTERS = "SELECT name, last FROM counters"


class Mirror(Database):
    """A database that reads what others have written whenever somebody asks it."""

    def __init__(self, server: Server, folder: Path | None = None) -> None:
        self._server = server
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="nashloop-reading-")
        self._claim(folder or Path(self._temporary.name if self._temporary else ""))
        self.connection.execute(f"SET GLOBAL memory_limit = '{MEMORY}'")
        self._reading = threading.Lock()
        self._began = 0.0  # the reading that ended last, on the monotonic clock

    def _claim(self, folder: Path) -> None:
        """Take the first copy that no other app has, and go on with it if it is one of this database; else begin it anew."""
        path = next(path for number in count() if (path := self._taken(folder / f"copy-{number}.duckdb")))
        try:
            super().__init__(path)
            self._seen = _last_seen(self.connection)
            if self._server.run(lambda transaction: _is_ours(transaction, self.connection, self._seen), snapshot=True):
                return
            super().close()
        except (duckdb.Error, UserError) as error:
            logger.warning("the reading copy %s is read anew: %s", path, error)
        for left in folder.glob(path.name + "*"):
            left.unlink()
        super().__init__(path)
        self._seen = dict.fromkeys(SCHEMAS, 0)

    def _taken(self, path: Path) -> Path | None:
        try:
            self._claimed = become_owner(path.with_suffix(".claim"))
        except UserError:
            return None
        return path

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
        if not self._claimed.closed:
            give_up(self._claimed)
        if self._temporary:
            self._temporary.cleanup()

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


def _last_seen(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """The last ``seq`` of each table in a copy; renewals, kept without, are as many as theirs."""
    last = {table: "coalesce(max(seq), 0)" if "seq" in schema.names else "count(*)" for table, schema in SCHEMAS.items()}
    sql = " UNION ALL ".join(f"SELECT '{table}', {what} FROM {table}" for table, what in last.items())
    return dict(connection.execute(sql).fetchall())


def _is_ours(transaction: Transaction, connection: duckdb.DuckDBPyConnection, seen: dict[str, int]) -> bool:
    """Whether the last row of each table in the copy is that of the database: it may be another one, or an older state of it."""
    for table, last in seen.items():
        if not last:
            continue
        there = transaction.rows(f"SELECT * FROM {table} WHERE seq = $last", {"last": last})
        if not there:
            return False
        if "id" in there[0]:
            [(copied,)] = connection.execute(f"SELECT id FROM {table} WHERE seq = {last}").fetchall()
            if copied != there[0]["id"]:
                return False
    return True
