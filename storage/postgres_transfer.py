"""A campaign from a DuckDB file into PostgreSQL and back: every row copied, then read again on both sides and compared.

Into PostgreSQL all of it is one transaction; the file is written aside and renamed. Where a row differs, nothing was moved.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa

from storage.database import Database
from storage.duckdb_store import open_store
from storage.errors import UserError
from storage.postgres_connection import APPLICATION, Server, Transaction, first_line
from storage.postgres_mirror import BATCH, append_rows, new_rows
from storage.postgres_places import rebuild
from storage.tables import SCHEMAS

Moved = dict[str, int]  # table -> rows
LOOKS = 30


def move_to_postgres(path: Path, server: Server) -> Moved:
    """Copy the file at ``path`` into an empty database. UserError where that holds records, or cannot keep one of ours."""
    open_store(path).close()  # what only the journal has is put back
    database = Database(path)
    try:
        return server.run(lambda transaction: _fill(transaction, database.connection))
    finally:
        database.close()


def move_to_duckdb(server: Server, path: Path) -> Moved:
    """Copy a database into a new file at ``path``, as it is at one moment."""
    if path.exists():
        raise UserError(f"{path} exists already. Move it away first; nothing is replaced.")
    aside = path.with_name(f".{path.name}.part")
    aside.unlink(missing_ok=True)
    server.run(_check_alone)
    database = Database(aside)
    try:
        moved = server.run(lambda transaction: _write(transaction, database.connection), snapshot=True)
        database.connection.execute("CHECKPOINT")
        database.close()
        os.replace(aside, path)
        return moved
    finally:
        database.close()
        for left in aside.parent.glob(aside.name + "*"):
            left.unlink()


def _check_alone(transaction: Transaction) -> None:
    """UserError while an app serves this database: what it acknowledges would stay behind."""
    serving = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND application_name = $name"
    found = {"n": 0}
    for _ in range(LOOKS):  # connections of an app that has just stopped take a moment to end
        [found] = transaction.rows(serving, {"name": APPLICATION})
        if not found["n"]:
            return
        time.sleep(0.1)
        transaction.rows("SELECT 1 AS yes FROM pg_stat_clear_snapshot()")
    raise UserError(f"Nashloop still serves that database ({found['n']} connections). Stop every app on it first.")


def _fill(transaction: Transaction, source: duckdb.DuckDBPyConnection) -> Moved:
    _check_alone(transaction)
    transaction.rows("SELECT name FROM counters FOR UPDATE")
    kept = transaction.rows("SELECT name, last FROM counters WHERE last > 0 ORDER BY last DESC")
    if kept:
        raise UserError(f"that database holds {kept[0]['last']} {kept[0]['name']} already. Name an empty one: createdb NAME.")
    moved: Moved = {}
    for table in SCHEMAS:
        last = moved[table] = 0
        for rows, last in duckdb_rows(source, table):
            _insert(transaction, table, rows, last)
            moved[table] += rows.num_rows
        transaction.execute("UPDATE counters SET last = $last WHERE name = $name", {"last": last, "name": table})
    rebuild(transaction)
    for table in SCHEMAS:
        _compare(table, duckdb_rows(source, table), new_rows(transaction, table, 0))
    return moved


def _write(transaction: Transaction, target: duckdb.DuckDBPyConnection) -> Moved:
    moved: Moved = {}
    target.begin()
    for table in SCHEMAS:
        moved[table] = 0
        for rows, _ in new_rows(transaction, table, 0):
            append_rows(target, table, rows)
            moved[table] += rows.num_rows
    target.commit()
    for table in SCHEMAS:
        _compare(table, new_rows(transaction, table, 0), duckdb_rows(target, table))
    return moved


def duckdb_rows(connection: duckdb.DuckDBPyConnection, table: str) -> Iterator[tuple[pa.Table, int]]:
    """Rows of a table in their order, batch by batch, each with its last ``seq``; renewals, which have none, are numbered."""
    schema = SCHEMAS[table]
    names = ", ".join(f'"{name}"' for name in schema.names)
    numbered = f"(SELECT *, row_number() OVER (ORDER BY renewed_at, rowid) AS seq FROM {table})"
    source, last = table if "seq" in schema.names else numbered, 0
    while True:
        sql = f"SELECT {names}, seq AS place FROM {source} WHERE place > {last} ORDER BY place LIMIT {BATCH}"
        found = connection.sql(sql).to_arrow_table()
        if not found.num_rows:
            return
        last = found["place"][-1].as_py()
        yield found.select(schema.names).cast(schema), last


def _insert(transaction: Transaction, table: str, rows: pa.Table, last: int) -> None:
    names = list(rows.schema.names)
    values = [list(row.values()) for row in rows.to_pylist()]
    if "seq" not in names:
        names.append("seq")
        values = [[*row, last - len(values) + 1 + k] for k, row in enumerate(values)]
    try:
        transaction.insert(table, values, names=names)
    except psycopg.DataError as error:
        bad = next((row for row in rows.to_pylist() if _holds_nul(row)), None)
        where = f" (id {bad['id']})" if bad else ""
        raise UserError(f"PostgreSQL cannot keep a row of {table}{where}: {first_line(error)}. Nothing was moved.") from error


def _holds_nul(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_holds_nul, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and "\0" in value


def _compare(table: str, ours: Iterator[tuple[pa.Table, int]], theirs: Iterator[tuple[pa.Table, int]]) -> None:
    """UserError at the first row that differs."""
    for (left, last), (right, _) in _in_step(table, ours, theirs):
        if not left.equals(right):
            rows = zip(left.to_pylist(), right.to_pylist(), strict=False)
            different = next((row for row in rows if row[0] != row[1]), None)
            raise UserError(f"{table}: a row up to seq {last} is not the same on both sides: {different}. Nothing was moved.")


def _in_step(table: str, ours: Iterator[tuple[pa.Table, int]], theirs: Iterator[tuple[pa.Table, int]]):
    try:
        yield from zip(ours, theirs, strict=True)
    except ValueError as error:
        raise UserError(f"{table} does not have as many rows on both sides. Nothing was moved.") from error
