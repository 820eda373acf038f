"""When the app starts a round by itself: every so many labels, by schedule, or when the queue has little left to tell. Pure.

All of it is off unless the campaign asks for it; attendant.py gathers the facts and starts the round.
"""

from dataclasses import dataclass
from datetime import timedelta

from storage.campaign import Campaign


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What decides whether a round is due. Labels are decided ones that train, since the last round began (or ever)."""

    new_labels: int
    all_labels: int
    since_last: timedelta | None  # since the last round began, or since the first label; None without either
    information: float | None  # bits that a judgment of a waiting pair is expected to tell; 0 if none waits, None if unknown
    running: str | None  # kind of the job that has the accelerator
    undecided: int | None  # number of a policy that people still compare


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRound:
    """``reason`` of a round that is due now, else None; ``sentence`` says when the next one begins."""

    reason: str | None
    sentence: str


def next_round(campaign: Campaign, facts: Facts, min_judgments: int) -> NextRound:
    """Whether a round is due by any of the campaign's triggers, in the order labels, schedule, information."""
    wishes = _wishes(campaign, facts)
    if not wishes:
        return NextRound(reason=None, sentence="Rounds are started by hand.")
    reason = next((why for is_due, why, _ in wishes if is_due), None)
    when = " or ".join(when for _, _, when in wishes)
    if reason is None:
        return NextRound(reason=None, sentence=f"The next round begins {when}.")
    if facts.running is not None:
        return NextRound(
            reason=None, sentence=f"A round is due ({reason}); it begins when the running {facts.running} has ended."
        )
    if facts.undecided is not None and campaign.gate == "human":
        sentence = f"A round is due ({reason}); it begins when people have decided about policy {facts.undecided}."
        return NextRound(reason=None, sentence=sentence)
    if facts.all_labels < min_judgments:
        missing = f"{facts.all_labels} of the {min_judgments} decided labels it needs"
        return NextRound(reason=None, sentence=f"A round is due ({reason}), but there are only {missing}.")
    return NextRound(reason=reason, sentence=f"A round begins now: {reason}.")


def _wishes(campaign: Campaign, facts: Facts) -> list[tuple[bool, str, str]]:
    """For each trigger that is set: whether it fires, why, and when it will."""
    found = []
    if (every := campaign.round_every_labels) is not None:
        left = max(0, every - facts.new_labels)
        found.append((left == 0, f"{facts.new_labels:,} new labels", f"after {left:,} more labels"))
    if (hours := campaign.round_every_hours) is not None:
        since = facts.since_last or timedelta()
        left_h = max(0.0, hours - since / timedelta(hours=1))
        when = f"in {left_h:.1f} hours" if left_h else "with the next label"
        found.append((left_h == 0 and facts.new_labels > 0, f"{hours:g} hours have passed", when))
    if (least := campaign.round_below_bits) is not None:
        known = facts.information
        is_due = known is not None and known < least and facts.new_labels > 0
        why = "no pair waits" if known == 0 else f"the waiting pairs tell {known or 0:.3f} bits each"
        now = "" if known is None else f", now {known:.3f}"
        found.append((is_due, why, f"when waiting pairs tell less than {least:g} bits each{now}"))
    return found


def has_triggers(campaign: Campaign) -> bool:
    """Whether rounds may start by themselves."""
    return any(wish is not None for wish in (campaign.round_every_labels, campaign.round_every_hours, campaign.round_below_bits))
