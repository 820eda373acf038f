"""schemathesis on the OpenAPI document: whatever is sent, valid or not, no route answers 5xx.

A few cases of every route by default; 5,000 of each with ``scripts/test --all``.
"""

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotate_app.auth import issue_token
from annotate_app.context import AppContext
from annotate_app.rounds import RoundService
from annotate_app.web import build_app
from storage.contract.settings import build_settings
from storage.duckdb_store import open_store
from storage.records import User
from tests.storage.builders import START, fill, judge

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: scripts/setup --test")
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
FEW = 4  # of each of the two modes
MANY = int(os.environ.get("NASHLOOP_SCHEMA_CASES", "200")) // 2  # 5000 a route take some hours


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """A store with one of everything; a job's process ends at once and leaves nothing."""
    data = tmp_path_factory.mktemp("schema")
    store = open_store(rng=random.Random(0))
    fill(store, num_tasks=40)
    store.add_user(User(id="ada", name="Ada", role="annotator", annotator_id="ann0", created_at=START))
    judge(store, "ann0", "a")
    rounds = RoundService(store, data, model="someone/small-model", command=["/bin/true"])
    rounds.start(build_settings({"kind": "generate"}), actor="ada", policy_id="policy0")
    assert rounds.wait(1, 30).status == "failed"
    yield AppContext(store=store, rounds=rounds, data_dir=data, session_secret="only for tests")
    rounds.close(stop_jobs=True)
    store.close()


@pytest.fixture(scope="module")
def schema(context):
    """The app's own document, asked with a token that may do everything."""
    _, secret = issue_token(context.store, name="schema", scope="admin", annotator_handle="Annotator 1")
    bearer = {"Authorization": f"Bearer {secret}"}
    found = schemathesis.openapi.from_asgi("/openapi.json", build_app(context, pages=False), headers=bearer)
    return found, bearer


def failures_of(schema, context, cases):
    """``METHOD path: what was sent`` of every answer above 499."""
    found, bearer = schema
    failures = []
    for result in found.get_all_operations():
        operation = result.ok()
        for mode in MODES:
            try:
                strategy = operation.as_strategy(generation_mode=mode)
            except schemathesis.errors.SchemathesisError:  # a route without parameters has nothing that could be wrong
                continue
            if told := first_failure(strategy, bearer, known_values(context), cases):
                failures.append(told)
    return failures


def known_values(context):
    """Ids that exist, by the names that routes give them: strangers' ids alone never get far."""
    [pair] = context.store.lease("ann1", 1, resume=True)
    [done] = context.store.list_judgments(annotator_id="ann0", limit=1)
    return {
        "number": 1, "user_id": "ada", "judgment_id": done.id, "lease_id": pair.lease_id, "task_id": done.task_id,
        "format_name": "raw", "what": "prompts", "annotator_id": "ann0", "policy": 0, "filename": "p.jsonl",
    }  # fmt: skip


def first_failure(strategy, bearer, known, cases):
    told = []

    @settings(max_examples=cases, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=strategy, with_known=st.booleans())
    def ask(case, with_known):
        if told:
            return
        if with_known:
            for place in (case.path_parameters, case.query, case.body):
                if isinstance(place, dict):
                    place.update({name: known[name] for name in place if name in known})
        what = f"{case.method} {case.formatted_path} {case.query} {case.body!r}"
        try:
            answer = case.call(headers={**(case.headers or {}), **bearer})
        except Exception as error:  # without a server between, what would be a 500 comes as it was raised
            told.append(f"{what}: {error!r}")
            return
        if answer.status_code >= 500:
            told.append(f"{what}: {answer.status_code} {answer.text}")

    ask()
    return told[0] if told else None


def test_no_route_answers_5xx(schema, context):
    failures = failures_of(schema, context, FEW)
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_no_route_answers_5xx_in_many_cases(schema, context):
    failures = failures_of(schema, context, MANY)
    assert not failures, "\n".join(failures)


def test_the_search_finds_a_route_that_fails(context):
    """Else an empty list would say nothing."""
    app = build_app(context, pages=False)

    def broken(number: int) -> int:
        return 1 // (number - number)

    app.add_api_route("/api/v1/broken/{number}", broken)
    app.router.routes.insert(0, app.router.routes.pop())
    _, secret = issue_token(context.store, name="s", scope="admin", annotator_handle="Annotator 1")
    bearer = {"Authorization": f"Bearer {secret}"}
    found = schemathesis.openapi.from_asgi("/openapi.json", app, headers=bearer).include(path="/api/v1/broken/{number}")
    assert len(failures_of((found, bearer), context, FEW)) >= 1
