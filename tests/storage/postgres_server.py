"""A real PostgreSQL server for tests: thrown away afterwards, reached by a Unix socket, one database per test."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from storage.ids import new_id
from storage.postgres_connection import Server
from storage.postgres_schema import prepare

USER = "nashloop"
# Tests do not lose power: what is committed survives kill -9 of any process without flushing to disk.
OPTIONS = "-c listen_addresses='' -c fsync=off -c full_page_writes=off -c max_connections=200 -c shared_buffers=32MB"


class PostgresServer:
    def __init__(self, folder: Path, pg_ctl: str, **as_other: str) -> None:
        self._folder, self._pg_ctl, self._as_other = folder, pg_ctl, as_other
        self.start()
        self._template = self._create("template_" + new_id()[-8:])
        server = Server(self.url(self._template), max_connections=1)
        prepare(server)
        server.close()

    def start(self) -> None:
        options = f"{OPTIONS} -c unix_socket_directories='{self._folder}'"
        self._control("-l", str(self._folder / "log"), "-o", options, "-w", "start")

    def stop(self) -> None:
        self._control("-m", "immediate", "-w", "stop")

    def restart(self) -> None:
        self.stop()
        self.start()

    def _control(self, *arguments: str) -> None:
        _run(self._pg_ctl, "-D", str(self._folder / "data"), *arguments, cwd=self._folder, **self._as_other)

    def url(self, name: str) -> str:
        return f"postgresql://{USER}@/{name}?host={self._folder}"

    def new_database(self) -> str:
        """Address of a fresh database with the product's tables."""
        return self.url(self._create("db_" + new_id().replace("-", ""), f"TEMPLATE {self._template}"))

    def empty_database(self) -> str:
        return self.url(self._create("db_" + new_id().replace("-", "")))

    def _create(self, name: str, how: str = "") -> str:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} {how}")  # pyright: ignore
        return name


def find_program(name: str) -> str | None:
    """A program of the server: on the path, or where Debian keeps it."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]), reverse=True)
    return shutil.which(name) or next(map(str, debian), None)


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """Initialise and start a server, as another user where we are root: it refuses to run as root. Skips without one."""
    initdb, pg_ctl = find_program("initdb"), find_program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("no PostgreSQL server here: install Debian's `postgresql` package; scripts/test tries to")
    folder = Path(tempfile.mkdtemp(prefix="nashloop-pg-"))  # short: a socket's path has 107 characters at most
    as_other: dict[str, str] = {"user": "nobody"} if os.geteuid() == 0 else {}
    if as_other:
        shutil.chown(folder, user=as_other["user"])
    try:
        data = str(folder / "data")
        _run(initdb, "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", cwd=folder, **as_other)
        server = PostgresServer(folder, pg_ctl, **as_other)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(*command: str, **more: object) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **more)  # pyright: ignore
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr or done.stdout}")
