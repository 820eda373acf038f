"""Damaged files: the doctor says what is wrong and changes nothing; a repair works on a copy and loses nothing acknowledged."""

import shutil

import duckdb
import pytest

from storage.database import CONFIG
from storage.doctor import examine
from storage.duckdb_store import open_store
from storage.errors import UserError
from storage.journal import journal_path
from storage.repair import repair, restore, wal_path
from tests.storage.builders import fill, judge


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def zero(path, first, last):
    data = bytearray(path.read_bytes())
    data[first:last] = bytes(len(data[first:last]))
    path.write_bytes(bytes(data))


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Files as kill -9 leaves them: a backup with five judgments, forty in all, most of them in the write-ahead log only."""
    folder, kept = tmp_path_factory.mktemp("live"), tmp_path_factory.mktemp("killed")
    store = open_store(folder / "db")
    fill(store, num_tasks=40)
    made = [judge(store, f"ann{i % 3}") for i in range(5)]
    store.backup(kept / "backups" / "one.duckdb")
    made += [judge(store, f"ann{i % 3}", rationale=f"because {i}") for i in range(35)]
    for path in folder.glob("db*"):
        shutil.copyfile(path, kept / path.name)
    store.close()
    assert wal_path(kept / "db").stat().st_size > 40_000
    return kept, made


@pytest.fixture
def files(tmp_path, killed):
    shutil.copytree(killed[0], tmp_path / "data")
    return tmp_path / "data" / "db"


def judged(path):
    store = open_store(path)
    ids = [judgment.id for judgment in reversed(store.list_judgments())]
    store.close()
    return ids


def wrong(path):
    return {check.name: check.detail for check in examine(path) if not check.ok}


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".owner"}


def test_whole_files_have_nothing_wrong_and_stay_as_they_are(files):
    before = contents(files.parent)
    assert wrong(files) == {}
    assert repair(files) is None
    assert contents(files.parent) == before


LOG_DAMAGE = {
    "torn": lambda path: cut(path, path.stat().st_size - 100),
    "cut in half": lambda path: cut(path, path.stat().st_size // 2),
    "zeroed end": lambda path: zero(path, path.stat().st_size - 300, path.stat().st_size),
    "zeroed middle": lambda path: zero(path, 20_000, 22_000),
    "flipped in the middle": lambda path: flip(path, path.stat().st_size // 2),
    "flipped at the end": lambda path: flip(path, path.stat().st_size - 20),
    "flipped first bytes": lambda path: flip(path, 3),
    "empty": lambda path: cut(path, 0),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("harm", LOG_DAMAGE)
def test_whatever_happens_to_the_write_ahead_log_every_judgment_comes_back(files, killed, harm):
    LOG_DAMAGE[harm](wal_path(files))
    before = contents(files.parent)
    assert wrong(files)
    assert contents(files.parent) == before  # looking changes nothing
    done = repair(files)
    assert done is not None and done.rows["judgments"] == 40
    assert judged(files) == killed[1]
    assert {path.name: path.read_bytes() for path in done.kept.iterdir()} == {
        path.name: content for path, content in before.items() if path.parent.name != "backups"
    }
    assert wrong(files) == {}


def test_starting_with_a_damaged_log_names_the_remedy(files):
    flip(wal_path(files), wal_path(files).read_bytes().index(b"because 20"))
    with pytest.raises(UserError, match=r"its write-ahead log is damaged .* `nashloop doctor --repair --data"):
        open_store(files)


def test_a_lost_file_is_not_replaced_by_an_empty_one(files, killed):
    files.unlink()
    with pytest.raises(UserError, match=r"is gone, but its journal is there. `nashloop doctor --repair --data"):
        open_store(files)
    assert not files.exists()
    assert repair(files) is not None
    assert judged(files) == killed[1]


@pytest.mark.parametrize("with_backup", [True, False])
@pytest.mark.parametrize("harm", ["header", "gone", "text"])
def test_a_file_that_cannot_be_read_comes_back_from_backup_and_journal(files, killed, harm, with_backup):
    if not with_backup:
        shutil.rmtree(files.parent / "backups")
    if harm == "header":
        flip(files, 5000)
    elif harm == "gone":
        files.unlink()
    else:
        files.write_text("these are no rows " * 1000)
    assert "database" in wrong(files)
    done = repair(files)
    assert done is not None
    assert ("newest backup" if with_backup else "anew from the journal") in done.text()
    assert judged(files) == killed[1]
    assert wrong(files) == {}


def test_a_damaged_backup_is_passed_over(files, killed):
    shutil.copyfile(files.parent / "backups" / "one.duckdb", files.parent / "backups" / "two.duckdb")
    flip(files.parent / "backups" / "two.duckdb", 5000)
    flip(files, 5000)
    done = repair(files)
    assert done is not None and "two.duckdb cannot be read either" in done.text() and "one.duckdb" in done.text()
    assert judged(files) == killed[1]


def test_where_nothing_can_be_read_nothing_is_changed(files):
    shutil.rmtree(files.parent / "backups")
    flip(files, 5000)
    flip(journal_path(files), 20)
    before = contents(files.parent)
    with pytest.raises(UserError, match=r"Nothing was changed\. Copy the whole directory"):
        repair(files)
    assert contents(files.parent) == before


def test_a_damaged_journal_is_begun_anew_and_kept(files, killed):
    flip(journal_path(files), journal_path(files).stat().st_size // 2)
    assert "1 lines are damaged" in wrong(files)["journal"]
    done = repair(files)
    assert done is not None and journal_path(done.kept / "db").exists()
    assert wrong(files) == {}
    assert judged(files) == killed[1]


def test_a_corrupt_log_and_a_corrupt_journal_lose_only_what_both_lost(files, killed):
    """The journal's damaged line is one judgment before the place where the log breaks off."""
    lines = journal_path(files).read_bytes().splitlines(keepends=True)
    at = sum(map(len, lines[:-1])) + 30  # the last judgment's line
    flip(journal_path(files), at)
    zero(wal_path(files), wal_path(files).stat().st_size - 300, wal_path(files).stat().st_size)
    assert repair(files) is not None
    assert judged(files) == killed[1][:-1]


