"""PostgreSQL from the command line: moving there and back, what the other commands find by --data, and what is refused."""

import pytest

from annotate_app.server import DATABASE, URL_FILE
from storage.duckdb_store import open_store
from storage.records import User
from tests.annotate_app.test_cli_app import nashloop, read
from tests.storage.builders import START, make_prompt


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A campaign in a file: prompts and two people."""
    data = tmp_path_factory.mktemp("commands")
    store = open_store(data / DATABASE)
    store.add_prompts([make_prompt(f"q{k}") for k in range(8)])
    for name in ("Ada", "Bea"):
        store.add_user(User(id=name.lower(), name=name, role="annotator", annotator_id=None, created_at=START))
    store.close()
    return data


def names(data):
    return [user["name"] for user in read("users", "list", "--data", str(data))["users"]]


@pytest.mark.slow
def test_there_and_back_by_command(postgres_server, data):
    url = postgres_server.empty_database()
    moved = read("migrate", "--to", url, "--data", str(data))
    assert (moved["rows"]["prompts"], moved["rows"]["users"]) == (8, 2)
    assert not (data / DATABASE).exists()
    assert names(data) == ["Ada", "Bea"]
    assert nashloop("users", "add", "Eve", "--data", str(data)).returncode == 0
    refused = nashloop("migrate", "--to", url, "--data", str(data))
    assert (refused.returncode, "is in PostgreSQL already" in refused.stderr) == (2, True)
    other = nashloop("up", "--data", str(data), "--database", postgres_server.empty_database())
    assert (other.returncode, "belongs to postgresql://" in other.stderr) == (2, True)
    refused = nashloop("restore", "--data", str(data))
    assert (refused.returncode, "is in PostgreSQL" in refused.stderr) == (2, True)
    back = read("migrate", "--to", "duckdb", "--data", str(data))
    assert back["rows"]["users"] == 3
    assert not (data / URL_FILE).exists()
    assert names(data) == ["Ada", "Bea", "Eve"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["migrate", "--to", "mysql://me@host/name"], "--to 'mysql' is unknown"),
        (["migrate", "--to", "duckdb"], "is in a DuckDB file already"),
        (["up", "--database", "sqlite:file"], "--database sqlite:... is no PostgreSQL address"),
        (["up", "--database", "postgresql://me:secret@127.0.0.1:1/x"], "Move them first: nashloop migrate"),
        (["bench", "label", "--replicas", "2"], "--replicas 2 needs --database"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(data, arguments, told):
    more = [] if arguments[0] == "bench" else ["--data", str(data)]
    ran = nashloop(*arguments, *more)
    assert ran.returncode == 2, ran.stderr
    assert told in ran.stderr
    assert "secret" not in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_server_that_is_not_there_leaves_no_directory(tmp_path):
    ran = nashloop("up", "--data", str(tmp_path / "new"), "--database", "postgresql://me:secret@127.0.0.1:1/x")
    assert ran.returncode == 2
    assert "postgresql://127.0.0.1:1/x cannot be used" in ran.stderr
    assert "secret" not in ran.stderr
    assert not (tmp_path / "new").exists()
