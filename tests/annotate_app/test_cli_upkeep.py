"""``nashloop doctor``, ``backup`` and ``restore`` as a person types them, on a data directory without a running app."""

import json
import sys

import pytest

from annotate_app import cli
from annotate_app.server import DATABASE
from storage.duckdb_store import open_store
from storage.repair import wal_path
from tests.storage.builders import fill, judge


@pytest.fixture
def nashloop(monkeypatch, capsys):
    """Runs a command in this process: exit code, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["nashloop", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return run


@pytest.fixture
def data(tmp_path):
    """A data directory with two judgments."""
    store = open_store(tmp_path / "data" / DATABASE)
    fill(store)
    judge(store, "ann0")
    judge(store, "ann1")
    store.close()
    return tmp_path / "data"


def num_judgments(data):
    store = open_store(data / DATABASE)
    count = store.count_judgments()
    store.close()
    return count


def checks(out):
    return {check["name"]: check for check in json.loads(out)["checks"]}


def test_the_doctor_names_what_it_read(nashloop, data):
    _, out, _ = nashloop("doctor", "--json", "--data", data)
    found = checks(out)
    assert {"database", "references", "indexes", "journal", "backups", "disk"} <= set(found)
    assert "2 judgments" in found["database"]["detail"] and "2 judgments, all in the database" in found["journal"]["detail"]


def test_a_damaged_database_is_explained_and_repaired_with_everything(nashloop, data):
    database = data / DATABASE
    content = bytearray(database.read_bytes())
    content[5000] ^= 1
    database.write_bytes(bytes(content))
    code, out, _ = nashloop("doctor", "--json", "--data", data)
    assert code == 1
    assert "checksum" in checks(out)["database"]["detail"] and "--repair" in checks(out)["database"]["detail"]
    assert database.read_bytes() == bytes(content)
    code, out, _ = nashloop("doctor", "--repair", "--data", data)
    assert code == 0 and "Built the database anew from the journal" in out and "2 judgments" in out
    assert num_judgments(data) == 2
    code, out, _ = nashloop("doctor", "--repair", "--data", data)
    assert (code, out) == (0, "Nothing is damaged; nothing was changed.\n")


def test_a_command_on_a_damaged_log_says_which_command_helps(nashloop, data):
    wal_path(data / DATABASE).write_bytes((b"\x63" + bytes(7)) * 4 + b"no log " * 100)
    code, _, err = nashloop("export", "raw", "--out", data / "x.jsonl", "--data", data)
    if code == 2:  # how the engine sees such a file is its own affair; what counts is that nothing is lost
        assert "nashloop doctor" in err
        assert nashloop("doctor", "--repair", "--data", data)[0] == 0
    assert num_judgments(data) == 2


def test_a_backup_is_restored_with_what_was_labelled_since_or_exactly(nashloop, data):
    code, _, _ = nashloop("backup", "--data", data)
    assert code == 0
    store = open_store(data / DATABASE)
    judge(store, "ann2")
    store.close()
    code, out, err = nashloop("restore", "--data", data)
    assert code == 0, err
    assert "1 judgment" in out.splitlines()[1] and "put back from the journal" in out.splitlines()[1]
    assert num_judgments(data) == 3
    [backup] = (data / "backups").iterdir()
    code, out, err = nashloop("restore", backup, "--exactly", "--data", data)
    assert code == 0, err
    assert num_judgments(data) == 2


def test_restore_leaves_a_directory_on_a_server_alone(nashloop, tmp_path):
    (tmp_path / "database.url").write_text("postgresql://somebody@somewhere/campaign")
    code, _, err = nashloop("restore", "--data", tmp_path)
    assert code == 2 and "is in PostgreSQL" in err
    assert [path.name for path in tmp_path.iterdir()] == ["database.url"]


def test_restore_without_a_backup_is_refused(nashloop, data, tmp_path):
    assert "There is no backup that can be read" in nashloop("restore", "--data", data)[2]
    assert "does not exist" in nashloop("restore", "--data", tmp_path / "nowhere")[2]
    assert num_judgments(data) == 2
