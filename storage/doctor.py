"""Is everything that was promised still there? Reads every row and the whole journal; changes nothing.

Works on a closed file (read-only, which leaves file and write-ahead log as they are) and through a store that is in use.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from storage import journal as journals
from storage.checks import Check
from storage.database import CONFIG, fetch_table
from storage.errors import UserError
from storage.journal import TABLES, Reading, Row, Totals, journal_path
from storage.replay import REFERENCES, ROWS_AT_ONCE, counted, in_chunks

Query = Callable[[str, dict[str, Any] | None], pa.Table]
SETTLE_S = 0.3
SAMPLED = 50  # ids per table that are looked up through the index and by reading


class Damaged(UserError):
    """The file cannot be read as a database; ``wal_position``: where its write-ahead log stops making sense."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message.splitlines()[0]}")
        at = re.search(r"WAL file: entry at byte position (\d+)", message)
        self.wal_position = int(at[1]) if at else None
        self.in_wal = "WAL" in message


@contextmanager
def reading(path: Path) -> Iterator[Query]:
    """Queries on a closed database. UserError while another process holds it; Damaged where it does not open."""
    try:
        connection = duckdb.connect(str(path), read_only=True, config=CONFIG)
    except duckdb.Error as error:
        holder = re.search(r"PID (\d+)", str(error))
        if holder:
            raise UserError(f"{path} is in use by PID {holder[1]}. Stop that program first.") from error
        raise Damaged(path, str(error)) from error
    try:
        yield lambda sql, params: fetch_table(connection, sql, params)
    finally:
        connection.close()


def examine(path: Path) -> list[Check]:
    """All checks of a closed database and its journal."""
    try:
        with reading(path) as query:
            return check_contents(query, path)
    except Damaged as error:
        advice = "`nashloop doctor --repair` repairs a copy and keeps these files."
        where = "write-ahead log" if error.in_wal else "database"
        return [Check(name=where, ok=False, detail=f"{error} {advice}"), _check_journal_alone(path)]


def check_contents(query: Query, path: Path | None) -> list[Check]:
    """Checks of a database that opens. The journal is read before the tables: rows may be added meanwhile."""
    found = None if path is None else _missing(query, path)
    try:
        totals = read_everything(query)
    except duckdb.Error as error:
        return [Check(name="database", ok=False, detail=f"{error} `nashloop doctor --repair` looks for a whole copy.")]
    checks = [
        Check(name="database", ok=True, detail=f"every row was read: {counted(totals) or 'none yet'}"),
        _check_references(query),
        _check_indexes(query),
    ]
    return checks if found is None else [*checks, _check_journal(*found)]


def read_everything(query: Query) -> Totals:
    """Rows by table, after reading all their columns: damaged blocks are found by their checksums."""
    parts = (f"SELECT '{table}' AS name, count(*) AS n, bit_xor(hash(t)) AS h FROM {table} t" for table in _present(query))
    sql = " UNION ALL ".join(parts)
    return {row["name"]: row["n"] for row in query(sql, None).to_pylist() if row["n"]}


def _present(query: Query) -> list[str]:
    """Tables that this database has: those of later migrations may be missing yet."""
    there = set(query("SELECT table_name AS name FROM duckdb_tables()", None)["name"].to_pylist())
    return [table for table in TABLES if table in there]


def _check_references(query: Query) -> Check:
    wrong: Totals = {}
    for table, references in REFERENCES.items():
        for column, referred in references:
            sql = f"SELECT count(*) AS n FROM {table} ANTI JOIN {referred} ON {referred}.id = {table}.{column}"
            if count := query(sql, None)["n"][0].as_py():
                wrong[f"{table} without {column}"] = count
    detail = f"{counted(wrong)}: restore a backup, or write to the developers" if wrong else "every record's parts are there"
    return Check(name="references", ok=not wrong, detail=detail)


def _check_indexes(query: Query) -> Check:
    """What the index of a table finds is what reading the table finds."""
    wrong = []
    for table in _present(query):
        ids = query(f"SELECT id FROM (SELECT id FROM {table} USING SAMPLE {SAMPLED} ROWS)", None)["id"].to_pylist()
        by_index = sum(query(f"SELECT id FROM {table} WHERE id = $id", {"id": one}).num_rows for one in ids)
        twice = query(f"SELECT count(*) - count(DISTINCT id) AS n FROM {table}", None)["n"][0].as_py()
        if by_index != len(ids) or twice:
            wrong.append(table)
    detail = (
        f"wrong for {', '.join(wrong)}: restore a backup; the journal brings back what came later" if wrong else "agree with rows"
    )
    return Check(name="indexes", ok=not wrong, detail=detail)


def _missing(query: Query, path: Path) -> tuple[Reading, dict[str, list[str]]]:
    """What the journal tells, and ids of its rows that the database lacks, by table."""
    state, missing = Reading(), {}
    if journal_path(path).exists():
        for rows in in_chunks(journals.read(journal_path(path), state)):
            for table, ids in _unknown(query, rows).items():
                missing.setdefault(table, []).extend(ids)
    if any(missing.values()):  # in a store in use: written to the journal a moment before it was committed
        time.sleep(SETTLE_S)
        missing = {table: _not_in(query, table, ids) for table, ids in missing.items()}
    return state, {table: ids for table, ids in missing.items() if ids}


def _unknown(query: Query, rows: list[Row]) -> dict[str, list[str]]:
    by_table: dict[str, list[str]] = {}
    for table, row in rows:
        by_table.setdefault(table, []).append(row["id"])
    return {table: _not_in(query, table, ids) for table, ids in by_table.items()}


def _not_in(query: Query, table: str, ids: list[str]) -> list[str]:
    missing: list[str] = []
    for first in range(0, len(ids), ROWS_AT_ONCE):
        part = ids[first : first + ROWS_AT_ONCE]
        known = set(query(f"SELECT id FROM {table} WHERE id IN (SELECT unnest($ids))", {"ids": part})["id"].to_pylist())
        missing += [one for one in part if one not in known]
    return missing


def _check_journal(state: Reading, missing: dict[str, list[str]]) -> Check:
    if state.database is None and not state.end:
        return Check(name="journal", ok=True, detail="none yet; the next start begins one")
    if missing:
        lost = counted({table: len(ids) for table, ids in missing.items()})
        return Check(name="journal", ok=False, detail=f"the database lacks {lost}; the next start of the app puts them back")
    if state.damaged:
        detail = f"{len(state.damaged)} lines are damaged (first at byte {state.damaged[0]}); the database holds all others. "
        return Check(
            name="journal", ok=False, detail=detail + "`nashloop doctor --repair` begins a new journal and keeps this one"
        )
    return Check(name="journal", ok=True, detail=f"{state.totals.get('judgments', 0)} judgments, all in the database")


def _check_journal_alone(path: Path) -> Check:
    state = Reading()
    if not journal_path(path).exists():
        return Check(name="journal", ok=False, detail="there is none")
    for _ in journals.read(journal_path(path), state):
        pass
    detail = f"readable, tells of {state.totals.get('judgments', 0)} judgments"
    return Check(name="journal", ok=not state.damaged, detail=f"{len(state.damaged)} lines damaged" if state.damaged else detail)
