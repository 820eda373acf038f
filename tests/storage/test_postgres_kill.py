"""kill -9 of an app on PostgreSQL while people label over HTTP: as tests/annotate_app/test_kill_app.py for the file."""

import random

import pytest

from annotate_app.auth import issue_token
from annotate_app.server import URL_FILE
from storage.postgres_checks import check_places
from storage.postgres_store import open_postgres
from tests.annotate_app.test_kill_app import NUM_CLIENTS, acknowledged_by, killed_again_and_again
from tests.storage.builders import fill


@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_no_acknowledged_judgment_is_lost_or_doubled_by_kill_9(postgres_server, tmp_path, kills):
    url = postgres_server.new_database()
    store = open_postgres(url, folder=tmp_path / "reading")
    fill(store, num_tasks=100 * kills, num_annotators=NUM_CLIENTS)
    secrets = [
        issue_token(store, name=f"client{k}", scope="label", annotator_handle=f"Annotator {k}")[1] for k in range(NUM_CLIENTS)
    ]
    (tmp_path / URL_FILE).write_text(url)
    clients = killed_again_and_again(tmp_path, secrets, kills, random.Random(kills))
    kept = store.list_judgments()  # this one was open all the time, as another replica is
    acknowledged, ids = acknowledged_by(clients), {judgment.id for judgment in kept}
    assert len(acknowledged) > kills  # it was under load
    assert acknowledged <= ids
    assert sum(len(client.acknowledged) for client in clients) == len(acknowledged)
    assert ids - acknowledged <= {client.unsent["lease_id"] for client in clients if client.unsent}  # killed before the answer
    assert [judgment.seq for judgment in reversed(kept)] == list(range(1, len(kept) + 1))
    assert len({judgment.task_id for judgment in kept}) == len(kept)  # every task wanted one judgment
    assert check_places(store._state.server).ok
    store.close()
    print(f"{kills} kills, {len(acknowledged)} acknowledged, {len(ids) - len(acknowledged)} committed without an answer")
