"""At start the journal is compared with the database, and rows that the database lacks are put back."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from storage import journal as journals
from storage.database import Database, fetch_rows, insert_rows
from storage.journal import TABLES, Commit, Journal, Reading, Row, Totals, journal_path
from storage.tables import SCHEMAS

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 20_000
# table -> (column, table in which its values must be): rows that refer to what is lost are not put back
REFERENCES: dict[str, tuple[tuple[str, str], ...]] = {
    "responses": (("prompt_id", "prompts"),),
    "tasks": (("prompt_id", "prompts"), ("response_1_id", "responses"), ("response_2_id", "responses")),
    "leases": (("task_id", "tasks"), ("annotator_id", "annotators")),
    "judgments": (("task_id", "tasks"), ("annotator_id", "annotators")),
}


@dataclass(slots=True, kw_only=True)
class Recovery:
    """What was put back, what could not be, and in words why the journal was begun anew, if it was."""

    put_back: Totals = field(default_factory=dict)
    left: Totals = field(default_factory=dict)
    begun_anew: str | None = None
    kept: Path | None = None  # the journal before this one

    def sentence(self) -> str:
        parts = []
        if self.put_back:
            parts.append(f"The database lacked {counted(self.put_back)}; they were put back from the journal.")
        if self.left:
            parts.append(f"{counted(self.left)} of the journal refer to records that are lost.")
        if self.begun_anew:
            parts.append(
                f"{self.begun_anew} A new journal was begun" + (f"; the one before is {self.kept}." if self.kept else ".")
            )
        return " ".join(parts)


def counted(totals: Totals) -> str:
    """Such as ``2 leases, 1 judgment``."""
    return ", ".join(f"{count} {_singular(table) if count == 1 else table}" for table, count in totals.items())


def _singular(table: str) -> str:
    if table not in TABLES:
        return table
    return table[:-3] + "y" if table.endswith("ies") else table[:-1]


def open_journal(database: Database) -> tuple[Journal, Recovery | None]:
    """The journal beside a database, after comparing both; None where nothing had to be done.

    The last lines are enough where all totals agree; otherwise the whole journal is read.
    """
    path, connection = journal_path(database.path), database.connection
    owner = database_id(connection)
    if not path.exists():
        return journals.begin(path, owner, count_rows(connection)), None
    recovery = Recovery()
    header = journals.read_header(path)
    if header.database not in (owner, None):
        return _anew(path, connection, recovery, "The journal beside the database was another database's.")
    reading = Reading()
    for start in dict.fromkeys((journals.last_lines(path), 0)):
        reading = Reading()
        try:
            _put_back(connection, journals.read(path, reading, start), recovery)
        except duckdb.ConstraintException as error:
            return _anew(path, connection, Recovery(), f"The journal contradicts the database ({error}).")
        if not reading.damaged and reading.totals == count_rows(connection):
            return Journal(path, reading.totals, reading.end), recovery if recovery.put_back else None
    if reading.damaged:
        return _anew(path, connection, recovery, f"{len(reading.damaged)} lines of the journal are damaged.")
    return _anew(path, connection, recovery, "The journal does not tell of all that the database holds.")


def _anew(path: Path, connection: duckdb.DuckDBPyConnection, recovery: Recovery, why: str) -> tuple[Journal, Recovery]:
    recovery.begun_anew, recovery.kept = why, journals.set_aside(path)
    return journals.begin(path, database_id(connection), count_rows(connection)), recovery


def database_id(connection: duckdb.DuckDBPyConnection) -> str:
    """When the database was made, to the microsecond: the same in all its backups, another in every other database."""
    [(made,)] = connection.execute("SELECT epoch_us(min(applied_at)) FROM schema_migrations").fetchall()
    return str(made)


def count_rows(connection: duckdb.DuckDBPyConnection) -> Totals:
    sql = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table}" for table in TABLES)
    return {table: count for table, count in connection.execute(sql).fetchall() if count}


def missing_rows(connection: duckdb.DuckDBPyConnection, rows: Iterable[Row]) -> dict[str, list[dict[str, Any]]]:
    """Rows whose id is not in their table, by table."""
    by_table: dict[str, dict[str, dict[str, Any]]] = {}
    for table, row in rows:
        by_table.setdefault(table, {})[row["id"]] = row
    for table, by_id in by_table.items():
        for known in _known(connection, table, "id", list(by_id)):
            del by_id[known]
    return {table: list(by_table[table].values()) for table in TABLES if by_table.get(table)}


def _put_back(connection: duckdb.DuckDBPyConnection, commits: Iterable[Commit], recovery: Recovery) -> None:
    """Insert in one transaction what the database lacks. Counts start anew: what is put back later was left before."""
    recovery.left = {}
    connection.begin()
    try:
        for rows in in_chunks(commits):
            for table, missing in missing_rows(connection, rows).items():
                found = _with_references(connection, table, missing)
                _insert(connection, table, found)
                _add(recovery.put_back, table, len(found))
                _add(recovery.left, table, len(missing) - len(found))
        connection.commit()
    except BaseException:
        connection.rollback()
        raise


def _add(totals: Totals, table: str, count: int) -> None:
    if count:
        totals[table] = totals.get(table, 0) + count


def in_chunks(commits: Iterable[Commit]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for commit in commits:
        chunk += commit.rows
        if len(chunk) >= ROWS_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _with_references(connection: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for column, referred in REFERENCES.get(table, ()):
        known = _known(connection, referred, "id", list({row[column] for row in rows}))
        rows = [row for row in rows if row[column] in known]
    return rows


def _known(connection: duckdb.DuckDBPyConnection, table: str, column: str, values: list[Any]) -> set[Any]:
    sql = f"SELECT {column} AS value FROM {table} WHERE {column} IN (SELECT unnest($values))"
    return {row["value"] for row in fetch_rows(connection, sql, {"values": values})} if values else set()


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    """Rows with a ``seq`` that was given again meanwhile get a new one. Columns younger than a row take their default."""
    taken = _known(connection, table, "seq", [row["seq"] for row in rows])
    if taken:
        [(last,)] = connection.execute(f"SELECT max(seq) FROM {table}").fetchall()
        last = max(last, *(row["seq"] for row in rows))
        for row in (row for row in rows if row["seq"] in taken):
            last += 1
            row["seq"] = last
    by_columns: dict[tuple[str, ...], list[list[Any]]] = {}
    for row in rows:
        by_columns.setdefault(tuple(row), []).append([_value(table, name, value) for name, value in row.items()])
    for columns, values in by_columns.items():
        insert_rows(connection, table, values, columns)


def _value(table: str, column: str, value: Any) -> Any:
    is_time = pa.types.is_timestamp(SCHEMAS[table].field(column).type)
    return datetime.fromisoformat(value) if is_time and value is not None else value
