"""The audit log: every privileged act and who did it. A call is written down before it is answered."""

import json
import logging
import re
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Message, Send

from annotate_app.auth import Principal
from storage.store import Store

logger = logging.getLogger(__name__)

API = "/api/v1/"
# What annotators do is kept as judgments, leases, flags and notes.
LABELLING = re.compile(r"/api/v1/(leases|judgments|flags|notes|live|me)(/|$)")
TAKEN_OUT = re.compile(r"/api/v1/(exports|backups)(/|$)")  # reading that is worth a line
# Events that are work, not acts of somebody with rights; all others are shown.
KEYS = ("key", "code", "secret", "token", "password")  # names of facts that open something
WORK = ("judgment.withdrawn", "pair.flagged", "note.sent", "task.answer", "task.closed")


def is_privileged(request: Request) -> bool:
    """Whether a request under /api/v1 changes something, or takes data out, beyond labelling."""
    path = request.url.path
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return bool(TAKEN_OUT.match(path))
    return path.startswith(API) and not LABELLING.match(path)


def recording(send: Send, store: Store, who: Principal, request: Request) -> Send:
    """``send`` that writes a granted call to the audit log, and a refused one to the app's own log, before it is answered."""
    called = f"{request.method} {quote(request.url.path)}"  # no line break of a path reaches a log

    async def record(message: Message) -> None:
        if message["type"] == "http.response.start":
            status = message["status"]
            if status < 400:
                await run_in_threadpool(
                    store.append_event, actor=who.actor, kind="api.called", subject=called, data={"status": status}
                )
            elif status == 403:
                logger.warning("%s was refused to %r", called, who.actor)
        await send(message)

    return record


def read_audit(store: Store, *, limit: int, before: int | None = None, kind: str = "") -> list[dict[str, Any]]:
    """The newest entries first, with the names of who acted and on whom; ``kind`` is a beginning, such as ``user.``."""
    asked = {"limit": limit, "before": before, "kind": kind, "work": list(WORK)}
    names = {user.id: user.name for user in store.list_users()} | {token.id: token.name for token in store.list_tokens()}
    rows = store.query(_ENTRIES, asked).to_pylist()
    return [
        row
        | {"actor_name": names.get(row["actor"], row["actor"]), "about": names.get(row["subject"]), "data": _told(row["data"])}
        for row in rows
    ]


def _told(data: str) -> str:
    """The entry's facts without what opens something."""
    return json.dumps({name: value for name, value in json.loads(data).items() if name not in KEYS}, ensure_ascii=False)


_ENTRIES = """
    SELECT seq, "at", actor, kind, subject, data FROM events
    WHERE NOT list_contains($work, kind) AND starts_with(kind, $kind) AND ($before IS NULL OR seq < $before)
      AND NOT (kind = 'token.revoked' AND actor = 'system')
    ORDER BY seq DESC LIMIT $limit
"""
