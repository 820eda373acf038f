"""A copy of the whole database while it is in use, checked before it counts as one."""

import os
from pathlib import Path

import duckdb

from storage.contract.sealing import flush
from storage.database import readable
from storage.errors import UserError
from storage.reading import Readable
from storage.tables import SCHEMAS

_TABLES = [*SCHEMAS, "schema_migrations"]


def back_up(state: Readable, path: Path) -> None:
    """Copy everything acknowledged so far into a new file at ``path``. UserError if it exists.

    Runs in a reader of its own: COPY FROM DATABASE is one transaction, and labelling goes on meanwhile. Every table is
    counted in the copy before the file gets its name.
    """
    if path.exists():
        raise UserError(f"{path} exists and a backup never replaces a file. Choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.unlink(missing_ok=True)
    try:
        expected = _copy(state, aside)
        with duckdb.connect(str(aside)) as copied:
            found = _count(copied)
            copied.execute("CHECKPOINT")
        if found != expected:
            raise UserError(f"the backup holds {found} instead of {expected}. The disk may be failing; try another one.")
        flush(aside)
        os.replace(aside, path)
    except (duckdb.Error, OSError) as error:
        raise readable(error) from error
    finally:
        for left in (aside, aside.with_name(aside.name + ".wal")):
            left.unlink(missing_ok=True)


def _copy(state: Readable, aside: Path) -> dict[str, int]:
    """Fill the new file and return how many rows each table had in that very transaction."""
    with state.database.cursor() as cursor:
        [(name,)] = cursor.execute("SELECT current_database()").fetchall()
        cursor.execute(f"ATTACH '{str(aside).replace(chr(39), chr(39) * 2)}' AS backup_copy (STORAGE_VERSION 'v1.5.0')")
        try:
            cursor.begin()
            counts = _count(cursor)
            cursor.execute(f'COPY FROM DATABASE "{name}" TO backup_copy')
            cursor.commit()
        finally:
            cursor.execute("DETACH backup_copy")
    return counts


def _count(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    sql = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table}" for table in _TABLES)
    return dict(connection.execute(sql).fetchall())
