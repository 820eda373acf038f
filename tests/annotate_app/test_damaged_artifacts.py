"""Artifacts that were damaged or tampered with after they were sealed: refused when registered and before they serve."""

import json
import shutil
from pathlib import Path

import pytest

from annotate_app.candidates import ADAPTER_WEIGHTS
from storage.contract.jobs import artifact_dir
from storage.contract.sealing import sha256
from storage.duckdb_store import open_store
from storage.errors import UserError
from tests.annotate_app.test_rounds import build_service, finished_data, started_data  # noqa: F401 fixtures


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def vouch_for(directory, name):
    """What somebody who tampers would do as well: write the new hash into the manifest."""
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][name] = sha256(directory / name)
    (directory / "manifest.json").write_text(json.dumps(manifest))


HARM = {
    "flipped weights": lambda a: flip(a / "adapter" / ADAPTER_WEIGHTS),
    "flipped responses": lambda a: flip(a / "responses.parquet"),
    "edited report": lambda a: (a / "report.json").write_text((a / "report.json").read_text().replace("0.", "0.9", 1)),
    "missing file": lambda a: (a / "responses.parquet").unlink(),
    "torn manifest": lambda a: (a / "manifest.json").write_text((a / "manifest.json").read_text()[:-40]),
    "empty manifest": lambda a: (a / "manifest.json").write_text(""),
}


@pytest.fixture
def finished(finished_data, tmp_path):  # noqa: F811
    """Data directory, store and artifact of a round that was sealed while no app ran, and is not registered yet."""
    data = Path(shutil.copytree(finished_data, tmp_path / "data"))
    store = open_store(data / "nashloop.duckdb")
    yield data, store, artifact_dir(data / store.list_rounds()[0].job_dir)
    store.close()


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_artifact_is_not_registered_until_it_is_whole_again(finished, tmp_path, harm):
    data, store, artifact = finished
    shutil.copytree(artifact, tmp_path / "whole")
    HARM[harm](artifact)
    rounds = build_service(store, data)
    rounds.ensure_started()
    [round_, *_] = store.list_rounds()
    assert round_.status == "failed"
    assert "changed after it was sealed" in round_.message or "is damaged" in round_.message
    assert [policy.number for policy in store.list_policies()] == [0]
    assert rounds.resume(round_.number, actor="tester").status == "failed"  # still refused
    shutil.rmtree(artifact)
    shutil.copytree(tmp_path / "whole", artifact)
    assert rounds.resume(round_.number, actor="tester").status == "done"
    assert store.serving_policy().number == 1
    rounds.close()


@pytest.mark.parametrize("harm", ["flipped", "vouched for", "added", "gone"])
def test_a_policy_whose_adapter_was_changed_does_not_serve(finished, harm):
    data, store, artifact = finished
    rounds = build_service(store, data)
    rounds.ensure_started()
    rounds.rollback(actor="tester", reason="for the test")
    policy = next(policy for policy in store.list_policies() if policy.number == 1)
    weights = artifact / "adapter" / ADAPTER_WEIGHTS
    before = weights.read_bytes()
    if harm == "added":
        (artifact / "adapter" / "adapter_config.json").write_text('{"r": 1}')
    elif harm == "gone":
        shutil.rmtree(artifact / "adapter")
    else:
        flip(weights)
    if harm == "vouched for":
        vouch_for(artifact, f"adapter/{ADAPTER_WEIGHTS}")
    with pytest.raises(UserError, match="Restore artifacts/ from a backup, or let another policy serve"):
        rounds.promote(policy.id, actor="tester", reason="all the same")
    assert store.serving_policy().number == 0
    if harm == "flipped":
        weights.write_bytes(before)
        rounds.promote(policy.id, actor="tester")
        assert store.serving_policy().number == 1
    rounds.close()
