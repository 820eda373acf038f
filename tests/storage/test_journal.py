"""The journal beside the database: what the database lost comes back from it, and what was refused is never in it."""

import shutil
import threading

import duckdb
import pytest

from storage import journal as journals
from storage.duckdb_store import open_store
from storage.errors import UserError
from storage.journal import Reading, journal_path
from tests.storage.builders import fill, judge, make_prompt


def crashed_copy(tmp_path, name, *, wal=True):
    """The files as kill -9 would leave them, under another directory; ``wal=False``: without the write-ahead log."""
    folder = tmp_path / name
    folder.mkdir()
    for path in tmp_path.glob("db*"):
        if wal or path.suffix != ".wal":
            shutil.copyfile(path, folder / path.name)
    return folder / "db"


def commits(path):
    reading = Reading()
    return list(journals.read(journal_path(path), reading)), reading


def state_of(store):
    """Everything a journal promises: rows of all its tables."""
    order = {table: store.query(f"SELECT * FROM {table} ORDER BY id").to_pylist() for table in journals.TABLES}
    order["events"] = [event for event in order["events"] if event["kind"] != "journal.compared"]
    return order


@pytest.fixture
def labelled(tmp_path):
    """Five pairs, three judged, one of these taken back, one corrected; open."""
    store = open_store(tmp_path / "db")
    fill(store, num_tasks=5)
    judge(store, "ann0", rationale="ünïcode\n" + "long " * 300)
    store.withdraw(judge(store, "ann1"), annotator_id="ann1")
    judge(store, "ann2", "tie")
    yield store
    store.close()


def test_every_row_is_in_the_journal(tmp_path, labelled):
    kept, reading = commits(tmp_path / "db")
    rows = [row for commit in kept for row in commit.rows]
    counts = {table: len(found) for table, found in state_of(labelled).items() if found}
    assert reading.totals == counts == {table: sum(name == table for name, _ in rows) for table in counts}
    assert (reading.damaged, reading.torn_bytes) == ([], 0)
    assert reading.end == journal_path(tmp_path / "db").stat().st_size


def test_all_that_a_lost_write_ahead_log_held_comes_back(tmp_path, labelled):
    expected = state_of(labelled)
    assert expected["judgments"]
    copy = crashed_copy(tmp_path, "lost", wal=False)
    store = open_store(copy)
    assert state_of(store) == expected
    [said] = store.list_events(kind_prefix="journal.compared")
    assert said.data["put_back"]["judgments"] == 3 and said.data["left"] == {}
    assert judge(store, "ann2")  # labelling goes on, with the next number
    assert [judgment.seq for judgment in store.list_judgments(limit=1)] == [4]
    store.close()
    store = open_store(copy)
    assert len(store.list_events(kind_prefix="journal.compared")) == 1  # nothing to do the second time
    store.close()


def test_a_journal_that_agrees_is_left_alone(tmp_path, labelled):
    before = journal_path(tmp_path / "db").read_bytes()
    copy = crashed_copy(tmp_path, "same")
    store = open_store(copy)
    assert journal_path(copy).read_bytes() == before
    assert store.list_events(kind_prefix="journal.compared") == []
    store.close()


@pytest.mark.parametrize("cut", [1, 7, 100])
def test_the_end_of_a_journal_that_was_not_acknowledged_is_cut_off(tmp_path, labelled, cut):
    """A line without its end is a commit that nobody was told of. What the database holds of it stays."""
    expected = state_of(labelled)
    copy = crashed_copy(tmp_path, "torn")
    whole = journal_path(copy).read_bytes()
    journal_path(copy).write_bytes(whole + whole.splitlines(keepends=True)[-1][:-cut])
    store = open_store(copy)
    assert state_of(store) == expected
    assert journal_path(copy).read_bytes() == whole
    store.close()


@pytest.mark.parametrize("harm", ["flip", "zero the end", "truncate", "remove", "empty"])
def test_a_damaged_journal_harms_nothing_and_is_begun_anew(tmp_path, labelled, harm):
    expected = state_of(labelled)
    copy = crashed_copy(tmp_path, "damaged")
    path = journal_path(copy)
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    elif harm == "zero the end":
        data[-200:] = bytes(200)
    elif harm == "truncate":
        del data[-400:]
    path.write_bytes(b"" if harm == "empty" else bytes(data))
    if harm == "remove":
        path.unlink()
    store = open_store(copy)
    assert state_of(store) == expected
    judge(store, "ann2")
    store.close()
    store = open_store(copy)  # the new one agrees
    assert len(state_of(store)["judgments"]) == 4
    assert len(store.list_events(kind_prefix="journal.compared")) == (harm != "remove")
    store.close()


