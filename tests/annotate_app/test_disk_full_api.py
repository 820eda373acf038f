"""A full disk as people at the page meet it: 503 for what would be stored, answers to all that only reads, and recovery."""

import os
import subprocess

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_token
from annotate_app.context import AppContext
from annotate_app.rounds import RoundService
from annotate_app.web import build_app
from storage.duckdb_store import open_store
from tests.storage.builders import fill


@pytest.fixture
def small_disk(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here (needs root)")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.fixture
def client(small_disk):
    store = open_store(small_disk / "db")
    fill(store)
    _, secret = issue_token(store, name="program", scope="admin", annotator_handle="Annotator 0")
    rounds = RoundService(store, small_disk, model="someone/small-model")
    context = AppContext(store=store, rounds=rounds, data_dir=small_disk, session_secret="only for tests")
    headers = {"Authorization": f"Bearer {secret}"}
    yield TestClient(build_app(context, pages=False), headers=headers, raise_server_exceptions=False)
    rounds.close()
    store.close()


def test_on_a_full_disk_a_judgment_is_refused_for_now_and_taken_later(client, small_disk):
    [lease] = client.post("/api/v1/leases", json={"count": 1}).json()["leases"]
    judgment = {"lease_id": lease["lease_id"], "verdict": "a", "rationale": "r" * 5000}
    space = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes(space.f_bavail * space.f_frsize))
    refused = client.post("/api/v1/judgments", json=judgment)
    assert refused.status_code == 503 and refused.headers["Retry-After"] == "10"
    assert "the disk is full, nothing of this was stored" in refused.json()["error"]["message"]
    assert client.get("/api/v1/stats").json()["judgments"] == 0
    assert client.get("/readyz").status_code == 200  # it still serves those who read
    assert client.post("/api/v1/backups").status_code == 503
    (small_disk / "ballast").unlink()
    assert client.post("/api/v1/judgments", json=judgment).status_code == 201
    assert client.get("/api/v1/stats").json()["judgments"] == 1
    assert all(check["ok"] for check in client.get("/api/v1/checks").json()["checks"])
