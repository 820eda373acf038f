"""Pages to look at judgments, annotators and policies: plain HTML, every view a link, no script. Pure.

Texts are escaped or go through render_markdown.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from annotate_app.browse import PairFilter
from annotate_app.pages.report_html import page_style
from annotate_app.render import render_markdown, render_prompt, show_controls
from storage.records import Message

Row = Mapping[str, Any]
PLACES = (("/console/", "Console"), ("/console/pairs", "Pairs"), ("/console/pairs?only=disagreement", "Disagreements"))
PLACES += (("/console/pairs?only=flagged", "Flagged"), ("/console/annotators", "Annotators"), ("/console/lineage", "Lineage"))
PLACES += (("/console/queue", "Queue"), ("/console/campaign", "Campaign"))
ONLY = {"disagreement": "people disagree", "flagged": "flagged", "edited": "edited", "marked": "with marked text"}
VERDICT_WORDS = {
    "a": "first shown is better",
    "b": "second shown is better",
    "tie": "tie",
    "both_bad": "both bad",
    "skip": "skipped",
}
PERSON_FACTS = {  # of the annotators' report, and what they are called
    "agreement_with_others": "agrees with others",
    "right": "right, by consensus",
    "accuracy_known": "right on known answers",
    "flip_rate": "flips",
    "repeat_consistency": "repeats alike",
    "first_shown_wins": "first shown wins",
    "median_seconds": "seconds a pair",
    "too_fast": "too fast to read",
}
SUSPICIONS = ("random", "adversarial")
FORM = ("q", "verdict", "annotator", "policy", "purpose", "split", "aspect", "reason", "since", "until", "only")


def page(title: str, body: str, here: str = "") -> str:
    """The whole document."""
    links = "".join(f'<a href="{href}"{_current(href == here)}>{name}</a>' for href, name in PLACES)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)} · Nashloop</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="/favicon.ico">'
        f"<style>{page_style('report', 'browse')}</style></head>"
        f'<body><nav class="places" aria-label="Console">{links}</nav><main class="report browse"><h1>{_text(title)}</h1>{body}'
        "</main></body></html>\n"
    )


def pairs_page(asked: PairFilter, found: Row, choices: Mapping[str, Sequence[str]], waiting: int | None = None) -> str:
    """The search form and one page of judged pairs; ``waiting``: pairs to adjudicate, on the page of disagreements."""
    kind = f" where {ONLY[asked.only]}" if asked.only in ONLY else ""
    count = f"{found['total']:,} judgment{'s' * (found['total'] != 1)}{kind}"
    rows = "".join(map(_pair_row, found["pairs"]))
    empty = '<p class="empty">Nothing fits. Leave out a filter, or search for fewer words.</p>' if not rows else ""
    table = (
        '<div class="scroll" role="region" tabindex="0" aria-label="Judgments"><table class="pairs"><thead><tr>'
        '<th scope="col">prompt</th><th scope="col">verdict</th><th scope="col">annotator</th><th scope="col">written by</th>'
        f'<th scope="col">when, UTC</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )
    title = {"disagreement": "Disagreements", "flagged": "Flagged pairs"}.get(asked.only, "Pairs")
    here = f"/console/pairs?only={asked.only}" if asked.only in ("disagreement", "flagged") else "/console/pairs"
    search = f'{_adjudication(waiting)}{_form(asked, choices)}<p class="small" role="status">{count}</p>'
    body = f"{search}{empty or table}{_pages(asked, found['pages'])}"
    return page(title, body, here)


def _adjudication(waiting: int | None) -> str:
    """A button to the labelling page, where the most contested pair comes first, blind."""
    if not waiting:
        return "" if waiting is None else '<p class="small">Nothing waits for adjudication.</p>'
    many = f"{waiting:,} pairs wait" if waiting != 1 else "One pair waits"
    return (
        f'<form class="act" method="post" action="/console/adjudicate"><p>{many} for a researcher: people want opposite '
        "things and nobody more is asked. You judge blind, on the labelling page.</p><button>Adjudicate</button></form>"
    )


def pair_page(pair: Row) -> str:
    """One pair with all that was said of it."""
    prompt = render_prompt([Message(**message) for message in pair["messages"]])
    names = [f"Response {k + 1}" for k in range(len(pair["responses"]))]
    number = {response["id"]: k + 1 for k, response in enumerate(pair["responses"])}
    texts = "".join(
        f'<div class="text"><h2>{name} <span class="small">by {_text(response["model"])}</span></h2>'
        f'<div dir="auto">{render_markdown(response["text"])}</div></div>'
        for name, response in zip(names, pair["responses"], strict=True)
    )
    said = "".join(_said(row, number) for row in pair["judgments"]) or "<p>Nobody has judged this pair yet.</p>"
    flags = "".join(
        f"<li>{_text(flag['annotator'])} flagged it as <b>{_text(flag['reason'])}</b>: "
        f"{_text(flag['comment'] or 'no comment')} ({_time(flag['at'])})</li>"
        for flag in pair["flags"]
    )
    facts = f"{pair['purpose']} · {pair['split']} · from {pair['source']} · chosen by {pair['selection_rule']}"
    body = (
        f'<p class="small">{_text(facts)}</p><article><div class="prompt" dir="auto">{prompt}</div>'
        f'<div class="texts">{texts}</div></article>'
        f"{f'<section><h2>Flags</h2><ul>{flags}</ul></section>' if flags else ''}"
        f"<section><h2>What was said</h2>{said}</section>"
    )
    return page("One pair", body)


def annotators_page(people: Sequence[Row]) -> str:
    """Whom to look at, then a line for each annotator with a link to their own page."""
    if not people:
        return page("Annotators", "<p>Nobody has labelled yet.</p>", "/console/annotators")
    head = ("annotator", "labels", *PERSON_FACTS.values())
    rows = "".join(
        f'<tr><th scope="row">{_person_link(person)}{_excluded_tag(person)}</th><td>{person["labels"]:,}</td>'
        f"{''.join(_fact_cell(person, name) for name in PERSON_FACTS)}</tr>"
        for person in people
    )
    cells = "".join(f'<th scope="col">{name}</th>' for name in head)
    table = (
        '<div class="scroll" role="region" tabindex="0" aria-label="Annotators"><table class="people"><thead><tr>'
        f"{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    note = (
        '<p class="small">With 95 % intervals. Flips: how often somebody answers the wrong way round beside the others. '
        "Right: how often they say what the others' answers make true.</p>"
    )
    return page("Annotators", _to_look_at(people) + table + note, "/console/annotators")


def annotator_page(
    person: Row, *, shares: Mapping[str, int], training: Row | None, flags: Sequence[Row], notes: Sequence[Row]
) -> str:
    """All that is known of one annotator, and whether their judgments count."""
    facts = [("labels", f"{person['labels']:,}"), ("skipped", f"{person['skips']:,}")]
    facts += [(words, "   ".join(_fact(person, name))) for name, words in PERSON_FACTS.items()]
    facts += [("flip rate, by the model", _number(person["flip_rate_model"])), ("scale, by the model", _number(person["scale"]))]
    facts += [(VERDICT_WORDS[name], f"{count:,}") for name, count in shares.items()]
    if training is not None:
        state = {True: "passed", False: "not passed", None: "under way"}[training["passed"]]
        facts.append(("training", f"{state}, {training['right']} of {training['done']} right"))
    told = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts)
    link = PairFilter(annotator=person["annotator"]).link()
    sent = [f"flagged a pair as {f['reason']}: {f['comment'] or 'no comment'}" for f in flags] + [
        f"wrote: {n['text']}" for n in notes
    ]
    messages = "".join(f"<li>{_text(line)}</li>" for line in sent)
    remarks = "".join(f"<li>{_text(remark['sentence'])}</li>" for remark in person["remarks"])
    body = (
        f"{f'<section><h2>To look at</h2><ul>{remarks}</ul></section>' if remarks else ''}"
        f'<dl class="facts">{told}</dl><p><a href="{escape(link)}">Every judgment of {_text(person["annotator"])}</a> · '
        f'<a href="{escape(PairFilter(annotator=person["annotator"], only="disagreement").link())}">where others disagree</a></p>'
        f"{_exclusion(person)}{f'<section><h2>Messages</h2><ul>{messages}</ul></section>' if messages else ''}"
    )
    return page(person["annotator"], body)


def _to_look_at(people: Sequence[Row]) -> str:
    """Remarks on people who count, suspicions first."""
    found = [person for person in people if person["remarks"] and person["excluded"] is None]
    found.sort(key=lambda person: person["remarks"][0]["kind"] not in SUSPICIONS)
    rows = "".join(
        f"<li><b>{_person_link(person)}</b>: {_text(' '.join(remark['sentence'] for remark in person['remarks']))}</li>"
        for person in found
    )
    return f'<section class="look"><h2>To look at</h2><ul>{rows}</ul></section>' if rows else ""


def _exclusion(person: Row) -> str:
    """The form that excludes somebody or includes them again; plain, it works without a script."""
    reason = person["excluded"]
    do, verb = ("exclude", "Exclude") if reason is None else ("include", "Include again")
    why = (
        "Fits, reports, win rates and exports leave out what an excluded person judged, and they are handed no more pairs. "
        "Nothing is deleted: including them again counts all of it."
        if reason is None
        else f"Excluded: {reason}"
    )
    return (
        f'<section><h2>Do their judgments count?</h2><p>{_text(why)}</p><form class="filters" method="post">'
        f'<input type="hidden" name="do" value="{do}"><label class="wide">Reason<input name="reason" required maxlength="1000">'
        f'</label><div class="act"><button>{verb}</button></div></form></section>'
    )


def _person_link(person: Row) -> str:
    return f'<a href="/console/annotators/{quote(person["annotator_id"])}">{_text(person["annotator"])}</a>'


def _excluded_tag(person: Row) -> str:
    return "" if person["excluded"] is None else '<span class="tag">excluded</span>'


def _form(asked: PairFilter, choices: Mapping[str, Sequence[str]]) -> str:
    fields = [f'<label class="wide">Words<input type="search" name="q" value="{escape(asked.q)}" maxlength="200"></label>']
    for name in FORM[1:8]:
        options = "".join(_option(value, getattr(asked, name)) for value in ("", *choices.get(name, ())))
        fields.append(f'<label>{name}<select name="{name}">{options}</select></label>')
    for name in ("since", "until"):
        fields.append(f'<label>{name}<input type="date" name="{name}" value="{escape(getattr(asked, name))}"></label>')
    only = "".join(_option(value, asked.only, word) for value, word in {"": "any", **ONLY}.items())
    fields.append(f'<label>only where<select name="only">{only}</select></label>')
    return (
        f'<form class="filters" action="/console/pairs" role="search">{"".join(fields)}'
        '<div class="act"><button>Search</button><a href="/console/pairs">Clear</a></div></form>'
    )


def _option(value: str, chosen: str, word: str | None = None) -> str:
    selected = " selected" if value == chosen else ""
    return f'<option value="{escape(value)}"{selected}>{_text(word or value or "any")}</option>'


def _pair_row(row: Row) -> str:
    marks = [word for word, on in (("flagged", row["flagged"]), ("edited", row["edited"])) if on]
    if row["num_verdicts"] > 1:
        marks.append(f"{row['num_annotators']} people, {row['num_verdicts']} verdicts")
    tags = "".join(f'<span class="tag">{_text(mark)}</span>' for mark in [*marks, *row["reasons"]])
    strength = f", {('slightly', 'clearly', 'much')[row['strength'] - 1]}" if row["strength"] else ""
    link = f'<a href="/console/pairs/{quote(row["task_id"])}" dir="auto">{_text(_short(row["prompt"]))}</a>'
    return (
        f'<tr><th scope="row">{link}{tags}</th>'
        f"<td>{VERDICT_WORDS[row['verdict']]}{strength}</td><td>{_text(row['annotator'])}</td>"
        f"<td>{_text(row['model_a'])} against {_text(row['model_b'])}</td><td>{_time(row['submitted_at'])}</td></tr>"
    )


def _said(row: Row, number: Mapping[str, int]) -> str:
    first, second = number.get(row["response_a_id"], "?"), number.get(row["response_b_id"], "?")
    verdict = {"a": f"response {first} is better", "b": f"response {second} is better"}.get(
        row["verdict"], VERDICT_WORDS[row["verdict"]]
    )
    strength = f", {('slightly', 'clearly', 'much')[row['strength'] - 1]}" if row["strength"] else ""
    state = "" if row["standing"] else ' <span class="tag">replaced or taken back</span>'
    state += _excluded_tag({"excluded": ""}) if row["excluded"] else ""
    aspects = [f"{name}: {_rated(value, first, second)}" for name, value in json.loads(row["aspects"] or "{}").items()]
    more = [*aspects, *row["reasons"]]
    tags = "".join(f'<span class="tag">{_text(word)}</span>' for word in more)
    texts = {"a": row["response_a"], "b": row["response_b"]}
    spans = "".join(
        f"<li><q>{_text(_cut(texts[span['side']], span))}</q> in response {first if span['side'] == 'a' else second}"
        f"{': ' + _text(span['note']) if span['note'] else ''}</li>"
        for span in json.loads(row["spans"] or "[]")
    )
    rationale = f'<blockquote dir="auto">{_text(row["rationale"])}</blockquote>' if row["rationale"] else ""
    edited = f'<details><summary>Edited text</summary><div dir="auto">{render_markdown(row["edited_text"] or "")}</div></details>'
    seconds = (row["submitted_at"] - row["shown_at"]).total_seconds() if row["shown_at"] else None
    took = f" · {seconds:.0f} s" if seconds is not None else ""
    who = f'<b><a href="/console/annotators/{quote(row["annotator_id"])}">{_text(row["annotator"])}</a></b>'
    when = f'<span class="small">{_time(row["submitted_at"])}{took}, response {first} shown first</span>'
    parts = [
        f"<p>{who}: {_text(verdict)}{strength}{state} {when}</p>",
        f"<p>{tags}</p>" if tags else "",
        rationale,
        f"<ul>{spans}</ul>" if spans else "",
        edited if row["edited_text"] else "",
    ]
    return f'<article class="said">{"".join(parts)}</article>'


def _rated(value: int, first: Any, second: Any) -> str:
    return "no difference" if value == 0 else f"response {first if value > 0 else second} is better"


def _cut(text: str, span: Row) -> str:
    return _short(text[span["start"] : span["end"]], 120)


def _pages(asked: PairFilter, pages: int) -> str:
    before = f'<a rel="prev" href="{escape(asked.link(page=asked.page - 1))}">Newer</a>' if asked.page > 1 else ""
    after = f'<a rel="next" href="{escape(asked.link(page=asked.page + 1))}">Older</a>' if asked.page < pages else ""
    return (
        f'<nav class="pages" aria-label="Pages">{before} <span>page {asked.page} of {pages}</span> {after}</nav>'
        if pages > 1
        else ""
    )


def _fact(person: Row, name: str) -> tuple[str, str]:
    """An estimate and its interval in words: seconds, else shares in percent."""
    value = person[name]
    if value is None:
        return "–", ""
    mean, low, high = (value[part] if name == "median_seconds" else 100 * value[part] for part in ("mean", "low", "high"))
    unit, digits = (" s", 1) if name == "median_seconds" else (" %", 0)
    return f"{mean:.{digits}f}{unit}", f"{low:.{digits}f} to {high:.{digits}f}"


def _fact_cell(person: Row, name: str) -> str:
    mean, interval = _fact(person, name)
    return f'<td class="estimate">{mean}<span class="small">{interval}</span></td>'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _time(at: Any) -> str:
    return f'<time datetime="{at:%Y-%m-%dT%H:%M:%SZ}">{at:%Y-%m-%d %H:%M}</time>'


def _short(text: str, most: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _current(here: bool) -> str:
    return ' aria-current="page"' if here else ""


def _text(text: Any) -> str:
    return escape(show_controls(str(text)))
