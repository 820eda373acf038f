"""``nashloop report``: agreement, annotators, intransitivity and policies, of a campaign or of a file."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, report

group = typer.Typer(help="Report on agreement, annotators, cycles in the preferences, and policies.", no_args_is_help=True)

InputOption = Annotated[
    Path | None, typer.Option("--input", help="A table instead of the campaign's judgments: .parquet, .csv or .jsonl.")
]
ColumnsOption = Annotated[str | None, typer.Option("--columns", help="Names of columns, ROLE=NAME,ROLE=NAME.")]
WhereOption = Annotated[str | None, typer.Option("--where", help='Only these rows: a DuckDB condition, such as "turn = 1".')]


@group.command()
def agreement(
    input_file: InputOption = None,
    columns: ColumnsOption = None,
    where: WhereOption = None,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Say how far annotators agree beyond chance.

    Roles for --columns: item, annotator, label; optional group (compared with each other), first and second (the two sides,
    so that a and b mean the same in every row). Skips are left out.
    """
    from annotate_app.reports.agreement import agreement_report
    from annotate_app.reports.long_table import parse_columns, read_labels
    from annotate_app.reports.texts import agreement_text

    with input_or_campaign(input_file, data) as path:
        labels, num_repeats = read_labels(path, parse_columns(columns), where)
    figures = agreement_report(labels) | {"num_repeats_left_out": num_repeats}
    report(figures, agreement_text(figures), as_json=as_json)


@contextmanager
def input_or_campaign(input_file: Path | None, data: Path) -> Iterator[Path]:
    """The named file, or the campaign's judgments as a temporary table with the columns of the raw export."""
    if input_file is not None:
        yield input_file
        return
    from annotate_app.client import connect

    with connect(data) as client, raw_export(client) as path:
        yield path


@contextmanager
def raw_export(client: Any) -> Iterator[Path]:
    """Every judgment of the campaign, as Parquet, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="nashloop-report-") as directory:
        path = Path(directory) / "judgments.parquet"
        client.download("/exports/raw", path, container="parquet")
        yield path
