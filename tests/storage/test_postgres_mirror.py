"""The reading copy: gone on with at the next start, one for each app, read anew where it is not of this database."""

import pytest

from storage.postgres_store import open_postgres
from tests.storage.builders import fill, judge


@pytest.fixture
def url(postgres_server):
    return postgres_server.new_database()


def seen_at_open(url, folder):
    """Rows that the copy has before anybody has read, and judgments it then tells."""
    store = open_postgres(url, folder=folder)
    seen = store._state.database._seen
    number = store.count_judgments()
    store.close()
    return sum(seen.values()), number


def test_a_copy_is_gone_on_with(url, tmp_path):
    store = open_postgres(url, folder=tmp_path)
    fill(store, num_tasks=3)
    judge(store, "ann0")
    store.renew([store.lease("ann0", 1)[0].lease_id], "ann0")
    assert store.count_judgments() == 1
    version = store.version()
    store.close()
    assert seen_at_open(url, tmp_path) == (version, 1)
    store = open_postgres(url)  # elsewhere, without this folder
    judge(store, "ann1")
    store.close()
    assert seen_at_open(url, tmp_path) == (version, 2)
    assert len(list(tmp_path.glob("*.duckdb"))) == 1


def test_each_app_has_a_copy_of_its_own(url, tmp_path):
    first, second = (open_postgres(url, folder=tmp_path) for _ in range(2))
    fill(first, num_tasks=3)
    assert len(first.list_prompts()) == len(second.list_prompts()) == 3
    assert sorted(path.name for path in tmp_path.glob("*.duckdb")) == ["copy-0.duckdb", "copy-1.duckdb"]
    first.close()
    second.close()


@pytest.mark.parametrize("what", ["another database", "an older state", "damage"])
def test_what_is_not_a_copy_of_this_database_is_read_anew(postgres_server, url, tmp_path, what):
    store = open_postgres(url, folder=tmp_path)
    fill(store, num_tasks=3)
    judge(store, "ann0")
    assert store.count_judgments() == 1
    server = store._state.server
    if what == "an older state":  # as after a restore of the server: the last judgment is another one
        server.run(lambda transaction: transaction.execute("UPDATE judgments SET id = 'other'"))
    store.close()
    if what == "damage":
        (tmp_path / "copy-0.duckdb").write_bytes(b"nonsense" * 2000)
    if what == "another database":
        url = postgres_server.new_database()
        store = open_postgres(url)
        fill(store, num_tasks=5)
        store.close()
    seen, judgments = seen_at_open(url, tmp_path)
    assert seen == 0
    assert judgments == (0 if what == "another database" else 1)
