"""The app's own log on standard error: lines for people, or JSON for machines, each with the id of the request it is about."""

import contextvars
import json
import logging
import re
import secrets
from datetime import UTC, datetime
from typing import Literal

REQUEST_ID: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
HEADER = b"x-request-id"
_FROM_A_PROXY = re.compile(rb"[A-Za-z0-9_-]{8,64}")


def request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The id that a proxy in front gave the request, if it looks like one, else a new one."""
    given = next((value for name, value in headers if name == HEADER), b"")
    return given.decode() if _FROM_A_PROXY.fullmatch(given) else secrets.token_hex(8)


class _WithRequest(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = REQUEST_ID.get()
        return True


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", None),
            "exception": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in fields.items() if value is not None})


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        asked = getattr(record, "request_id", None)
        return f"{line} (request {asked})" if asked and "\n" not in line else line


def set_up_logging(how: Literal["text", "json"]) -> None:
    """Replace what the command line set up by this form. Called once, before anything serves."""
    handler = logging.StreamHandler()
    handler.addFilter(_WithRequest())
    handler.setFormatter(_Json() if how == "json" else _Plain("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if how == "json" else logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell every call, with its address
