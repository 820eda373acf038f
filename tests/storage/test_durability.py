"""kill -9 of a process that writes: whatever it acknowledged is there afterwards, and nothing is half there."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.duckdb_store import open_store

ROOT = Path(__file__).parents[2]
# Four threads lease and submit; each acknowledged judgment is printed after submit has returned.
WRITER = """
import sys, threading
from pathlib import Path
from storage.duckdb_store import open_store
from storage.records import JudgmentInput
store = open_store(Path(sys.argv[1]))

def work(annotator):
    while pairs := store.lease(annotator, 2):
        for pair in pairs:
            said = JudgmentInput(lease_id=pair.lease_id, verdict="b", strength=2, rationale="r" * 300)
            if store.submit(said, annotator_id=annotator).status == "stored":
                sys.stdout.write(pair.lease_id + "\\n")
                sys.stdout.flush()

for i in range(4):
    threading.Thread(target=work, args=(f"ann{i}",), daemon=True).start()
threading.Event().wait()
"""


@pytest.mark.parametrize("seed", range(5))
def test_acknowledged_judgments_survive_kill_9(tmp_path, seed):
    from tests.storage.builders import fill

    rng = random.Random(seed)
    store = open_store(tmp_path / "db")
    fill(store, num_tasks=3000, num_annotators=4)
    store.close()
    acknowledged = []
    for _ in range(2):  # twice: the second time over a log that has been replayed
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "db")], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        acknowledged.append(process.stdout.readline().strip())  # it has begun
        time.sleep(rng.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split("\n")[:-1]  # what follows the last newline was cut off
        acknowledged += rest
        process.wait()
    store = open_store(tmp_path / "db")
    kept = store.list_judgments()
    assert set(acknowledged) <= {judgment.id for judgment in kept}
    assert [judgment.seq for judgment in reversed(kept)] == list(range(1, len(kept) + 1))  # no gap, none twice
    assert len({judgment.task_id for judgment in kept}) == len(kept)  # every task wanted one
    assert all(judgment.rationale == "r" * 300 for judgment in kept)
    unknown = store.query("SELECT count(*) AS n FROM judgments WHERE id NOT IN (SELECT id FROM leases)")
    assert unknown["n"].to_pylist() == [0]
    assert len(store.open_tasks()) == 3000 - len(kept)
    store.close()
