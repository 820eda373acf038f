"""``nashloop migrate``: a campaign from its file into PostgreSQL, or back into a file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, note, report, table
from storage.errors import UserError


def migrate(
    to: Annotated[str, typer.Option("--to", help="postgresql://USER@HOST/NAME (an empty database), or duckdb.")],
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Move the records to another database; every row is compared on both sides. Stop the app first; the old one is kept."""
    from annotate_app.server import check_data, find_running

    if to != "duckdb" and not to.startswith(("postgresql://", "postgres://")):
        raise UserError(f"--to {to.partition(':')[0]!r} is unknown. Use postgresql://USER@HOST/NAME or duckdb.")
    check_data(data)
    running = find_running(data)
    if running is not None:
        raise UserError(f"Nashloop runs on {data} (process {running.pid}). Stop it first, so that nothing is labelled meanwhile.")
    note("Moving ...")
    moved, kept = _to_duckdb(data) if to == "duckdb" else _to_postgres(data, to)
    rows = [(name, f"{count:,}") for name, count in moved.items()]
    text = f"{table(('table', 'rows'), rows, empty='')}\nEvery row is the same on both sides. The database before is kept: {kept}"
    report({"to": "duckdb" if to == "duckdb" else "postgresql", "rows": moved, "kept": kept}, text, as_json=as_json)


def _to_postgres(data: Path, url: str) -> tuple[dict[str, int], str]:
    from annotate_app.databases import KEY_FILE, database_url, write_private
    from annotate_app.server import DATABASE, URL_FILE

    if database_url(data, None) is not None:
        raise UserError(f"{data} is in PostgreSQL already. Move it into a file first: nashloop migrate --to duckdb --data {data}")
    with open_server(url) as server:
        from storage.postgres_transfer import move_to_postgres

        moved = move_to_postgres(data / DATABASE, server)
        key = data / KEY_FILE
        if key.exists():  # people stay signed in
            values = {"name": KEY_FILE, "value": key.read_text()}
            server.rows("INSERT INTO shared_values VALUES ($name, $value) ON CONFLICT DO NOTHING RETURNING name", values)
    write_private(data / URL_FILE, url)
    return moved, str(_set_aside(data, DATABASE))


def _to_duckdb(data: Path) -> tuple[dict[str, int], str]:
    from annotate_app.databases import KEY_FILE, database_url, write_private
    from annotate_app.server import DATABASE, URL_FILE
    from storage.postgres_connection import public_name

    url = database_url(data, None)
    if url is None:
        raise UserError(f"{data} is in a DuckDB file already. There is nothing to move.")
    with open_server(url) as server:
        from storage.postgres_transfer import move_to_duckdb

        moved = move_to_duckdb(server, data / DATABASE)
        keys = server.rows("SELECT value FROM shared_values WHERE name = $name", {"name": KEY_FILE})
    if keys:
        write_private(data / KEY_FILE, keys[0]["value"])
    (data / URL_FILE).unlink()
    return moved, public_name(url)


@contextmanager
def open_server(url: str) -> Iterator[Any]:
    """The server with its tables made, closed at the end of the block."""
    try:
        from storage.postgres_connection import Server
        from storage.postgres_schema import prepare
    except ImportError as error:
        raise UserError(f"PostgreSQL needs psycopg ({error}). Install it: pip install 'nashloop[postgres]'.") from error
    server = Server(url, max_connections=1, application="nashloop migrate")
    try:
        prepare(server)
        yield server
    finally:
        server.close()


def _set_aside(data: Path, name: str) -> Path:
    """The file and what belongs to it, in a folder of backups: a second start must not find it in its old place."""
    folder = data / "backups" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-moved-to-postgresql"
    folder.mkdir(parents=True)
    for path in data.glob(name + "*"):
        os.replace(path, folder / path.name)
    return folder / name
