"""Which database a data directory uses: the DuckDB file in it, or a PostgreSQL server that was named once and is remembered."""

import os
import random
import secrets
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from annotate_app.server import DATABASE, URL_FILE
from storage.errors import UserError
from storage.store import Store

KEY_FILE = "session.key"
READING_COPY = "reading"  # folder of what is read from a server, see storage/postgres_mirror.py


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDatabase:
    """An open store, the key that signs its cookies, and the lock that whoever changes jobs or policies holds."""

    store: Store
    session_secret: str
    lock: AbstractContextManager[object] | None  # None: no other process can be there


def open_database(data_dir: Path, url: str | None, *, rng: random.Random | None = None) -> OpenDatabase:
    """The database of this data directory; ``url`` names a PostgreSQL server, None means what the directory was made with."""
    url = database_url(data_dir, url)
    if url is None:
        from storage.duckdb_store import open_store

        return OpenDatabase(store=open_store(data_dir / DATABASE, rng=rng), session_secret=_local_secret(data_dir), lock=None)
    try:
        from storage.postgres_store import open_postgres
    except ImportError as error:
        raise UserError(f"PostgreSQL needs psycopg ({error}). Install it: pip install 'nashloop[postgres]'.") from error
    store = open_postgres(url, folder=data_dir / READING_COPY, rng=rng)
    write_private(data_dir / URL_FILE, url)  # for the other commands; it may hold a password
    secret = store.shared_value(KEY_FILE, secrets.token_urlsafe(32))  # one for all replicas
    return OpenDatabase(store=store, session_secret=secret, lock=store.lock("rounds"))


def database_url(data_dir: Path, given: str | None) -> str | None:
    """The server to use, None for the file. UserError where the directory belongs to another database."""
    path = data_dir / URL_FILE
    remembered = path.read_text().strip() if path.exists() else None
    if given is None:
        return remembered
    if not given.startswith(("postgresql://", "postgres://")):
        raise UserError(f"--database {given.partition(':')[0]}:... is no PostgreSQL address. Use postgresql://USER@HOST/NAME.")
    if remembered is None and (data_dir / DATABASE).exists():
        raise UserError(
            f"{data_dir} keeps its records in {DATABASE}. Move them first: nashloop migrate --data {data_dir} --to postgresql://..."
        )
    if remembered is not None and _place(remembered) != _place(given):
        raise UserError(
            f"{data_dir} belongs to {_place(remembered)}, not to {_place(given)}. Name another --data, or that database."
        )
    return given


def _place(url: str) -> str:
    from storage.postgres_connection import public_name

    return public_name(url)


def _local_secret(data_dir: Path) -> str:
    """Key that signs sign-in cookies; kept so that people stay signed in over a restart."""
    path = data_dir / KEY_FILE
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32))
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """A file that only this user can read, there whole or not at all."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(aside, path)
