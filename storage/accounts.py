"""Who may come in, mirrored in memory: every HTTP request asks. Only the writer thread changes it."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import duckdb

from storage.database import fetch_rows
from storage.records import Annotator, Credential, Token, User
from storage.tables import TABLE_OF, from_row

EVENT_KINDS = ("user.disabled", "user.forgotten", "token.revoked", "annotator.excluded", "annotator.included")
Account = Annotator | User | Token | Credential


class Accounts:
    """Dictionaries are replaced or extended by one thread; reading a dictionary is safe from any."""

    def __init__(self) -> None:
        self.annotators: dict[str, Annotator] = {}
        self.users: dict[str, User] = {}
        self.tokens: dict[str, Token] = {}
        self.credentials: dict[str, Credential] = {}
        self.excluded: set[str] = set()  # annotators whose judgments do not count
        self._token_ids: dict[str, str] = {}  # sha256 -> id

    def add(self, account: Account) -> Callable[[], None]:
        """Remember an account; returns the function that forgets it."""
        kept = self._kept(account)
        kept[account.id] = account
        if isinstance(account, Token):
            self._token_ids[account.sha256] = account.id

        def undo() -> None:
            del kept[account.id]
            if isinstance(account, Token):
                del self._token_ids[account.sha256]

        return undo

    def apply(self, kind: str, subject: str) -> Callable[[], None]:
        """What an event says about an account; returns the function that takes it back."""
        if kind == "user.disabled" and subject in self.users:
            before = self.users[subject]
            self.users[subject] = replace(before, disabled=True)
            return lambda: self.users.update({subject: before})
        if kind == "user.forgotten" and subject in self.users:
            return self._forget(self.users[subject])
        if kind == "token.revoked" and subject in self.tokens:
            token = self.tokens[subject]
            self.tokens[subject] = replace(token, revoked=True)
            return lambda: self.tokens.update({subject: token})
        if kind in ("annotator.excluded", "annotator.included"):
            before = set(self.excluded)
            self.excluded = before | {subject} if kind == "annotator.excluded" else before - {subject}
            return lambda: setattr(self, "excluded", before)
        return lambda: None

    def _forget(self, user: User) -> Callable[[], None]:
        """Out, with all their sessions, and named nowhere; see forgetting.py for the tables."""
        name = forgotten_name(user.id)
        before = dict(self.annotators), dict(self.tokens), dict(self.credentials)
        self.users[user.id] = replace(user, name=name, disabled=True)
        if user.annotator_id in self.annotators:
            self.annotators[user.annotator_id] = replace(self.annotators[user.annotator_id], handle=name)
        own = {key: replace(t, name=name, revoked=True) for key, t in self.tokens.items() if t.user_id == user.id}
        self.tokens.update(own)
        gone = {k: replace(c, secret=f"forgotten {k}") for k, c in self.credentials.items() if c.user_id == user.id}
        self.credentials.update(gone)

        def undo() -> None:
            self.users[user.id] = user
            self.annotators, self.tokens, self.credentials = before

        return undo

    def annotator_by_handle(self, handle: str) -> Annotator | None:
        return next((a for a in list(self.annotators.values()) if a.handle == handle), None)

    def valid_token(self, sha256: str, now: datetime) -> Token | None:
        """The token with this hash unless it is revoked, expired, or of a disabled user."""
        token = self.tokens.get(self._token_ids.get(sha256, ""))
        if token is None or token.revoked or (token.expires_at is not None and token.expires_at <= now):
            return None
        user = self.users.get(token.user_id) if token.user_id else None
        return None if user is not None and user.disabled else token

    def _kept(self, account: Account) -> dict[str, Account]:
        kept = {Annotator: self.annotators, User: self.users, Token: self.tokens, Credential: self.credentials}
        return kept[type(account)]  # pyright: ignore


def forgotten_name(user_id: str) -> str:
    """What a forgotten person is called: the same everywhere, and nobody's name."""
    return "forgotten-" + hashlib.sha256(user_id.encode()).hexdigest()[:8]


def load_accounts(connection: duckdb.DuckDBPyConnection) -> Accounts:
    accounts = Accounts()
    for kind in (Annotator, User, Token, Credential):
        for row in fetch_rows(connection, f"SELECT * FROM {TABLE_OF[kind]} ORDER BY seq"):
            accounts.add(from_row(kind, row))
    said = f"SELECT kind, subject FROM events WHERE kind IN {EVENT_KINDS} ORDER BY seq"
    for row in fetch_rows(connection, said):
        accounts.apply(row["kind"], row["subject"])
    return accounts
