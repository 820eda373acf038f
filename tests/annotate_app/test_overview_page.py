"""The console's overview and its page about the running job: figures from a store, sentences from figures."""

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_token
from annotate_app.pages.now_html import curves, now_page
from annotate_app.pages.overview import Overview
from annotate_app.pages.overview_figures import next_step, read_figures
from annotate_app.pages.overview_html import cards
from annotate_app.progress import JobProgress
from storage.campaign import Campaign
from storage.records import Annotator, Judgment, JudgmentInput
from tests.annotate_app.finished_rounds import HOSTILE, add_finished_round
from tests.storage.builders import START, judge, make_task


def job(**changes):
    values = {
        "number": 7, "kind": "round", "status": "running", "stage": "update", "stage_index": 4, "num_stages": 7,
        "fraction": 0.5, "message": "step 12 of 40", "elapsed_s": 20.0, "remaining_s": 20.0, "metrics": [],
    }  # fmt: skip
    return JobProgress(**(values | changes))


def now_of(store):
    return store.list_judgments()[0].submitted_at + timedelta(seconds=1)


def shown(figures):
    return {label: (number, remark) for number, label, remark in cards(figures)}


def test_verdicts_people_and_the_queue_are_counted(context):
    store = context.store
    for verdict in ("a", "a", "tie"):
        judge(store, "ann0", verdict)
    figures = read_figures(context, now_of(store))
    assert (figures.judgments, figures.last_hour, figures.since_last_round, figures.pairs_open) == (3, 3, 3, 0)
    assert figures.verdicts == {"a": 2, "b": 0, "tie": 1, "both_bad": 0, "skip": 0}
    [ada] = figures.people
    assert (ada.name, ada.is_here, ada.judgments) == ("Annotator 0", True, 3)
    assert figures.per_hour[-1] == 3 and sum(figures.per_hour) == 3
    assert shown(figures)["first shown wins"][0] == "100%"  # two of two
    assert shown(figures)["ties"] == ("33%", "0% both bad, 0% skipped")


def test_agreement_is_of_the_response_favoured_not_of_the_side(context):
    store = context.store
    store.add_tasks([make_task(f"twice{i}", "q0", "q0-1", "q0-2", wanted=2, priority=9.0) for i in range(2)])
    favoured = {"twice0": ("q0-1", "q0-1"), "twice1": ("q0-1", "q0-2")}
    for place, annotator in enumerate(("ann0", "ann1")):
        for pair in store.lease(annotator, 2):
            verdict = "a" if pair.response_a_id == favoured[pair.task_id][place] else "b"
            store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=verdict), annotator_id=annotator)
    agreement = read_figures(context, now_of(store)).agreement
    assert agreement is not None and (agreement["mean"], agreement["n"]) == (0.5, 2)


def test_imported_judgments_are_told_apart(context):
    store = context.store
    store.add_annotator(Annotator(id="elsewhere", handle="elsewhere", kind="imported", created_at=START))
    imported = Judgment(
        id="i1", seq=0, task_id="t0", annotator_id="elsewhere", prompt_id="q0", response_a_id="q0-1", response_b_id="q0-2",
        verdict="b", strength=None, aspects={}, rationale=None, reasons=(), edited_text=None, shown_at=None,
        submitted_at=START, supersedes=None,
    )  # fmt: skip
    store.add_imported_judgments([imported])
    judge(store, "ann0")
    figures = read_figures(context, now_of(store))
    assert (figures.judgments, figures.imported, figures.verdicts["b"]) == (1, 1, 0)
    assert shown(figures)["judgments"][1] == "1 in the last hour, and 1 imported"


def test_prices_and_budgets_become_cards_only_where_they_are_set(context):
    judge(context.store, "ann0")
    assert "labels left" not in shown(read_figures(context, now_of(context.store)))
    campaign = Campaign(price_per_label=0.25, currency="EUR", budget_labels=9)
    context.store.set_campaign(campaign, actor="rosa")
    told = shown(read_figures(context, now_of(context.store)))
    assert told["EUR so far"] == ("0.25", "0.25 for each label")
    assert told["labels left"] == ("8", "of a budget of 9: EUR 2.00")  # 8 x .25
    context.store.set_campaign(Campaign(budget_labels=1), actor="rosa")
    assert "The budget of 1 labels is spent" in next_step(read_figures(context, now_of(context.store)))


def test_the_next_step_follows_the_campaign(context, store):
    figures = read_figures(context, START)
    assert "Invite annotators" in next_step(figures)
    judge(store, "ann0")
    assert "19 more judgments" in next_step(read_figures(context, now_of(store)))
    add_finished_round(context)
    assert "Label the new responses" in next_step(read_figures(context, now_of(store)))


@pytest.mark.parametrize("verdict", ["b", "skip"])
def test_a_page_is_kept_until_something_is_written(context, verdict):
    times = iter([START + timedelta(seconds=5 * i) for i in range(9)])
    overview = Overview(context, clock=lambda: next(times))
    first = overview.read()
    assert overview.read() is first
    judge(context.store, "ann0", verdict)
    assert overview.read() != first


def test_a_running_job_tells_stage_share_and_time_left():
    page = now_page(job(), "")
    assert "<strong>Round 7</strong> runs, stage 4 of 7: Policy update, 50%, about 20 s left." in page
    assert '<progress max="1" value="0.500"' in page and "step 12 of 40" in page


def test_a_stopped_job_shows_its_log_as_text():
    page = now_page(job(status="failed", message="It ran out of memory."), f"last words {HOSTILE}")
    assert "It ran out of memory." in page and "last words" in page
    assert "<script>alert" not in page and "<img" not in page


def test_curves_are_of_metrics_that_have_more_than_one_reading():
    lines = [{"at": "t", "update/loss": 3.0, "once": 1.0}, {"update/loss": 2.0}, {"update/loss": 1.0}]
    assert curves(lines) == {"update/loss": [3.0, 2.0, 1.0]}
    assert "<polyline" in now_page(job(metrics=lines), "")


def test_the_overview_is_sent_once_and_then_only_when_it_changes(app, client, context):
    _, secret = issue_token(context.store, name="researcher", scope="research")
    researcher = TestClient(app, headers={"Authorization": f"Bearer {secret}"})
    for path in ("/api/v1/overview.html", "/api/v1/now.html"):
        first = researcher.get(path)
        assert first.status_code == 200 and "<main" in first.text
        assert researcher.get(path, headers={"if-none-match": first.headers["etag"]}).status_code == 304
        assert client.get(path).status_code == 403
