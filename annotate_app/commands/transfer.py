"""``nashloop import`` and ``nashloop export``: files in, files out, through the API."""

import os
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, report
from storage.errors import UserError

imports = typer.Typer(help="Import prompts or judgments from JSONL, CSV or Parquet.", no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(help="JSONL, CSV or Parquet; the layout is recognised by its columns.")]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad", help="Import the good rows and report the bad ones.")]

SUFFIX_CONTAINERS = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".csv": "csv"}


@imports.command("prompts")
def import_prompts(
    file: FileArgument, skip_bad: SkipBadOption = False, data: DataOption = DATA_DIR, as_json: JsonOption = False
) -> None:
    """Import prompts: columns prompt, messages, instruction, question or text; a split column is kept."""
    send_file("prompts", file, skip_bad, data, as_json)


@imports.command("judgments")
def import_judgments(
    file: FileArgument, skip_bad: SkipBadOption = False, data: DataOption = DATA_DIR, as_json: JsonOption = False
) -> None:
    """Import judgments: pairs files, TRL preference (explicit or implicit prompt), arena battles, a raw export."""
    send_file("judgments", file, skip_bad, data, as_json)


def export(
    format: Annotated[str, typer.Argument(help="raw, training, trl, trl-implicit, unpaired, arena or hf (a dataset folder).")],
    out: Annotated[Path, typer.Option("--out", help="File to write (.jsonl, .parquet or .csv), or a folder for hf.")],
    with_excluded: Annotated[bool, typer.Option("--with-excluded", help="Judgments of excluded annotators too.")] = False,
    with_names: Annotated[bool, typer.Option("--with-names", help="People's names instead of pseudonyms.")] = False,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Export what was judged; never blocks labelling, and the file appears whole or not at all."""
    container = SUFFIX_CONTAINERS.get(out.suffix.lower())
    if format == "hf":
        container = "jsonl" if container is None else container
    elif container is None:
        raise UserError(f"--out {out} ends in {out.suffix or 'no suffix'!r}: use .jsonl, .parquet or .csv.")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist. Create it first.")
    from annotate_app.client import connect

    aside = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        with connect(data) as client:
            client.download(f"/exports/{format}", aside, container=container, with_excluded=with_excluded, with_names=with_names)
        _publish(aside, out, as_folder=format == "hf")
    except OSError as error:
        raise UserError(f"Cannot write {out}: {error.strerror}. Free some space or name another place.") from error
    finally:
        aside.unlink(missing_ok=True)
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) if out.is_dir() else out.stat().st_size
    report({"format": format, "path": str(out), "bytes": size}, f"Wrote {out} ({size:,} bytes).", as_json=as_json)


def send_file(what: str, file: Path, skip_bad: bool, data: Path, as_json: bool) -> None:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror}. Name a JSONL, CSV or Parquet file.") from error
    from annotate_app.client import connect

    with connect(data, create=True) as client:
        result = client.post(f"/imports/{what}", content=content, skip_bad=skip_bad, filename=file.name)
    report(result, summary(what, result), as_json=as_json)


def summary(what: str, result: dict[str, Any]) -> str:
    """An import's result in a line or two."""
    numbers = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result.items() if not isinstance(value, list | dict))
    bad = [str(row) for row in result.get("bad_rows") or result.get("bad") or [] if row]
    return "\n".join([f"Imported {what}: {numbers}.", *[f"  left out: {row}" for row in bad[:10]]])


def _publish(aside: Path, out: Path, *, as_folder: bool) -> None:
    if not as_folder:
        os.replace(aside, out)
        return
    import zipfile

    folder = aside.with_name(aside.name + ".d")
    with zipfile.ZipFile(aside) as archive:
        archive.extractall(folder)
    if out.exists():
        raise UserError(f"--out {out} exists already. Name a new folder.")
    os.replace(folder, out)
