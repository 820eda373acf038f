"""kill -9 of the app while people label over HTTP: nothing acknowledged is lost or doubled, and every file opens again.

The server is the real one (uvicorn, every route but the pages) in a process forked from one that has imported everything,
so that two hundred starts take minutes. Clients go on after each start as the labelling page does: what was not acknowledged
is sent again.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from annotate_app.auth import issue_token
from annotate_app.server import DATABASE
from storage.doctor import examine
from storage.duckdb_store import open_store
from tests.storage.builders import fill

ROOT = Path(__file__).parents[2]
NUM_CLIENTS = 4
# Forks a server for every line it reads and prints the child's number and port; the parent never opens the database.
STARTER = """
import os, sys
from pathlib import Path
import annotate_app.web
from annotate_app.commands.compose import build_api, open_context
from annotate_app.server import listen, serve
for line in sys.stdin:
    listener = listen("127.0.0.1", 0)
    child = os.fork()
    if child == 0:
        with open_context(Path(sys.argv[1])) as context:
            ready = f"{os.getpid()} {listener.getsockname()[1]}"
            serve(build_api(context), listener, on_ready=lambda: print(ready, flush=True))
        os._exit(0)
    listener.close()
    os.waitpid(child, 0)
"""


class Client:
    """Labels until nothing is left, and remembers what was acknowledged."""

    def __init__(self, secret, seed):
        self.headers, self.rng = {"Authorization": f"Bearer {secret}"}, random.Random(seed)
        self.acknowledged = []
        self.unsent = None  # a verdict whose answer never came
        self.done = False

    def run(self, url):
        try:
            with httpx.Client(base_url=url + "/api/v1", headers=self.headers, timeout=20, trust_env=False) as http:
                while not self.done:
                    self.step(http)
        except httpx.TransportError:
            pass  # the server was killed

    def step(self, http):
        if self.unsent is None:
            leased = (
                http.post("/leases", json={"count": 1, "resume": self.rng.random() < 0.3}).raise_for_status().json()["leases"]
            )
            if not leased:
                self.done = True
                return
            verdict = self.rng.choice(["a", "b", "tie"])
            self.unsent = {"lease_id": leased[0]["lease_id"], "verdict": verdict, "rationale": "because " * 20}
        answer = http.post("/judgments", json=self.unsent)
        assert answer.status_code in (200, 201), answer.text
        self.acknowledged.append(self.unsent["lease_id"])
        self.unsent = None


def acknowledged_by(clients):
    return set().union(*(set(client.acknowledged) for client in clients))


def killed_again_and_again(data, secrets, kills, rng):
    """Kill the app ``kills`` times at moments drawn at random; the clients afterwards."""
    clients = [Client(secret, k) for k, secret in enumerate(secrets)]
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(data)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdin is not None and starter.stdout is not None
    try:
        for kill in range(kills):
            starter.stdin.write("start\n")
            starter.stdin.flush()
            pid, port = map(int, starter.stdout.readline().split())
            if kill % 20 == 19:
                print(f"{kill + 1} kills, {len(acknowledged_by(clients))} acknowledged", flush=True)
            threads = [threading.Thread(target=client.run, args=(f"http://127.0.0.1:{port}",)) for client in clients]
            for thread in threads:
                thread.start()
            before, give_up = len(acknowledged_by(clients)), time.monotonic() + 30 * (rng.random() < 0.9)
            while len(acknowledged_by(clients)) == before and time.monotonic() < give_up:
                time.sleep(0.01)  # mostly kill under load, also on a slow machine; now and then right away
            time.sleep(rng.uniform(0.0, 0.4))
            os.kill(pid, signal.SIGKILL)
            for thread in threads:
                thread.join()
    finally:
        starter.stdin.close()
        starter.wait(60)
    return clients


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_no_acknowledged_judgment_is_lost_or_doubled_by_kill_9(tmp_path, kills):
    rng = random.Random(kills)
    store = open_store(tmp_path / DATABASE)
    num_tasks = 20 * kills + 100
    fill(store, num_tasks=num_tasks, num_annotators=NUM_CLIENTS)
    secrets = [
        issue_token(store, name=f"client{k}", scope="label", annotator_handle=f"Annotator {k}")[1] for k in range(NUM_CLIENTS)
    ]
    store.close()
    clients = killed_again_and_again(tmp_path, secrets, kills, rng)
    assert [check for check in examine(tmp_path / DATABASE) if not check.ok and check.name != "journal"] == []
    store = open_store(tmp_path / DATABASE)
    kept = store.list_judgments()
    ids = [judgment.id for judgment in kept]
    acknowledged = acknowledged_by(clients)
    assert len(acknowledged) > kills  # it was under load
    assert acknowledged <= set(ids)
    assert sum(len(client.acknowledged) for client in clients) == len(acknowledged)
    unanswered = {client.unsent["lease_id"] for client in clients if client.unsent}
    assert set(ids) - acknowledged <= unanswered  # committed, but killed before the answer
    assert [judgment.seq for judgment in reversed(kept)] == list(range(1, len(kept) + 1))
    assert len({judgment.task_id for judgment in kept}) == len(kept)  # every task wanted one judgment
    assert len(store.open_tasks()) == num_tasks - len(kept)
    store.close()
    assert [check for check in examine(tmp_path / DATABASE) if not check.ok] == []
    print(f"{kills} kills, {len(acknowledged)} acknowledged, {len(ids) - len(acknowledged)} committed without an answer")
