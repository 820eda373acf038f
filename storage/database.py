"""The DuckDB file: how it is opened and migrated, and how rows go in and out."""

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from storage.errors import Unavailable, UserError
from storage.owner import become_owner, give_up
from storage.tables import SCHEMAS

IN_MEMORY = Path(":memory:")
MIGRATIONS = Path(__file__).parent / "migrations"
# Files stay readable by DuckDB 1.5, so that going back a version is possible; nothing is fetched while running.
CONFIG: dict[str, Any] = {
    "storage_compatibility_version": "v1.5.0",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    # Never inside a COMMIT: without room to finish, a checkpoint invalidates the open database. The writer asks room.py first.
    "checkpoint_threshold": "1TB",
}

FEW_ROWS = 16  # up to here one INSERT ... VALUES is faster than going through Arrow, measured
CLOSE_ATTEMPTS = 250  # of 20 ms: five seconds for a call that is under way


class Database:
    """One open database. ``connection`` belongs to the writer thread; everybody else reads through ``cursor``."""

    def __init__(self, path: Path, *, migrations: Path = MIGRATIONS) -> None:
        self.path = path
        self._owner = None if path == IN_MEMORY else become_owner(path)
        try:
            self.connection = _connect(path)
            if path != IN_MEMORY and _is_behind(self.connection, migrations):
                self.connection.close()
                _keep_copy(path)
                self.connection = _connect(path)
            self.schema_version = migrate(self.connection, migrations)
        except BaseException:
            self._release()
            raise
        self._lock = threading.Lock()

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own for one reader: sees what is committed, blocks nobody."""
        with self._lock:
            cursor = self.connection.cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    def log_bytes(self) -> int:
        """Size of the write-ahead log."""
        try:
            return os.stat(f"{self.path}.wal").st_size
        except FileNotFoundError:
            return 0

    def rows(self, sql: str, params: Any = None) -> list[dict[str, Any]]:
        """Rows of a query as dictionaries, by a reader of its own."""
        with self.cursor() as cursor:
            return fetch_rows(cursor, sql, params)

    def tuples(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        """Rows of a query without times, at half the cost of ``rows``: for the hot path."""
        with self.cursor() as cursor:
            return cursor.execute(sql, params).fetchall()

    def close(self) -> None:
        """Waits for a reader that is just getting its cursor; DuckDB refuses to close a connection in use."""
        with self._lock:
            for _ in range(CLOSE_ATTEMPTS):
                try:
                    self.connection.close()
                    break
                except duckdb.Error as error:
                    if "busy with another call" not in str(error):
                        raise
                    time.sleep(0.02)
        self._release()

    def _release(self) -> None:
        if self._owner:
            give_up(self._owner)
            self._owner = None


def fetch_table(connection: duckdb.DuckDBPyConnection, sql: str, params: Any = None) -> pa.Table:
    """The result of a query as an Arrow table; times are UTC."""
    relation = connection.sql(sql, params=params)
    if relation is None:
        raise UserError(f"{sql.strip()[:80]!r} is not a query. Only SELECT is possible here.")
    return relation.to_arrow_table()


def fetch_rows(connection: duckdb.DuckDBPyConnection, sql: str, params: Any = None) -> list[dict[str, Any]]:
    """The result of a query as dictionaries of plain Python values."""
    return fetch_table(connection, sql, params).to_pylist()


def insert_rows(
    connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Sequence[Any]], columns: Sequence[str] | None = None
) -> None:
    """Append rows, given in the order of ``columns``, by default all of ``tables.SCHEMAS``."""
    schema = SCHEMAS[table] if columns is None else pa.schema([SCHEMAS[table].field(name) for name in columns])
    names = ", ".join(f'"{name}"' for name in schema.names)
    if len(rows) <= FEW_ROWS:
        marks = ", ".join(["(" + ", ".join("?" * len(schema)) + ")"] * len(rows))
        connection.execute(f"INSERT INTO {table} ({names}) VALUES {marks}", [value for row in rows for value in row])
        return
    columns = [pa.array(column, type=field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
    connection.register("new_rows", pa.Table.from_arrays(columns, schema=schema))
    try:
        connection.execute(f"INSERT INTO {table} ({names}) SELECT * FROM new_rows")
    finally:
        connection.unregister("new_rows")


def readable(error: Exception) -> Exception:
    """What the engine or the system says about a full disk, as a sentence; any other error as it is."""
    text = str(error)
    if isinstance(error, (duckdb.Error, OSError)) and any(s in text for s in ("No space left", "File too large", "Disk quota")):
        said = text.splitlines()[0]
        return Unavailable(f"the disk is full, nothing of this was stored ({said}). Free some space and try again.")
    return error


def _is_behind(connection: duckdb.DuckDBPyConnection, migrations: Path) -> bool:
    """A database with rows whose schema is older than the newest migration."""
    known = "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'schema_migrations'"
    if connection.execute(known).fetchall() == [(0,)]:
        return False
    [(version,)] = connection.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchall()
    return 0 < version < max(_numbered(migrations), default=0)


def _keep_copy(path: Path) -> None:
    """The closed database as it is before its schema changes, under ``backups/``; opened and counted before it counts."""
    folder = path.parent / "backups"
    copy = folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-before-migration.duckdb"
    try:
        folder.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
        with copy.open("rb") as file:
            os.fsync(file.fileno())
        whole = not path.with_name(path.name + ".wal").exists() and _count_rows(copy) == _count_rows(path)
    except OSError as error:
        raise UserError(
            f"{copy} could not be written ({error.strerror}), so {path} was not migrated. Correct that first."
        ) from error
    if not whole:
        copy.unlink()
        raise UserError(f"{path} could not be copied whole, so it was not migrated. Free some space and try again.")


def _count_rows(path: Path) -> dict[str, int]:
    with duckdb.connect(str(path), read_only=True, config=CONFIG) as connection:
        tables = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        counts = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM {name}" for name in tables)
        return dict(connection.execute(counts).fetchall())


def _numbered(migrations: Path) -> dict[int, Path]:
    return {int(path.name.split("_")[0]): path for path in sorted(migrations.glob("*.sql"))}


def migrate(connection: duckdb.DuckDBPyConnection, migrations: Path = MIGRATIONS) -> int:
    """Apply the numbered files that are missing, one transaction each, and return the schema's version.

    Raises UserError where an applied file was edited since, or the database was written by a newer version.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations"
        " (version INTEGER PRIMARY KEY, name VARCHAR, sha256 VARCHAR, applied_at TIMESTAMPTZ)"
    )
    applied = dict(connection.execute("SELECT version, sha256 FROM schema_migrations").fetchall())
    files = _numbered(migrations)
    newest = max(files, default=0)
    if applied and max(applied) > newest:
        raise UserError(
            f"the database has schema {max(applied)}, this version of nashloop knows only up to {newest}. Install the newer one."
        )
    for version, path in files.items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if version not in applied:
            _apply(connection, version, path, digest)
        elif applied[version] != digest:
            raise UserError(
                f"migration {path.name} is not the one this database was made with."
                " Restore the released file; add a new number to change the schema."
            )
    return newest


