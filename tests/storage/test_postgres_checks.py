"""The places in PostgreSQL are checked against the records, and made anew where somebody has damaged them."""

import pytest

from storage.postgres_checks import check_places, mend_places
from storage.postgres_store import open_postgres
from tests.storage.builders import fill, judge


@pytest.fixture
def store(postgres_server):
    store = open_postgres(postgres_server.new_database())
    fill(store, num_tasks=6, wanted=2)
    judge(store, "ann0", "skip")
    store.withdraw(judge(store, "ann1"), annotator_id="ann1")
    store.lease("ann2", 2)
    store.close_tasks(["t5"], actor="system", reason="test")
    yield store
    store.close()


def test_places_are_as_the_records_tell(store):
    assert check_places(store._state.server).ok
    judge(store, "ann0")  # nothing of the check is left behind
    assert check_places(store._state.server).ok


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE queue SET closed = false", "queue (1)"),
        ("DELETE FROM answered WHERE annotator_id = 'ann0'", "answered (1)"),
        ("UPDATE slots SET free_at = 'infinity' WHERE task_id = 't4' AND slot = 1", "slots (1)"),
    ],
)
def test_damage_is_told_and_mended(store, damage, told):
    before = store._state.server.rows("SELECT * FROM answered ORDER BY task_id, annotator_id")
    store._state.server.run(lambda transaction: transaction.execute(damage))
    check = check_places(store._state.server)
    assert not check.ok
    assert f"tell: {told}" in check.detail
    mend_places(store._state.server)
    assert check_places(store._state.server).ok
    assert store._state.server.rows("SELECT * FROM answered ORDER BY task_id, annotator_id") == before
