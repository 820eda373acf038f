"""A lock that one thread of one process holds at a time, across all replicas of a database."""

import threading
from typing import Any

import psycopg

from storage.postgres_connection import Server


class SharedLock:
    """Like ``threading.RLock``, by an advisory lock of the server: it is free again when its holder's connection ends."""

    def __init__(self, server: Server, name: str) -> None:
        self._server, self._name = server, f"nashloop {name}"
        self._local = threading.RLock()
        self._depth = 0
        self._connection: psycopg.Connection[Any] | None = None

    def __enter__(self) -> "SharedLock":
        self._local.acquire()
        try:
            if self._depth == 0:
                self._server.rows("SELECT 1 AS yes")  # the connections are good; UserError if the server is away
                self._connection = connection = self._server.pool.getconn()
                connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [self._name])
            self._depth += 1
        except BaseException:
            self._give_back()
            self._local.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        try:
            if self._depth == 0 and self._connection is not None and not self._connection.closed:
                self._connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [self._name])
        except psycopg.OperationalError:
            pass  # the connection has ended, and with it the lock
        finally:
            if self._depth == 0:
                self._give_back()
            self._local.release()

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._server.pool.putconn(connection)
