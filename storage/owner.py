"""Which process has a database open: a locked file beside it that says who."""

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from storage.errors import UserError


@contextmanager
def owned(path: Path) -> Iterator[None]:
    """No other process opens the database meanwhile; UserError naming the one that has it open."""
    owner = become_owner(path)
    try:
        yield
    finally:
        give_up(owner)


def give_up(owner: TextIO) -> None:
    owner.truncate(0)
    owner.close()


def become_owner(path: Path) -> TextIO:
    """Lock the file beside the database that says who has it; UserError naming the holder where somebody else does.

    A lock of our own because DuckDB's message names a program and a number but not what to do about them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = open(path.with_name(path.name + ".owner"), "a+")  # noqa: SIM115 held open as long as the database is
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner.seek(0)
        text = owner.read()
        owner.close()
        raise UserError(_who_holds(path, text)) from error
    owner.truncate(0)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    json.dump({"pid": os.getpid(), "command": _command(), "started": started}, owner)
    owner.flush()
    return owner


def _who_holds(path: Path, text: str) -> str:
    advice = "Talk to the running app (its commands find it by --data), or stop it first"
    try:
        holder = json.loads(text)
    except ValueError:
        return f"{path} is held by another process. {advice}."
    return f"{path} is held by PID {holder['pid']} ({holder['command']}, since {holder['started']}). {advice}."


def _command() -> str:
    """Program and subcommand, without further arguments: they may hold secrets."""
    return " ".join([Path(sys.argv[0]).name or "python", *(a for a in sys.argv[1:2] if not a.startswith("-"))])
