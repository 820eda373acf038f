"""Policies as a picture of who came from whom, ranked by votes and by models, and two of them on one prompt side by side."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from annotate_app.pages.browse_html import page
from annotate_app.pages.policy_tables_html import model_section, people_section
from annotate_app.render import render_markdown, render_prompt, show_controls
from storage.records import Message

Row = Mapping[str, Any]
STEP, ROW, RADIUS = 120, 74, 22


def lineage_page(
    policies: Sequence[Row],
    votes: Sequence[Row],
    prompts: Sequence[Row],
    compared: Row | None,
    *,
    people: Row | None = None,
    model: Row | None = None,
    gates: Sequence[Row] = (),
    live: bool = False,
) -> str:
    """policies, votes, people, model: of reports.policies. gates: as the API tells. prompts: id and text to choose from.

    live: policies can be asked.
    """
    numbers = [policy["number"] for policy in policies]
    body = (
        f"<figure>{lineage_svg(policies)}<figcaption>Each policy right of the one it was trained from. The double ring answers "
        "the next prompts; a dashed ring was never promoted.</figcaption></figure>"
        f"{people_section(people, votes, gates)}{model_section(model, policies)}"
        f"{_compare_form(numbers, prompts, compared)}{_compared(compared)}{_ask_both(live)}"
    )
    return page("Lineage", body, "/console/lineage")


def lineage_svg(policies: Sequence[Row]) -> str:
    """The tree of policies, the base at the left; siblings below each other."""
    place = _places(policies)
    width = STEP * (1 + max((x for x, _ in place.values()), default=0)) + 2 * RADIUS
    height = ROW * (1 + max((y for _, y in place.values()), default=0))
    middle = {number: (RADIUS + 8 + x * STEP, ROW / 2 + y * ROW) for number, (x, y) in place.items()}
    joined = [(middle[p["parent"]], middle[p["number"]]) for p in policies if p["parent"] in middle]
    lines = "".join(f'<path class="curve" d="M{x} {y} L{to_x} {to_y}"/>' for (x, y), (to_x, to_y) in joined)
    nodes = "".join(_node(policy, *middle[policy["number"]]) for policy in policies)
    told = ", ".join(f"policy {p['number']} from {p['parent']}" for p in policies if p["parent"] is not None)
    return (
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" aria-label="{escape(told or "one policy")}">'
        f"{lines}{nodes}</svg>"
    )


def _places(policies: Sequence[Row]) -> dict[int, tuple[int, int]]:
    """Column by generation; the first child stays in its parent's line, others open a new one."""
    place: dict[int, tuple[int, int]] = {}
    lines = 0
    for policy in policies:
        parent = place.get(policy["parent"])
        first = parent is not None and (parent[0] + 1, parent[1]) not in place.values()
        line = parent[1] if parent is not None and first else lines
        lines = max(lines, line + 1)
        place[policy["number"]] = (0 if parent is None else parent[0] + 1, line)
    return place


def _node(policy: Row, x: float, y: float) -> str:
    serving = policy["status"] == "serving"
    style = ' stroke-dasharray="4 4"' if policy["status"] == "candidate" else ""
    inner = f'<circle cx="{x}" cy="{y}" r="{RADIUS - 5}" fill="none" stroke="var(--accent)" stroke-width="2"/>' if serving else ""
    ring = f'<circle cx="{x}" cy="{y}" r="{RADIUS}" fill="var(--surface)" stroke="var(--accent)" stroke-width="2.2"{style}/>'
    number = f'<text x="{x}" y="{y + 5}" text-anchor="middle" class="strong">{policy["number"]}</text>'
    status = f'<text x="{x}" y="{y + RADIUS + 16}" text-anchor="middle" font-size="11">{policy["status"]}</text>'
    return ring + inner + number + status


def _compare_form(numbers: Sequence[int], prompts: Sequence[Row], compared: Row | None) -> str:
    chosen = compared or {}

    def options(values: Sequence[tuple[Any, str]], selected: Any) -> str:
        return "".join(
            f'<option value="{escape(str(value))}"{" selected" if value == selected else ""}>{escape(word)}</option>'
            for value, word in values
        )

    policies = [(number, f"policy {number}") for number in numbers]
    asked = [(prompt["id"], show_controls(prompt["text"])[:110]) for prompt in prompts]
    first, second = chosen.get("a", numbers[0] if numbers else 0), chosen.get("b", numbers[-1] if numbers else 0)
    return (
        '<section id="compare"><h2>Two policies on one prompt</h2><form class="filters" action="/console/lineage#compare">'
        f'<label>first<select name="a">{options(policies, first)}</select></label>'
        f'<label>second<select name="b">{options(policies, second)}</select></label>'
        f'<label class="wide">prompt<select name="prompt">{options(asked, chosen.get("prompt_id"))}</select></label>'
        '<div class="act"><button>Compare</button></div></form></section>'
    )


def _ask_both(live: bool) -> str:
    """A prompt of one's own for the two that are chosen above; static/compare.js shows the answers as they come."""
    if not live:
        return (
            '<p class="small">With <code>nashloop up --policy-server auto</code> both can be asked a prompt of your own here.</p>'
        )
    columns = "".join(
        f'<div class="text"><h2 data-name="{side}"></h2><p class="streamed" data-side="{side}"></p></div>' for side in "ab"
    )
    return (
        '<form id="ask-both" class="setup"><label>Or ask them a prompt of your own'
        '<textarea name="text" rows="3" maxlength="8000" required dir="auto"></textarea></label>'
        '<div class="act"><button>Ask both</button> <span id="asked" role="status"></span></div></form>'
        f'<article id="answers" hidden><div class="texts">{columns}</div></article>'
        '<script type="module" src="/ui/compare.js"></script>'
    )


def _compared(compared: Row | None) -> str:
    """The responses that both are known to have given."""
    if compared is None:
        return ""
    columns = "".join(
        f'<div class="text"><h2>policy {number}</h2>'
        + (
            "<hr>".join(f'<div dir="auto">{render_markdown(text)}</div>' for text in texts)
            or "<p>It has no response to this prompt.</p>"
        )
        + "</div>"
        for number, texts in ((compared["a"], compared["texts_a"]), (compared["b"], compared["texts_b"]))
    )
    prompt = render_prompt([Message(**message) for message in compared["messages"]])
    return f'<article><div class="prompt" dir="auto">{prompt}</div><div class="texts">{columns}</div></article>'
