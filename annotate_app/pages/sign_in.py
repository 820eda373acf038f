"""Signing in and out: plain HTML, no script. Opening a link shows a button; only pressing it uses the link up, so that link
previews in chats and mail do not. With it one may choose a password, to sign in again without a new link.
"""

from html import escape
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from annotate_app import csrf
from annotate_app.auth import PRINCIPAL, SESSION, redeem_signin_secret, user_of_link
from annotate_app.context import AppContext
from annotate_app.pages.small import button, field, language_of, page, paragraph, to_labelling
from annotate_app.passwords import is_password, problem_with, set_password
from annotate_app.rate_limits import Attempts
from annotate_app.sessions import end_session, open_session
from annotate_app.texts import SIGN_IN_OPERATOR, sentence
from storage.records import User

FormText = Annotated[str, Form(max_length=1000)]
FAILURES_OF_A_HOST = 20  # many people may share one address
CLOSED_STATUS, WRONG_STATUS, LOCKED_STATUS = 410, 401, 429


def build_router(context: AppContext) -> APIRouter:
    """/sign-in and /sign-out."""
    router = APIRouter(include_in_schema=False)
    signing_in = _SignIn(context)

    @router.get("/sign-in")
    def show(request: Request, token: str | None = None) -> Response:
        return signing_in.link_page(request, token) if token is not None else signing_in.form_page(request)

    @router.post("/sign-in")
    def sign_in(
        request: Request, token: str = "", name: FormText = "", password: FormText = "", again: FormText = ""
    ) -> Response:
        if token or not name:
            return signing_in.by_link(request, token, password, again)
        return signing_in.by_password(request, name.strip(), password)

    @router.get("/sign-out")
    def confirm_sign_out(request: Request) -> Response:
        language = language_of(request, context)
        out = button("/sign-out", sentence("sign_in.out", language))
        on = f'<p><a href="/">{sentence("sign_in.go_on", language)}</a></p>'
        return page(sentence("sign_in.out_title", language), out + on, context.campaign, language=language)

    @router.post("/sign-out")
    def sign_out(request: Request) -> Response:
        end_session(context.store, str(request.session.get(SESSION, "")))
        request.session.clear()
        return RedirectResponse("/sign-in", 303)

    return router


def signed_in(context: AppContext, request: Request, user: User, how: str) -> Response:
    """Begin a session in this browser and go to the labelling page."""
    days = context.security.session_days
    secret = open_session(context.store, user, days=days, how=how)
    request.session.clear()
    request.session[SESSION] = secret
    answer = RedirectResponse("/", 303)
    csrf.set_token(answer, secret, context.session_secret, days=days)
    return answer


class _SignIn:
    """The ways in, and what each page of them says."""

    def __init__(self, context: AppContext) -> None:
        settings = context.security
        window_s = settings.lock_minutes * 60
        self.context, self.store = context, context.store
        self.of_name = Attempts(limit=settings.sign_in_failures, window_s=window_s)
        self.of_host = Attempts(limit=FAILURES_OF_A_HOST, window_s=window_s)

    def form_page(self, request: Request, problem: str = "", status: int = 200, name: str = "") -> Response:
        """Name and password; who is signed in already is told so."""
        language = language_of(request, self.context)
        who = request.scope.get(PRINCIPAL)
        if who and who.user and not problem:
            out = button("/sign-out", sentence("sign_in.out", language), quiet=True)
            account = f'<p><a href="/account">{sentence("account.title", language)}</a></p>'
            body = self._now(request, language) + to_labelling(language) + account + out
            return page(sentence("sign_in.done", language), body, self.context.campaign, language=language)
        fields = field("name", sentence("sign_in.name", language), value=name, autocomplete="username")
        fields += field("password", sentence("sign_in.password", language), kind="password", autocomplete="current-password")
        form = button("/sign-in", sentence("sign_in.title", language), fields)
        body = (paragraph(problem, "problem") if problem else "") + form + self._other_ways(language)
        return page(sentence("sign_in.title", language), body, self.context.campaign, language=language, status=status)

    def link_page(self, request: Request, token: str, problem: str = "") -> Response:
        """What a link does, and the place for a password."""
        language = language_of(request, self.context)
        fields = field("password", sentence("sign_in.new_password", language), kind="password", autocomplete="new-password")
        fields += field("again", sentence("sign_in.again", language), kind="password", autocomplete="new-password")
        form = button(f"/sign-in?token={quote(token, safe='')}", sentence("sign_in.title", language), fields)
        body = (paragraph(problem, "problem") if problem else "") + self._now(request, language)
        body += paragraph(sentence("sign_in.confirm", language)) + form
        status = 422 if problem else 200
        return page(sentence("sign_in.title", language), body, self.context.campaign, language=language, status=status)

    def by_link(self, request: Request, token: str, password: str, again: str) -> Response:
        """A refused password leaves the link as it is."""
        language, host = language_of(request, self.context), _host(request)
        if locked := self.of_host.locked_s(host):
            return self._locked(request, locked)
        holder = user_of_link(self.store, token)
        if holder is not None and password:
            problem = "sign_in.password_differs" if password != again else problem_with(password, holder.name)
            if problem:
                return self.link_page(request, token, sentence(problem, language))
        user = redeem_signin_secret(self.store, token) if holder is not None else None
        if user is None:
            self.of_host.fail(host)
            body = paragraph(sentence("sign_in.used", language))
            title = sentence("sign_in.used_title", language)
            return page(title, body, self.context.campaign, language=language, status=CLOSED_STATUS)
        if password:
            set_password(self.store, user, password, actor=user.id)
        return signed_in(self.context, request, user, "link")

    def by_password(self, request: Request, name: str, password: str) -> Response:
        """After a few wrong passwords nobody of this name is let in for a while, known or not."""
        host, key = _host(request), name.casefold()
        if locked := max(self.of_name.locked_s(key), self.of_host.locked_s(host)):
            return self._locked(request, locked)
        user = next((user for user in self.store.list_users() if user.name.casefold() == key and not user.disabled), None)
        if is_password(self.store, user, password) and user is not None:
            self.of_name.succeed(key)
            return signed_in(self.context, request, user, "password")
        self.of_host.fail(host)
        if self.of_name.fail(key) and user is not None:
            self.store.append_event(actor="system", kind="user.locked", subject=user.id, data={"from": host})
        problem = sentence("sign_in.wrong", language_of(request, self.context))
        return self.form_page(request, problem, WRONG_STATUS, name)

    def _locked(self, request: Request, seconds: float) -> Response:
        minutes = str(int(seconds // 60) + 1)
        language = language_of(request, self.context)
        answer = self.form_page(request, sentence("sign_in.locked", language, minutes=minutes), LOCKED_STATUS)
        answer.headers["retry-after"] = str(int(seconds) + 1)
        return answer

    def _now(self, request: Request, language: str) -> str:
        who = request.scope.get(PRINCIPAL)
        return paragraph(sentence("sign_in.now", language, name=who.user.name)) if who and who.user else ""

    def _other_ways(self, language: str) -> str:
        oidc = self.context.security.oidc
        label = escape(sentence("sign_in.oidc", language, label=oidc.label)) if oidc else ""
        through = f'<p><a class="button quiet" href="/sign-in/oidc">{label}</a></p>' if oidc else ""
        return through + paragraph(sentence("sign_in.help", language)) + SIGN_IN_OPERATOR


def _host(request: Request) -> str:
    return request.client.host if request.client else "?"