def _apply(connection: duckdb.DuckDBPyConnection, version: int, path: Path, digest: str) -> None:
    connection.begin()
    try:
        connection.execute(path.read_text())
        connection.execute("INSERT INTO schema_migrations VALUES (?, ?, ?, ?)", [version, path.name, digest, datetime.now(UTC)])
        connection.commit()
    except BaseException:
        connection.rollback()
        raise
    connection.execute("CHECKPOINT")  # replaying DDL from the write-ahead log has had bugs (duckdb#25928)


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    try:
        connection = duckdb.connect(str(path), config=CONFIG)
    except duckdb.Error as error:
        raise UserError(_why_not_opened(path, str(error))) from error
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    return connection


def _why_not_opened(path: Path, error: str) -> str:
    holder = re.search(r"PID (\d+)", error)
    if holder:
        return f"{path} is open in another program (PID {holder[1]}). Close it there, then try again."
    if "WAL" in error:
        remedy = f"`nashloop doctor --repair --data {path.parent}` repairs a copy and keeps these files"
        return f"{path}: its write-ahead log is damaged ({error.splitlines()[0]}). {remedy}."
    remedy = f"`nashloop doctor --data {path.parent}` says what can be done; or name another --data directory"
    return f"{path} cannot be opened as a database: {error.splitlines()[0]}. {remedy}."
