"""The console's sentences: pure functions, checked on records made by hand."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from annotate_app.pages import charts
from annotate_app.pages import console_text as text
from storage.records import Policy

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
REPORT = {
    "number": 2,
    "status": "passed",
    "reasons": [],
    "picked": {"rule": "onpo_ref", "step_size": 5.0},
    "picked_why": {"step_size": "no cycles were found"},
    "data": {"num_judgments": 400, "verdicts": {"a": 210, "b": 190}, "num_annotators": 8, "num_prompts": 128},
    "preference": {"models": {"bradley_terry": {"log_loss": 0.45, "accuracy": 0.84}}, "selected": "bradley_terry"},
    "audit": {"sentence": "No sign of cycles."},
    "evaluation": {
        "win_rate_vs_parent": {"mean": 0.7, "low": 0.65, "high": 0.75},
        "win_rate_vs_base": {"mean": 0.7, "low": 0.65, "high": 0.75},
        "kl_to_parent_nats": {"mean": 0.8, "low": 0.7, "high": 0.9},
        "text_quality": 0.9,
    },
    "examples": [{"prompt": "How do I boil an egg?", "before": "Put it | in water", "after": "<img src=x onerror=alert(1)>"}],
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
    shown = text.examples_table(REPORT)
    assert "<img" not in shown and "&lt;img" in shown
    assert "Put it \\| in water" in shown


def test_a_report_says_the_result_the_data_and_why_settings_were_picked():
    shown = text.report_summary(REPORT)
    assert "Round 2: passed" in shown
    assert "70 % (65 to 75)" in shown
    assert "400 judgments (210 a, 190 b) by 8 annotators" in shown
    assert "no cycles were found" in shown


def test_a_failed_report_names_its_reasons():
    shown = text.report_summary({**REPORT, "status": "failed", "reasons": ["KL to the parent is 9.1 nats, the limit is 6"]})
    assert "failed" in shown and "9.1 nats" in shown


def test_evaluation_shows_kl_in_nats_and_quality_in_percent():
    shown = text.evaluation_table(REPORT)
    assert "0.80 (0.70 to 0.90)" in shown and "90%" in shown


def test_the_evaluation_says_what_its_figures_mean():
    meaning = {"heldout_r2": "It carries over.", "kl_to_parent_nats": "It moved <b>this</b> far."}
    shown = text.evaluation_table({**REPORT, "meaning": meaning})
    assert "- **R² of the margins, held-out prompts**: It carries over." in shown
    assert "- **KL to the parent, nats**: It moved &lt;b&gt;this&lt;/b&gt; far." in shown
    assert "- **" not in text.evaluation_table(REPORT)


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


def test_intervals_draw_both_sides_of_an_uneven_interval():
    figure = charts.intervals([("vs base", {"mean": 0.7, "low": 0.6, "high": 0.75})])
    assert figure.data[0].error_x.array[0] == pytest.approx(0.05)
    assert figure.data[0].error_x.arrayminus[0] == pytest.approx(0.1)
