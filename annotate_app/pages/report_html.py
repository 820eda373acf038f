"""A report as one HTML file that needs nothing else: style and pictures inside, no scripts, light, dark and on paper.

Every text is escaped or goes through render_markdown; the file forbids itself to load or run anything.
"""

from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path

from annotate_app.pages.report_facts import ReportFacts
from annotate_app.pages.report_parts import Answer, Block, Picture, Points, Section, SideBySide, Table, Words
from annotate_app.pages.report_sections import build_sections
from annotate_app.pages.report_summary import summarise
from annotate_app.render import render_markdown, show_controls

STATIC = Path(__file__).parent.parent / "static"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def report_page(facts: ReportFacts) -> str:
    """The whole document."""
    title = f"{facts.kind.capitalize()} {facts.number}"
    sections = build_sections(facts)
    contents = "".join(f'<a href="#{section.name}">{_text(section.title)}</a>' for section in sections)
    body = "".join(map(_section, sections))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)} · {_text(facts.campaign)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<style>\n{page_style("report")}</style></head>\n'
        f'<body><main class="report">{_head(facts, title)}<nav aria-label="Sections">{contents}</nav>{body}</main></body>\n'
        "</html>\n"
    )


@cache
def page_style(*names: str) -> str:
    """The sheets of these names, one after the other."""
    return "".join((STATIC / f"{name}.css").read_text() for name in names)


def _head(facts: ReportFacts, title: str) -> str:
    failed = facts.report.get("status") == "failed"
    state = f'<span class="state {"bad" if failed else "good"}">{"failed" if failed else "passed"}</span>'
    made = f"{facts.made}, made from {facts.parent}" if facts.made else facts.parent
    status = f", {facts.made_status}" if facts.made_status else ""
    line = f"{facts.campaign} · {facts.started_at:%Y-%m-%d %H:%M} UTC · {made}{status}"
    answers = "".join(map(_answer, summarise(facts)))
    return f'<header><h1>{_text(title)} {state}</h1><p class="small">{_text(line)}</p><dl class="summary">{answers}</dl></header>'


def _answer(answer: Answer) -> str:
    return (
        f'<div class="{answer.tone}"><dt>{_text(answer.question)}</dt>'
        f"<dd><strong>{_text(answer.short)}</strong> {_text(answer.why)}</dd></div>"
    )


def _section(section: Section) -> str:
    blocks = "".join(map(block_html, section.blocks))
    heading = f'<h2 id="{section.name}-title">{_text(section.title)}</h2>'
    return f'<section id="{section.name}" aria-labelledby="{section.name}-title">{heading}{blocks}</section>\n'


def block_html(block: Block) -> str:
    """One block as HTML."""
    match block:
        case Words(text):
            return f"<p>{_text(text)}</p>"
        case Points(items):
            return f"<ul>{''.join(_point(name, sentence) for name, sentence in items)}</ul>" if items else ""
        case Table():
            return _table(block)
        case Picture(svg, caption, numbers):
            inner = f"<details><summary>The numbers</summary>{_table(numbers)}</details>"
            return f"<figure>{svg}<figcaption>{_text(caption)}</figcaption>{inner}</figure>"
        case SideBySide():
            return _side_by_side(block)


def _point(name: str, sentence: str) -> str:
    return f"<li>{f'<strong>{_text(name)}.</strong> ' if name else ''}{_text(sentence)}</li>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.header)
    rows = "".join(_row(row) for row in table.rows)
    kind = ' class="told"' if table.told else ""
    # A box that scrolls must be reachable by keyboard and say what it is.
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(table.caption)}"><table{kind}>'
        f"<caption>{_text(table.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(row: Sequence[str]) -> str:
    first, *rest = row
    return f'<tr><th scope="row">{_text(first)}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in rest)}</tr>'


def _side_by_side(block: SideBySide) -> str:
    texts = "".join(
        f'<div class="text"><h3>{_text(name)}</h3><div dir="auto">{render_markdown(text)}</div></div>'
        for name, text in block.texts
    )
    return (
        f'<article><div class="prompt" dir="auto">{render_markdown(block.prompt)}</div><div class="texts">{texts}</div></article>'
    )


def _text(text: str) -> str:
    return escape(show_controls(text))
