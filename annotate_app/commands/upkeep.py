"""``nashloop backup`` and ``nashloop restore``: copies of the database, and the way back."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, report
from storage.errors import UserError


def backup(
    out: Annotated[Path | None, typer.Option("--out", help="File to write; by default a dated one under backups/.")] = None,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Write a verified copy of the database, also while the app runs; artifacts never change and can be copied as they are."""
    if out is not None and out.exists():
        raise UserError(f"--out {out} exists already. Name another file.")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist. Create it first.")
    from annotate_app.client import connect

    with connect(data) as client:
        made = client.post("/backups")
    if out is not None:
        try:
            made["path"] = shutil.move(made["path"], out)
        except OSError as error:
            raise UserError(f"The backup is at {made['path']}: moving it to {out} failed ({error.strerror}).") from error
    report({**made, "path": str(made["path"])}, f"Wrote {made['path']} ({made['bytes']:,} bytes).", as_json=as_json)


def restore(
    file: Annotated[Path | None, typer.Argument(help="The backup; by default the newest in backups/ that is whole.")] = None,
    exactly: Annotated[
        bool, typer.Option("--exactly", help="Do not bring back from the journal what was labelled after the backup.")
    ] = False,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Put a backup in the database's place and bring back what came later; stop the app first. The files before are kept."""
    from annotate_app.databases import database_url
    from annotate_app.server import DATABASE
    from storage.repair import restore as put_back

    if database_url(data, None) is not None:
        raise UserError(
            f"{data} is in PostgreSQL. Restore the backup into another --data, then move that into an empty database with"
            " nashloop migrate; or use the server's own backups."
        )
    if not data.is_dir():
        raise UserError(f"--data {data} does not exist. Create the directory, or name the one that was backed up.")
    done = put_back(data / DATABASE, file, exactly=exactly)
    report(asdict(done), done.text(), as_json=as_json)
