"""The promotion gate: from a round's report, or from blind votes, to a decision. Pure; whoever calls it carries it out.

The report's win rate is the preference model's: it sees what that model sees. People's votes between the two policies are the
stronger evidence, and a researcher can overrule both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from annotate_app import confidence_sequence as cs
from storage.contract.report import RoundReport

Action = Literal["promote", "hold", "reject"]
THRESHOLD = 0.5
MOST_VOTES = 300  # of one comparison of two policies; 1 in 6 policies that win .60 is still undecided then
EARLY = 30  # votes of several people; with fewer, how much they differ is a guess, and so is what it still takes
FARTHEST = 100_000  # votes that nobody will give: a forecast beyond it is none


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """promote: let it serve. hold: a researcher decides. reject: it left a limit or is worse than its parent."""

    action: Action
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One annotator's votes on a candidate against its opponent; both-bad is a tie, skips are not votes."""

    wins: int = 0
    ties: int = 0
    losses: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanGate:
    """What people's votes say of a candidate. ``low`` and ``high`` hold at every look, each side wrong 5 % of the time."""

    wins: int
    ties: int
    losses: int
    annotators: int
    design_effect: float  # by which votes of one annotator being alike enlarges the variance
    win_rate: float | None  # ties count one half; None without votes
    low: float
    high: float
    threshold: float
    action: Action
    more_needed: int | None  # votes until a bound passes the threshold if the rates stay; None: not in sight
    sentence: str

    @property
    def votes(self) -> int:
        return self.wins + self.ties + self.losses


def decide(report: RoundReport, *, mode: Literal["model", "human", "manual"] = "model") -> GateDecision:
    """Promote a policy whose 95 % interval of the win rate against its parent lies above one half.

    ``mode`` human or manual holds every policy that kept its limits. A round that failed is rejected in all modes.
    """
    if report.get("status") == "failed":
        reasons = " ".join(report.get("reasons", [])) or "The report gives no reason."
        return GateDecision(action="reject", sentence=f"Not promoted, a limit was left: {reasons}")
    if mode == "human":
        return GateDecision(action="hold", sentence="People decide, in blind comparisons with the serving policy.")
    win_rate = report.get("evaluation", {}).get("win_rate_vs_parent")
    if win_rate is None:
        return GateDecision(action="hold", sentence="Held: the report has no win rate against the parent policy.")
    figures = f"win rate against its parent {win_rate['mean']:.2f} ({win_rate['low']:.2f} to {win_rate['high']:.2f})"
    if win_rate["high"] < 0.5:
        return GateDecision(action="reject", sentence=f"Not promoted, worse than its parent: {figures}.")
    if mode == "manual":
        return GateDecision(action="hold", sentence=f"Waits for a researcher to promote it: {figures}.")
    if win_rate["low"] > 0.5:
        return GateDecision(action="promote", sentence=f"Promoted: {figures}.")
    return GateDecision(action="hold", sentence=f"Held, it cannot be told from its parent: {figures}.")


def decide_by_votes(tallies: Sequence[Tally], *, threshold: float = THRESHOLD) -> HumanGate:
    """Promote when the lower bound of the win rate passes the threshold, reject when the upper one does, else hold.

    May be asked after every vote: the bounds are a confidence sequence. ``tallies``: one for each annotator.
    """
    by_annotator = _counts(tallies)
    counts = by_annotator.sum(axis=1)
    votes = int(counts.sum())
    effect = float(cs.design_effect(*by_annotator))
    low, high = (float(bound(*(counts / effect))) for bound in (cs.lower_bound, cs.upper_bound))
    action: Action = "promote" if low > threshold else "reject" if high < threshold else "hold"
    is_early = effect > 1 and votes < EARLY
    more = None if action != "hold" or votes == 0 or is_early else _more_needed(by_annotator, threshold)
    win_rate = float(counts[0] + counts[1] / 2) / votes if votes else None
    wins, ties, losses = (int(count) for count in counts)
    annotators = int((by_annotator.sum(axis=0) > 0).sum())
    return HumanGate(
        wins=wins,
        ties=ties,
        losses=losses,
        annotators=annotators,
        design_effect=effect,
        win_rate=win_rate,
        low=low,
        high=high,
        threshold=threshold,
        action=action,
        more_needed=more,
        sentence=_sentence(action, win_rate, low, high, votes, annotators, "" if is_early else _outlook(more)),
    )


def _counts(tallies: Sequence[Tally]) -> np.ndarray:
    """(3, annotators): wins, ties, losses."""
    rows = [(tally.wins, tally.ties, tally.losses) for tally in tallies] or [(0, 0, 0)]
    return np.array(rows, float).T


def _more_needed(by_annotator: np.ndarray, threshold: float) -> int | None:
    """How many more votes at the rates so far, by the same annotators, until a side is refuted."""
    votes = float(by_annotator.sum())
    correlation = cs.intraclass_correlation(*by_annotator)
    needed = -np.log(cs.LEVEL)

    def decides(num_votes: float) -> bool:
        grown = by_annotator * num_votes / votes
        wins, ties, losses = grown.sum(axis=1) / cs.design_effect(grown[0], grown[1], grown[2], correlation)
        above = cs.log_capital(wins, ties, losses, threshold)
        below = cs.log_capital(losses, ties, wins, 1 - threshold)
        return bool(max(above, below) >= needed)

    low, high = int(votes), int(votes) + 1
    while not decides(high):
        low, high = high, 2 * high
        if high > FARTHEST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high - int(votes)


def _sentence(action: Action, rate: float | None, low: float, high: float, votes: int, annotators: int, outlook: str) -> str:
    if rate is None:
        return "No votes yet."
    people = "1 annotator" if annotators == 1 else f"{annotators} annotators"
    figures = f"win rate {rate:.2f} ({low:.2f} to {high:.2f}) in {votes} blind votes of {people}"
    if action == "promote":
        return f"People prefer it: {figures}."
    if action == "reject":
        return f"People prefer the other policy: {figures}."
    return f"Undecided: {figures}{outlook}."


def _outlook(more: int | None) -> str:
    return f"; about {more} more vote{'s' if more > 1 else ''} at this rate" if more else "; no decision in sight at this rate"
