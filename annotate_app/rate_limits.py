"""How often somebody may try. Counted in this process: of several replicas each counts for itself."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

KEYS_KEPT = 10_000


@dataclass(slots=True)
class _Failures:
    count: int
    last: float


class Attempts:
    """Failures of a key: after ``limit`` of them, none more than ``window_s`` apart, the key is locked for ``window_s``."""

    def __init__(self, *, limit: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.window_s, self.clock = limit, window_s, clock
        self._failures: dict[str, _Failures] = {}
        self._lock = threading.Lock()

    def locked_s(self, key: str) -> float:
        """Seconds until the key may try again; 0 if it may now."""
        with self._lock:
            found = self._failures.get(key)
            if found is None or found.count < self.limit:
                return 0.0
            return max(0.0, found.last + self.window_s - self.clock())

    def fail(self, key: str) -> bool:
        """Count a failure; True if it locks the key."""
        now = self.clock()
        with self._lock:
            found = self._failures.get(key)
            if found is None or now - found.last >= self.window_s:
                self._make_room(now)
                found = self._failures[key] = _Failures(0, now)
            found.count, found.last = found.count + 1, now
            return found.count == self.limit

    def succeed(self, key: str) -> None:
        with self._lock:
            self._failures.pop(key, None)

    def _make_room(self, now: float) -> None:
        if len(self._failures) >= KEYS_KEPT:
            fresh = {key: value for key, value in self._failures.items() if now - value.last < self.window_s}
            self._failures = dict(list(fresh.items())[-KEYS_KEPT // 2 :])


class Rate:
    """A bucket per key: ``burst`` requests at once, ``per_s`` in the long run."""

    def __init__(self, *, per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_s, self.burst, self.clock = per_s, burst, clock
        self._buckets: dict[str, tuple[float, float]] = {}  # key -> (left, when that was)
        self._lock = threading.Lock()

    def take(self, key: str) -> bool:
        """Whether one more request is within the limit."""
        now = self.clock()
        with self._lock:
            left, then = self._buckets.get(key, (self.burst, now))
            left = min(self.burst, left + (now - then) * self.per_s)
            if len(self._buckets) >= KEYS_KEPT and key not in self._buckets:
                self._buckets.clear()  # everybody begins with a full bucket again
            self._buckets[key] = (left - 1 if left >= 1 else left, now)
            return left >= 1
