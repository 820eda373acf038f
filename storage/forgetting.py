"""Forgetting a person: the one place where rows that were written are changed.

What names them is overwritten at once, in memory and in the tables, so that no page, export or new backup tells it. Their
judgments stay, under a pseudonym. A DuckDB file keeps old bytes in pages it no longer uses, and the journal holds every row
as it was written: both are made anew at the next start (``rewrite_if_asked``). Backups made before are left alone.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from storage.accounts import forgotten_name
from storage.contract.sealing import flush
from storage.database import Database, fetch_rows
from storage.journal import journal_path
from storage.owner import owned
from storage.replay import open_journal

Rows = Callable[[str, dict[str, Any]], list[dict[str, Any]]]
Execute = Callable[[str, dict[str, Any]], Any]

_OF_USER = (
    "UPDATE users SET name = $name WHERE id = $user",
    "UPDATE tokens SET name = $name WHERE user_id = $user",
)
_IDENTITIES = "UPDATE credentials SET secret = 'forgotten ' || id WHERE user_id = $user"
_HANDLE = "UPDATE annotators SET handle = $name WHERE id = $annotator"
_TEXTS = "UPDATE judgments SET rationale = NULL, edited_text = NULL, spans = '[]' WHERE annotator_id = $annotator"
_SAID = """SELECT id, kind, data FROM events WHERE (kind IN ('user.locked', 'user.linked', 'crowd.joined') AND subject = $user)
    OR (kind = 'note.sent' AND subject = $annotator) OR (kind = 'pair.flagged' AND data LIKE $by)"""
_UNSAID = {"note.sent": {"text": "(removed)"}, "pair.flagged": {"comment": None}, "user.locked": {"from": None}}
_UNSAID |= {"crowd.joined": {"session": "", "platform_study": ""}}


def redact(rows: Rows, execute: Execute, user_id: str, *, texts: bool) -> None:
    """Overwrite what names this user in the tables; doing it again changes nothing.

    ``texts``: what they wrote beside their verdicts too. ``rows`` and ``execute`` run SQL with named parameters.
    """
    [user] = rows("SELECT annotator_id FROM users WHERE id = $user", {"user": user_id})
    annotator, name = user["annotator_id"] or "", forgotten_name(user_id)
    for sql in _OF_USER:
        execute(sql, {"user": user_id, "name": name})
    execute(_IDENTITIES, {"user": user_id})
    execute(_HANDLE, {"annotator": annotator, "name": name})
    said = {"user": user_id, "annotator": annotator, "by": f'%"annotator_id": "{annotator}"%'}
    for event in rows(_SAID, said):
        data = json.loads(event["data"]) | _UNSAID.get(event["kind"], {})
        execute("UPDATE events SET data = $data WHERE id = $id", {"id": event["id"], "data": json.dumps(data, sort_keys=True)})
    if texts:
        execute(_TEXTS, {"annotator": annotator})


def redact_file(connection: duckdb.DuckDBPyConnection, user_id: str, *, texts: bool) -> None:
    """``redact`` in an open DuckDB database."""

    def rows(sql: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        return fetch_rows(connection, sql, values)

    redact(rows, connection.execute, user_id, texts=texts)


def ask_to_rewrite(path: Path) -> None:
    """Have the file and its journal made anew at the next start."""
    marker_path(path).touch()
    flush(path.parent)


def marker_path(path: Path) -> Path:
    return path.with_name(path.name + ".rewrite")


def rewrite_if_asked(path: Path) -> None:
    """Copy the database row by row into a new file that takes its place, and begin a new journal. Safe to interrupt."""
    if not marker_path(path).exists() or not path.exists():
        return
    _redact_again(path)
    aside = path.with_name(f".{path.name}.rewrite")
    aside.unlink(missing_ok=True)
    with owned(path):
        _copy(path, aside)
        os.replace(aside, path)
        for old in path.parent.glob(journal_path(path).name + "*"):
            old.unlink()
        marker_path(path).unlink()
        flush(path.parent)


def _redact_again(path: Path) -> None:
    """With the rows that the journal puts back, and what a lost write-ahead log may have taken along."""
    database = Database(path)
    try:
        journal, _ = open_journal(database)
        journal.close()
        for event in database.rows("SELECT subject, data FROM events WHERE kind = 'user.forgotten' ORDER BY seq"):
            redact_file(database.connection, event["subject"], texts=bool(json.loads(event["data"]).get("texts")))
        database.connection.execute("CHECKPOINT")
    finally:
        database.close()


def _copy(path: Path, aside: Path) -> None:
    def quoted(name: Path) -> str:
        return "'" + str(name).replace("'", "''") + "'"

    with duckdb.connect() as connection:
        connection.execute(f"ATTACH {quoted(path)} AS old")
        connection.execute(f"ATTACH {quoted(aside)} AS new (STORAGE_VERSION 'v1.5.0')")
        connection.execute("COPY FROM DATABASE old TO new")
        connection.execute("CHECKPOINT new")
        connection.execute("DETACH old")
        connection.execute("DETACH new")
    flush(aside)
