"""Backups that the app makes by itself while it runs: every so often if anything was written, and only the newest are kept."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from storage.errors import UserError
from storage.store import Store

logger = logging.getLogger(__name__)

PREFIX = "scheduled-"  # those made by hand, or before a migration, are never deleted
LOOK_S = 60.0


class ScheduledBackups:
    """``every``: time between backups; ``keep``: how many of the newest stay."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        *,
        every: timedelta,
        keep: int,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._folder, self._every, self._keep, self._clock = store, folder, every, keep, clock
        self._version: int | None = None  # of the store at the last backup

    def run_if_due(self) -> Path | None:
        """Make a backup if the newest is old enough and anything was written since; its path. Then drop what is too many."""
        now, made = self._clock(), self.made()
        if made and now - _time_of(made[0]) < self._every:
            return None
        version = self._store.version()
        if version == self._version:
            return None
        path = self._folder / f"{PREFIX}{now:%Y%m%d-%H%M%S}.duckdb"
        self._store.backup(path)
        self._version = version
        for old in self.made()[self._keep :]:
            old.unlink()
        return path

    def made(self) -> list[Path]:
        """Scheduled backups, newest first."""
        return sorted(self._folder.glob(f"{PREFIX}*.duckdb"), reverse=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look every minute while the block runs. A backup that fails is told in the log and tried again; the app goes on."""
        stop = threading.Event()
        thread = threading.Thread(target=self._loop, args=(stop,), name="nashloop-backups", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _loop(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK_S):
            try:
                path = self.run_if_due()
            except UserError as error:
                logger.error("the scheduled backup was not made: %s", error)
            except Exception:
                logger.exception("the scheduled backup failed")
            else:
                if path is not None:
                    logger.info("backup %s", path)


def _time_of(path: Path) -> datetime:
    return datetime.strptime(path.stem.removeprefix(PREFIX), "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
