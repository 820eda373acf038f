"""Policies ranked, as HTML: by people's votes, and in a frame of its own what preference models expect. Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from math import exp
from typing import Any

from annotate_app.pages import report_pictures as pictures
from annotate_app.render import show_controls

Row = Mapping[str, Any]
GATES_SHOWN = 6
CAPTION = "Win rates in blind votes. The bounds hold at every look, each side wrong at most 1 time in 20."
ENDS = {"reject": "rejected", "rollback": "rolled back", "stopped": "ended"}
EFFECT_NAMES = {
    "length": "twice as long",
    "headers": "twice the headings",
    "lists": "twice the list items",
    "bold": "twice the bold",
}


def people_section(people: Row | None, votes: Sequence[Row], gates: Sequence[Row]) -> str:
    """Gates, then ratings, then the win matrix."""
    if people is None:
        nothing = (
            "<p>People have not compared two policies yet. With a share for the gate, set under Campaign, they are asked.</p>"
        )
        return f'<section class="source"><h2>What people prefer</h2>{gates_html(gates)}{nothing}</section>'
    tally = "".join(
        f'<tr><th scope="row">{v["policy"]} against {v["opponent"]}</th><td>{v["wins"]}</td><td>{v["ties"]}</td>'
        f"<td>{v['losses']}</td><td>{v['gate']}</td></tr>"
        for v in votes
    )
    counted = table("Votes of the later policy", ("policies", "wins", "ties", "losses", "for a gate"), tally)
    return (
        f'<section class="source"><h2>What people prefer</h2>{gates_html(gates)}{_ratings(people, "votes")}'
        f"<p>{escape(_effects(people['effects']))}</p>{_matrix(people, 'Win rate of the row, both orders of showing alike')}"
        f"<details><summary>Counts of {people['num_votes']:,} votes</summary>{counted}</details></section>"
    )


def model_section(model: Row | None, policies: Sequence[Row]) -> str:
    """What each round's preference model expects: an estimate by a model that learnt from the same people."""
    rows = "".join(
        f'<tr><th scope="row">policy {p["number"]}</th><td>{p["status"]}</td><td>{_share(p["win_rate_vs_parent"])}</td>'
        f"<td>{_share(p['win_rate_vs_base'])}</td><td>{_plain(p['text_quality'])}</td></tr>"
        for p in policies
    )
    names = ("policy", "status", "against its parent", "against the base", "text quality")
    expected = table("Win rates as each round's preference model expects them", names, rows)
    ranked = "" if model is None else _ratings(model, "the models") + _matrix(model, "Expected win rate of the row")
    return (
        '<section class="source expected"><h2>What preference models expect</h2><p>No votes: each round\'s model judges its own '
        "policy. It may share the policy's mistakes, so compare with what people prefer.</p>"
        f"{expected}{ranked}</section>"
    )


