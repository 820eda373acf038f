"""One thread writes. Operations from any thread are committed in groups and acknowledged after COMMIT has returned.

An operation is a function of a ``Transaction``. It looks first and writes afterwards; what it changes in memory it undoes
through ``undo``. It may be run again: if a group cannot be committed, everything is undone and each operation of the group
gets a transaction of its own, so that one that fails does not fail its neighbours.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import duckdb

from storage.database import IN_MEMORY, Database, fetch_rows, insert_rows, readable
from storage.errors import Unavailable
from storage.journal import TABLES, Journal
from storage.latencies import Latencies
from storage.room import has_room

logger = logging.getLogger(__name__)

T = TypeVar("T")
Mark = tuple[int, int, int, dict[str, int]]  # how much of each there was
MAX_GROUP = 256
MAX_WAITING = 4096
IDLE_SECONDS = 30.0
LONG_LOG_BYTES = 16 << 20  # then the log is merged into the file while people wait, for milliseconds
CHECKPOINT_BYTES = 32 << 20  # beside twice the log: what a checkpoint may need, generously


class Transaction:
    """Rows wait in memory and are written in one statement per table; queries see them because they flush first."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._waiting: dict[str, list[Sequence[Any]]] = {}
        self._undo: list[Callable[[], object]] = []
        self._num_flushes = 0
        self.journaled: list[tuple[str, Sequence[Any]]] = []  # rows in the order they were inserted

    def insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._waiting.setdefault(table, []).extend(rows)
        if table in TABLES:
            self.journaled += [(table, row) for row in rows]

    def execute(self, sql: str, params: Any = None) -> None:
        """A statement that is no insertion. It is undone with the whole group only."""
        self.flush()
        self._connection.execute(sql, params)
        self._num_flushes += 1

    def undo(self, action: Callable[[], object]) -> None:
        """Run ``action`` if this operation is not committed."""
        self._undo.append(action)

    def rows(self, sql: str, params: Any = None) -> list[dict[str, Any]]:
        self.flush()
        return fetch_rows(self._connection, sql, params)

    def flush(self) -> None:
        for table, rows in self._waiting.items():
            insert_rows(self._connection, table, rows)
        self._num_flushes += bool(self._waiting)
        self._waiting = {}

    def mark(self) -> "Mark":
        lengths = {table: len(rows) for table, rows in self._waiting.items()}
        return self._num_flushes, len(self._undo), len(self.journaled), lengths

    def back_to(self, mark: "Mark") -> bool:
        """Forget what was done since ``mark``; False if part of it has been flushed to the database already."""
        num_flushes, num_undo, num_journaled, lengths = mark
        if num_flushes != self._num_flushes:
            return False
        del self.journaled[num_journaled:]
        self._waiting = {table: rows[: lengths[table]] for table, rows in self._waiting.items() if lengths.get(table)}
        self._run_undo(num_undo)
        return True

    def roll_back(self) -> None:
        self._run_undo(0)
        self._connection.rollback()

    def _run_undo(self, keep: int) -> None:
        while len(self._undo) > keep:
            self._undo.pop()()


class _Job:
    def __init__(self, operation: Callable[[Transaction], Any]) -> None:
        self.operation = operation
        self.future: Future[Any] = Future()
        self.outcome: Any = None
        self.error: BaseException | None = None

    def acknowledge(self) -> None:
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.outcome)


class _GroupFailed(Exception):
    """The group has to be undone and tried one by one."""


