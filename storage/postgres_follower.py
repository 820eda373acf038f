"""People, tokens, the campaign and known answers, followed in memory: what every request asks for.

Asking costs one short query, which tells whether anybody, on any replica, has written; what they wrote is read and applied.
A session or token revoked elsewhere is out with the next request.
"""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
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


COUNTERS = "(SELECT json_object_agg(name, last) FROM counters) AS counters"  # asked along with something else


@dataclass(frozen=True, slots=True)
class Known:
    accounts: Accounts
    campaign: Campaign
    answers: dict[str, KnownAnswer]  # of training pairs, by task


class Follower:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._asked = 0.0  # the last asking that is answered, on the monotonic clock
        self._known = Known(Accounts(), Campaign(), {})
        self._seen = dict.fromkeys([*(TABLE_OF[kind] for kind in _KINDS), "events"], 0)

    def known(self, last: Mapping[str, int] | None = None) -> Known:
        """What is known now. ``last``: the counters, if somebody has just read them."""
        called = time.monotonic()
        with self._lock:
            if last is None and self._asked > called:
                return self._known  # somebody asked while this call waited
            asked = self._asked if last else time.monotonic()
            now: Mapping[str, int] = last or self._server.rows(f"SELECT {COUNTERS}")[0]["counters"]
            if any(now[table] > seen for table, seen in self._seen.items()):
                self._server.run(self._read, snapshot=True)
            self._asked = asked
            return self._known

    def _read(self, transaction: Transaction) -> None:
        """What is new, all of one moment: an event about an account never comes before the account."""
        for kind in _KINDS:
            table = TABLE_OF[kind]
            rows = transaction.rows(f"SELECT * FROM {table} WHERE seq > $after ORDER BY seq", {"after": self._seen[table]})
            for row in rows:
                self._known.accounts.add(from_row(kind, row))
                self._seen[table] = row["seq"]
        for row in transaction.rows(_EVENTS, {"after": self._seen["events"], "silent": _SILENT}):
            self._apply(row)
        [newest] = transaction.rows("SELECT last FROM counters WHERE name = 'events'")
        self._seen["events"] = newest["last"]

    def _apply(self, event: dict[str, Any]) -> None:
        known = self._known
        known.accounts.apply(event["kind"], event["subject"])
        if event["kind"] == "campaign.changed":
            self._known = replace(known, campaign=build_campaign(json.loads(event["data"])))
        elif event["kind"] == "task.answer":
            known.answers[event["subject"]] = KnownAnswer(**json.loads(event["data"]))