def test_records_whose_parts_are_gone_are_named(files):
    open_store(files).close()
    with duckdb.connect(str(files), config=CONFIG) as connection:
        connection.execute("DELETE FROM responses WHERE id IN ('q3-1', 'q4-2')")
    assert "1 tasks without response_1_id, 1 tasks without response_2_id" in wrong(files)["references"]
    assert "lacks 2 responses" in wrong(files)["journal"]
    assert repair(files) is not None  # the journal has them
    assert wrong(files) == {}


def test_restoring_a_backup_keeps_what_was_labelled_since(files, killed):
    open_store(files).close()
    done = restore(files)
    assert done.steps[0].startswith("Took the newest backup that is whole") and "5 judgments" in done.steps[0]
    assert "lacked" in done.steps[1] and "35 judgments" in done.steps[1]
    assert judged(files) == killed[1]
    assert (done.kept / "db").exists()


def test_restoring_exactly_goes_back_to_the_backup(files, killed):
    done = restore(files, files.parent / "backups" / "one.duckdb", exactly=True)
    assert done.rows["judgments"] == 5
    assert judged(files) == killed[1][:5]
    assert judged(files) == killed[1][:5]  # not brought back by a later start
    assert judged(done.kept / "db") == killed[1]  # what was replaced still opens


def test_restoring_refuses_what_is_no_backup_of_this_database(files, tmp_path):
    before = contents(files.parent)
    with pytest.raises(UserError, match="does not exist"):
        restore(files, tmp_path / "none.duckdb")
    (tmp_path / "text.duckdb").write_text("no database " * 1000)
    with pytest.raises(UserError, match=r"text\.duckdb"):
        restore(files, tmp_path / "text.duckdb")
    open_store(tmp_path / "other.duckdb").close()
    with pytest.raises(UserError, match=r"is of another database\. Add --exactly"):
        restore(files, tmp_path / "other.duckdb")
    shutil.rmtree(files.parent / "backups")
    with pytest.raises(UserError, match="no backup that can be read"):
        restore(files)
    del before[next(path for path in before if path.parent.name == "backups")]
    assert contents(files.parent) == before


def test_a_database_in_use_is_not_repaired_or_replaced(files):
    store = open_store(files)
    for action in (repair, restore):
        with pytest.raises(UserError, match="is held by PID"):
            action(files)
    store.close()
