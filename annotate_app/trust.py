"""Whom to trust: what the labels of each annotator tell, and what a researcher should look at, in one sentence each. Pure.

Rows are judgments that stand, as in the raw export, with ``known``: the right verdict in the order shown, of training pairs only.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betainc

from annotate_app import trust_estimates as estimates
from annotate_app.trust_evidence import THRESHOLD, Evidence, weigh_evidence
from annotate_app.trust_votes import Votes, honest_chance, others_votes

Row = Mapping[str, Any]
DECIDED = ("a", "b")
CLEAR_RIGHT = (8.0, 2.0)  # Beta: how often people are right on pairs whose answer is known, before anything is seen
FEWEST_RIGHT = 0.7
SURE = 0.95
MANY_TOO_FAST, ONE_SIDED, ALIKE = 0.2, 0.65, 0.6  # bounds that an interval must leave before it is worth a remark


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What is told of one annotator; the log odds are against an honest person, in nats."""

    suspicion: str | None  # random | adversarial
    random: float
    adversarial: float
    flip_rate: estimates.Estimate | None
    agreed: int  # decided pairs with the side on which others, or a known answer, lean
    expected: float  # the same of an honest person
    num_votes: int  # of those pairs


def trust_everybody(rows: Sequence[Row], excluded: set[str]) -> dict[str, Trust]:
    """By annotator id, of all with a decided verdict; the votes of those ``excluded`` never count as the others'."""
    people, votes = votes_of(rows)
    if not people:
        return {}
    evidence = weigh_evidence(votes, np.array([who in excluded for who in people]))
    chance = honest_chance(evidence.spread, others_votes(votes, evidence.trusted))
    return {who: _trust(votes, evidence, chance, k) for k, who in enumerate(people)}


def votes_of(rows: Sequence[Row]) -> tuple[list[str], Votes]:
    """Annotator ids, and decided verdicts in one order of the two responses. Of a ranking its first two responses only: the
    pairs of one ranking follow from each other."""
    voted = [row for row in rows if row["verdict"] in DECIDED and stands_for_itself(row)]
    people = list(dict.fromkeys(row["annotator_id"] for row in voted))
    pairs = list(dict.fromkeys(pair_of(row) for row in voted))
    place, number = {pair: i for i, pair in enumerate(pairs)}, {who: k for k, who in enumerate(people)}
    known = np.zeros(len(pairs), dtype=int)
    for row in voted:
        if row.get("known") in DECIDED:
            known[place[pair_of(row)]] = 1 if (row["known"] == "a") == in_order(row) else -1
    return people, Votes(
        pair=np.array([place[pair_of(row)] for row in voted], dtype=int),
        annotator=np.array([number[row["annotator_id"]] for row in voted], dtype=int),
        chose_1=np.array([(row["verdict"] == "a") == in_order(row) for row in voted], dtype=bool),
        first_1=np.array([in_order(row) for row in voted], dtype=bool),
        known=known,
    )


def pair_of(row: Row) -> tuple[str, str]:
    """The two responses, whatever their order on the screen."""
    a, b = row["response_a_id"], row["response_b_id"]
    return (a, b) if a < b else (b, a)


def in_order(row: Row) -> bool:
    """Whether the response shown first comes first in the pair too."""
    return row["response_a_id"] < row["response_b_id"]


def known_answers(rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """Annotator id -> (right, all) on pairs whose answer is known, at the first sight of each: the answer is told then."""
    seen: set[tuple[str, tuple[str, str]]] = set()
    found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for row in rows:
        if row.get("known") is None or row["verdict"] == "skip" or (key := (row["annotator_id"], pair_of(row))) in seen:
            continue
        seen.add(key)
        right, total = found[row["annotator_id"]]
        found[row["annotator_id"]] = right + (row["verdict"] == row["known"]), total + 1
    return dict(found)


def remarks(person: Mapping[str, Any], trust: Trust | None) -> list[dict[str, str]]:
    """{"kind", "sentence"}, gravest first: random and adversarial hold a bound on false alarms, the others are hints."""
    grave = [(trust.suspicion, suspicion_sentence(trust))] if trust is not None and trust.suspicion else []
    return [{"kind": kind, "sentence": sentence} for kind, sentence in [*grave, *_hints(person)]]


def suspicion_sentence(trust: Trust) -> str:
    """Why somebody is suspected."""
    odds = max(trust.random, trust.adversarial)
    how = "clicking at random" if trust.suspicion == "random" else "answering the wrong way round"
    words = "More than a million" if odds > np.log(1e6) else f"{np.exp(odds):,.0f}"
    return (
        f"{words} to one for {how}: on the side of the others or of a known answer in {trust.agreed} of {trust.num_votes} "
        f"decided pairs, where somebody who reads would be in about {trust.expected:.0f}."
    )


def _trust(votes: Votes, evidence: Evidence, chance: np.ndarray, k: int) -> Trust:
    mine = np.flatnonzero(votes.annotator == k)
    leaning = mine[chance[mine] != 0.5]
    grave = evidence.total[k] >= THRESHOLD
    worse = "adversarial" if evidence.adversarial[k] > evidence.random[k] else "random"
    return Trust(
        suspicion=worse if grave else None,
        random=float(evidence.random[k]),
        adversarial=float(evidence.adversarial[k]),
        flip_rate=estimates.flip_rate(chance[leaning], votes.chose_1[leaning]),
        agreed=int((votes.chose_1[leaning] == (chance[leaning] > 0.5)).sum()),
        expected=float(np.maximum(chance[leaning], 1 - chance[leaning]).sum()),
        num_votes=len(leaning),
    )


def _hints(person: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    gold, fast, first, alike = (person[name] for name in ("known_right", "too_fast", "first_shown_wins", "repeat_consistency"))
    if gold and betainc(CLEAR_RIGHT[0] + gold[0], CLEAR_RIGHT[1] + gold[1] - gold[0], FEWEST_RIGHT) > SURE:
        found.append(("known", f"Right on {gold[0]} of {gold[1]} pairs whose answer is known."))
    if fast and fast["low"] > MANY_TOO_FAST:
        found.append(("fast", f"{fast['mean']:.0%} of {fast['n']} answers came sooner than anybody can read both texts."))
    if first and (first["low"] > ONE_SIDED or first["high"] < 1 - ONE_SIDED):
        found.append(("side", f"Preferred the response shown first in {first['mean']:.0%} of {first['n']} decided pairs."))
    if alike and alike["high"] < ALIKE:
        found.append(("repeats", f"Answered {alike['mean']:.0%} of {alike['n']} repeated pairs alike; chance is about half."))
    return found


def stands_for_itself(row: Row) -> bool:
    """A judgment of a pair, or the first pair of a ranking."""
    return row.get("ranking_id") is None or row["judgment_id"] == f"{row['ranking_id']}-1-2"
