"""How long something took, many times: counts by bound, for a histogram that anybody may draw."""

import threading
from bisect import bisect_left

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Latencies:
    """Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._seconds = 0.0

    def observe(self, seconds: float) -> None:
        with self._lock:
            self._counts[bisect_left(BOUNDS_S, seconds)] += 1
            self._seconds += seconds

    def read(self) -> tuple[list[int], float]:
        """Counts up to each bound and beyond the last, and the sum of all seconds."""
        with self._lock:
            return list(self._counts), self._seconds
