"""A disk that is really full (a small tmpfs): labels are refused, reading goes on, and it recovers by itself."""

import os
import subprocess
import threading

import pytest

from storage.duckdb_store import open_store
from storage.errors import Unavailable
from storage.room import has_room
from tests.storage.builders import fill, judge, make_prompt

SIZE = 80 << 20


@pytest.fixture
def small_disk(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here (needs root)")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def fill_up(folder, leave=0):
    """Another program's file that takes all room but ``leave`` bytes."""
    space = os.statvfs(folder)
    with (folder / "ballast").open("ab") as file:
        file.write(bytes(max(0, space.f_bavail * space.f_frsize - leave)))


def judge_until_refused(store):
    for _ in range(400):
        judge(store, "ann0", rationale="r" * 3000)
    return None


@pytest.mark.parametrize("leave", [0, 100_000])
def test_on_a_full_disk_labels_are_refused_reading_goes_on_and_it_recovers(small_disk, leave):
    store = open_store(small_disk / "db")
    fill(store, num_tasks=400)
    first = judge(store, "ann0")
    fill_up(small_disk, leave)
    with pytest.raises(Unavailable, match=r"the disk is full, nothing of this was stored .* Free some space and try again"):
        judge_until_refused(store)
    kept = store.count_judgments()
    assert (kept > 1) == (leave > 0)
    with pytest.raises(Unavailable):
        judge(store, "ann1", rationale="r" * 200_000)
    store._state.writer._checkpoint()  # what an idle moment does: without room it would invalidate the open database
    assert store.health()["writer"] is True
    assert store.count_judgments() == kept and store.get_judgment(first) is not None
    (small_disk / "ballast").unlink()
    judge(store, "ann1")
    store._state.writer._checkpoint()
    assert store._state.database.log_bytes() == 0
    store.close()
    store = open_store(small_disk / "db")
    assert store.count_judgments() == kept + 1
    assert store.list_events(kind_prefix="journal.compared") == []  # journal and database agree about what was refused
    store.close()


def test_on_a_full_disk_the_store_opens_and_reads(small_disk):
    store = open_store(small_disk / "db")
    fill(store)
    judge(store, "ann0")
    fill_up(small_disk)
    store.close()
    store = open_store(small_disk / "db")
    assert store.count_judgments() == 1
    with pytest.raises(Unavailable):
        judge(store, "ann1")
    (small_disk / "ballast").unlink()
    judge(store, "ann1")
    store.close()


def test_a_backup_that_has_no_room_leaves_nothing_behind(small_disk):
    store = open_store(small_disk / "db")
    fill(store)
    store.add_prompts([make_prompt(f"big{i}", text=os.urandom(10_000).hex()) for i in range(500)])
    fill_up(small_disk, 2_000_000)
    with pytest.raises(Unavailable, match="the disk is full"):
        store.backup(small_disk / "backups" / "one.duckdb")
    assert list((small_disk / "backups").iterdir()) == []
    assert store.count_judgments() == 0
    judge(store, "ann0")
    store.close()


def test_nobody_waits_for_ever_when_many_label_on_a_full_disk(small_disk):
    store = open_store(small_disk / "db")
    fill(store, num_tasks=60, num_annotators=6)
    fill_up(small_disk)
    refused = []

    def work(annotator):
        try:
            judge(store, annotator, rationale="r" * 200_000)
        except Unavailable as error:
            refused.append(error)

    threads = [threading.Thread(target=work, args=(f"ann{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(refused) == 6
    store.close()


def test_room_is_found_by_trying(tmp_path):
    assert has_room(tmp_path, 1 << 20)
    assert not has_room(tmp_path, 1 << 60)
    assert not has_room(tmp_path / "missing", 1)
    assert list(tmp_path.iterdir()) == []
