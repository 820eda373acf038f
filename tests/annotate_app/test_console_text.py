"""The console's sentences: pure functions, checked on records made by hand."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from annotate_app.pages import charts
from annotate_app.pages import console_text as text
from storage.records import Policy

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
REPORT = {
    "evaluation": {
        "win_rate_vs_parent": {"mean": 0.7, "low": 0.65, "high": 0.75},
        "win_rate_vs_base": {"mean": 0.7, "low": 0.65, "high": 0.75},
    },
}


def policy(number: int, status: str = "candidate") -> Policy:
    return Policy(
        id=f"p{number}", number=number, base_model="m", base_revision=None, adapter_path=None, adapter_sha256=None,
        parent_id=f"p{number - 1}" if number else None, round_id=None, status=status, created_at=NOW,
    )  # fmt: skip


@pytest.mark.parametrize(("seconds", "said"), [(None, "–"), (40.4, "40 s"), (180, "3 min"), (7200, "2.0 h")])
def test_a_duration_is_said_in_one_unit(seconds, said):
    assert text.duration(seconds) == said


def test_hostile_text_cannot_become_markup_or_break_a_table():
    shown = text.table(["prompt"], [["Put it | in <img src=x onerror=alert(1)> water"]])
    assert "<img" not in shown and "&lt;img" in shown
    assert "Put it \\| in" in shown


def test_policies_are_listed_newest_first_with_their_parents():
    rows = text.policies_rows([policy(0, "retired"), policy(1, "serving")], {"p1": REPORT})
    assert [row[:3] for row in rows] == [["policy 1", "serving", "base"], ["base", "retired", "–"]]
    assert rows[0][3] == "70 % (65 to 75)"


def test_progress_of_a_running_job_tells_stage_share_and_time_left():
    running = SimpleNamespace(
        kind="round", number=7, status="running", stage="update", stage_index=4, num_stages=7, fraction=0.5,
        remaining_s=20.0, message="step 12 of 40",
    )  # fmt: skip
    shown = text.progress_text(running)
    assert "stage 4 of 7: Policy update · 50% · about 20 s left" in shown
    assert '<progress max="1" value="0.500">' in shown


def test_metric_curves_draw_one_panel_per_metric_that_has_a_curve():
    figure = charts.metric_curves([{"update/loss": 3.0, "once": 1.0}, {"update/loss": 2.0}, {"update/loss": 1.0}])
    assert [list(trace.y) for trace in figure.data] == [[3.0, 2.0, 1.0]]


def test_an_interval_without_limits_still_shows_its_mean():
    assert text.interval({"mean": 1.234, "low": None, "high": None}, percent=False) == "1.23 (– to –)"
