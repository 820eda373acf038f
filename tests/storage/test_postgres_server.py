"""PostgreSQL as a server: its schema, what it refuses, restarts and kills."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from storage.errors import UserError
from storage.postgres_connection import Server, public_name
from storage.postgres_schema import MIGRATIONS, prepare
from storage.postgres_store import open_postgres
from storage.records import JudgmentInput
from storage.tables import SCHEMAS
from tests.storage.builders import fill, judge, make_prompt, make_response
from tests.storage.postgres_server import running_server

ROOT = Path(__file__).parents[2]
WRITER = """
import sys, threading
from storage.postgres_store import open_postgres
from storage.records import JudgmentInput
store = open_postgres(sys.argv[1])

def work(annotator):
    while pairs := store.lease(annotator, 2):
        for pair in pairs:
            if store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="b"), annotator_id=annotator).status == "stored":
                sys.stdout.write(pair.lease_id + "\\n")
                sys.stdout.flush()

for k in range(4):
    threading.Thread(target=work, args=(f"ann{k}",), daemon=True).start()
threading.Event().wait()
"""


@pytest.fixture
def url(postgres_server):
    return postgres_server.new_database()


def test_tables_have_the_columns_of_the_records(url):
    """A column or table that only the DuckDB migrations know is missing here: add a file to migrations/postgres."""
    columns = "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND table_schema = 'public'"
    with psycopg.connect(url) as connection:
        for table, schema in SCHEMAS.items():
            found = {name for (name,) in connection.execute(columns, [table])}
            assert found - {"seq"} == set(schema.names) - {"seq"}, table
        counted = {name for (name,) in connection.execute("SELECT name FROM counters")}
    assert counted == set(SCHEMAS)


@pytest.fixture
def migrations(tmp_path):
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_first.sql").write_text("CREATE TABLE a (x integer);")
    return folder


@pytest.fixture
def server(postgres_server):
    server = Server(postgres_server.empty_database(), max_connections=2)
    yield server
    server.close()


def test_migrations_are_applied_once_and_in_order(server, migrations):
    assert prepare(server, migrations) == 1
    (migrations / "0002_second.sql").write_text("ALTER TABLE a ADD COLUMN y integer; INSERT INTO a VALUES (1, 2);")
    assert prepare(server, migrations) == 2
    assert prepare(server, migrations) == 2
    assert server.rows("SELECT * FROM a") == [{"x": 1, "y": 2}]


def test_a_migration_that_fails_leaves_nothing(server, migrations):
    prepare(server, migrations)
    (migrations / "0002_second.sql").write_text("CREATE TABLE b (x integer); SELECT 1 / 0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        prepare(server, migrations)
    assert server.rows("SELECT to_regclass('b') AS b, (SELECT max(version) FROM schema_migrations) AS v") == [{"b": None, "v": 1}]


def test_edited_migrations_and_newer_databases_are_refused(server, migrations):
    prepare(server, migrations)
    (migrations / "0001_first.sql").write_text("CREATE TABLE a (x bigint);")
    with pytest.raises(UserError, match=r"0001_first\.sql is not the one"):
        prepare(server, migrations)
    (migrations / "0001_first.sql").unlink()
    with pytest.raises(UserError, match="schema 1, this version of nashloop knows only up to 0"):
        prepare(server, migrations)


def test_an_address_that_leads_nowhere_is_a_sentence_without_the_password():
    with pytest.raises(UserError) as refused:
        open_postgres("postgresql://me:secret@127.0.0.1:1/nowhere")
    assert "postgresql://127.0.0.1:1/nowhere cannot be used" in str(refused.value)
    assert "secret" not in str(refused.value)
    with pytest.raises(UserError, match="no PostgreSQL address"):
        public_name("postgresql://me@host/name?nonsense=1")


def test_what_the_server_cannot_keep_is_refused_and_nothing_of_it_is_kept(url):
    store = open_postgres(url)
    store.add_prompts([make_prompt("q")])
    with pytest.raises(UserError, match="NUL"):
        store.add_responses([make_response("r", "q"), make_response("s", "q", text="a\0b")])
    assert store.list_responses() == []
    store.close()


def test_acknowledged_judgments_survive_kill_9(url):
    store = open_postgres(url)
    fill(store, num_tasks=2000, num_annotators=4)
    acknowledged = []
    for seed in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, url], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        acknowledged.append(process.stdout.readline().strip())
        time.sleep(random.Random(seed).uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().split("\n")[:-1]  # what follows the last newline was cut off
        process.wait()
    kept = store.list_judgments()
    assert set(acknowledged) <= {judgment.id for judgment in kept}
    assert [judgment.seq for judgment in reversed(kept)] == list(range(1, len(kept) + 1))
    assert len({judgment.task_id for judgment in kept}) == len(kept)  # every task wanted one
    store.close()


def test_labelling_goes_on_after_the_server_was_restarted(tmp_path):
    with running_server() as server:
        store = open_postgres(server.new_database(), folder=tmp_path)
        fill(store, num_tasks=5)
        [pair] = store.lease("ann0", 1)
        server.restart()
        assert store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a"), annotator_id="ann0").status == "stored"
        server.stop()
        assert store.health()["writer"] is False
        with pytest.raises(UserError, match="cannot be reached"):
            store.lease("ann0", 1)
        server.start()
        judge(store, "ann0")
        assert store.health()["writer"] is True
        assert store.count_judgments() == 2
        store.close()


def test_schema_files_are_numbered_without_gaps():
    numbers = [int(path.name[:4]) for path in sorted(MIGRATIONS.glob("*.sql"))]
    assert numbers == list(range(1, len(numbers) + 1))
