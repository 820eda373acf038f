"""The overview that static/overview.js asks for, made once for all who look."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from annotate_app.context import AppContext
from annotate_app.pages.overview_figures import read_figures
from annotate_app.pages.overview_html import overview_page

FRESH_FOR = timedelta(seconds=2)  # while people label, every tick would find something new
SHARE_OF_TIME = 1 / 20  # of one core, that counting may take: a quarter of a second at 100,000 judgments


class Overview:
    """Keeps the last page: while nothing is written it costs one small query, however many tabs ask. Safe from any thread."""

    def __init__(self, context: AppContext, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._context, self._clock = context, clock
        self._lock = threading.Lock()
        self._old_at = datetime.fromtimestamp(0, UTC)
        self._state: object = None
        self._page = ""

    def read(self) -> str:
        """The page, at most a few seconds old."""
        with self._lock:
            now = self._clock()
            if now < self._old_at:
                return self._page
            state = self._context.store.version(), now.replace(second=0, microsecond=0), self._running()
            if state != self._state:
                began = time.monotonic()
                self._page = overview_page(read_figures(self._context, now), now)
                took = timedelta(seconds=time.monotonic() - began)
                self._state, self._old_at = state, now + max(FRESH_FOR, took / SHARE_OF_TIME)
            return self._page

    def _running(self) -> object:
        """What the newest job says of itself, which no write tells."""
        rounds = self._context.store.list_rounds()
        return self._context.rounds.progress(rounds[0].number) if rounds and rounds[0].status == "running" else None