def test_lines_around_a_damaged_one_are_still_put_back(tmp_path, labelled):
    copy = crashed_copy(tmp_path, "both", wal=False)
    lines = journal_path(copy).read_bytes().splitlines(keepends=True)
    last_judgment = next(line for line in reversed(lines) if "judgments" in str(journals.decode(line)["rows"][0][0]))
    spoilt = last_judgment[:20] + bytes([last_judgment[20] ^ 4]) + last_judgment[21:]
    journal_path(copy).write_bytes(b"".join(spoilt if line == last_judgment else line for line in lines))
    store = open_store(copy)
    assert len(state_of(store)["judgments"]) == 2  # of three; the third was lost twice
    [said] = store.list_events(kind_prefix="journal.compared")
    assert "1 lines of the journal are damaged" in said.data["message"]
    store.close()


def test_rows_about_lost_records_are_left_and_told(tmp_path):
    """The journal was begun after the tasks were made, and the database is one from before."""
    store = open_store(tmp_path / "db")
    store.close()
    early = (tmp_path / "db").read_bytes()
    store = open_store(tmp_path / "db")
    fill(store)
    store.close()
    journal_path(tmp_path / "db").unlink()
    store = open_store(tmp_path / "db")
    judge(store, "ann0")
    store.close()
    (tmp_path / "db").write_bytes(early)
    store = open_store(tmp_path / "db")
    assert store.count_judgments() == 0
    [said] = store.list_events(kind_prefix="journal.compared")
    assert said.data["left"] == {"leases": 1, "judgments": 1}
    assert "1 lease, 1 judgment of the journal refer to records that are lost" in said.data["message"]
    assert len(list(tmp_path.glob("db.journal.*"))) == 1  # kept
    store.close()


def test_the_journal_of_another_database_is_not_used(tmp_path):
    for name in ("one", "two"):
        store = open_store(tmp_path / name)
        fill(store)
        judge(store, "ann0")
        store.close()
    shutil.copyfile(journal_path(tmp_path / "one"), journal_path(tmp_path / "two"))
    store = open_store(tmp_path / "two")
    assert store.count_judgments() == 1
    assert "another database's" in store.list_events(kind_prefix="journal.compared")[0].data["message"]
    store.close()


def test_an_old_copy_of_the_database_is_brought_up_to_date(tmp_path, labelled):
    labelled.backup(tmp_path / "backup")
    later = [judge(labelled, "ann1"), judge(labelled, "ann2", "b")]
    labelled.add_prompts([make_prompt(f"later{i}") for i in range(2500)])  # several lines of one commit
    expected = state_of(labelled)
    labelled.close()
    (tmp_path / "db").write_bytes((tmp_path / "backup").read_bytes())
    store = open_store(tmp_path / "db")
    assert state_of(store) == expected
    assert {judgment.id for judgment in store.list_judgments()} >= set(later)
    store.close()


def test_what_could_not_be_committed_is_taken_out_again(tmp_path):
    """A unique key given twice fails at COMMIT or before; the journal must not bring back what was refused."""
    store = open_store(tmp_path / "db")
    fill(store)
    before = journal_path(tmp_path / "db").read_bytes()

    def twice(transaction):
        transaction.insert("annotators", [["x", 90, "X", "human", None], ["x", 91, "Y", "human", None]])

    with pytest.raises(duckdb.ConstraintException):
        store._state.writer.run(twice)
    assert journal_path(tmp_path / "db").read_bytes() == before
    judge(store, "ann0")
    store.close()
    assert open_and_close(tmp_path / "db") == []


def test_a_failed_commit_takes_its_lines_back(tmp_path):
    """Another connection holds the row that the writer adds: only COMMIT finds out."""
    store = open_store(tmp_path / "db")
    fill(store)
    before = journal_path(tmp_path / "db").read_bytes()
    row = ["x", 90, "X", "human", "2026-01-01T00:00:00Z"]
    started, other_done = threading.Event(), threading.Event()

    def meanwhile():
        started.wait(10)
        with store._state.database.cursor() as cursor:
            cursor.execute("INSERT INTO annotators VALUES (?, ?, ?, ?, ?)", row)
        other_done.set()

    def slowly(transaction):
        transaction.rows("SELECT count(*) AS n FROM annotators")  # the snapshot is taken
        started.set()
        other_done.wait(10)
        transaction.insert("annotators", [row])

    thread = threading.Thread(target=meanwhile)
    thread.start()
    with pytest.raises(duckdb.Error):
        store._state.writer.run(slowly)
    thread.join()
    assert journal_path(tmp_path / "db").read_bytes() == before
    store.close()


def test_a_group_keeps_only_those_of_its_operations_that_succeeded(tmp_path):
    store = open_store(tmp_path / "db")

    def refuse(transaction):
        transaction.insert("annotators", [["never", 1, "N", "human", "2026-01-01T00:00:00Z"]])
        raise UserError("no")

    with pytest.raises(UserError):
        store._state.writer.run(refuse)
    assert all(not commit.rows for commit in commits(tmp_path / "db")[0])
    store.close()


def open_and_close(path):
    store = open_store(path)
    events = store.list_events(kind_prefix="journal.compared")
    store.close()
    return events
