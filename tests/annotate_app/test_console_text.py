"""The console's sentences: pure functions, checked on records made by hand."""

from datetime import UTC, datetime

import pytest

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


def test_an_interval_without_limits_still_shows_its_mean():
    assert text.interval({"mean": 1.234, "low": None, "high": None}, percent=False) == "1.23 (– to –)"
