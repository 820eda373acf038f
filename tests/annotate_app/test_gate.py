import pytest

from annotate_app.gate import decide


def report(mean: float, low: float, high: float, **more):
    return {"status": "passed", "evaluation": {"win_rate_vs_parent": {"mean": mean, "low": low, "high": high}}, **more}


@pytest.mark.parametrize(
    ("interval", "mode", "action"),
    [
        ((0.60, 0.51, 0.69), "gate", "promote"),
        ((0.60, 0.50, 0.70), "gate", "hold"),  # one half itself is not better
        ((0.55, 0.45, 0.65), "gate", "hold"),
        ((0.40, 0.31, 0.49), "gate", "reject"),
        ((0.60, 0.51, 0.69), "manual", "hold"),
        ((0.40, 0.31, 0.49), "manual", "reject"),
    ],
)
def test_the_interval_decides(interval, mode, action):
    decision = decide(report(*interval), mode=mode)
    assert decision.action == action
    assert f"{interval[0]:.2f}" in decision.sentence


def test_a_left_limit_rejects_however_good_the_win_rate():
    decision = decide(report(0.9, 0.8, 1.0, status="failed", reasons=["KL to the parent is 9 nats."]))
    assert decision.action == "reject"
    assert "KL to the parent is 9 nats." in decision.sentence


def test_without_a_win_rate_a_researcher_decides():
    assert decide({"status": "passed", "evaluation": {}}).action == "hold"
