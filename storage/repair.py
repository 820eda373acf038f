"""Bringing a damaged database back, and restoring a backup. Always on a copy; what was there before is kept beside it.

A write-ahead log that breaks off is cut where it stops making sense; a file that cannot be read is replaced by the newest
backup that can, or built anew from the journal. In each case the journal then puts back what is missing.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from storage import journal as journals
from storage.checks import Check
from storage.contract.sealing import flush
from storage.database import CONFIG, MIGRATIONS, Database, migrate
from storage.doctor import Damaged, check_contents, examine, read_everything, reading
from storage.errors import UserError
from storage.journal import Reading, Totals, journal_path
from storage.owner import owned
from storage.replay import counted, open_journal

BACKUPS = "backups"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What was done in sentences, rows now in each table, and where the files from before are."""

    steps: list[str]
    rows: Totals
    kept: Path

    def text(self) -> str:
        return "\n".join([*self.steps, f"Now there: {counted(self.rows) or 'no rows'}.", f"The files from before: {self.kept}"])


def repair(path: Path) -> Repaired | None:
    """Bring a damaged database or journal back; None where nothing is wrong. UserError where nothing can be read."""
    with owned(path), _aside(path, "repair") as work:
        wrong = [check for check in examine(path) if not check.ok]
        if not wrong:
            return None
        copy, steps = work / path.name, [f"Wrong: {_names(wrong)}"]
        for source in (path, wal_path(path), journal_path(path)):
            if source.exists():
                shutil.copyfile(source, work / source.name)
        unsound = any(check.name != "journal" for check in wrong)
        if unsound and not _cut_log(copy, steps) and not _from_backup(path, copy, steps):
            _from_journal(copy, steps)
        rows = _finish(copy, steps)
        return Repaired(steps=steps, rows=rows, kept=_swap(path, work, "damaged"))


def restore(path: Path, backup: Path | None = None, *, exactly: bool = False) -> Repaired:
    """Put a backup (by default the newest that is whole) in the database's place and bring back what was added since.

    ``exactly``: nothing is brought back; the journal is kept with the database that is replaced.
    """
    with owned(path), _aside(path, "restore") as work:
        copy, steps = work / path.name, []
        if backup is None:
            if not _from_backup(path, copy, steps):
                raise UserError(f"There is no backup that can be read in {path.parent / BACKUPS}. Name a file.")
        else:
            _check_backup(path, backup, exactly=exactly)
            shutil.copyfile(backup, copy)
            steps.append(f"Restored {backup}.")
        if not exactly and journal_path(path).exists():
            shutil.copyfile(journal_path(path), journal_path(copy))
        rows = _finish(copy, steps)
        return Repaired(steps=steps, rows=rows, kept=_swap(path, work, "replaced"))


def wal_path(path: Path) -> Path:
    return path.with_name(path.name + ".wal")


def list_backups(folder: Path) -> list[Path]:
    """Newest first, by when they were written."""
    return sorted(folder.glob("*.duckdb"), key=lambda path: path.stat().st_mtime, reverse=True)


def read_backup(backup: Path) -> Totals:
    """Rows by table, after reading all of them; Damaged if that is not possible."""
    try:
        with reading(backup) as query:
            return read_everything(query)
    except duckdb.Error as error:
        raise Damaged(backup, str(error)) from error


def _cut_log(copy: Path, steps: list[str]) -> bool:
    """Cut the copied log where it stops making sense, until the copy is sound; False if the log is not what is wrong."""
    log = wal_path(copy)
    before = size = log.stat().st_size if log.exists() else 0
    while True:
        try:
            with reading(copy) as query:
                sound = all(check.ok for check in check_contents(query, None))
            break
        except Damaged as error:
            if error.wal_position is None or error.wal_position >= size:
                return False
            size = error.wal_position
            os.truncate(log, size)
    if sound and size < before:
        steps.append(f"Cut its write-ahead log from {before:,} to {size:,} bytes.")
    return sound


def _from_backup(path: Path, copy: Path, steps: list[str]) -> bool:
    for backup in list_backups(path.parent / BACKUPS):
        try:
            rows = read_backup(backup)
        except Damaged:
            steps.append(f"{backup} cannot be read either.")
            continue
        shutil.copyfile(backup, copy)
        wal_path(copy).unlink(missing_ok=True)
        steps.append(f"Took the newest backup that is whole, {backup} ({counted(rows)}).")
        return True
    return False


def _from_journal(copy: Path, steps: list[str]) -> None:
    """An empty database of the same identity, which the journal then fills: possible if it tells of everything."""
    source = journal_path(copy)
    header = journals.read_header(source) if source.exists() else Reading()
    if header.database is None or header.totals:
        raise UserError(
            f"{copy.name} cannot be read, there is no backup that can, and the journal does not tell of everything. "
            "Nothing was changed. Copy the whole directory before you try anything else."
        )
    for path in (copy, wal_path(copy)):
        path.unlink(missing_ok=True)
    connection = duckdb.connect(str(copy), config=CONFIG)
    try:
        migrate(connection, MIGRATIONS)
        connection.execute("UPDATE schema_migrations SET applied_at = make_timestamptz(CAST(? AS BIGINT))", [header.database])
    finally:
        connection.close()
    steps.append("Built the database anew from the journal.")


def _check_backup(path: Path, backup: Path, *, exactly: bool) -> None:
    if not backup.is_file():
        raise UserError(f"The backup {backup} does not exist. `ls {path.parent / BACKUPS}` shows those there are.")
    read_backup(backup)
    header = journals.read_header(journal_path(path)) if journal_path(path).exists() else Reading()
    with reading(backup) as query:
        made = query("SELECT epoch_us(min(applied_at)) AS id FROM schema_migrations", None)["id"][0].as_py()
    if header.database not in (None, str(made)) and not exactly:
        raise UserError(f"{backup} is of another database. Add --exactly to put it in this one's place all the same.")


def _finish(copy: Path, steps: list[str]) -> Totals:
    """Open the copy, migrate it, put back what the journal knows, and look at everything; its rows."""
    database = Database(copy)
    try:
        journal, recovery = open_journal(database)
        journal.close()
        if recovery:
            recovery.kept = None  # it is among the files from before
            steps.append(recovery.sentence())
        database.connection.execute("CHECKPOINT")
    finally:
        database.close()
    with reading(copy) as query:
        wrong = [check for check in check_contents(query, copy) if not check.ok]
        if wrong:
            raise UserError(f"The repaired copy is not sound either ({_names(wrong)}). Nothing was changed.")
        rows = read_everything(query)
    return rows


def _names(checks: list[Check]) -> str:
    return "; ".join(f"{check.name}: {check.detail}" for check in checks)


@contextmanager
def _aside(path: Path, name: str) -> Iterator[Path]:
    """A working directory beside the database, removed again."""
    work = path.parent / f".{name}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swap(path: Path, work: Path, name: str) -> Path:
    """The database's files move to ``damaged-TIME/`` or ``replaced-TIME/``, those of the working directory take their place.

    The main file comes last: broken off before, the files are in one of the two directories and nothing is lost.
    """
    kept = path.parent / f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    kept.mkdir()
    names = (path.name, wal_path(path).name, journal_path(path).name)
    for one in names:
        if (path.parent / one).exists():
            os.replace(path.parent / one, kept / one)
    for one in reversed(names):
        if (work / one).exists():
            flush(work / one)
            os.replace(work / one, path.parent / one)
    flush(kept)
    flush(path.parent)
    return kept
