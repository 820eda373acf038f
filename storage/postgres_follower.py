"""People, tokens, the campaign and known answers, followed in memory: what every request asks for.

Asking costs one short query, which tells whether anybody, on any replica, has written; what they wrote is read and applied.
A session or token revoked elsewhere is out with the next request.
"""

import json
import threading
from typing import Any

from storage.accounts import Accounts
from storage.campaign import Campaign, build_campaign
from storage.postgres_connection import Server, Transaction
from storage.records import Annotator, Credential, Token, User
from storage.tables import TABLE_OF, from_row
from storage.training import KnownAnswer

_KINDS = (Annotator, User, Token, Credential)
# Events come by the million, one for each closed task and each undone judgment; those say nothing here.
_EVENTS = """SELECT seq, kind, subject, data FROM events WHERE seq > $after AND kind <> ALL($silent) ORDER BY seq"""
_SILENT = ["task.closed", "judgment.withdrawn"]


class Follower:
    """``accounts`` and the rest are up to date when asked for; the objects given out are replaced or extended, never emptied."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._accounts = Accounts()
        self._campaign = Campaign()
        self._answers: dict[str, KnownAnswer] = {}
        self._seen = dict.fromkeys([*(TABLE_OF[kind] for kind in _KINDS), "events"], 0)

    def accounts(self) -> Accounts:
        self._follow()
        return self._accounts

    def campaign(self) -> Campaign:
        self._follow()
        return self._campaign

    def answers(self) -> dict[str, KnownAnswer]:
        self._follow()
        return self._answers

    def _follow(self) -> None:
        with self._lock:
            rows = self._server.rows("SELECT name, last FROM counters WHERE name = ANY($names)", {"names": list(self._seen)})
            if any(row["last"] != self._seen[row["name"]] for row in rows):
                self._server.run(self._read, snapshot=True)

    def _read(self, transaction: Transaction) -> None:
        """What is new, all of one moment: an event about an account never comes before the account."""
        for kind in _KINDS:
            table = TABLE_OF[kind]
            rows = transaction.rows(f"SELECT * FROM {table} WHERE seq > $after ORDER BY seq", {"after": self._seen[table]})
            for row in rows:
                self._accounts.add(from_row(kind, row))
                self._seen[table] = row["seq"]
        for row in transaction.rows(_EVENTS, {"after": self._seen["events"], "silent": _SILENT}):
            self._apply(row)
        [newest] = transaction.rows("SELECT last FROM counters WHERE name = 'events'")
        self._seen["events"] = newest["last"]

    def _apply(self, event: dict[str, Any]) -> None:
        self._accounts.apply(event["kind"], event["subject"])
        if event["kind"] == "campaign.changed":
            self._campaign = build_campaign(json.loads(event["data"]))
        elif event["kind"] == "task.answer":
            self._answers[event["subject"]] = KnownAnswer(**json.loads(event["data"]))
