"""What an answer to a lease may say: checked on its own, then against what the campaign asks. Pure."""

from datetime import datetime

from storage.campaign import Campaign
from storage.errors import UserError
from storage.leases import Lease
from storage.rankings import check_ranking, ids_ranked, letters_ranked, verdict_of_first_two
from storage.records import VERDICTS, Judgment, JudgmentInput

# What makes two submissions of one lease the same answer: all but the time at which the pair was shown (and the ranking,
# which is kept in ids).
_ANSWER = ("verdict", "strength", "aspects", "rationale", "reasons", "edited_text", "spans")
ASPECT_LIMIT = 3


def check_answer(answer: JudgmentInput) -> None:
    """UserError where a value is out of its range whatever the campaign."""
    if answer.verdict not in VERDICTS:
        raise UserError(f"verdict {answer.verdict!r} is not one of {', '.join(VERDICTS)}.")
    if answer.strength is not None and answer.strength not in range(4):
        raise UserError(f"strength {answer.strength!r} is not one of 0, 1, 2, 3.")
    for name, rating in answer.aspects.items():
        if abs(rating) > ASPECT_LIMIT:
            raise UserError(f"aspects.{name} = {rating!r} is out of range: -3 (b much better) to 3 (a much better).")
    for span in answer.spans:
        if not 0 <= span.start < span.end:
            raise UserError(f"a span from {span.start} to {span.end} marks nothing. Start is 0 or more and before end.")


def check_asked(campaign: Campaign, answer: JudgmentInput, num_shown: int) -> None:
    """UserError where the answer is not one to what was asked: the campaign's demands, and ``num_shown`` responses."""
    _check_kind(answer, num_shown)
    for name in answer.aspects:
        if name not in campaign.aspects:
            known = ", ".join(campaign.aspects) or "none"
            raise UserError(f"aspects.{name} is not an aspect of this campaign. Its aspects: {known}.")
    decided = answer.verdict in ("a", "b") or answer.ranking is not None
    written = len((answer.rationale or "").strip())
    if decided and written < campaign.min_rationale:
        raise UserError(
            f"rationale has {written} characters, this campaign asks for {campaign.min_rationale} or more. Say a little more."
        )
    if answer.edited_text and not campaign.allow_edits:
        raise UserError("edited_text: this campaign does not ask for edits. Leave it out.")


def same_answer(judgment: Judgment, answer: JudgmentInput) -> bool:
    """Whether the answer is the one that was stored."""
    stored = None if judgment.ranking is None else letters_ranked(judgment.ranking, judgment.shown_ids)
    given = None if answer.ranking is None else tuple(tuple(sorted(group)) for group in answer.ranking)
    return stored == given and all(getattr(judgment, name) == getattr(answer, name) for name in _ANSWER)


def judgment_of(lease: Lease, answer: JudgmentInput, *, prompt_id: str, seq: int, now: datetime) -> Judgment:
    """The record of an answer to a lease."""
    return Judgment(
        id=lease.id,
        seq=seq,
        task_id=lease.task_id,
        annotator_id=lease.annotator_id,
        prompt_id=prompt_id,
        response_a_id=lease.response_a_id,
        response_b_id=lease.response_b_id,
        verdict=answer.verdict,
        strength=answer.strength,
        aspects=dict(answer.aspects),
        rationale=answer.rationale,
        reasons=tuple(answer.reasons),
        edited_text=answer.edited_text,
        shown_at=answer.shown_at,
        submitted_at=now,
        supersedes=lease.supersedes,
        spans=tuple(answer.spans),
        more_response_ids=lease.more_response_ids,
        ranking=None if answer.ranking is None else ids_ranked(answer.ranking, lease.shown_ids),
    )


def _check_kind(answer: JudgmentInput, num_shown: int) -> None:
    """A ranking for more than two responses (or all of them bad, or a skip), a plain verdict for two."""
    if answer.ranking is None:
        if num_shown > 2 and answer.verdict not in ("both_bad", "skip"):
            told = f"ranking is missing: {num_shown} responses were shown."
            raise UserError(f"{told} Send their letters best first, such as [['b'], ['a', 'c']].")
        return
    if num_shown == 2:
        raise UserError("ranking: two responses were shown. Send a verdict instead.")
    check_ranking(answer.ranking, num_shown)
    if answer.verdict != verdict_of_first_two(answer.ranking):
        raise UserError(f"verdict {answer.verdict!r} contradicts the ranking. Leave it out: it follows from the ranking.")
    if answer.strength is not None or answer.aspects or answer.spans:
        raise UserError("strength, aspects and spans belong to pairs. Leave them out of a ranking.")
