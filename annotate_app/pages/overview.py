"""The overview that static/overview.js asks for, made once for all who look."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from annotate_app.context import AppContext
from annotate_app.pages.overview_figures import read_figures
from annotate_app.pages.overview_html import overview_page
from annotate_app.progress import JobProgress

FRESH_FOR = timedelta(seconds=2)  # while people label, every tick would find something new
SHARE_OF_TIME = 1 / 20  # of one core, that counting may take: a quarter of a second at 100,000 judgments


class Overview:
    """Keeps the last page: while nothing is written and no job runs it costs no query, however many ask. Safe from any thread."""

    def __init__(self, context: AppContext, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._context, self._clock = context, clock
        self._lock = threading.Lock()
        self._old_at = datetime.fromtimestamp(0, UTC)
        self._state: tuple[object, ...] = ()
        self._job: JobProgress | None = None
        self._page = ""

    def read(self) -> str:
        """The page, at most a few seconds old."""
        with self._lock:
            now = self._clock()
            if now < self._old_at:
                return self._page
            if self._job is not None and self._job.status == "running":  # which no write tells
                self._job = self._context.rounds.progress(self._job.number)
            state = self._context.store.version(), now.replace(second=0, microsecond=0), self._job
            if state != self._state:
                began = time.monotonic()
                figures = read_figures(self._context, now)
                self._page, self._job = overview_page(figures, now), figures.job
                took = timedelta(seconds=time.monotonic() - began)
                self._state, self._old_at = (*state[:2], self._job), now + max(FRESH_FOR, took / SHARE_OF_TIME)
            return self._page
