"""Backups the app makes by itself: when they are due, how many stay, and that those made by hand are left alone."""

from datetime import timedelta

import pytest

from annotate_app.scheduled_backups import ScheduledBackups
from storage.doctor import read_everything, reading
from storage.duckdb_store import open_store
from tests.storage.builders import Clock, fill, judge


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "db")
    fill(store, num_tasks=6)
    yield store
    store.close()


def test_a_backup_is_made_when_due_and_only_if_something_was_written(store, tmp_path):
    clock = Clock()
    backups = ScheduledBackups(store, tmp_path / "backups", every=timedelta(hours=24), keep=2, clock=clock)
    first = backups.run_if_due()
    assert first is not None and first.name == "scheduled-20260102-030405.duckdb"
    judge(store, "ann0")
    clock.advance(23 * 3600)
    assert backups.run_if_due() is None  # not due
    clock.advance(2 * 3600)
    second = backups.run_if_due()
    assert second is not None
    with reading(second) as query:
        assert read_everything(query)["judgments"] == 1
    clock.advance(25 * 3600)
    assert backups.run_if_due() is None  # due, but nothing new
    assert backups.made() == [second, first]


def test_only_the_newest_are_kept_and_others_are_not_touched(store, tmp_path):
    clock, folder = Clock(), tmp_path / "backups"
    store.backup(folder / "by-hand.duckdb")
    backups = ScheduledBackups(store, folder, every=timedelta(hours=1), keep=2, clock=clock)
    made = []
    for k in range(4):
        judge(store, f"ann{k % 3}")
        made.append(backups.run_if_due())
        clock.advance(3600)
    assert backups.made() == [made[3], made[2]]
    assert (folder / "by-hand.duckdb").exists()


def test_after_a_restart_the_schedule_goes_on(store, tmp_path):
    clock = Clock()
    first = ScheduledBackups(store, tmp_path / "backups", every=timedelta(hours=24), keep=2, clock=clock).run_if_due()
    clock.advance(3600)
    again = ScheduledBackups(store, tmp_path / "backups", every=timedelta(hours=24), keep=2, clock=clock)
    assert again.run_if_due() is None
    clock.advance(24 * 3600)
    assert again.run_if_due() not in (None, first)
