"""`nashloop report agreement`: published figures on real judgments, other libraries, and arithmetic in comments."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from annotate_app.reports.agreement import agreement_report, alpha, cohen_kappa, fleiss_kappa, gwet_ac1
from annotate_app.reports.long_table import Label, read_labels
from storage.errors import UserError

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "multi_annotator"
PANDALM, MT_BENCH = DATA / "pandalm_long.parquet", DATA / "mt_bench_votes_dev.parquet"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="needs the public judgments in ../shared/data/multi_annotator")


def nashloop(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "annotate_app.cli", "report", "agreement", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def labelled(*rows: tuple[str, str, str]) -> list[Label]:
    return [Label(item=item, annotator=annotator, label=label, group="") for item, annotator, label in rows]


@needs_data
def test_the_published_kappas_of_pandalm():
    figures = json.loads(nashloop("--input", str(PANDALM), "--json").stdout)
    # the PandaLM paper: 0.85, 0.88, 0.86; four digits from independent code
    expected = {"annotator1-annotator2": 0.8520, "annotator1-annotator3": 0.8789, "annotator2-annotator3": 0.8617}
    assert figures["cohen_kappa"] == pytest.approx(expected, abs=5e-5)
    assert figures["krippendorff_alpha"] == pytest.approx(0.8642, abs=5e-5)
    assert (figures["num_items"], figures["num_unanimous"], figures["num_annotators"]) == (999, 879, 3)
    low, high = figures["krippendorff_alpha_interval"]
    assert 0.82 < low < 0.8642 < high < 0.90


@needs_data
def test_the_alpha_of_mt_bench_votes():
    figures = json.loads(nashloop("--input", str(MT_BENCH), "--where", "annotator_kind <> 'gpt4'", "--json").stdout)
    assert figures["krippendorff_alpha"] == pytest.approx(0.4799, abs=5e-5)


@needs_data
@pytest.mark.parametrize(
    ("where", "human", "gpt4"),
    [
        ("turn = 1", (307, 495), (618, 942)),
        ("turn = 1 AND label <> 'tie'", (260, 323), (518, 611)),
        ("turn = 2", (325, 487), (624, 931)),
        ("turn = 2 AND label <> 'tie'", (254, 319), (522, 614)),
    ],
)
def test_agreement_of_mt_bench_experts_with_each_other_and_with_gpt4(where, human, gpt4):
    labels, _ = read_labels(MT_BENCH, {}, where)
    groups = agreement_report(labels)["by_group"]
    assert (groups["expert-expert"]["agree"], groups["expert-expert"]["pairs"]) == human
    assert (groups["expert-gpt4"]["agree"], groups["expert-gpt4"]["pairs"]) == gpt4


def test_cohens_and_fleiss_kappa_are_those_of_statsmodels():
    from statsmodels.stats import inter_rater

    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=80)
    first, second = (np.where(rng.random(80) < 0.7, truth, rng.integers(3, size=80)) for _ in range(2))
    table = np.zeros((3, 3))
    np.add.at(table, (first, second), 1)
    theirs = inter_rater.cohens_kappa(table).kappa  # pyright: ignore[reportAttributeAccessIssue]
    assert cohen_kappa([(str(a), str(b)) for a, b in zip(first, second, strict=True)]) == pytest.approx(theirs)
    counts = np.eye(3, dtype=int)[first] + np.eye(3, dtype=int)[second]
    assert fleiss_kappa(counts) == pytest.approx(inter_rater.fleiss_kappa(counts))


def test_ac1_by_hand():
    # two raters, items aa aa aa ab: p_a = 3/4; shares 7/8, 1/8; p_e = 2 * 7/64 = 7/32; (24 - 7) / (32 - 7) = 17/25
    assert gwet_ac1(np.array([[2, 0], [2, 0], [2, 0], [1, 1]])) == pytest.approx(17 / 25)


def test_alpha_by_hand_with_a_missing_label():
    # pairable values: item 1 aa, item 2 ab; item 3 has one label and does not count. n = 4, n_a = 3, n_b = 1
    # D_o = 2 / 4 (two ordered pairs that differ), D_e = 2 * 3 * 1 / (4 * 3) = 1/2; alpha = 0
    assert alpha(np.array([[2, 0], [1, 1], [0, 1]])) == pytest.approx(0.0)


def test_shuffled_sides_are_turned_to_one_order_first(tmp_path):
    path = tmp_path / "shown.csv"
    path.write_text(
        "task_id,annotator,verdict,response_a_id,response_b_id\n"
        "t1,ann,a,r1,r2\nt1,bob,b,r2,r1\n"  # both prefer r1
        "t2,ann,b,r3,r4\nt9,bob,a,r4,r3\n"  # both prefer r4, in two tasks about one pair
        "t2,cleo,skip,r3,r4\nt1,ann,b,r1,r2\n"  # a skip; a second judgment of the same pair by the same person
    )
    labels, num_repeats = read_labels(path, {})
    figures = agreement_report(labels)
    assert (figures["num_items"], figures["agreeing_pairs"], num_repeats) == (2, [2, 2], 1)
    assert figures["krippendorff_alpha"] == pytest.approx(1.0)


def test_undefined_figures_are_null_and_say_why():
    same = agreement_report(labelled(("1", "x", "a"), ("1", "y", "a")))
    assert same["krippendorff_alpha"] is None and same["cohen_kappa"] == {"x-y": None}
    assert "same label" in same["undefined"] and same["pairwise_agreement"] == 1.0
    alone = agreement_report(labelled(("1", "x", "a"), ("2", "y", "b")))
    assert alone["pairwise_agreement"] is None and "two annotators" in alone["undefined"]
    assert agreement_report([])["num_labels"] == 0


def test_columns_can_be_named_and_mistakes_are_explained(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text('{"q": 1, "who": "x", "choice": "a"}\n{"q": 1, "who": "y", "choice": "b"}\n')
    labels, _ = read_labels(path, {"item": "q", "annotator": "who", "label": "choice"}, "q = 1")
    assert agreement_report(labels)["agreeing_pairs"] == [0, 1]
    with pytest.raises(UserError, match="No item column among q, who, choice"):
        read_labels(path, {})
    with pytest.raises(UserError, match="no column which"):
        read_labels(path, {"item": "which"})
    with pytest.raises(UserError, match="Correct the filter"):
        read_labels(path, {"item": "q", "annotator": "who", "label": "choice"}, "nonsense >")
    ran = nashloop("--input", str(tmp_path / "missing.csv"))
    assert (ran.returncode, ran.stdout) == (2, "") and ran.stderr.startswith("error: --input")


def test_two_libraries_agree_alpha_is_fleiss_kappa_corrected_for_few_items():
    from statsmodels.stats import inter_rater

    # with n labels of each of N items, nominal alpha = kappa + (1 - kappa) / (N n): Krippendorff counts pairs without replacement
    rng = np.random.default_rng(1)
    truth = rng.integers(3, size=40)
    said = [np.where(rng.random(40) < 0.6, truth, rng.integers(3, size=40)) for _ in range(3)]
    counts = np.eye(3, dtype=int)[np.array(said)].sum(0)
    kappa = inter_rater.fleiss_kappa(counts)
    assert alpha(counts) == pytest.approx(kappa + (1 - kappa) / (40 * 3))


def test_ordinal_alpha_counts_a_tie_as_half_way_and_says_what_it_cannot_take():
    # items: a/tie and a/b would differ alike for nominal alpha; ordinal weighs a/tie less, so it is larger here
    rows = [("1", "x", "a"), ("1", "y", "tie"), ("2", "x", "b"), ("2", "y", "b"), ("3", "x", "a"), ("3", "y", "a")]
    figures = agreement_report(labelled(*rows))
    assert figures["krippendorff_alpha_ordinal"] > figures["krippendorff_alpha"]
    assert figures["undefined_figures"] == {}
    other = agreement_report(labelled(*rows, ("4", "x", "both_bad"), ("4", "y", "a"), ("4", "z", "a")))
    assert other["krippendorff_alpha_ordinal"] is None
    assert "also both_bad" in other["undefined_figures"]["krippendorff_alpha_ordinal"]
    assert other["fleiss_kappa"] is None and "2 to 3" in other["undefined_figures"]["fleiss_kappa"]


def test_pairs_of_one_prompt_are_drawn_together():
    # ten prompts of eight items that are all alike within a prompt: as good as ten items, not eighty
    rng = np.random.default_rng(2)
    alike = rng.random(10) < 0.6
    rows = [
        Label(item=f"{p}-{i}", annotator=who, label="a" if who == "x" or alike[p] else "b", group="", prompt=prompt)
        for p in range(10)
        for i in range(8)
        for who in ("x", "y")
        for prompt in [f"p{p}"]
    ]
    together = agreement_report(rows)
    apart = agreement_report([Label(item=r.item, annotator=r.annotator, label=r.label, group="") for r in rows])
    assert (together["num_prompts"], apart["num_prompts"]) == (10, 80)
    widths = [np.diff(figures["pairwise_agreement_interval"])[0] for figures in (together, apart)]
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(8), rel=0.2)
