from typing import Any

import pytest

from annotate_app.gate import Tally, decide, decide_by_votes


def report(mean: float, low: float, high: float, **more) -> Any:
    return {"status": "passed", "evaluation": {"win_rate_vs_parent": {"mean": mean, "low": low, "high": high}}, **more}


@pytest.mark.parametrize(
    ("interval", "mode", "action"),
    [
        ((0.60, 0.51, 0.69), "model", "promote"),
        ((0.60, 0.50, 0.70), "model", "hold"),  # one half itself is not better
        ((0.55, 0.45, 0.65), "model", "hold"),
        ((0.40, 0.31, 0.49), "model", "reject"),
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


def test_people_decide_whatever_the_model_expects():
    assert decide(report(0.4, 0.31, 0.49), mode="human").action == "hold"
    assert decide(report(0.9, 0.8, 1.0, status="failed"), mode="human").action == "reject"


def test_without_a_win_rate_a_researcher_decides():
    assert decide({"status": "passed", "evaluation": {}}).action == "hold"


def test_twelve_wins_in_a_row_promote_and_eleven_do_not():
    # (1.1^11 + 1.2^11 + 1.4^11) / 3 = 16.9, (1.1^12 + 1.2^12 + 1.4^12) / 3 = 22.9; the claim is refuted at 20
    assert decide_by_votes([Tally(wins=11)]).action == "hold"
    assert decide_by_votes([Tally(wins=12)]).action == "promote"
    assert decide_by_votes([Tally(losses=12)]).action == "reject"


def test_ties_count_one_half_in_the_rate_and_neither_promote_nor_reject():
    gate = decide_by_votes([Tally(wins=3, ties=4, losses=1), Tally(wins=2)])
    assert (gate.votes, gate.annotators, gate.win_rate) == (10, 2, 0.7)  # (5 + 4 / 2) / 10
    assert decide_by_votes([Tally(wins=12, ties=50)]).action == "promote"
    assert decide_by_votes([Tally(ties=500)]).action == "hold"


def test_people_who_disagree_with_each_other_make_the_gate_wait():
    mixed = [Tally(wins=15, losses=9)] * 8
    split = [Tally(wins=24)] * 5 + [Tally(losses=24)] * 3
    assert decide_by_votes(mixed).win_rate == decide_by_votes(split).win_rate == 0.625
    assert decide_by_votes(mixed).action == "promote"
    gate = decide_by_votes(split)
    assert gate.action == "hold"
    assert gate.design_effect == pytest.approx(24)  # 1 + 1 (24 - 1): each annotator counts as one vote
    assert gate.more_needed is None  # more votes of the same eight people decide nothing
    assert "no decision in sight" in gate.sentence


def test_the_forecast_is_the_number_of_votes_that_decides_at_the_same_rates():
    gate = decide_by_votes([Tally(wins=6, losses=4)])
    assert gate.more_needed is not None

    # wins 6 in 10: the evidence after n votes is the mean over f of (1 + f)^.6n (1 - f)^.4n
    def capital(n: int) -> float:
        return sum((1 + f) ** (0.6 * n) * (1 - f) ** (0.4 * n) for f in (0.1, 0.2, 0.4)) / 3

    assert capital(10 + gate.more_needed) >= 20 > capital(9 + gate.more_needed)
    assert f"about {gate.more_needed} more votes" in gate.sentence


def test_few_votes_of_people_who_seem_to_differ_allow_no_forecast():
    early = decide_by_votes([Tally(wins=6), Tally(wins=2, losses=3)])
    assert early.design_effect > 1
    assert (early.action, early.more_needed) == ("hold", None)
    assert early.sentence.endswith("in 11 blind votes of 2 annotators.")


def test_a_higher_threshold_needs_more():
    assert decide_by_votes([Tally(wins=20, losses=4)]).action == "promote"
    assert decide_by_votes([Tally(wins=20, losses=4)], threshold=0.7).action == "hold"
    assert decide_by_votes([]).sentence == "No votes yet."
