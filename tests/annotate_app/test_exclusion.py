"""What is known of annotators reaches API, command and page; exclusion is obeyed everywhere, and taken back whole."""

import json
from datetime import timedelta

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from annotate_app.annotators import exclude, find_annotator, include, known_of_annotators
from annotate_app.auth import issue_token
from annotate_app.browse import PairFilter, find_pairs
from annotate_app.cli import app as command_line
from annotate_app.commands.compose import open_context
from annotate_app.web import build_app
from storage.contract.settings import JobSettings
from storage.errors import UserError
from storage.exports import write_export
from storage.records import Annotator, JudgmentInput
from storage.round_export import export_job
from tests.storage.builders import START, fill, judge, make_prompt


@pytest.fixture
def many(context):
    """60 pairs of which two people in three say response 1 is better; ``bad`` says the opposite within half a second."""
    store = context.store
    store.close_tasks([task.id for task in store.open_tasks()], actor="test", reason="others are wanted")
    _add_pairs(store, 60)
    store.add_annotator(Annotator(id="bad", handle="Bad Clicker", kind="human", created_at=START))
    for who, chosen in (("ann0", "1"), ("ann1", "1"), ("ann2", "1"), ("bad", "2")):
        for pair in store.lease(who, 100):
            verdict = "a" if pair.response_a_id.endswith(chosen) else "b"
            seconds = 0.5 if who == "bad" else 9
            shown = store_now(store) - timedelta(seconds=seconds)
            answer = JudgmentInput(lease_id=pair.lease_id, verdict=verdict, shown_at=shown)
            assert store.submit(answer, annotator_id=who).status == "stored"
    return context


def _add_pairs(store, number):
    from tests.storage.builders import make_response, make_task

    names = [f"p{i}" for i in range(number)]
    store.add_prompts([make_prompt(name) for name in names])
    store.add_responses([make_response(f"{name}-{k}", name) for name in names for k in (1, 2)])
    store.add_tasks([make_task(f"task-{name}", name, f"{name}-1", f"{name}-2", wanted=4) for name in names])


def store_now(store):
    return store._state.clock()


def test_the_opposite_of_everybody_is_told_in_a_sentence(many):
    found = {person["annotator_id"]: person for person in known_of_annotators(many)["annotators"]}
    bad = found["bad"]
    assert [remark["kind"] for remark in bad["remarks"]] == ["adversarial", "fast"]
    assert "in 0 of 60 decided pairs" in bad["remarks"][0]["sentence"]
    assert bad["remarks"][0]["sentence"].startswith("More than a million to one")
    assert "100% of 60 answers came sooner" in bad["remarks"][1]["sentence"]
    assert bad["flip_rate"]["low"] > 0.9 and bad["median_seconds"]["mean"] == pytest.approx(0.5, abs=0.1)
    assert found["ann0"]["remarks"] == [] and found["ann0"]["flip_rate"]["high"] < 0.1
    assert found["ann0"]["right"]["low"] > 0.9 > found["bad"]["right"]["high"]


def test_exclusion_is_obeyed_by_exports_jobs_counts_and_the_queue_and_taken_back(many, tmp_path):
    store, bad = many.store, find_annotator(many.store, "Bad Clicker")
    before = store.count_judgments()
    with pytest.raises(UserError, match="reason is empty"):
        exclude(store, bad, actor="rosa", reason=" ")
    exclude(store, bad, actor="rosa", reason="clicks at once")
    exclude(store, bad, actor="rosa", reason="again")  # no second event
    assert store.count_judgments() == before - 60
    assert _people(store, tmp_path / "out.parquet") == {"ann0", "ann1", "ann2"}
    assert _people(store, tmp_path / "all.parquet", with_excluded=True) == {"ann0", "ann1", "ann2", "bad"}
    for name in ("trl", "arena"):
        assert write_export(store, name, tmp_path / f"{name}.jsonl") == 180
    store.add_prompts([make_prompt("held", split="heldout")])
    job = export_job(store, tmp_path / "jobs" / "0001-fit", JobSettings(), kind="fit", number=1, policy_id="policy0")
    assert set(pq.read_table(job / "judgments.parquet")["annotator_id"].to_pylist()) == {"ann0", "ann1", "ann2"}
    assert find_annotator(store, "bad") == bad and store.lease("bad", 1) == []
    found = {person["annotator_id"]: person for person in known_of_annotators(many)["annotators"]}
    assert found["bad"]["excluded"] == "clicks at once" and found["bad"]["labels"] == 60
    assert found["ann0"]["agreement_with_others"]["mean"] == 1
    include(store, bad, actor="rosa", reason="a mistake")
    assert store.count_judgments() == before
    assert [event.data["reason"] for event in store.list_events(kind_prefix="annotator.")] == ["clicks at once", "a mistake"]


