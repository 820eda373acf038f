"""A fresh store per test, for every engine in STORES, and the clock it reads."""

import random
from pathlib import Path

import pytest

from storage.duckdb_store import open_store
from storage.postgres_store import open_postgres
from tests.storage.builders import Clock
from tests.storage.postgres_server import running_server

STORES = ("duckdb", "postgres")  # the conformance suite runs against each of them
LEASE_SECONDS = 600


@pytest.fixture(scope="session")
def postgres_server():
    with running_server() as server:
        yield server


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=STORES)
def open_again(request, tmp_path, clock):
    """A function that opens the database of this test; also more than once, as another process would."""
    if request.param == "postgres":
        place = request.getfixturevalue("postgres_server").new_database()
        more = {"folder": tmp_path}
    else:
        place, more = Path(tmp_path / "db"), {}
    opener = {"duckdb": open_store, "postgres": open_postgres}[request.param]
    return lambda: opener(place, clock=clock, rng=random.Random(0), lease_seconds=LEASE_SECONDS, **more)


@pytest.fixture
def store(open_again):
    store = open_again()
    yield store
    store.close()


@pytest.fixture
def reopen(open_again):
    """Opens the same database again and again; the one before is closed."""
    opened = []

    def reopened():
        for before in opened:
            before.close()
        opened[:] = [open_again()]
        return opened[0]

    yield reopened
    for before in opened:
        before.close()