def table(caption: str, header: Sequence[str], rows: str) -> str:
    """A table that scrolls in its own box; ``rows`` is HTML."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def gates_html(gates: Sequence[Row]) -> str:
    """Comparisons by people, newest first: their bounds in one picture, and a sentence for each."""
    if not gates:
        return ""
    shown = gates[:GATES_SHOWN]
    voted = [
        (_name(gate), {"mean": gate["win_rate"], "low": gate["low"], "high": gate["high"]}) for gate in shown if gate["votes"]
    ]
    drawn = f"<figure>{pictures.intervals(voted)}<figcaption>{CAPTION}</figcaption></figure>" if voted else ""
    older = len(gates) - len(shown)
    more = f"<li class='small'>{older} older ones are in the API.</li>" if older else ""
    return f'<div class="gates">{drawn}<ul>{"".join(map(_gate, shown))}{more}</ul></div>'


def _name(gate: Row) -> str:
    return f"policy {gate['candidate']} against {gate['opponent']}"


def _gate(gate: Row) -> str:
    ended = gate["decided"]
    state = ENDS.get(ended["action"], ended["action"]) if ended else "people vote"
    said: str = ended["sentence"] if ended else gate["sentence"]
    counts = f"{gate['wins']} wins, {gate['ties']} ties, {gate['losses']} losses"
    waiting = "" if ended else f"; {gate['pairs_waiting']} pairs wait in the queue"
    return (
        f'<li><strong>{_name(gate).capitalize()}</strong><span class="tag">{escape(str(state))}</span><br>'
        f"{escape(show_controls(said))} "
        f"<span class='small'>{counts}{waiting}</span></li>"
    )


def _ratings(found: Row, source: str) -> str:
    first = found["opponent"]
    shown = [name for name in ("votes", "length", "style") if any(row["against"][name] for row in found["table"])]
    rows = "".join(
        f'<tr><th scope="row">policy {row["policy"]}</th><td>{_points(row["rating"], row["policy"] == first)}</td>'
        f"<td>{row['nash']['weight']:.0%}</td><td>{row['nash']['win_rate']:.2f}</td>"
        + "".join(f"<td>{_share(row['against'][name])}</td>" for name in shown)
        + "</tr>"
        for row in sorted(found["table"], key=lambda row: -row["rating"]["mean"])
    )
    titles = {"votes": f"wins against {first}", "length": "… at equal length", "style": "… and equal style"}
    header = ("policy", "Bradley–Terry rating", "in the Nash mixture", "wins against it", *(titles[name] for name in shown))
    return table(f"Policies ranked by {source}, 95 % intervals", header, rows)


def _matrix(found: Row, caption: str) -> str:
    rate = {(cell["policy"], cell["opponent"]): cell["win_rate"] for cell in found["matrix"]}
    numbers = sorted({policy for policy, _ in rate})
    rows = "".join(
        f'<tr><th scope="row">policy {a}</th>{"".join(_cell(rate.get((a, b))) for b in numbers)}</tr>' for a in numbers
    )
    return table(f"{caption}, 95 % intervals", ("policy", *(f"against {b}" for b in numbers)), rows)


def _cell(rate: Row | None) -> str:
    """Tinted by who wins, where the interval tells."""
    if rate is None:
        return "<td>–</td>"
    tint = " class='wins'" if rate["low"] > 0.5 else " class='loses'" if rate["high"] < 0.5 else ""
    number = f", n {rate['n']}" if "n" in rate else ""
    return f"<td{tint}>{_share(rate)}<span class='small'>{number}</span></td>"


def _effects(effects: Row) -> str:
    """What position and style do to a vote, in words, of a pair that is even otherwise."""
    position = effects["position"]
    side = "first" if position["mean"] > 0 else "second"
    said = [f"The response shown {side} wins {_even(abs(position['mean'])):.0%} of even pairs; all figures are corrected for it."]
    found = {name: effects[name] for name in EFFECT_NAMES if name in effects}
    told = [name for name, effect in found.items() if effect["low"] > 0 or effect["high"] < 0]
    # A difference of (2 - 1) / (2 + 1): a third of the effect.
    said += [f"One with {EFFECT_NAMES[name]} wins {_even(found[name]['mean'] / 3):.0%}." for name in told]
    if found and not told:
        said.append("No effect of length or style can be told.")
    return " ".join(said)


def _even(logit: float) -> float:
    return 1 / (1 + exp(-logit))


def _share(value: Row | None) -> str:
    if value is None:
        return "–"
    return f"{value['mean']:.2f}{_limits(value, '.2f')}"


def _points(value: Row, is_first: bool) -> str:
    return f"{value['mean']:.0f}" + ("" if is_first else _limits(value, ".0f"))


def _limits(value: Row, digits: str) -> str:
    if value["low"] is None or value["high"] is None:
        return ""
    return f" <span class='small'>({value['low']:{digits}} to {value['high']:{digits}})</span>"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
