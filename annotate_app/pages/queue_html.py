"""The console's view of what annotators are asked next and why. Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from annotate_app.pages.browse_html import page

Row = Mapping[str, Any]
WHY = {  # of tasks.selection_rule
    "random": "drawn at random",
    "near_tie": "the model cannot decide",
    "bald": "the ensemble disagrees",
    "d_optimal": "its answer shrinks the uncertainty most",
    "double_thompson": "two contenders for the best",
    "information_per_second": "tells much for the time it takes",
    "triangle": "audit: all pairs of a prompt, to tell circles from noise",
    "repeat": "second judgment, to measure consistency",
    "gate": "blind comparison of two policies",
}


def queue_page(facts: Row, places: Sequence[Row]) -> str:
    """How pairs are chosen, and the next ones with rule, score and probability."""
    body = f"<p>{_how(facts)}</p>{_longer(facts['longer_wins'])}"
    if not places:
        return page("Queue", body + '<p class="empty">Nothing waits to be labelled.</p>', "/console/queue")
    note = (
        '<p class="small">Score: what the rule thinks the pair is worth. Chance: of this draw among all pairs left; estimates '
        "weigh a judgment by its inverse.</p>"
    )
    names = ("#", "question", "why", "score", "chance", "judgments")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = "".join(map(_row, places))
    table = (
        '<div class="scroll" role="region" tabindex="0" aria-label="Next pairs"><table class="pairs">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return page("Queue", body + table + note, "/console/queue")


def _how(facts: Row) -> str:
    chosen_by, since = facts["chosen_by"], facts["labels_since"]
    how = f"Selection: {escape(facts['meaning'])}."
    if facts["selection"] == "random":
        return how
    if chosen_by is None:
        return f"{how} No preference model has scored these pairs yet, so all of them are random."
    return f"{how} Chosen by the preference model of {chosen_by['kind']} {chosen_by['number']}; {since:,} labels since."


def _longer(found: Sequence[Row] | None) -> str:
    """The share of pairs that the longer response wins, first by the method to trust."""
    if not found:
        return ""
    told = [f"{e['mean']:.0%} ({e['low']:.0%} to {e['high']:.0%}, {e['method']}, {e['n']:,} pairs)" for e in found]
    others = f"; for comparison {', '.join(told[1:])}" if told[1:] else ""
    return f'<p class="small">The longer of two responses wins {told[0]}{others}.</p>'


def _row(place: Row) -> str:
    question = f'<a href="/console/pairs/{escape(place["task_id"])}" dir="auto">{escape(place["question"][:160])}</a>'
    score = "" if place["score"] is None else f"{place['score']:.3g}"
    return (
        f'<tr><td>{place["place"]}</td><th scope="row">{question}</th><td>{escape(WHY.get(place["rule"]) or place["rule"])}</td>'
        f"<td>{score}</td><td>{place['probability']:.2g}</td><td>{place['judgments']}</td></tr>"
    )
