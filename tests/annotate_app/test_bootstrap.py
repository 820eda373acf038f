from datetime import UTC, datetime
from pathlib import Path

import pytest

from annotate_app.bootstrap import (
    built_in_model_dir,
    ensure_base_policy,
    ensure_prompts,
    model_location,
    model_name,
)
from storage.duckdb_store import open_store
from storage.errors import UserError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "nashloop.duckdb")
    yield store
    store.close()


def test_the_built_in_model_is_found_beside_the_learners_code():
    learner = Path(__file__).parents[2] / "online_learner"
    assert built_in_model_dir() == learner / "tiny_policy"
    assert model_location(model_name("tiny")) == str(learner / "tiny_policy")


def test_models_are_written_down_so_that_two_names_of_one_directory_agree(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_name("model") == model_name(str(tmp_path / "model")) == str(tmp_path / "model")
    assert model_name("someone/some-model") == "someone/some-model"  # a hub id


@pytest.mark.parametrize("missing", ["/nowhere/model", "./model", "a/b/c"])
def test_a_directory_that_does_not_exist_is_a_sentence(missing):
    with pytest.raises(UserError, match=f"{missing} does not exist"):
        model_name(missing)


def test_the_built_in_prompts_come_once_and_in_two_splits(store):
    ensure_prompts(store, "tiny")
    first = {prompt.id for prompt in store.list_prompts()}
    ensure_prompts(store, "tiny")
    assert {prompt.id for prompt in store.list_prompts()} == first
    assert len(store.list_prompts("train")) >= 100
    assert store.list_prompts("heldout")


def test_another_model_without_prompts_says_how_to_bring_some(store):
    with pytest.raises(UserError, match="--prompts FILE"):
        ensure_prompts(store, "someone/some-model")


def test_the_base_policy_is_made_once(store):
    base = ensure_base_policy(store, None, now=NOW)
    assert (base.number, base.base_model, base.adapter_path, base.parent_id) == (0, "tiny", None, None)
    assert ensure_base_policy(store, "tiny", now=NOW).id == base.id
    assert ensure_base_policy(store, None, now=NOW).id == base.id
    assert len(store.list_policies()) == 1


def test_a_directory_made_with_another_model_is_refused_naming_both(store):
    ensure_base_policy(store, "someone/some-model", now=NOW)
    with pytest.raises(UserError, match="someone/some-model, not tiny"):
        ensure_base_policy(store, "tiny", now=NOW)
