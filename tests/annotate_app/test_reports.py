"""`nashloop report annotators|policies|intransitivity`: counts by hand, real judgments, and the commands on a campaign."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from annotate_app.commands.compose import open_context
from annotate_app.reports.annotators import annotators_report
from annotate_app.reports.intransitivity import intransitivity_text
from annotate_app.reports.policies import lineage, policies_report
from annotate_app.reports.texts import policies_text
from annotate_app.trust_estimates import share
from tests.storage.builders import fill, judge

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "multi_annotator"
START = datetime(2026, 1, 1, tzinfo=UTC)


def nashloop(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "annotate_app.cli", "report", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def row(who: str, first: str, second: str, verdict: str, *, seconds: float = 10, **more) -> dict:
    values = {
        "annotator_id": who, "annotator": who.title(), "annotator_kind": "human", "response_a_id": first,
        "response_b_id": second, "verdict": verdict, "standing": True, "shown_at": START,
        "submitted_at": START + timedelta(seconds=seconds), "purpose": "label", "policy_a_id": "p0", "policy_b_id": "p0",
    }  # fmt: skip
    return values | more


def test_annotators_by_hand():
    rows = [
        row("ann", "x", "y", "a", seconds=4), row("bob", "y", "x", "b"), row("cy", "x", "y", "b"),  # ann and bob prefer x
        row("ann", "y", "x", "b", seconds=8),  # the repeat, turned: the same
        row("ann", "v", "w", "a", seconds=6), row("ann", "w", "v", "a", seconds=6),  # a repeat answered otherwise
        row("ann", "x", "z", "skip"), row("ann", "x", "q", "a", standing=False),
    ]  # fmt: skip
    figures = annotators_report(rows, {"preference": {"annotator_flips": {"ann": 0.12}, "position_bias": 0.3}})
    assert [person["scale"] for person in figures["annotators"]] == [None, None, None]
    ann, bob, cy = figures["annotators"]
    assert (ann["annotator"], ann["labels"], ann["skips"], ann["flip_rate_model"], ann["median_seconds"]["mean"]) == (
        "Ann",
        4,
        1,
        0.12,
        6,
    )
    assert (ann["agreement_with_others"]["mean"], ann["agreement_with_others"]["n"]) == (0.5, 2)
    assert (ann["repeat_consistency"]["mean"], ann["repeat_consistency"]["n"]) == (0.5, 2)
    assert (ann["first_shown_wins"]["mean"], ann["first_shown_wins"]["n"]) == (0.75, 4)
    assert (bob["agreement_with_others"]["mean"], cy["agreement_with_others"]["mean"]) == (0.5, 0.0)
    assert bob["repeat_consistency"] is None and cy["flip_rate_model"] is None
    assert ann["right"]["mean"] > cy["right"]["mean"] < bob["right"]["mean"]  # two against one
    assert cy["flip_rate"]["mean"] > 0.5 and ann["flip_rate"] is None  # of ann's pair, bob and cy say different things
    assert figures["position_bias_logit"] == 0.3


def test_the_interval_of_a_share_is_wilsons():
    from statsmodels.stats.proportion import proportion_confint

    found = share(7, 20)
    assert found is not None
    assert (found["low"], found["high"]) == pytest.approx(proportion_confint(7, 20, method="wilson"), abs=1e-6)
    assert share(0, 0) is None


def test_policies_by_hand():
    policies = [
        {"id": "p0", "number": 0, "parent": None, "round": None, "status": "retired"},
        {"id": "p1", "number": 1, "parent": 0, "round": 2, "status": "serving"},
    ]
    report = {"evaluation": {"win_rate_vs_parent": {"mean": 0.6, "low": 0.55, "high": 0.65}}}
    across = {"policy_a_id": "p0", "policy_b_id": "p1"}
    rows = [row("ann", "x", "y", "b", **across), row("bob", "x", "y", "tie", **across), row("ann", "x", "y", "a")]
    figures = policies_report(policies, {2: report}, rows)
    assert figures["policies"][1]["win_rate_vs_parent"]["mean"] == 0.6
    [votes] = figures["votes"]
    assert (votes["policy"], votes["opponent"], votes["wins"], votes["ties"], votes["losses"]) == (1, 0, 1, 1, 0)
    assert votes["win_rate"]["mean"] == 0.75  # a win and half a tie, of 2
    assert [(c["policy"], c["opponent"], c["win_rate"]["mean"]) for c in figures["people"]["matrix"]] == [
        (0, 1, 0.25),
        (1, 0, 0.75),
    ]
    base, better = figures["people"]["table"]
    assert base["rating"]["mean"] == 1000 < better["rating"]["mean"]
    assert better["nash"]["weight"] == pytest.approx(1, abs=1e-3)
    assert better["against"]["style"] is None  # two votes tell nothing of style
    assert figures["model"]["table"][1]["against"]["votes"]["mean"] == pytest.approx(0.6)
    text = policies_text(figures)
    assert "By people's votes:" in text and "As preference models expect, no votes:" in text
    assert lineage(3, {3: 1, 1: 0, 0: None, 2: 1}) == [3, 1, 0]


@pytest.mark.skipif(not DATA.exists(), reason="needs the public judgments in ../shared/data/multi_annotator")
def test_real_votes_cannot_tell_and_the_report_says_what_would(tmp_path):
    ran = nashloop("intransitivity", "--input", str(DATA / "qa_feedback_pairs_dev.parquet"), "--json")
    figures = json.loads(ran.stdout)
    assert figures["cyclic"] is None and figures["triads"]["circular"] == 0 < figures["triads"]["decided"]
    assert figures["labels_per_pair"] == 1.0 and figures["labels_per_pair_needed"] >= 2
    assert "cannot tell" in intransitivity_text(figures)


def test_a_condorcet_circle_in_a_file_is_found_and_explained(tmp_path):
    people = {"ann": "ab bc ac", "bob": "bc ca ba", "cy": "ca ab cb"}  # consistent, and the majority goes in a circle
    lines = ["prompt_id,response_a_id,response_b_id,verdict,annotator"]
    lines += [
        f"q{q},{x},{y},a,{who}{copy}"
        for q in range(30)
        for who, pairs in people.items()
        for copy in range(3)
        for x, y in pairs.split()
    ]
    path = tmp_path / "votes.csv"
    path.write_text("\n".join(lines))
    ran = nashloop("intransitivity", "--input", str(path))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("These preferences contain cycles.")
    assert "30 of 30 triads are circular" in ran.stdout and "made of consistent individuals" in ran.stdout
    refused = nashloop("intransitivity", "--input", str(path), "--columns", "label=nothing")
    assert refused.returncode == 2 and "No label column nothing" in refused.stderr


def test_reports_of_a_campaign(tmp_path):
    data = tmp_path / "data"
    with open_context(data, create=True) as context:
        fill(context.store, wanted=2)
        for who, verdict in (("ann0", "a"), ("ann1", "b"), ("ann0", "tie")):
            judge(context.store, who, verdict)
    figures = json.loads(nashloop("annotators", "--data", str(data), "--json").stdout)
    assert {person["annotator"]: person["labels"] for person in figures["annotators"]} == {"Annotator 0": 2, "Annotator 1": 1}
    agreement = json.loads(nashloop("agreement", "--data", str(data), "--json").stdout)
    assert (agreement["num_items"], agreement["num_items_shared"], agreement["num_labels"]) == (2, 1, 3)
    assert json.loads(nashloop("policies", "--data", str(data), "--json").stdout)["policies"][0]["number"] == 0
    assert "Annotator 0" in nashloop("annotators", "--data", str(data)).stdout
    none_yet = nashloop("intransitivity", "--data", str(data))
    assert none_yet.returncode == 2 and "no finished round" in none_yet.stderr
