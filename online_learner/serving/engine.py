"""The thread in which a policy server computes: it steps all running batches in turn, and does what else needs a model."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from online_learner.serving.batch import Row
from online_learner.serving.versions import Version, Versions

MOST_WAITING = 256


class Engine:
    """Owns the versions: everything that touches a model runs in its thread."""

    def __init__(self, versions: Versions) -> None:
        self.versions = versions
        self._running: set[Version] = set()  # those with requests, loaded or not any more
        self._calls: deque[tuple[Callable[[], Any], Future]] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="policy-engine", daemon=True)
        self._thread.start()

    def submit(self, version: Version, rows: Sequence[Row]) -> bool:
        """Let rows wait for ``version``, which they keep whatever its name means later; False where too many wait already."""
        with self._changed:
            if len(version.waiting) + len(rows) > MOST_WAITING:
                return False
            version.waiting.extend(rows)
            self._running.add(version)
            self._changed.notify()
        return True

    def call(self, work: Callable[[], Any]) -> Future:
        """Run ``work`` between two tokens."""
        future: Future = Future()
        with self._changed:
            self._calls.append((work, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Stop before the next token; what is unfinished is told so."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()
        for version in self._running:
            version.fail("the policy server stops")

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._open and not self._calls and not self._running:
                    self._changed.wait()
                if not self._open:
                    return
                calls, self._calls = self._calls, deque()
                running = list(self._running)
            for work, future in calls:
                try:
                    future.set_result(work())
                except Exception as error:
                    future.set_exception(error)
            for version in running:
                self._step(version)

    def _step(self, version: Version) -> None:
        try:
            version.step()
        except Exception as error:  # out of memory, or a model that this loop does not suit: the server lives on
            version.fail(f"{type(error).__name__}: {error}")
        with self._changed:
            if not version.busy:
                self._running.discard(version)
