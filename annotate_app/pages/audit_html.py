"""The audit log as a page of the console: who did what, newest first; every view a link, no script."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from fastapi.responses import HTMLResponse

from annotate_app.pages.browse_html import page

# Beginnings of kinds, by what they are about.
KINDS = {"": "everything", "session.": "sign-ins", "user.": "people", "token.": "tokens", "api.": "calls"}
KINDS |= {"campaign.": "campaign", "policy.": "policies", "round.": "jobs"}
DATA_SHOWN = 160
PAGE = 200  # entries


def audit_page(entries: Sequence[Mapping[str, Any]], kind: str) -> HTMLResponse:
    """A page of the log; ``kind`` is the beginning that was asked for."""
    links = " · ".join(
        f"<b>{name}</b>" if start == kind else f'<a href="/console/audit?kind={quote(start)}">{name}</a>'
        for start, name in KINDS.items()
    )
    rows = "".join(map(_row, entries))
    older = (
        f'<a href="/console/audit?kind={quote(kind)}&amp;before={entries[-1]["seq"]}">Older</a>' if len(entries) == PAGE else ""
    )
    table = (
        '<div class="scroll" role="region" tabindex="0" aria-label="Audit log"><table><thead><tr><th scope="col">when, UTC</th>'
        '<th scope="col">who</th><th scope="col">what</th><th scope="col">about</th><th scope="col">more</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    empty = '<p class="empty">Nothing of this kind was done.</p>'
    return HTMLResponse(page("Audit log", f"<p>{links}</p>{table if rows else empty}<p>{older}</p>"))


def _row(entry: Mapping[str, Any]) -> str:
    data = json.loads(entry["data"])
    more = ", ".join(f"{name}: {value}" for name, value in data.items())
    short = more if len(more) <= DATA_SHOWN else more[: DATA_SHOWN - 1] + "…"
    cells = (entry["actor_name"], entry["kind"], entry["about"] or entry["subject"], short)
    return f"<tr><td><time>{entry['at']:%Y-%m-%d %H:%M:%S}</time></td>{''.join(f'<td>{escape(str(c))}</td>' for c in cells)}</tr>"
