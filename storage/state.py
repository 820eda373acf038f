"""What the parts of the DuckDB store share: the database, its writer and the mirrors in memory that only the writer changes."""

import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar

from storage.accounts import Accounts
from storage.campaign import Campaign
from storage.database import Database
from storage.leases import LeaseBook
from storage.records import Judgment, Message
from storage.training import TrainingBook
from storage.writer import Transaction, Writer

V = TypeVar("V")
TEXTS_KEPT = 20_000
RECENT_JUDGMENTS = 10_000


def utcnow() -> datetime:
    return datetime.now(UTC)


class Counters:
    """The last ``seq`` of each table; numbers are given back when an operation is undone, so that none is left out."""

    def __init__(self, last: dict[str, int]) -> None:
        self._last = last

    def take(self, transaction: Transaction, table: str, count: int = 1) -> range:
        before = self._last[table]
        self._last[table] = before + count
        transaction.undo(lambda: self._last.update({table: before}))
        return range(before + 1, before + count + 1)

    def last(self, table: str) -> int:
        return self._last[table]

    def total(self) -> int:
        return sum(self._last.values())


class Recent(Generic[V]):
    """The values used last, at most ``size`` of them. Safe from any thread."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[str, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> V | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, items: Iterable[tuple[str, V]]) -> None:
        with self._lock:
            for key, value in items:
                self._values[key] = value
                self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)

    def forget(self, key: str) -> None:
        with self._lock:
            self._values.pop(key, None)


@dataclass(slots=True, kw_only=True)
class State:
    database: Database
    writer: Writer
    book: LeaseBook
    accounts: Accounts
    counters: Counters
    campaign: Campaign
    training: TrainingBook
    clock: Callable[[], datetime]
    rng: random.Random  # which side is shown first; drawn by the writer thread only
    lease_seconds: float
    prompts: Recent[tuple[Message, ...]] = field(default_factory=lambda: Recent(TEXTS_KEPT))
    responses: Recent[str] = field(default_factory=lambda: Recent(TEXTS_KEPT))
    judgments: Recent[Judgment] = field(default_factory=lambda: Recent(RECENT_JUDGMENTS))
