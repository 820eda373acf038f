"""A forgotten person is named nowhere: not in memory, not in the tables, and after the next start in no byte of the files."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from storage.accounts import forgotten_name
from storage.duckdb_store import open_store
from storage.exports import write_export
from storage.records import Annotator, Credential, JudgmentInput, Token, User
from tests.storage.builders import START, fill

NAME, ADDRESS, SAID, HOST = "Wilhelmina Quux", "quux@uni.example", "as I told my doctor", "203.0.113.77"
SESSION = "session-at-the-platform-77"
PERSONAL = (NAME, ADDRESS, HOST, SESSION)
PSEUDONYM = forgotten_name("u1")


def add_person(store):
    """A person with a password, a linked account, a session, a judgment with a rationale, a note, a flag and a lock."""
    fill(store, num_tasks=3, num_annotators=1)
    store.add_annotator(Annotator(id="me", handle=NAME, kind="human", created_at=START))
    store.add_user(User(id="u1", name=NAME, role="annotator", annotator_id="me", created_at=START))
    store.add_user(User(id="u2", name="Somebody else", role="admin", annotator_id="ann0", created_at=START))
    store.add_token(
        Token(id="s1", sha256="h1", kind="session", name=NAME, scope="label", user_id="u1", annotator_id="me",
              expires_at=None, created_at=START)
    )  # fmt: skip
    store.add_credential(Credential(id="c1", user_id="u1", kind="oidc", secret=f"https://idp {ADDRESS}", created_at=START))
    [pair] = store.lease("me", 1)
    store.submit(JudgmentInput(lease_id=pair.lease_id, verdict="a", rationale=SAID), annotator_id="me")
    store.append_event(actor="u1", kind="note.sent", subject="me", data={"text": f"I am {NAME}", "task_id": None})
    flag = {"annotator_id": "me", "reason": "odd", "comment": f"write to {ADDRESS}", "lease_id": pair.lease_id}
    store.append_event(actor="u1", kind="pair.flagged", subject=pair.task_id, data=flag)
    joined = {"study": "s", "annotator_id": "me", "session": SESSION, "platform_study": "p"}
    store.append_event(actor="u1", kind="crowd.joined", subject="u1", data=joined)
    store.append_event(actor="system", kind="user.locked", subject="u1", data={"from": HOST})


def tables(store):
    names = ("users", "annotators", "tokens", "credentials", "events", "judgments")
    return json.dumps([store.query(f"SELECT * FROM {name}").to_pylist() for name in names], default=str)


def test_a_forgotten_person_is_out_and_named_nowhere_and_their_judgments_stay(reopen, tmp_path):
    store = reopen()
    add_person(store)
    assert all(word in tables(store) for word in (*PERSONAL, SAID))
    store.forget_user("u1", actor="u2")
    for _ in range(2):  # now, and as it is read from the tables
        user = store.get_user("u1")
        assert user is not None and (user.name, user.disabled) == (PSEUDONYM, True)
        assert store.find_token("h1") is None
        assert store.get_annotator(NAME) is None
        assert [a.id for a in store.list_annotators() if a.handle == PSEUDONYM] == ["me"]
        assert [c.secret for c in store.list_credentials()] == ["forgotten c1"]
        [judgment] = store.list_judgments(annotator_id="me")
        assert (judgment.verdict, judgment.rationale) == ("a", SAID)
        told = tables(store)
        assert not [word for word in PERSONAL if word in told]
        assert "Somebody else" in told
        [flag] = store.list_events(kind_prefix="pair.flagged")
        assert (flag.data["reason"], flag.data["comment"], flag.data["annotator_id"]) == ("odd", None, "me")
        store = reopen()
    write_export(store, "raw", tmp_path / "out.jsonl", with_names=True)
    assert NAME not in (tmp_path / "out.jsonl").read_text()
    [event] = store.list_events(kind_prefix="user.forgotten")
    assert (event.actor, event.subject, event.data) == ("u2", "u1", {"texts": False})


def test_what_they_wrote_goes_too_where_that_is_asked(reopen):
    store = reopen()
    add_person(store)
    store.get_judgment(store.list_judgments(annotator_id="me")[0].id)  # kept in memory
    store.forget_user("u1", actor="u2", texts=True)
    for _ in range(2):
        [judgment] = store.list_judgments(annotator_id="me")
        assert (judgment.verdict, judgment.rationale) == ("a", None)
        kept = store.get_judgment(judgment.id)
        assert kept is not None and kept.rationale is None
        assert SAID not in tables(store)
        store = reopen()


def test_forgetting_twice_changes_nothing_more(store):
    add_person(store)
    store.forget_user("u1", actor="u2")
    before = store.list_users(), store.list_annotators(), store.list_credentials()
    store.forget_user("u1", actor="u2")
    assert (store.list_users(), store.list_annotators(), store.list_credentials()) == before


def test_another_replica_forgets_with_its_next_look(request):
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: pip install 'nashloop[postgres]'")
    from storage.postgres_store import open_postgres

    place = request.getfixturevalue("postgres_server").new_database()
    one, two = open_postgres(place), open_postgres(place)
    try:
        add_person(one)
        assert NAME in tables(two)  # its reading copy has them
        one.forget_user("u1", actor="u2", texts=True)
        assert not [word for word in (*PERSONAL, SAID) if word in tables(two)]
        assert two.find_token("h1") is None
        user = two.get_user("u1")
        assert user is not None and user.name == PSEUDONYM
    finally:
        one.close()
        two.close()


def counts(store):
    return [store.query(f"SELECT count(*) AS n FROM {table}")["n"][0].as_py() for table in ("judgments", "events", "leases")]


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_no_byte_of_the_files_names_them_after_the_next_start(tmp_path):
    path = tmp_path / "data" / "db"
    store = open_store(path)
    add_person(store)
    store.close()
    assert NAME.encode() in bytes_of(path.parent)
    store = open_store(path)
    store.forget_user("u1", actor="u2", texts=True)
    before = counts(store)
    store.close()
    store = open_store(path)  # the database and its journal are made anew
    assert counts(store) == before
    assert not [word for word in (*PERSONAL, SAID) if word.encode() in bytes_of(path.parent)]
    store.add_annotator(Annotator(id="new", handle="new", kind="human", created_at=START))  # and it goes on
    store.close()
    store = open_store(path)
    assert store.get_annotator("new") is not None
    assert not (path.parent / "db.rewrite").exists()
    store.close()


def test_a_start_that_was_interrupted_while_it_rewrote_does_it_again(tmp_path, monkeypatch):
    path = tmp_path / "db"
    store = open_store(path)
    add_person(store)
    store.forget_user("u1", actor="u2")
    store.close()

    def killed(*names):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("storage.forgetting.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            open_store(path)
    store = open_store(path)
    assert [user.name for user in store.list_users()] == [PSEUDONYM, "Somebody else"]
    assert len(store.list_judgments()) == 1
    store.close()
    assert not [word for word in PERSONAL if word.encode() in bytes_of(tmp_path)]


def test_undoing_a_forgetting_that_was_not_committed_brings_everything_back(store):
    from storage.accounts import Accounts

    accounts = Accounts()
    user = User(id="u1", name=NAME, role="annotator", annotator_id="me", created_at=START)
    annotator = Annotator(id="me", handle=NAME, kind="human", created_at=START)
    accounts.add(user)
    accounts.add(annotator)
    undo = accounts.apply("user.forgotten", "u1")
    assert accounts.users["u1"] == replace(user, name=PSEUDONYM, disabled=True)
    undo()
    assert (accounts.users["u1"], accounts.annotators["me"]) == (user, annotator)
