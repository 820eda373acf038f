"""Browser sessions: a random secret in a signed cookie, its hash a token in the database.

So every replica knows them, and signing out, shutting out and a new password end them everywhere, also in a stolen copy of
the cookie.
"""

import secrets
from datetime import UTC, datetime, timedelta

from annotate_app.auth import add_token, hash_secret, scope_of
from storage.records import Token, User
from storage.store import Store


def open_session(store: Store, user: User, *, days: float, how: str) -> str:
    """A new session's secret. ``how`` somebody signed in (link, password, oidc) is kept with it."""
    secret = secrets.token_urlsafe(32)
    token = add_token(
        store, secret, kind="session", name=user.name, scope=scope_of(user), user_id=user.id, annotator_id=user.annotator_id,
        expires_at=datetime.now(UTC) + timedelta(days=days),
    )  # fmt: skip
    store.append_event(actor=user.id, kind="session.opened", subject=token.id, data={"how": how})
    return secret


def end_session(store: Store, secret: str) -> None:
    """Sign out of this one session; a session that is over already stays so."""
    token = store.find_token(hash_secret(secret))
    if token is not None and token.kind == "session":
        store.append_event(actor=token.user_id or "system", kind="token.revoked", subject=token.id)


def end_sessions(store: Store, user: User, *, actor: str, but: str | None = None) -> int:
    """End every session of a user, all but the one with the secret ``but``; how many there were."""
    kept = hash_secret(but) if but else None
    ending = [token for token in live_sessions(store, user) if token.sha256 != kept]
    for token in ending:
        store.append_event(actor=actor, kind="token.revoked", subject=token.id)
    return len(ending)


def live_sessions(store: Store, user: User) -> list[Token]:
    """Sessions in which the user is signed in, oldest first."""
    now = datetime.now(UTC)
    return [
        token
        for token in store.list_tokens()
        if token.kind == "session" and token.user_id == user.id and not token.revoked and (token.expires_at or now) > now
    ]
