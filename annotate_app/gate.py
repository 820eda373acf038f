"""The promotion gate: from a round's report to a decision. Pure; whoever calls it carries the decision out.

It looks at the preference model's win rate, so it sees what the preference model sees: blind human comparisons are the
stronger evidence, and a researcher can overrule it either way.
"""

from dataclasses import dataclass
from typing import Literal

from storage.contract.report import RoundReport


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """promote: let it serve. hold: a researcher decides. reject: it left a limit or is worse than its parent."""

    action: Literal["promote", "hold", "reject"]
    sentence: str


def decide(report: RoundReport, *, mode: Literal["gate", "manual"] = "gate") -> GateDecision:
    """Promote a policy whose 95 % interval of the win rate against its parent lies above one half.

    ``mode`` manual holds every policy that kept its limits. A round that failed is rejected in both modes.
    """
    if report.get("status") == "failed":
        reasons = " ".join(report.get("reasons", [])) or "The report gives no reason."
        return GateDecision(action="reject", sentence=f"Not promoted, a limit was left: {reasons}")
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
