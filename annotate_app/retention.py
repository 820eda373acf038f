"""Retention: people who were shut out are forgotten so many days later, while the app runs (``security.forget_after_days``)."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from storage.errors import Unavailable
from storage.state import utcnow
from storage.store import Store

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 3600


def forget_due(store: Store, *, days: float, now: datetime) -> list[str]:
    """Forget everybody who was shut out at least ``days`` ago; their user ids."""
    due = store.query(_DUE, {"until": now - timedelta(days=days)})["id"].to_pylist()
    for user_id in due:
        store.forget_user(user_id, actor="system")
    return due


@contextmanager
def retention(store: Store, days: float | None) -> Iterator[None]:
    """Look once an hour while the block runs; not at all where no days are set."""
    if days is None:
        yield
        return
    stopped = threading.Event()

    def look() -> None:
        while True:
            try:
                for user_id in forget_due(store, days=days, now=utcnow()):
                    logger.info("user %s was shut out %g days ago and is forgotten", user_id, days)
            except Unavailable as error:
                logger.warning("nobody is forgotten for now: %s", error)
            if stopped.wait(LOOK_EVERY_S):
                return

    thread = threading.Thread(target=look, name="nashloop-retention", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(timeout=5)


_DUE = """
    SELECT subject AS id FROM events WHERE kind = 'user.disabled'
      AND subject NOT IN (SELECT subject FROM events WHERE kind = 'user.forgotten')
    GROUP BY subject HAVING max("at") <= $until
"""
