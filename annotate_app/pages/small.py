"""What small pages are made of: plain HTML in the look of the others, no script."""

from html import escape

from fastapi import Request
from fastapi.responses import HTMLResponse

from annotate_app.context import AppContext
from annotate_app.texts import choose_language, sentence


def page(title: str, body: str, campaign: str = "Nashloop", *, language: str = "en", status: int = 200) -> HTMLResponse:
    """A whole page; ``body`` is HTML."""
    name = escape(campaign)
    return HTMLResponse(
        f"""<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · {name}</title><link rel="icon" href="/favicon.ico">
<link rel="stylesheet" href="/ui/pages.css"></head>
<body><main class="card"><p class="brand">{name}</p><h1>{escape(title)}</h1>{body}</main></body></html>""",
        status,
    )


def paragraph(text: str, kind: str = "") -> str:
    """A text as a paragraph; kind ``problem`` is read out at once."""
    return f'<p class="{kind}"{" role=alert" if kind == "problem" else ""}>{escape(text)}</p>'


def button(action: str, label: str, fields: str = "", *, quiet: bool = False) -> str:
    """A form that posts to ``action``; ``fields`` is HTML."""
    kind = "button quiet" if quiet else "button"
    return f'<form method="post" action="{escape(action)}">{fields}<button class="{kind}">{escape(label)}</button></form>'


def field(name: str, label: str, *, kind: str = "text", value: str = "", autocomplete: str = "off") -> str:
    """A labelled input."""
    return (
        f'<label>{escape(label)}<input name="{name}" type="{kind}" value="{escape(value)}" autocomplete="{autocomplete}"'
        ' maxlength="200"></label>'
    )


def language_of(request: Request, context: AppContext) -> str:
    return choose_language(request.headers.get("accept-language", ""), context.store.campaign().language)


def to_labelling(language: str) -> str:
    return f'<p><a class="button" href="/">{sentence("sign_in.label", language)}</a></p>'


def forbidden_page(accepted_languages: str = "") -> HTMLResponse:
    """What an annotator sees at /console."""
    language = choose_language(accepted_languages)
    body = f"<p>{sentence('sign_in.researchers', language)}</p>{to_labelling(language)}"
    return page(sentence("sign_in.researchers_title", language), body, language=language, status=403)
