"""Opening: one owner, migrations in order, files that are damaged or too new, a full disk, backups."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import duckdb
import pytest

from storage.database import IN_MEMORY, MIGRATIONS, Database
from storage.duckdb_store import open_store
from storage.errors import UserError
from tests.storage.builders import fill, judge

ROOT = Path(__file__).parents[2]


def start(code, *args):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def test_a_second_process_is_told_who_holds_the_file(tmp_path):
    holder = start(
        """
        import sys
        from pathlib import Path
        from storage.duckdb_store import open_store
        sys.argv = ["nashloop", "up"]
        store = open_store(Path(PATH))
        print("open", flush=True)
        sys.stdin.readline()
        store.close()
        """.replace("PATH", repr(str(tmp_path / "db")))
    )
    assert holder.stdout is not None and holder.stdout.readline() == "open\n"
    with pytest.raises(UserError) as refused:
        open_store(tmp_path / "db")
    assert f"is held by PID {holder.pid} (nashloop up, since 20" in str(refused.value)
    assert "Talk to the running app" in str(refused.value) and "or stop it" in str(refused.value)
    holder.communicate("\n", timeout=30)
    open_store(tmp_path / "db").close()  # free again


def test_a_killed_owner_does_not_keep_the_file(tmp_path):
    store = open_store(tmp_path / "db")
    store.close()
    (tmp_path / "db.owner").write_text('{"pid": 1, "command": "nashloop up", "started": "2026-01-01T00:00:00+00:00"}')
    open_store(tmp_path / "db").close()


def test_the_same_process_cannot_open_it_twice(tmp_path):
    store = open_store(tmp_path / "db")
    with pytest.raises(UserError, match=f"PID {os.getpid()}"):
        open_store(tmp_path / "db")
    store.close()


def test_another_program_that_has_the_file_is_named(tmp_path):
    path = tmp_path / "db"
    open_store(path).close()
    other = start("import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(1, flush=True); sys.stdin.readline()", path)
    assert other.stdout is not None and other.stdout.readline() == "1\n"
    with pytest.raises(UserError, match=rf"open in another program \(PID {other.pid}\)"):
        open_store(path)
    other.communicate("\n", timeout=30)


def test_something_else_than_a_database_is_refused(tmp_path):
    path = tmp_path / "db"
    path.write_text("these are no rows " * 1000)
    with pytest.raises(UserError, match="cannot be opened as a database"):
        open_store(path)


def test_researchers_of_older_databases_become_admins_and_stay_signed_in_by_their_tokens(tmp_path):
    older = tmp_path / "migrations"
    older.mkdir()
    for path in sorted(MIGRATIONS.glob("000[123]_*.sql")):
        (older / path.name).write_bytes(path.read_bytes())
    database = Database(tmp_path / "db", migrations=older)
    for role in ("annotator", "researcher"):
        database.connection.execute(f"INSERT INTO users VALUES ('{role}', 1, 'a {role}', '{role}', NULL, now())")
    database.connection.execute(
        "INSERT INTO tokens VALUES ('t', 1, 'hash', 'bearer', 'old', 'admin', 'researcher', NULL, NULL, now())"
    )
    database.close()
    store = open_store(tmp_path / "db")
    assert {user.id: user.role for user in store.list_users()} == {"annotator": "annotator", "researcher": "admin"}
    token = store.find_token("hash")
    assert token is not None and token.name == "old"
    store.close()


def test_files_can_be_read_by_the_version_before(tmp_path):
    open_store(tmp_path / "db").close()
    with duckdb.connect(str(tmp_path / "db"), read_only=True) as connection:
        [(tags,)] = connection.execute("SELECT tags FROM duckdb_databases() WHERE database_name = 'db'").fetchall()
    assert tags["storage_version"].startswith("v1.5.0")


# What a database of schema 1 held: two pairs of one prompt, the first judged.
FIRST_VERSION_ROWS = """
    INSERT INTO prompts VALUES ('q', 1, [{'role': 'user', 'content': 'Hi?'}], 'train', 'test', [], now());
    INSERT INTO responses VALUES ('r1', 1, 'q', 'p', 'One.', NULL, NULL, 'stop', '{}', NULL, 'candidate', now()),
                                 ('r2', 2, 'q', 'p', 'Two.', NULL, NULL, 'stop', '{}', NULL, 'candidate', now()),
                                 ('r3', 3, 'q', 'p', 'Three.', NULL, NULL, 'stop', '{}', NULL, 'candidate', now());
    INSERT INTO tasks VALUES ('t1', 1, 'q', 'r1', 'r2', 'label', 1, 1, 'random', NULL, 0.5, now()),
                             ('t2', 2, 'q', 'r1', 'r3', 'label', 0, 1, 'random', NULL, 0.5, now());
    INSERT INTO annotators VALUES ('ann', 1, 'Ann', 'human', now());
    INSERT INTO leases VALUES ('lease-1', 1, 't1', 'ann', 0, 'r1', 'r2', now(), now(), NULL);
    INSERT INTO judgments VALUES
        ('lease-1', 1, 't1', 'ann', 0, 'q', 'r1', 'r2', 'a', 2, '{}', NULL, [], NULL, NULL, now(), NULL);
