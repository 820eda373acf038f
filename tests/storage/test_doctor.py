"""The doctor on a store that is in use, whatever keeps it."""

import threading
from pathlib import Path

from storage.doctor import check_contents
from tests.storage.builders import fill, judge


def test_a_store_in_use_is_checked_while_people_label(store):
    fill(store, num_tasks=300)
    path, stop, made = Path(store.health()["path"]), threading.Event(), []

    def label():
        while not stop.is_set() and len(made) < 290:
            made.append(judge(store, "ann0"))

    thread = threading.Thread(target=label)
    thread.start()
    try:
        while not made:
            stop.wait(0.01)
        checks = check_contents(store.query, path if path.is_file() else None)
    finally:
        stop.set()
        thread.join()
    assert [check for check in checks if not check.ok] == []
    assert {check.name for check in checks} >= {"database", "references", "indexes"}
    assert made and store.count_judgments() == len(made)
