"""A campaign moves from its file into PostgreSQL and back: the same rows, the same next pair, the same exports."""

import random

import psycopg
import pytest

from storage.campaign import Campaign
from storage.duckdb_store import open_store
from storage.errors import UserError
from storage.exports import EXPORT_FORMATS, write_export
from storage.postgres_connection import Server
from storage.postgres_store import open_postgres
from storage.postgres_transfer import move_to_duckdb, move_to_postgres
from storage.records import JudgmentInput, Token, User
from storage.tables import SCHEMAS
from tests.storage.builders import START, Clock, fill, judge, make_prompt, make_response, make_task

LEASE_SECONDS = 600


@pytest.fixture
def url(postgres_server):
    return postgres_server.new_database()


@pytest.fixture
def server(url):
    server = Server(url, max_connections=1, application="test")
    yield server
    server.close()


def make_campaign(path, clock):
    """A file with some of everything: skips, undone and corrected judgments, renewed leases, rankings, training pairs."""
    store = open_store(path, clock=clock, rng=random.Random(0), lease_seconds=LEASE_SECONDS)
    fill(store, num_tasks=8, wanted=2)
    store.add_responses([make_response("q0-3", "q0", text="A third, with ünïcode and\nlines.", sampler={"a": [1, 2.5, None]})])
    store.add_tasks([make_task("gold", "q1", "q1-1", "q1-2", purpose="gold", wanted=0)])
    store.add_tasks([make_task("rank", "q0", "q0-1", "q0-2", more_response_ids=("q0-3",), priority=9.0)])
    store.set_campaign(Campaign(aspects=("clear",)), actor="rosa")
    store.append_event(actor="rosa", kind="task.answer", subject="gold", data={"verdict": "a"})
    [ranking] = store.lease("ann1", 1)
    said = JudgmentInput(lease_id=ranking.lease_id, verdict="a", ranking=(("a",), ("b", "c")))
    assert store.submit(said, annotator_id="ann1").status == "stored"
    judge(store, "ann1", "skip")
    undone = judge(store, "ann1", rationale='Quotes " and émoji 🙂', aspects={"clear": 2}, shown_at=START)
    store.withdraw(undone, annotator_id="ann1")
    wrong = judge(store, "ann2", "skip")
    store.correct(JudgmentInput(lease_id=wrong, verdict="both_bad", reasons=("x", "y")), annotator_id="ann2")
    held = store.lease("ann2", 2)
    clock.advance(60)
    store.renew([held[0].lease_id], "ann2")
    store.close_tasks(["t7"], actor="system", reason="test")
    store.add_user(User(id="u", name="Ada", role="annotator", annotator_id="ann0", created_at=START))
    values = {"kind": "bearer", "scope": "label", "user_id": "u", "annotator_id": "ann0", "expires_at": None}
    store.add_token(Token(id="t", sha256="hash", name="t", created_at=START, **values))
    return store


def rows_of(store):
    order = {table: "seq" if "seq" in schema.names else "renewed_at, lease_id" for table, schema in SCHEMAS.items()}
    return {table: store.query(f"SELECT * FROM {table} ORDER BY {order[table]}").to_pylist() for table in SCHEMAS}


def next_pairs(store):
    return {name: [pair.task_id for pair in store.lease(name, 9)] for name in ("ann0", "ann1", "ann2")}


def test_there_and_back_every_row_and_every_turn_is_the_same(server, url, tmp_path):
    clock = Clock()
    store = make_campaign(tmp_path / "nashloop.duckdb", clock)
    before = rows_of(store)
    for name in EXPORT_FORMATS.keys() - {"hf"}:
        write_export(store, name, tmp_path / f"{name}-file.jsonl")
    stats = store.stats()
    store.close()
    moved = move_to_postgres(tmp_path / "nashloop.duckdb", server)
    assert moved == {table: len(rows) for table, rows in before.items()}
    with pytest.raises(UserError, match="holds 17 responses already"):
        move_to_postgres(tmp_path / "nashloop.duckdb", server)
    store = open_postgres(url, clock=clock, rng=random.Random(0), lease_seconds=LEASE_SECONDS)
    assert rows_of(store) == before
    assert store.stats() == stats
    assert store.find_token("hash") is not None
    for name in EXPORT_FORMATS.keys() - {"hf"}:
        write_export(store, name, tmp_path / f"{name}-server.jsonl")
        assert (tmp_path / f"{name}-server.jsonl").read_bytes() == (tmp_path / f"{name}-file.jsonl").read_bytes()
    with pytest.raises(UserError, match="still serves that database"):
        move_to_duckdb(server, tmp_path / "back.duckdb")
    store.close()
    assert move_to_duckdb(server, tmp_path / "back.duckdb") == moved
    store = open_store(tmp_path / "back.duckdb", clock=clock, rng=random.Random(0), lease_seconds=LEASE_SECONDS)
    assert rows_of(store) == before
    given = next_pairs(store)
    store.close()
    store = open_postgres(url, clock=clock, rng=random.Random(0), lease_seconds=LEASE_SECONDS)
    assert next_pairs(store) == given
    assert sum(map(len, given.values())) > 5
    clock.advance(LEASE_SECONDS)
    assert len(store.lease("ann0", 9)) > len(given["ann0"])  # what the others let lapse
    store.close()


def test_labelling_goes_on_in_postgres_with_the_numbers_that_follow(server, url, tmp_path):
    store = make_campaign(tmp_path / "nashloop.duckdb", Clock())
    last = store.query("SELECT max(seq) AS last FROM judgments")["last"][0].as_py()
    store.close()
    move_to_postgres(tmp_path / "nashloop.duckdb", server)
    store = open_postgres(url)
    made = store.get_judgment(judge(store, "ann0"))
    assert made is not None and made.seq == last + 1
    store.close()


def test_a_row_that_postgres_cannot_keep_is_named_and_nothing_is_moved(server, tmp_path):
    store = open_store(tmp_path / "nashloop.duckdb")
    fill(store)
    store.add_prompts([make_prompt("bad", text="a\0b")])
    store.close()
    with pytest.raises(UserError, match=r"a row of prompts \(id bad\)"):
        move_to_postgres(tmp_path / "nashloop.duckdb", server)
    assert server.rows("SELECT count(*) AS n FROM policies") == [{"n": 0}]


def test_a_row_that_changed_on_the_way_stops_the_move(server, url, tmp_path):
    store = open_store(tmp_path / "nashloop.duckdb")
    fill(store)
    store.close()
    with psycopg.connect(url) as connection:  # a server that does not give back what it was given
        connection.execute("""CREATE FUNCTION damage() RETURNS trigger LANGUAGE plpgsql AS
                              $$ BEGIN NEW.text := replace(NEW.text, 'q1-2', 'q9'); RETURN NEW; END $$""")
        connection.execute("CREATE TRIGGER damage BEFORE INSERT ON responses FOR EACH ROW EXECUTE FUNCTION damage()")
    with pytest.raises(UserError, match=r"responses: a row up to seq 6 is not the same on both sides: .*'Answer q9"):
        move_to_postgres(tmp_path / "nashloop.duckdb", server)
    assert server.rows("SELECT count(*) AS n FROM responses") == [{"n": 0}]
