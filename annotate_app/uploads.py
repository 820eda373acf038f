"""How much may be sent, and under which name a file is kept while it is read."""

import re

from fastapi import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

MEGABYTE = 1_000_000
BODY_LIMIT = 4 * MEGABYTE  # of everything that is not a file: an answer, a campaign, settings
STRANGER_LIMIT = 64_000  # of a form from somebody nobody knows
FILE_ROUTES = ("/api/v1/imports/", "/console/gradio_api/upload")
_NAME_LENGTH = 100


def body_limit(request: Request, *, known: bool, upload_mb: float) -> int:
    """Bytes that this request may send."""
    if not known:
        return STRANGER_LIMIT
    return int(upload_mb * MEGABYTE) if request.url.path.startswith(FILE_ROUTES) else BODY_LIMIT


def announced_too_much(request: Request, limit: int) -> bool:
    length = request.headers.get("content-length", "0")
    return not length.isdecimal() or int(length) > limit


def limited(receive: Receive, limit: int) -> Receive:
    """``receive`` that raises 413 once more than ``limit`` bytes came, whatever was announced."""
    come = 0

    async def counted() -> Message:
        nonlocal come
        message = await receive()
        come += len(message.get("body", b""))
        if come > limit:
            raise HTTPException(413, too_much(limit))
        return message

    return counted


def too_much(limit: int) -> str:
    return f"This is more than {limit / MEGABYTE:g} MB, the most that is taken here. Send less, or import on the server itself."


def safe_name(filename: str) -> str:
    """A name for a file of ours that keeps what people recognise and its ending: no folder, nothing hidden, nothing long."""
    name = re.sub(r"[^\w.\- ]", "_", filename.replace("\\", "/").rsplit("/", 1)[-1]).lstrip(". ")
    stem, dot, ending = name.rpartition(".")
    return f"{stem[:_NAME_LENGTH]}{dot}{ending[:10]}" if stem else (ending[:_NAME_LENGTH] or "file")
