"""Signing in through somebody else's account system: one OpenID Connect provider, by authlib (code flow, PKCE, state, nonce).

Whom a provider's account stands for is decided here, by issuer and subject, never by a name that people choose themselves:
an account linked before; the person who is signed in and asks for the link; somebody added under their verified e-mail
address; or, where the settings say so, a new annotator.
"""

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx2  # what authlib calls the provider with
from authlib.integrations.starlette_client import OAuth, OAuthError
from fastapi import APIRouter, Request
from fastapi.responses import Response
from joserfc.errors import JoseError
from starlette.concurrency import run_in_threadpool

from annotate_app.auth import PRINCIPAL
from annotate_app.context import AppContext
from annotate_app.pages.sign_in import signed_in
from annotate_app.pages.small import language_of, page, paragraph
from annotate_app.security_settings import OidcSettings
from annotate_app.texts import sentence
from storage.errors import UserError
from storage.ids import new_id
from storage.records import Annotator, Credential, User
from storage.store import Store

logger = logging.getLogger(__name__)

LINK_TO = "oidc_link"  # key in the session cookie: the user who asked for the link
TIMEOUT_S = 10


class Unknown(Exception):
    """The provider knows this person, we do not."""


def build_router(context: AppContext) -> APIRouter:
    """/sign-in/oidc and the way back; nothing where no provider is set."""
    router, settings = APIRouter(include_in_schema=False), context.security.oidc
    if settings is None:
        return router
    client = _client(settings)

    @router.get("/sign-in/oidc")
    async def begin(request: Request, link: bool = False) -> Response:
        who = request.scope.get(PRINCIPAL)
        request.session.pop(LINK_TO, None)
        if link and who and who.user and who.by_session:
            request.session[LINK_TO] = who.user.id
        base = context.security.public_url or str(request.base_url).rstrip("/")
        try:
            return await client.authorize_redirect(request, f"{base}/sign-in/oidc/callback")
        except (httpx2.HTTPError, OAuthError, ValueError) as error:
            return _failed(context, request, error)

    @router.get("/sign-in/oidc/callback")
    async def come_back(request: Request) -> Response:
        try:
            token = await client.authorize_access_token(request)
            claims = token.get("userinfo") or {}
            _check_issuer(claims, await client.load_server_metadata(), settings)
        except (httpx2.HTTPError, OAuthError, JoseError, ValueError) as error:
            return _failed(context, request, error)
        who = request.scope.get(PRINCIPAL)
        wanted = request.session.pop(LINK_TO, None)
        asking = who.user if wanted and who and who.user and who.user.id == wanted else None
        try:
            user = await run_in_threadpool(person_of, context.store, settings, claims, asking)
        except Unknown as unknown:
            language = language_of(request, context)
            body = paragraph(sentence("sign_in.oidc_unknown", language, name=str(unknown)))
            return page(sentence("sign_in.title", language), body, context.campaign, language=language, status=403)
        return await run_in_threadpool(signed_in, context, request, user, "oidc")

    return router


def person_of(store: Store, settings: OidcSettings, claims: Mapping[str, Any], asking: User | None = None) -> User:
    """The user that a provider's account stands for; ``Unknown`` if nobody.

    ``asking`` is signed in and wants this account linked.
    """
    identity = f"{claims['iss']} {claims['sub']}"
    linked = next((c for c in store.list_credentials() if c.kind == "oidc" and c.secret == identity), None)
    if linked is not None:
        user = store.get_user(linked.user_id)
        if user is None or user.disabled or (asking is not None and asking.id != user.id):
            raise Unknown(_shown(claims))
        return user
    address = str(claims.get("email", "")).casefold() if claims.get("email_verified") is True else ""
    user = asking or next((u for u in store.list_users() if address and u.name.casefold() == address and not u.disabled), None)
    if user is None and settings.new_people and _is_welcome(address, settings):
        user = _add_annotator(store, _shown(claims))
    if user is None:
        raise Unknown(_shown(claims))
    store.add_credential(Credential(id=new_id(), user_id=user.id, kind="oidc", secret=identity, created_at=datetime.now(UTC)))
    store.append_event(actor=user.id, kind="user.linked", subject=user.id, data={"issuer": str(claims["iss"])})
    return user


def _client(settings: OidcSettings) -> Any:
    secret = os.environ.get(settings.client_secret_env)
    if not secret:
        raise UserError(
            f"The environment variable {settings.client_secret_env} is empty: it must hold the client secret of "
            f"{settings.issuer}. Set it, or leave [security.oidc] out."
        )
    return OAuth().register(
        "oidc",
        server_metadata_url=settings.issuer + "/.well-known/openid-configuration",
        client_id=settings.client_id,
        client_secret=secret,
        client_kwargs={"scope": settings.scope, "code_challenge_method": "S256", "timeout": TIMEOUT_S},
    )


def _check_issuer(claims: Mapping[str, Any], metadata: Mapping[str, Any], settings: OidcSettings) -> None:
    if not claims.get("sub") or claims.get("iss") != metadata.get("issuer"):
        raise ValueError("the ID token has no subject or another issuer")
    if str(metadata["issuer"]).rstrip("/") != settings.issuer:
        raise ValueError(f"the provider calls itself {metadata['issuer']!r}, the settings {settings.issuer!r}")


def _is_welcome(address: str, settings: OidcSettings) -> bool:
    domains = settings.email_domains
    return not domains or any(address.endswith("@" + domain.casefold()) for domain in domains)


def _add_annotator(store: Store, name: str) -> User:
    """A new annotator; somebody else's name gets a number."""
    taken = {user.name for user in store.list_users()} | {annotator.handle for annotator in store.list_annotators()}
    name = next(n for n in (name, *(f"{name} {k}" for k in range(2, 10_000))) if n not in taken)
    now = datetime.now(UTC)
    annotator = Annotator(id=new_id(), handle=name, kind="human", created_at=now)
    user = User(id=new_id(), name=name, role="annotator", annotator_id=annotator.id, created_at=now)
    store.add_annotator(annotator)
    store.add_user(user)
    store.append_event(actor=user.id, kind="user.added", subject=user.id, data={"role": "annotator"})
    return user


def _shown(claims: Mapping[str, Any]) -> str:
    return str(claims.get("preferred_username") or claims.get("name") or claims.get("email") or "somebody")[:80]


def _failed(context: AppContext, request: Request, error: Exception) -> Response:
    logger.warning("signing in through the provider failed: %s: %r", type(error).__name__, str(error))
    language = language_of(request, context)
    body = paragraph(sentence("sign_in.oidc_failed", language), "problem")
    body += f'<p><a href="/sign-in">{sentence("sign_in.title", language)}</a></p>'
    return page(sentence("sign_in.title", language), body, context.campaign, language=language, status=502)
