"""The overview that static/overview.js asks for, made once for all who look."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from annotate_app.context import AppContext
from annotate_app.pages.overview_figures import read_figures
from annotate_app.pages.overview_html import overview_page

FRESH_FOR = timedelta(seconds=2)  # while people label, every tick would find something new


class Overview:
    """Keeps the last page: while nothing is written it costs one small query, however many tabs ask. Safe from any thread."""

    def __init__(self, context: AppContext, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._context, self._clock = context, clock
        self._lock = threading.Lock()
        self._made_at = datetime.fromtimestamp(0, UTC)
        self._state: object = None
        self._page = ""

    def read(self) -> str:
        """The page, at most two seconds old."""
        with self._lock:
            now = self._clock()
            if now - self._made_at < FRESH_FOR:
                return self._page
            state = self._context.store.version(), now.replace(second=0, microsecond=0), self._running()
            if state != self._state:
                self._page = overview_page(read_figures(self._context, now), now)
                self._state, self._made_at = state, now
            return self._page

    def _running(self) -> object:
        """What the newest job says of itself, which no write tells."""
        rounds = self._context.store.list_rounds()
        return self._context.rounds.progress(rounds[0].number) if rounds and rounds[0].status == "running" else None
