"""Sign-in and other small pages: plain HTML, no script. Opening a link shows a button; only pressing it uses the link up,
so that link previews in chats and mail do not.
"""

from html import escape
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from annotate_app import texts
from annotate_app.auth import PRINCIPAL, SESSION_USER, redeem_signin_secret
from annotate_app.context import AppContext


def build_router(context: AppContext) -> APIRouter:
    """/sign-in and /sign-out."""
    router = APIRouter(include_in_schema=False)

    @router.get("/sign-in")
    def show(request: Request, token: str | None = None) -> Response:
        who = request.scope.get(PRINCIPAL)
        if token is not None:
            action = f"/sign-in?token={quote(token, safe='')}"
            switch = f"<p>You are signed in as <b>{escape(who.user.name)}</b> now.</p>" if who and who.user else ""
            return page("Sign in", f"{switch}<p>{texts.SIGN_IN_CONFIRM}</p>{_form(action, 'Sign in')}", campaign=context.campaign)
        if who is not None and who.user is not None:
            body = f'<p>You are signed in as <b>{escape(who.user.name)}</b>.</p><p><a class="button" href="/">Label pairs</a></p>'
            return page("Signed in", body + _form("/sign-out", "Sign out", quiet=True), campaign=context.campaign)
        return page("Sign in", f"<p>{texts.SIGN_IN_HELP}</p>{texts.SIGN_IN_OPERATOR}", campaign=context.campaign)

    @router.post("/sign-in")
    def redeem(request: Request, token: str = "") -> Response:
        user = redeem_signin_secret(context.store, token)
        if user is None:
            return page("This link does not work any more", f"<p>{texts.LINK_USED}</p>", campaign=context.campaign, status=410)
        request.session.clear()
        request.session[SESSION_USER] = user.id
        return RedirectResponse("/", 303)

    @router.get("/sign-out")
    def confirm_sign_out() -> Response:
        return page(
            "Sign out?", _form("/sign-out", "Sign out") + '<p><a href="/">Go on labelling</a></p>', campaign=context.campaign
        )

    @router.post("/sign-out")
    def sign_out(request: Request) -> Response:
        request.session.clear()
        return RedirectResponse("/sign-in", 303)

    return router


def forbidden_page() -> HTMLResponse:
    """What an annotator sees at /console."""
    return page(
        "For researchers", f'<p>{texts.RESEARCHERS_ONLY}</p><p><a class="button" href="/">Label pairs</a></p>', status=403
    )


def page(title: str, body: str, *, campaign: str = "Nashloop", status: int = 200) -> HTMLResponse:
    """A small page in the look of the others; ``body`` is HTML."""
    name = escape(campaign)
    return HTMLResponse(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · {name}</title><link rel="icon" href="/favicon.ico">
<link rel="stylesheet" href="/ui/pages.css"></head>
<body><main class="card"><p class="brand">{name}</p><h1>{escape(title)}</h1>{body}</main></body></html>""",
        status,
    )


def _form(action: str, label: str, *, quiet: bool = False) -> str:
    kind = "button quiet" if quiet else "button"
    return f'<form method="post" action="{escape(action)}"><button class="{kind}">{escape(label)}</button></form>'
