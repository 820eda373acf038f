"""One's own past and figures over HTTP: paging, filters, what was shown, pace, repeats."""

from datetime import UTC, datetime, timedelta

import pytest

from storage.records import JudgmentInput
from tests.storage.builders import judge, make_task

API = "/api/v1"


@pytest.fixture
def verdicts(context):
    """ann0 says a, b, skip on t0, t1, t2; ann1 has judged nothing."""
    return [judge(context.store, "ann0", verdict, rationale=f"Because {verdict}.") for verdict in ("a", "b", "skip")]


def past(client, **query):
    return client.get(f"{API}/me/judgments", params=query).json()


def test_history_is_newest_first_with_what_was_shown(client, verdicts, context):
    newest, *_, oldest = past(client)["judgments"]
    assert (newest["verdict"], oldest["verdict"]) == ("skip", "a")
    assert oldest["prompt_html"] == "<p>Question q0?</p>"
    stored = context.store.get_judgment(oldest["id"])
    assert [r["text"] for r in oldest["responses"]] == [f"Answer {stored.response_a_id}.", f"Answer {stored.response_b_id}."]
    assert [r["html"] for r in oldest["responses"]] == [f"<p>{r['text']}</p>" for r in oldest["responses"]]
    assert (oldest["current"], oldest["corrections"], oldest["kind"]) == (True, 0, "pair")
    assert "response_a_id" not in oldest


def test_pages_follow_each_other_without_gaps(client, verdicts):
    first = past(client, limit=2)
    second = past(client, limit=2, before=first["next_before"])
    assert [j["id"] for j in first["judgments"] + second["judgments"]] == verdicts[::-1]
    assert second["next_before"] is None
    assert past(client, limit=3)["next_before"] is None


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"verdict": "b"}, ["b"]),
        ({"q": "QUESTION q1"}, ["b"]),  # the prompt
        ({"q": "answer q0-2"}, ["a"]),  # a response
        ({"q": "because skip"}, ["skip"]),  # the rationale
        ({"q": "because", "verdict": "a"}, ["a"]),
        ({"q": "100%_nothing"}, []),
    ],
)
def test_history_is_filtered_by_verdict_and_words(client, verdicts, query, found):
    assert [j["verdict"] for j in past(client, **query)["judgments"]] == found


def test_a_corrected_judgment_is_there_once_with_its_number_of_corrections(client, verdicts):
    client.post(f"{API}/judgments/{verdicts[0]}/correct", json={"verdict": "tie"})
    newest = past(client)["judgments"][0]
    assert (newest["verdict"], newest["corrections"], newest["supersedes"]) == ("tie", 1, verdicts[0])
    assert len(past(client)["judgments"]) == 3


def test_somebody_elses_judgments_are_not_in_it(client, context):
    judge(context.store, "ann1")
    assert past(client) == {"judgments": [], "next_before": None}


def test_figures_about_oneself(client, context):
    now = datetime.now(UTC)
    for verdict, seconds in (("a", 10), ("a", 30), ("skip", 500)):
        [pair] = context.store.lease("ann0", 1)
        said = JudgmentInput(lease_id=pair.lease_id, verdict=verdict, shown_at=now - timedelta(seconds=seconds))
        context.store.submit(said, annotator_id="ann0")
    shown = client.get(f"{API}/me/stats", params={"since": (now - timedelta(hours=1)).isoformat()}).json()
    assert (shown["today"], shown["total"]) == (2, 2)
    assert shown["seconds_median"] == pytest.approx(30, abs=1)
    assert shown["verdict_shares"] == pytest.approx({"a": 2 / 3, "b": 0, "tie": 0, "both_bad": 0, "skip": 1 / 3})
    assert (shown["first_side_share"], shown["repeats"], shown["training"]) == (1.0, None, None)
    assert len(shown["per_hour"]) == 8
    assert sum(n for _, n in shown["per_hour"]) == 2


def test_without_judgments_every_figure_is_empty(client):
    shown = client.get(f"{API}/me/stats").json()
    assert (shown["total"], shown["seconds_median"], shown["first_side_share"], shown["repeats"]) == (0, None, None, None)
    assert set(shown["verdict_shares"].values()) == {0.0}


def test_repeats_compare_the_response_that_won_whatever_its_side(client, context):
    store = context.store
    store.add_tasks([make_task(f"again{i}", f"q{i}", f"q{i}-2", f"q{i}-1", purpose="repeat") for i in range(2)])
    wanted = {"t0": "q0-1", "again0": "q0-1", "t1": "q1-1", "again1": "q1-2"}  # alike on q0, not on q1
    while pairs := store.lease("ann0", 1):
        won = wanted.get(pairs[0].task_id, "none")
        verdict = {pairs[0].response_a_id: "a", pairs[0].response_b_id: "b"}.get(won, "tie")
        store.submit(JudgmentInput(lease_id=pairs[0].lease_id, verdict=verdict), annotator_id="ann0")
    assert client.get(f"{API}/me/stats").json()["repeats"] == {"n": 2, "consistent": 1}
