"""Whom to trust: evidence that may be looked at after every label, and intervals, against closed forms and simulated people."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from annotate_app import trust_estimates as estimates
from annotate_app.bench_trust import Design, coverage, detection
from annotate_app.reports.annotators import rows_of_labels
from annotate_app.reports.long_table import read_labels
from annotate_app.trust import votes_of
from annotate_app.trust_evidence import LAPSES, log_ratios, weigh_evidence
from annotate_app.trust_votes import Votes, fit_spread, honest_chance, others_votes, own_earlier_votes

ROOT = Path(__file__).parents[2]
MT_BENCH = ROOT.parent / "shared" / "data" / "multi_annotator" / "mt_bench_votes_dev.parquet"
CHANCES = st.floats(0.001, 0.999)


def votes(*rows: tuple[int, int, int], num_pairs: int, known: dict[int, int] | None = None) -> Votes:
    """(pair, annotator, 1 or 0 for preferring response 1) rows; response 1 is always shown first."""
    pair, annotator, chose_1 = (np.array(column) for column in zip(*rows, strict=True))
    answers = np.array([(known or {}).get(i, 0) for i in range(num_pairs)])
    return Votes(
        pair=pair, annotator=annotator, chose_1=chose_1.astype(bool), first_1=np.ones(len(rows), dtype=bool), known=answers
    )


def test_a_person_is_judged_by_what_the_others_said():
    # pair 0: persons 0, 1 and 2 prefer response 1, 1, 2; person 0 says the same again
    found = votes((0, 0, 1), (0, 1, 1), (0, 2, 0), (0, 0, 1), num_pairs=1)
    trusted = np.array([True, True, True])
    assert others_votes(found, trusted).tolist() == [[1, 1], [1, 1], [2, 0], [1, 1]]
    assert own_earlier_votes(found).tolist() == [[0, 0], [0, 0], [0, 0], [1, 0]]
    assert others_votes(found, np.array([True, False, True]))[0].tolist() == [0, 1]  # an untrusted person does not count
    # spread 1/2 and votes 2 : 0 give (1/2 + 2) / (1 + 2) = 5/6
    assert honest_chance(0.5, np.array([[2.0, 0.0]])) == pytest.approx([5 / 6])


def test_clear_pairs_have_a_small_spread():
    rng = np.random.default_rng(0)
    for spread in (0.3, 1.5):
        theta = rng.beta(spread, spread, 3000)
        rows = [(i, k, int(rng.random() < theta[i])) for i in range(3000) for k in range(4)]
        assert fit_spread(votes(*rows, num_pairs=3000), np.ones(4, dtype=bool)) == pytest.approx(spread, rel=0.12)


@given(honest=CHANCES, other=CHANCES, lapses=st.floats(0, LAPSES))
def test_evidence_against_an_honest_person_never_grows_in_expectation(honest, other, lapses):
    both = np.exp(log_ratios(np.array([True, False]), np.array([honest, honest]), np.array([other, other])))
    chance = (1 - lapses) * honest + lapses / 2
    assert chance * both[0] + (1 - chance) * both[1] <= 1 + 1e-9


def test_the_evidence_of_a_known_answer_by_hand():
    # nobody else voted and the answer is known, 15 votes for response 1: with spread s an honest person agrees with chance
    # (s + 15) / (2 s + 15), an eighth of answers is careless; an even coin against that
    found = votes(*((i, 0, 0) for i in range(20)), num_pairs=20, known=dict.fromkeys(range(20), 1))
    found = replace(found, first_1=np.arange(20) % 2 == 0)  # both sides alike
    evidence = weigh_evidence(found)
    s = evidence.spread
    honest = (1 - LAPSES) * (s + 15) / (2 * s + 15) + LAPSES / 2
    coin = 20 * math.log(0.5 / (1 - honest))
    assert evidence.random[0] == pytest.approx(coin + math.log(0.9), abs=0.1)  # the other tenth: somebody who looks at sides
    assert evidence.adversarial[0] == pytest.approx(20 * math.log(honest / (1 - honest)))  # the wrong way round each time
    assert not evidence.trusted[0]


def test_those_suspected_do_not_count_as_the_others():
    rng = np.random.default_rng(1)
    rows = [(i, k, int(rng.random() < (0.9 if i % 2 else 0.1))) for i in range(120) for k in range(4)]
    rows += [(i, 4, int(i % 2 == 0)) for i in range(120)]  # always the other response
    evidence = weigh_evidence(votes(*rows, num_pairs=120))
    assert evidence.trusted.tolist() == [True] * 4 + [False]
    assert evidence.adversarial[4] > evidence.random[4] > 0
    left_out = np.array([False] * 4 + [True])
    assert weigh_evidence(votes(*rows, num_pairs=120), left_out).total[:4] == pytest.approx(evidence.total[:4])


def test_most_who_click_are_found_and_few_others_suspected():
    found = detection(Design(overlap=5, checks=0.75), runs=100, seed=0)
    assert found["all_found"] >= 0.9
    assert found["honest_suspected"] <= 0.02
    assert detection(Design(), runs=10, seed=3)["all_found"] < 0.5  # two checks in forty do not suffice


def test_intervals_hold_the_planted_values_at_their_rate():
    held = coverage(runs=12, seed=5)  # 240 people, 60 who flip
    assert held.pop("flip rate") == pytest.approx(0.95, abs=0.07)
    assert held.pop("accuracy by consensus") == pytest.approx(0.95, abs=0.07)  # the others' accuracies are estimates themselves
    assert held == pytest.approx(dict.fromkeys(held, 0.95), abs=0.045)


def test_estimates_by_closed_forms():
    right = estimates.accuracy(7, 8)
    assert right is not None
    assert right["mean"] == pytest.approx(7.5 / 9)
    assert (right["low"], right["high"]) == pytest.approx(stats.beta(7.5, 1.5).ppf([0.025, 0.975]))
    share = estimates.share(7, 20)
    assert share is not None
    assert (share["low"], share["high"]) == pytest.approx(proportion_confint(7, 20, method="wilson"))
    # others are sure of everything: the posterior of a rate is that of a count, Beta(1/2 + 3, 1/2 + 17)
    flips = estimates.flip_rate(np.ones(20), np.array([False] * 3 + [True] * 17))
    assert flips is not None
    assert flips["mean"] == pytest.approx(3.5 / 21, abs=0.002)
    assert (flips["low"], flips["high"]) == pytest.approx(stats.beta(3.5, 17.5).ppf([0.025, 0.975]), abs=0.004)
    # 20 seconds: the 6th and 15th, as P(Binomial(20, 1/2) <= 5) = .0207
    assert estimates.median_seconds(range(1, 21)) == {"mean": 10.5, "low": 6.0, "high": 15.0, "n": 20}
    # 150 words take 10 seconds at 15 words a second; nobody answers within one
    fast = estimates.too_fast([9, 11, 0.5, 2], [150, 150, 3, 3])
    assert fast is not None and fast["mean"] == 0.5
    assert estimates.share(0, 0) is estimates.accuracy(0, 0) is estimates.median_seconds([]) is None


def test_the_bench_prints_its_table():
    command = [sys.executable, "-m", "annotate_app.cli", "bench", "trust", "--runs", "1", "--json"]
    figures = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert len(figures["detection"]) == 6 and figures["detection"][0]["adversarial_found"] > 0
    assert set(figures["coverage"]) >= {"flip rate", "accuracy by consensus", "median seconds"}


@pytest.mark.skipif(not MT_BENCH.exists(), reason="needs the public judgments in ../shared/data/multi_annotator")
def test_nobody_of_mt_bench_is_suspected_until_their_votes_are_turned():
    labels, _ = read_labels(MT_BENCH, {}, "annotator_kind <> 'gpt4'")
    people, real = votes_of(rows_of_labels(labels))
    assert len(people) == 65 and weigh_evidence(real).trusted.all()
    busiest = people.index("author_4")
    turned = replace(real, chose_1=real.chose_1 ^ (real.annotator == busiest))
    evidence = weigh_evidence(turned)
    assert np.flatnonzero(~evidence.trusted).tolist() == [busiest] and evidence.adversarial[busiest] > evidence.random[busiest]
