"""Options that several commands share, and how they report."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

DATA_DIR = Path("nashloop-data")

DataOption = Annotated[Path, typer.Option("--data", help="Data directory.", file_okay=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Where jobs run: auto, cpu or cuda.")]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database", envvar="NASHLOOP_DATABASE", help="postgresql://USER@HOST/NAME instead of a file in --data; remembered."
    ),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="'tiny' (built in), a Hugging Face model directory, or a hub id.")
]


def report(data: Any, text: str, *, as_json: bool) -> None:
    """The result of a command on standard output: the JSON object, or the text for people."""
    print(json.dumps(data, ensure_ascii=False, default=str) if as_json else text)


def note(text: str) -> None:
    """A remark beside the result, on standard error."""
    print(text, file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> str:
    """Aligned columns as text; the sentence ``empty`` when there are no rows."""
    if not rows:
        return empty
    cells = [[("" if value is None else str(value)) for value in row] for row in [columns, *rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    lines = ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)
