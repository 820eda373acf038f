"""Passwords, kept as argon2id hashes. Parameters are the first of OWASP's list: 46 MiB, one pass, one lane."""

import threading
import unicodedata
from datetime import UTC, datetime

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from storage.ids import new_id
from storage.records import Credential, User
from storage.store import Store

MIN_LENGTH, MAX_LENGTH = 10, 200
_HASHER = PasswordHasher(time_cost=1, memory_cost=47_104, parallelism=1)
_AT_ONCE = threading.Semaphore(2)  # strangers decide how often this runs: two at a time are 92 MiB
_NOBODY = "$argon2id$v=19$m=47104,t=1,p=1$uOIq+KmatTYjCjbH1tdEtA$kzWEjqjuQm60+VqZw/B/jrwJk9kKwIFqQBwaK7jyWDY"


def problem_with(password: str, name: str) -> str | None:
    """Why this cannot be somebody's password, as the key of a sentence; None if it can."""
    if len(password) < MIN_LENGTH:
        return "sign_in.password_short"
    if len(password) > MAX_LENGTH:
        return "sign_in.password_long"
    if len(set(password)) < 5 or name.casefold() in password.casefold():
        return "sign_in.password_weak"
    return None


def set_password(store: Store, user: User, password: str, *, actor: str) -> None:
    """Keep a new password, of which ``problem_with`` finds nothing to say; the one before counts no more."""
    store.add_credential(
        Credential(id=new_id(), user_id=user.id, kind="password", secret=_hash(password), created_at=datetime.now(UTC))
    )
    store.append_event(actor=actor, kind="password.set", subject=user.id)


def has_password(store: Store, user: User) -> bool:
    return _hash_of(store, user) is not None


def is_password(store: Store, user: User | None, password: str) -> bool:
    """Whether this is the user's password. As slow for nobody (None) as for somebody."""
    kept = None if user is None or user.disabled else _hash_of(store, user)
    with _AT_ONCE:
        try:
            return _HASHER.verify(kept or _NOBODY, _normal(password)) and kept is not None
        except (VerificationError, InvalidHashError):
            return False


def _hash_of(store: Store, user: User) -> str | None:
    of_user = (c.secret for c in reversed(store.list_credentials()) if c.user_id == user.id and c.kind == "password")
    return next(of_user, None)


def _hash(password: str) -> str:
    with _AT_ONCE:
        return _HASHER.hash(_normal(password))


def _normal(password: str) -> str:
    """The same bytes from every keyboard."""
    return unicodedata.normalize("NFKC", password)
