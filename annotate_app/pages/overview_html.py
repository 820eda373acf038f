"""The console's overview as HTML: what runs, what to do next, a card for each number, labels per hour, and who labels. Pure."""

from collections.abc import Mapping
from datetime import datetime
from html import escape

from annotate_app.pages import report_pictures as pictures
from annotate_app.pages.console_text import DASH, duration, policy_name
from annotate_app.pages.now_html import job_html
from annotate_app.pages.overview_figures import HOURS_SHOWN, Figures, next_step
from annotate_app.pages.report_html import block_html, page_style
from annotate_app.pages.report_parts import Picture, Table
from annotate_app.pages.report_sections import VERDICT_NAMES

Card = tuple[str, str, str]  # number, what it counts, remark


def overview_page(figures: Figures, now: datetime) -> str:
    """The whole document; the console takes its style and main."""
    body = f"{_now(figures)}{_cards(figures)}{_work(figures)}{_people(figures, now)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Overview</title>'
        f"<style>{page_style('report', 'overview')}"
        f'</style></head><body><main class="report overview">{body}</main></body></html>'
    )


def cards(figures: Figures) -> list[Card]:
    """What is shown large, the most urgent first."""
    return [
        (f"{figures.judgments:,}", "judgments", _judgments_remark(figures)),
        (f"{figures.pairs_open:,}", "pairs waiting", _queue_remark(figures)),
        (f"{sum(p.is_here for p in figures.people)}", "labelling now", _people_count(figures)),
        (duration(figures.median_seconds), "per judgment", "median, from shown to answered"),
        _agreement_card(figures),
        _position_card(figures),
        _tie_card(figures),
        *_money_cards(figures),
        (policy_name(figures.serving), "answers the next prompts", _rounds_remark(figures)),
    ]


def _people_count(figures: Figures) -> str:
    count = sum(p.judgments > 0 for p in figures.people)
    return "nobody has labelled yet" if not count else f"{count} {'person has' if count == 1 else 'people have'} labelled"


def _judgments_remark(figures: Figures) -> str:
    imported = f", and {figures.imported:,} imported" if figures.imported else ""
    return f"{figures.last_hour:,} in the last hour{imported}"


def _queue_remark(figures: Figures) -> str:
    if figures.hours_left is None:
        return f"{figures.judgments_wanted:,} judgments wanted" if figures.judgments_wanted else "the queue is empty"
    return f"about {duration(3600 * figures.hours_left)} at the pace of the last hour"


def _rounds_remark(figures: Figures) -> str:
    if not figures.rounds_done:
        return "no round has finished yet"
    return f"{figures.since_last_round:,} judgments since the last of {figures.rounds_done} round{_s(figures.rounds_done)}"


def _agreement_card(figures: Figures) -> Card:
    if figures.agreement is None:
        return DASH, "agreement", "needs pairs that two people judged: raise the overlap under Campaign"
    pairs = int(figures.agreement["n"])
    return (
        f"{figures.agreement['mean']:.0%}",
        "agreement",
        f"{_limits(figures.agreement)} on {pairs:,} pair{_s(pairs)} judged twice",
    )


def _position_card(figures: Figures) -> Card:
    first = figures.first_shown_wins
    if first is None:
        return DASH, "first shown wins", "nothing was decided yet"
    if first["low"] <= 0.5 <= first["high"]:
        return f"{first['mean']:.0%}", "first shown wins", f"{_limits(first)}: no sign of position bias"
    side = "first" if first["mean"] > 0.5 else "second"
    return (
        f"{first['mean']:.0%}",
        "first shown wins",
        f"{_limits(first)}: the side shown {side} is favoured; rounds correct for it",
    )


def _tie_card(figures: Figures) -> Card:
    total = sum(figures.verdicts.values())
    if not total:
        return DASH, "ties", "nothing was judged yet"
    ties, bad, skipped = (figures.verdicts[name] / total for name in ("tie", "both_bad", "skip"))
    return f"{ties:.0%}", "ties", f"{bad:.0%} both bad, {skipped:.0%} skipped"


def _money_cards(figures: Figures) -> list[Card]:
    campaign, found = figures.campaign, []
    if figures.cost is not None:
        found.append((f"{figures.cost:,.2f}", f"{campaign.currency} so far", f"{campaign.price_per_label:g} for each label"))
    if figures.budget_left is not None:
        left = figures.budget_left
        remark = f"of a budget of {campaign.budget_labels:,}"
        if figures.cost is not None:
            remark += f": {campaign.currency} {left * (campaign.price_per_label or 0):,.2f}"
        found.append((f"{left:,}", "labels left", remark))
    return found


def _cards(figures: Figures) -> str:
    made = "".join(
        f'<li><span class="number">{escape(number)}</span> <span>{escape(label)}</span> '
        f'<span class="small">{escape(remark)}</span></li>'
        for number, label, remark in cards(figures)
    )
    return f'<ul class="cards">{made}</ul>'


def _now(figures: Figures) -> str:
    """The running job with its time left, or how the newest ended; then the next step."""
    said = job_html(figures.job) if figures.job else ""
    return f'<div class="now">{said}<p><strong>Next:</strong> {escape(next_step(figures))}</p></div>'


def _work(figures: Figures) -> str:
    if not figures.judgments and not sum(figures.verdicts.values()):
        return ""
    ages = [f"{HOURS_SHOWN - i} to {HOURS_SHOWN - 1 - i} hours ago" for i in range(HOURS_SHOWN)]
    busy = [(age, f"{count:,}") for age, count in zip(ages, figures.per_hour, strict=True) if count]
    hours = Picture(
        pictures.columns(figures.per_hour, "24 hours ago", "now"),
        f"Labels per hour, last {HOURS_SHOWN} hours: {sum(figures.per_hour):,} in all.",
        Table("Labels per hour", ("hour", "labels"), busy),
    )
    verdicts = {name: count for name, count in figures.verdicts.items() if count}
    rows = [(VERDICT_NAMES.get(name, name), f"{count:,}") for name, count in verdicts.items()]
    shares = Picture(
        pictures.shares(verdicts, VERDICT_NAMES), "What annotators answer.", Table("Verdicts", ("verdict", "judgments"), rows)
    )
    return f'<div class="pictures">{block_html(hours)}{block_html(shares)}</div>'


def _people(figures: Figures, now: datetime) -> str:
    if not figures.people:
        return ""
    rows = [
        (
            p.name,
            "now" if p.is_here else _ago(p.last_at, now),
            f"{p.judgments:,}",
            f"{p.last_hour:,}",
            f"{p.skips:,}",
            duration(p.median_seconds),
        )
        for p in figures.people
    ]
    header = ("annotator", "last seen", "judgments", "last hour", "skips", "median time")
    return f"<section><h2>Who labels</h2>{block_html(Table('Annotators', header, rows))}</section>"


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "not yet"
    seconds = (now - moment).total_seconds()
    return f"{duration(seconds)} ago" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days ago"


def _limits(share: Mapping[str, float]) -> str:
    return f"{100 * share['low']:.0f} to {100 * share['high']:.0f} %"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
