"""The tables in PostgreSQL: numbered migrations, as for DuckDB."""

import hashlib
from pathlib import Path
from typing import Any

import psycopg

from storage.errors import UserError
from storage.postgres_connection import Server

MIGRATIONS = Path(__file__).parent / "migrations" / "postgres"
LOCK = 0x6E6173686C6F6F70  # "nashloop": replicas that start together migrate one after the other


def prepare(server: Server, migrations: Path = MIGRATIONS) -> int:
    """Make the tables or bring them up to date; the schema's version."""
    with server.pool.connection() as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        try:
            return migrate(connection, migrations)
        finally:
            connection.execute("SELECT pg_advisory_unlock(%s)", [LOCK])


def migrate(connection: psycopg.Connection[Any], migrations: Path) -> int:
    """Apply the numbered files that are missing, one transaction each, and return the schema's version.

    Raises UserError where an applied file was edited since, or the database was written by a newer version.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations"
        " (version integer PRIMARY KEY, name text, sha256 text, applied_at timestamptz DEFAULT now())"
    )
    applied = {row["version"]: row["sha256"] for row in connection.execute("SELECT version, sha256 FROM schema_migrations")}
    files = {int(path.name.split("_")[0]): path for path in sorted(migrations.glob("*.sql"))}
    newest = max(files, default=0)
    if applied and max(applied) > newest:
        raise UserError(
            f"the database has schema {max(applied)}, this version of nashloop knows only up to {newest}. Install the newer one."
        )
    for version, path in files.items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if version not in applied:
            with connection.transaction():
                connection.execute(path.read_bytes())
                connection.execute(_APPLIED, [version, path.name, digest])
        elif applied[version] != digest:
            raise UserError(
                f"migration {path.name} is not the one this database was made with."
                " Restore the released file; add a new number to change the schema."
            )
    return newest


_APPLIED = "INSERT INTO schema_migrations (version, name, sha256) VALUES (%s, %s, %s)"