def test_researchers_exclude_over_http_and_on_the_page(many):
    client = TestClient(build_app(many, pages=False))
    _, label = issue_token(many.store, name="program", scope="label")
    _, research = issue_token(many.store, name="rosa's", scope="research")
    refused = client.post("/api/v1/annotators/bad/exclude", json={"reason": "x"}, headers=_bearer(label))
    assert refused.status_code == 403
    told = client.post("/api/v1/annotators/bad/exclude", json={"reason": "clicks <at> once"}, headers=_bearer(research))
    assert told.status_code == 200 and told.json()["excluded"] == "clicks <at> once"
    page = client.get("/console/annotators/bad", headers=_bearer(research)).text
    assert "Excluded: clicks &lt;at&gt; once" in page and "Include again" in page and "to one for answering" in page
    assert "excluded</span>" in client.get("/console/annotators", headers=_bearer(research)).text
    form = {"do": "include", "reason": "looked again"}
    back = client.post("/console/annotators/bad", data=form, headers=_bearer(research), follow_redirects=False)
    assert back.status_code == 303
    assert client.get("/api/v1/annotators", headers=_bearer(research)).json()["annotators"][0]["excluded"] is None
    unknown = client.post("/api/v1/annotators/nobody/exclude", json={"reason": "x"}, headers=_bearer(research))
    assert unknown.status_code == 422 and "no annotator 'nobody'" in unknown.text


def test_the_command_excludes_and_includes(tmp_path):
    data = ["--data", str(tmp_path / "data")]
    with open_context(tmp_path / "data", create=True) as context:
        fill(context.store, wanted=2)
        judge(context.store, "ann0", "a")
    run = CliRunner().invoke
    done = run(command_line, ["annotators", "exclude", "Annotator 0", "--reason", "a test", *data])
    assert done.exit_code == 0 and "Annotator 0 is excluded" in done.stdout
    assert "Annotator 0 (excluded)" in run(command_line, ["report", "annotators", *data]).stdout
    for more, number in (([], 0), (["--with-excluded"], 1)):
        out = tmp_path / f"{number}.jsonl"
        assert run(command_line, ["export", "raw", "--out", str(out), *more, *data]).exit_code == 0
        assert len(out.read_text().splitlines()) == number
    assert run(command_line, ["annotators", "include", "Annotator 0", "--reason", "a test", *data]).exit_code == 0
    told = json.loads(run(command_line, ["report", "annotators", "--json", *data]).stdout)
    assert told["annotators"][0]["excluded"] is None


def _people(store, path, **options):
    write_export(store, "raw", path, **options)
    return set(pq.read_table(path)["annotator_id"].to_pylist())


def _bearer(secret):
    return {"authorization": f"Bearer {secret}"}


def test_an_excluded_person_makes_no_disagreement(many):
    assert find_pairs(many.store, PairFilter(only="disagreement"))["total"] == 240  # 60 pairs, four people
    exclude(many.store, find_annotator(many.store, "bad"), actor="rosa", reason="a test")
    assert find_pairs(many.store, PairFilter(only="disagreement"))["total"] == 0
    assert find_pairs(many.store, PairFilter(annotator="Bad Clicker"))["total"] == 60  # still there to look at
