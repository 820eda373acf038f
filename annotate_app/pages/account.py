"""/account: one's own password and the browsers one is signed in on."""

from html import escape
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response

from annotate_app.auth import SESSION, principal_of
from annotate_app.context import AppContext
from annotate_app.pages.sign_in import FormText
from annotate_app.pages.small import button, field, language_of, page, paragraph, to_labelling
from annotate_app.passwords import has_password, is_password, problem_with, set_password
from annotate_app.rate_limits import Attempts
from annotate_app.sessions import end_sessions, live_sessions
from annotate_app.texts import sentence
from storage.records import User


def signed_in_user(request: Request) -> User:
    """Who is signed in with a session; 403 for a token."""
    who = principal_of(request)
    if who.user is None or not who.by_session:
        raise HTTPException(403, "This page is for people who signed in; tokens have no account.")
    return who.user


Me = Annotated[User, Depends(signed_in_user)]


def build_router(context: AppContext) -> APIRouter:
    """The page and what its two forms do."""
    router, store = APIRouter(include_in_schema=False), context.store
    wrong = Attempts(limit=context.security.sign_in_failures, window_s=context.security.lock_minutes * 60)

    def show(request: Request, user: User, said: str = "", *, problem: bool = False, status: int = 200, **words: str) -> Response:
        language = language_of(request, context)
        body = paragraph(sentence(said, language, **words), "problem" if problem else "done") if said else ""
        body += paragraph(sentence("sign_in.now", language, name=user.name)) + to_labelling(language)
        if oidc := context.security.oidc:
            label = escape(sentence("account.link", language, label=oidc.label))
            body += f'<p><a href="/sign-in/oidc?link=true">{label}</a></p>'
        body += _password_form(language, known=has_password(store, user)) + _sessions(language, len(live_sessions(store, user)))
        return page(sentence("account.title", language), body, context.campaign, language=language, status=status)

    @router.get("/account")
    def account(request: Request, user: Me) -> Response:
        return show(request, user)

    @router.post("/account/password")
    def change_password(
        request: Request, user: Me, current: FormText = "", password: FormText = "", again: FormText = ""
    ) -> Response:
        if seconds := wrong.locked_s(user.id):
            return show(request, user, "sign_in.locked", problem=True, status=429, minutes=str(int(seconds // 60) + 1))
        if has_password(store, user) and not is_password(store, user, current):
            wrong.fail(user.id)
            return show(request, user, "account.wrong", problem=True, status=422)
        problem = "sign_in.password_differs" if password != again else problem_with(password, user.name)
        if problem:
            return show(request, user, problem, problem=True, status=422)
        set_password(store, user, password, actor=user.id)
        end_sessions(store, user, actor=user.id, but=str(request.session.get(SESSION)))
        return show(request, user, "account.changed")

    @router.post("/account/sign-out-elsewhere")
    def sign_out_elsewhere(request: Request, user: Me) -> Response:
        end_sessions(store, user, actor=user.id, but=str(request.session.get(SESSION)))
        return show(request, user, "account.ended")

    return router


def _password_form(language: str, *, known: bool) -> str:
    fields = field("current", sentence("account.current", language), kind="password", autocomplete="current-password")
    new = field("password", sentence("sign_in.new_password", language), kind="password", autocomplete="new-password")
    new += field("again", sentence("sign_in.again", language), kind="password", autocomplete="new-password")
    title = sentence("account.password", language)
    return f"<h2>{title}</h2>" + button("/account/password", title, (fields if known else "") + new)


def _sessions(language: str, count: int) -> str:
    if count < 2:
        return ""
    told = paragraph(sentence("account.sessions", language, count=str(count)))
    return told + button("/account/sign-out-elsewhere", sentence("account.everywhere", language), quiet=True)