"""


@pytest.fixture
def migrations(tmp_path):
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_initial.sql").write_text((MIGRATIONS / "0001_initial.sql").read_text())
    return folder


def test_migrations_are_applied_once_and_in_order(tmp_path, migrations):
    Database(tmp_path / "db", migrations=migrations).close()
    (migrations / "0002_note.sql").write_text("CREATE TABLE note (text VARCHAR); INSERT INTO note VALUES ('hi');")
    for _ in range(2):
        database = Database(tmp_path / "db", migrations=migrations)
        assert database.schema_version == 2
        assert database.rows("SELECT text FROM note") == [{"text": "hi"}]
        database.close()


def test_a_migration_that_fails_leaves_nothing(tmp_path, migrations):
    Database(tmp_path / "db", migrations=migrations).close()
    (migrations / "0002_broken.sql").write_text("CREATE TABLE note (text VARCHAR); INSERT INTO nowhere VALUES (1);")
    with pytest.raises(duckdb.Error):
        Database(tmp_path / "db", migrations=migrations)
    (migrations / "0002_broken.sql").unlink()
    database = Database(tmp_path / "db", migrations=migrations)
    assert database.schema_version == 1
    assert database.rows("SELECT 1 AS x FROM duckdb_tables() WHERE table_name = 'note'") == []
    database.close()


def test_an_edited_migration_is_refused(tmp_path, migrations):
    Database(tmp_path / "db", migrations=migrations).close()
    with (migrations / "0001_initial.sql").open("a") as file:
        file.write("-- a remark\n")
    with pytest.raises(UserError, match=r"0001_initial\.sql is not the one this database was made with"):
        Database(tmp_path / "db", migrations=migrations)


def test_a_database_of_a_newer_version_is_refused(tmp_path, migrations):
    (migrations / "0002_note.sql").write_text("CREATE TABLE note (text VARCHAR);")
    Database(tmp_path / "db", migrations=migrations).close()
    (migrations / "0002_note.sql").unlink()
    with pytest.raises(UserError, match="has schema 2, this version of nashloop knows only up to 1"):
        Database(tmp_path / "db", migrations=migrations)


def test_a_database_of_the_first_version_is_migrated_with_all_its_rows_and_a_copy_is_kept(tmp_path, migrations):
    Database(tmp_path / "db", migrations=migrations).close()
    with duckdb.connect(str(tmp_path / "db")) as connection:
        connection.execute(FIRST_VERSION_ROWS)
    store = open_store(tmp_path / "db")
    [kept] = store.list_judgments()
    assert (kept.id, kept.verdict, kept.spans, kept.ranking, kept.more_response_ids) == ("lease-1", "a", (), None, ())
    assert [(row["judgment_id"], row["ranking_id"]) for row in store.query("SELECT * FROM standing_judgments").to_pylist()] == [
        ("lease-1", None)
    ]
    [pair] = store.lease("ann", 1)  # t1 is judged, t2 is free
    assert (pair.task_id, pair.purpose, pair.more_responses) == ("t2", "label", ())
    again = store.withdraw("lease-1", annotator_id="ann")
    assert again is not None and again.response_a == "One."
    store.close()
    [copy] = (tmp_path / "backups").iterdir()
    before = Database(copy, migrations=migrations)
    assert (before.schema_version, before.rows("SELECT count(*) AS n FROM judgments")) == (1, [{"n": 1}])
    before.close()
    open_store(tmp_path / "db").close()
    assert len(list((tmp_path / "backups").glob("*.duckdb"))) == 1


def test_without_a_copy_nothing_is_migrated(tmp_path, migrations):
    Database(tmp_path / "db", migrations=migrations).close()
    (migrations / "0002_note.sql").write_text("CREATE TABLE note (text VARCHAR);")
    (tmp_path / "backups").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"File exists.*was not migrated"):
        Database(tmp_path / "db", migrations=migrations)
    (migrations / "0002_note.sql").unlink()
    database = Database(tmp_path / "db", migrations=migrations)
    assert database.schema_version == 1
    database.close()


def test_health_says_what_is_open(tmp_path):
    store = open_store(tmp_path / "db")
    health = store.health()
    assert sum(health.pop("commits").read()[0]) == 0
    assert health == {"writer": True, "queue": 0, "schema": 5, "path": str(tmp_path / "db")}
    store.close()
    assert store.health()["writer"] is False
    store.close()  # again does nothing
    assert open_in_memory_path() == str(IN_MEMORY)


def open_in_memory_path():
    store = open_store()
    path = store.health()["path"]
    store.close()
    return path


@pytest.mark.parametrize("where", ["file", "memory"])
def test_a_backup_is_a_database_of_its_own(tmp_path, where):
    store = open_store(tmp_path / "db" if where == "file" else None)
    fill(store)
    made = [judge(store, "ann0"), judge(store, "ann1", "tie")]
    store.backup(tmp_path / "it's a copy" / "one.duckdb")
    judge(store, "ann2")  # not in the copy
    store.close()
    copy = open_store(tmp_path / "it's a copy" / "one.duckdb")
    assert [j.id for j in reversed(copy.list_judgments())] == made
    judge(copy, "ann2")
    assert copy.count_judgments() == 3
    copy.close()
    assert sorted(p.name for p in (tmp_path / "it's a copy").iterdir()) == [
        "one.duckdb",
        "one.duckdb.journal",
        "one.duckdb.owner",
    ]


def test_a_backup_replaces_nothing(tmp_path):
    store = open_store()
    (tmp_path / "there").write_text("precious")
    with pytest.raises(UserError, match="never replaces a file"):
        store.backup(tmp_path / "there")
    assert (tmp_path / "there").read_text() == "precious"
    store.close()


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path):
    # A limit on file size stands for the disk: the write fails in the same place, with another number.
    code = """
        import resource, signal, sys
        from pathlib import Path
        from storage.duckdb_store import open_store
        from storage.errors import UserError
        from tests.storage.builders import fill, judge, make_prompt
        store = open_store(Path(sys.argv[1]))
        fill(store, num_tasks=4)
        judge(store, "ann0")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        used = sum(p.stat().st_size for p in Path(sys.argv[1]).parent.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (used + 20_000, resource.RLIM_INFINITY))
        try:
            store.add_prompts([make_prompt(f"big{i}", text="x" * 20_000) for i in range(200)])
        except UserError as error:
            print(error)
        print(store.count_judgments(), len(store.list_prompts()))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        judge(store, "ann0")
        print(store.count_judgments())
        store.close()
    """
    out, err = start(code, tmp_path / "db").communicate(timeout=60)
    lines = out.splitlines()
    assert lines[0].startswith("the disk is full, nothing of this was stored"), out + err
    assert lines[1:] == ["1 4", "2"]
    store = open_store(tmp_path / "db")
    assert store.count_judgments() == 2
    store.close()