class Writer:
    """Runs operations one after the other in its thread. The database's connection is used by nobody else.

    What a group writes is in the journal, flushed, before it is committed, and taken out again if it cannot be committed.
    """

    def __init__(self, database: Database, journal: Journal | None = None, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._database, self._connection, self._journal = database, database.connection, journal
        self._queue: queue.Queue[_Job | None] = queue.Queue(MAX_WAITING)
        self._idle_seconds = idle_seconds
        self._dirty = False
        self._short_of_room = False
        self.commits = Latencies()
        self._closing = threading.Lock()
        self._closed = False
        self.stopped_by: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nashloop-writer", daemon=True)
        self._thread.start()

    def run(self, operation: Callable[[Transaction], T]) -> T:
        """The operation's value, after the COMMIT that contains it; raises what the operation raised."""
        job = _Job(operation)
        with self._closing:
            if self._closed:
                raise Unavailable("the database is closed. Start nashloop again.")
            self._queue.put(job)
        return job.future.result()

    def waiting(self) -> int:
        return self._queue.qsize()

    def alive(self) -> bool:
        return self._thread.is_alive() and self.stopped_by is None

    def close(self) -> None:
        """Write what is waiting, then stop."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()
        if self._journal:
            self._journal.close()
            self._journal = None

    def _run(self) -> None:
        while True:
            group, closing = self._next_group()
            if group:
                self._write(group)
                if self._database.log_bytes() > LONG_LOG_BYTES:
                    self._checkpoint()
            elif self._dirty:  # idle or closing: a short log makes the next start quick
                self._checkpoint()
            if closing:
                if self._dirty:
                    self._checkpoint()
                return

    def _next_group(self) -> tuple[list[_Job], bool]:
        group: list[_Job] = []
        try:
            job = self._queue.get(timeout=self._idle_seconds if self._dirty else None)
            while job is not None:
                group.append(job)
                if len(group) == MAX_GROUP:
                    return group, False
                job = self._queue.get_nowait()
            return group, True
        except queue.Empty:
            return group, False

    def _write(self, group: list[_Job]) -> None:
        try:
            self._commit(group)
        except _GroupFailed as failure:
            for job in group:
                job.error = failure.__cause__
                if len(group) > 1 and self.stopped_by is None:
                    self._write_alone(job)
        self._dirty = True
        for job in group:
            job.acknowledge()

    def _write_alone(self, job: _Job) -> None:
        try:
            self._commit([job])
        except _GroupFailed as failure:
            job.error = failure.__cause__

    def _commit(self, group: list[_Job]) -> None:
        """Run and commit the group, filling outcomes and errors; _GroupFailed when all of it was undone."""
        if self.stopped_by is not None:
            raise _GroupFailed from _stopped(self.stopped_by)
        transaction = Transaction(self._connection)
        journaled = False
        try:
            self._connection.begin()
            for job in group:
                _attempt(job, transaction)
            began = time.perf_counter()
            transaction.flush()
            if self._journal:
                self._journal.append(transaction.journaled)
                journaled = True
            self._connection.commit()
            self.commits.observe(time.perf_counter() - began)
        except Exception as error:
            raise _GroupFailed from self._abandon(transaction, error, journaled=journaled)

    def _abandon(self, transaction: Transaction, error: Exception, *, journaled: bool) -> BaseException:
        try:
            transaction.roll_back()
        except duckdb.TransactionException:
            pass  # a failed COMMIT has already rolled back
        except duckdb.Error as worse:
            error = worse
        if journaled and self._journal:
            try:
                self._journal.take_back()
            except OSError as worse:  # it tells of rows that are refused now: nothing may follow them
                error = duckdb.FatalException(f"the journal cannot be corrected: {worse}")
        if isinstance(error, (duckdb.FatalException, duckdb.InternalException)):
            logger.critical("the database engine failed, nothing is acknowledged any more: %s", error)
            self.stopped_by = error
            return _stopped(error)
        return readable(error)

    def _checkpoint(self) -> None:
        """Merge the log into the file, if there is room to finish: otherwise the engine would give up the open database."""
        if self.stopped_by is not None or not self._room_for_checkpoint():
            return
        self._dirty = False
        try:
            self._connection.execute("CHECKPOINT")
        except (duckdb.FatalException, duckdb.InternalException) as error:
            logger.critical("the database engine failed while it was tidying up: %s", error)
            self.stopped_by = error
        except duckdb.Error as error:
            logger.warning("checkpoint put off: %s", error)  # the log is replayed at the next start

    def _room_for_checkpoint(self) -> bool:
        path = self._database.path
        before, self._short_of_room = self._short_of_room, False
        if path != IN_MEMORY and not has_room(path.parent, 2 * self._database.log_bytes() + CHECKPOINT_BYTES):
            self._short_of_room = True
            if not before:
                logger.error("the disk is nearly full: the write-ahead log of %s is kept as it is until there is room", path)
        return not self._short_of_room


def _attempt(job: _Job, transaction: Transaction) -> None:
    mark = transaction.mark()
    job.error = None
    try:
        job.outcome = job.operation(transaction)
    except duckdb.Error:
        raise
    except Exception as error:
        if not transaction.back_to(mark):
            raise
        job.error = error


def _stopped(cause: BaseException) -> Unavailable:
    return Unavailable(
        f"the database engine stopped ({str(cause).splitlines()[0]}). Everything acknowledged is on disk; restart nashloop."
    )
