"""A fresh store per test, for every engine in STORES, and the clock it reads."""

import random

import pytest

from storage.duckdb_store import open_store
from tests.storage.builders import Clock

STORES = {"duckdb": open_store}  # the conformance suite runs against each of them
LEASE_SECONDS = 600


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=STORES)
def store(request, tmp_path, clock):
    store = STORES[request.param](tmp_path / "db", clock=clock, rng=random.Random(0), lease_seconds=LEASE_SECONDS)
    yield store
    store.close()


@pytest.fixture(params=STORES)
def reopen(request, tmp_path, clock):
    """Opens the same database again and again; the one before is closed."""
    opened = []

    def open_again():
        for before in opened:
            before.close()
        opened[:] = [STORES[request.param](tmp_path / "db", clock=clock, rng=random.Random(0), lease_seconds=LEASE_SECONDS)]
        return opened[0]

    yield open_again
    for before in opened:
        before.close()
