"""Who is asking: bearer tokens, one-time sign-in links and browser sessions. Only the SHA-256 of a secret is ever kept.

``authenticate`` is called once per request, by the guard; everything behind it reads the result with ``principal``.
"""

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import HTTPException, Request

from storage.ids import new_id
from storage.records import Annotator, Role, Scope, Token, User
from storage.store import Store

SCOPES: tuple[Scope, ...] = ("label", "research", "admin")  # each includes those before it
SIGNIN_DAYS = 7
PRINCIPAL = "nashloop.principal"  # key in the ASGI scope
SESSION = "session"  # key in the session cookie: the secret of a token of kind session


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody who may do something. ``actor`` goes into the audit log: a user's id or a token's name."""

    actor: str
    scope: Scope
    annotator_id: str | None
    user: User | None
    by_session: bool = False  # a cookie, which a browser sends by itself: mutating calls must prove that our page made them

    def may(self, scope: Scope) -> bool:
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


def issue_token(
    store: Store,
    *,
    name: str,
    scope: Scope,
    annotator_handle: str | None = None,
    user_id: str | None = None,
    expires_at: datetime | None = None,
    actor: str | None = None,
) -> tuple[Token, str]:
    """A new bearer token and its secret, which cannot be read again.

    A token that labels says whose judgments it makes: ``annotator_handle``, else the user's, else an annotator of the token's
    own name. An annotator of a new name is added. ``actor``: who asked for it, for the audit log.
    """
    user = store.get_user(user_id) if user_id else None
    annotator_id = user.annotator_id if user else None
    if annotator_handle is not None or (scope == "label" and annotator_id is None):
        annotator_id = _annotator(store, annotator_handle or name).id
    secret = "nl_" + secrets.token_urlsafe(24)
    token = add_token(
        store, secret, kind="bearer", name=name, scope=scope, user_id=user_id, annotator_id=annotator_id, expires_at=expires_at
    )
    if actor is not None:
        store.append_event(actor=actor, kind="token.created", subject=token.id, data={"name": name, "scope": scope})
    return token, secret


def issue_signin_link(store: Store, user: User, *, actor: str = "system") -> str:
    """Path of a link that signs ``user`` in once within a week."""
    secret = secrets.token_urlsafe(24)
    scope = scope_of(user)
    expires_at = datetime.now(UTC) + timedelta(days=SIGNIN_DAYS)
    add_token(
        store, secret, kind="signin", name=user.name, scope=scope, user_id=user.id, annotator_id=user.annotator_id,
        expires_at=expires_at,
    )  # fmt: skip
    store.append_event(actor=actor, kind="user.invited", subject=user.id)
    return f"/sign-in?token={secret}"


def redeem_signin_secret(store: Store, secret: str) -> User | None:
    """The user a one-time link belongs to, and the link is used up; None if it was used, has expired or never was."""
    return _user_of(store, store.use_signin_token(hash_secret(secret)))


def user_of_link(store: Store, secret: str) -> User | None:
    """The same without using the link up."""
    token = store.find_token(hash_secret(secret))
    return _user_of(store, token) if token is not None and token.kind == "signin" else None


def authenticate(store: Store, authorization: str | None, session: Mapping[str, Any]) -> Principal | None:
    """Who sends this header or holds this session; None if nobody valid. A header that is there decides alone."""
    if authorization is not None:
        kind, _, secret = authorization.partition(" ")
        token = store.find_token(hash_secret(secret.strip())) if kind.lower() == "bearer" else None
        if token is None or token.kind != "bearer":
            return None
        user = store.get_user(token.user_id) if token.user_id else None
        return Principal(actor=token.name, scope=token.scope, annotator_id=token.annotator_id, user=user)
    secret = session.get(SESSION)
    token = store.find_token(hash_secret(str(secret))) if secret else None
    user = _user_of(store, token) if token is not None and token.kind == "session" else None
    if user is None:
        return None
    return Principal(actor=user.id, scope=scope_of(user), annotator_id=user.annotator_id, user=user, by_session=True)


def scope_of(user: User) -> Scope:
    """What a signed-in person may do: annotators label, researchers run the campaign, admins say who may come in."""
    scopes: dict[Role, Scope] = {"annotator": "label", "researcher": "research", "admin": "admin"}
    return scopes[user.role]


def principal_of(request: Request) -> Principal:
    """Who is asking; 401 if nobody."""
    found = request.scope.get(PRINCIPAL)
    if found is None:
        raise HTTPException(
            401, "Sign in, or send a token: `Authorization: Bearer nl_...` (`nashloop tokens create NAME` prints one)."
        )
    return found


async def principal(request: Request) -> Principal:
    """``principal_of`` as a FastAPI dependency; async, because plain functions are sent to a thread, which costs more."""
    return principal_of(request)


def require(scope: Scope) -> Callable[[Request], Awaitable[Principal]]:
    """A FastAPI dependency that answers 403 to anyone whose scope is smaller."""

    async def check(request: Request) -> Principal:
        who = principal_of(request)
        if not who.may(scope):
            raise HTTPException(403, f"This needs scope {scope!r}; yours is {who.scope!r}. Ask a researcher for a token or role.")
        return who

    return check


def hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _annotator(store: Store, handle: str) -> Annotator:
    found = store.get_annotator(handle)
    if found is None:
        found = Annotator(id=new_id(), handle=handle, kind="human", created_at=datetime.now(UTC))
        store.add_annotator(found)
    return found


def _user_of(store: Store, token: Token | None) -> User | None:
    user = store.get_user(token.user_id) if token and token.user_id else None
    return None if user is None or user.disabled else user


def add_token(store: Store, secret: str, *, expires_at: datetime | None = None, **values: Any) -> Token:
    token = Token(id=new_id(), sha256=hash_secret(secret), expires_at=expires_at, created_at=datetime.now(UTC), **values)
    store.add_token(token)
    return token
