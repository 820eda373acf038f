"""Sign-in and other small pages: plain HTML, no script. Opening a link shows a button; only pressing it uses the link up,
so that link previews in chats and mail do not.
"""

from html import escape
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from annotate_app.auth import PRINCIPAL, SESSION_USER, redeem_signin_secret
from annotate_app.context import AppContext
from annotate_app.texts import SIGN_IN_OPERATOR, choose_language, sentence


def build_router(context: AppContext) -> APIRouter:
    """/sign-in and /sign-out."""
    router = APIRouter(include_in_schema=False)

    def say(request: Request, title: str, *body: str, status: int = 200) -> HTMLResponse:
        language = _language(request, context)
        return page(sentence(f"sign_in.{title}", language), "".join(body), context.campaign, language=language, status=status)

    @router.get("/sign-in")
    def show(request: Request, token: str | None = None) -> Response:
        who, language = request.scope.get(PRINCIPAL), _language(request, context)
        user = who.user if who else None
        now = f"<p>{sentence('sign_in.now', language, name=f'<b>{escape(user.name)}</b>')}</p>" if user else ""
        if token is not None:
            form = _form(f"/sign-in?token={quote(token, safe='')}", sentence("sign_in.title", language))
            return say(request, "title", now, f"<p>{sentence('sign_in.confirm', language)}</p>", form)
        if user:
            out = _form("/sign-out", sentence("sign_in.out", language), quiet=True)
            return say(request, "done", now, _to_labelling(language), out)
        return say(request, "title", f"<p>{sentence('sign_in.help', language)}</p>", SIGN_IN_OPERATOR)

    @router.post("/sign-in")
    def redeem(request: Request, token: str = "") -> Response:
        user = redeem_signin_secret(context.store, token)
        if user is None:
            return say(request, "used_title", f"<p>{sentence('sign_in.used', _language(request, context))}</p>", status=410)
        request.session.clear()
        request.session[SESSION_USER] = user.id
        return RedirectResponse("/", 303)

    @router.get("/sign-out")
    def confirm_sign_out(request: Request) -> Response:
        language = _language(request, context)
        on = f'<p><a href="/">{sentence("sign_in.go_on", language)}</a></p>'
        return say(request, "out_title", _form("/sign-out", sentence("sign_in.out", language)), on)

    @router.post("/sign-out")
    def sign_out(request: Request) -> Response:
        request.session.clear()
        return RedirectResponse("/sign-in", 303)

    return router


def forbidden_page(accepted_languages: str = "") -> HTMLResponse:
    """What an annotator sees at /console."""
    language = choose_language(accepted_languages)
    body = f"<p>{sentence('sign_in.researchers', language)}</p>{_to_labelling(language)}"
    return page(sentence("sign_in.researchers_title", language), body, language=language, status=403)


def page(title: str, body: str, campaign: str = "Nashloop", *, language: str = "en", status: int = 200) -> HTMLResponse:
    """A small page in the look of the others; ``body`` is HTML."""
    name = escape(campaign)
    return HTMLResponse(
        f"""<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · {name}</title><link rel="icon" href="/favicon.ico">
<link rel="stylesheet" href="/ui/pages.css"></head>
<body><main class="card"><p class="brand">{name}</p><h1>{escape(title)}</h1>{body}</main></body></html>""",
        status,
    )


def _language(request: Request, context: AppContext) -> str:
    return choose_language(request.headers.get("accept-language", ""), context.store.campaign().language)


def _to_labelling(language: str) -> str:
    return f'<p><a class="button" href="/">{sentence("sign_in.label", language)}</a></p>'


def _form(action: str, label: str, *, quiet: bool = False) -> str:
    kind = "button quiet" if quiet else "button"
    return f'<form method="post" action="{escape(action)}"><button class="{kind}">{escape(label)}</button></form>'
