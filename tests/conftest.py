"""What tests of the web app share: a store in memory, an app around it that needs no learner, and clients of it."""

import random

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_token
from annotate_app.context import AppContext
from annotate_app.rounds import RoundService
from annotate_app.web import build_app
from storage.duckdb_store import open_store
from storage.records import User
from tests.storage.builders import START, fill


@pytest.fixture
def store():
    """An empty store in memory."""
    store = open_store(rng=random.Random(0))
    yield store
    store.close()


@pytest.fixture
def context(store, tmp_path):
    """Three pairs to label, annotators ann0 to ann2; user ``ada`` (ann0), researcher ``rosa`` (ann1), admin ``root`` (ann2)."""
    fill(store)
    store.add_user(User(id="ada", name="Ada", role="annotator", annotator_id="ann0", created_at=START))
    store.add_user(User(id="rosa", name="Rosa", role="researcher", annotator_id="ann1", created_at=START))
    store.add_user(User(id="root", name="Root", role="admin", annotator_id="ann2", created_at=START))
    rounds = RoundService(store, tmp_path, model="someone/small-model")
    yield AppContext(store=store, rounds=rounds, data_dir=tmp_path, session_secret="only for tests")
    rounds.close()


@pytest.fixture
def app(context):
    """The API and the small pages, without Gradio."""
    return build_app(context, pages=False)


@pytest.fixture
def visitor(app):
    """A browser nobody has signed in with; redirects are seen, not followed."""
    return TestClient(app, follow_redirects=False, raise_server_exceptions=False)


@pytest.fixture
def client(app, context):
    """A program that labels as ann0."""
    _, secret = issue_token(context.store, name="program", scope="label", annotator_handle="Annotator 0")
    return TestClient(app, headers={"Authorization": f"Bearer {secret}"}, raise_server_exceptions=False)
