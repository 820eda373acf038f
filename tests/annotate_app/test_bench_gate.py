"""The gate's errors by simulation; docs/experiments.md has the table of 2,000 comparisons each."""

import json
import sys

import pytest

from annotate_app.bench_gate import SCENARIOS, measure_gate
from annotate_app.cli import main


def test_looking_after_every_vote_the_gate_promotes_few_equals_and_most_that_are_better():
    rows = {(row["win_rate"], row["ties"], row["annotators"], row["correlation"]): row for row in measure_gate(comparisons=800)}
    for ties in (0.0, 0.3):
        equal = rows[0.5, ties, 8, 0.0]
        assert equal["promoted"] <= 0.05
        assert equal["rejected"] <= 0.05
        assert equal["promoted_peeking"] > 0.2  # what looking at a fixed-sample test after every vote does
    assert rows[0.6, 0.0, 8, 0.0]["promoted"] > 0.76  # .807 of 2,000; three standard errors of 800 are .042
    clustered = rows[0.5, 0.0, 8, 0.05]
    assert clustered["promoted"] < clustered["promoted_ignoring_clusters"] - 0.02


def test_the_command_prints_a_row_for_every_scenario(monkeypatch, capsys):
    def bench(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["nashloop", "bench", "gate", "--comparisons", "20", "--votes", "40", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code
        return capsys.readouterr().out

    rows = json.loads(bench("--json"))["results"]
    assert len(rows) == len(SCENARIOS)
    lines = bench().strip().splitlines()
    assert len(lines) == len(SCENARIOS) + 2
    assert f"| {rows[5]['win_rate']:.2f} |" in lines[7] and f"| {rows[5]['promoted']:.3f} |" in lines[7]
