"""``nashloop report``: agreement, annotators, intransitivity and policies, of a campaign or of a file."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, report
from storage.errors import UserError

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

    Roles for --columns: item, annotator, label; optional group (compared with each other), prompt (intervals are over them),
    first and second (the two sides, so that a and b mean the same in every row). Skips are left out.
    """
    from annotate_app.reports.agreement import agreement_report
    from annotate_app.reports.long_table import parse_columns, read_labels
    from annotate_app.reports.texts import agreement_text

    with input_or_campaign(input_file, data) as path:
        labels, num_repeats = read_labels(path, parse_columns(columns), where)
    figures = agreement_report(labels) | {"num_repeats_left_out": num_repeats}
    report(figures, agreement_text(figures), as_json=as_json)


@group.command()
def annotators(
    input_file: InputOption = None,
    columns: ColumnsOption = None,
    where: WhereOption = None,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Say what is known of each annotator (known answers, flips, repeats, side, time), with intervals, and whom to look at.

    With --input, of a table of verdicts a, b and tie; roles for --columns: item, annotator, label; first and second.
    """
    from annotate_app.reports.annotators import annotators_report, rows_of_labels
    from annotate_app.reports.texts import annotators_text

    if input_file is not None:
        from annotate_app.reports.long_table import parse_columns, read_labels

        labels, _ = read_labels(input_file, parse_columns(columns), where)
        figures = annotators_report(rows_of_labels(labels), None)
    else:
        from annotate_app.client import connect

        with connect(data) as client:
            figures = client.get("/annotators")
    report(figures, annotators_text(figures), as_json=as_json)


@group.command()
def policies(data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """List policies with their lineage, what their rounds expected of them, and how people voted between them."""
    from annotate_app.client import connect
    from annotate_app.reports.policies import policies_report
    from annotate_app.reports.texts import policies_text

    with connect(data) as client, raw_export(client) as path:
        figures = policies_report(client.get("/policies")["policies"], finished_reports(client), read_rows(path))
    report(figures, policies_text(figures), as_json=as_json)


@group.command()
def intransitivity(
    input_file: InputOption = None,
    columns: ColumnsOption = None,
    where: WhereOption = None,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Say whether the preferences contain cycles: the audit of the last round or fit, or of the votes in a file.

    Roles for --columns with --input: prompt, first, second (the two responses), label; optional annotator.
    """
    from annotate_app.reports.intransitivity import audit_file, intransitivity_text

    if input_file is not None:
        figures = audit_file(input_file, columns, where)
        return report(figures, intransitivity_text(figures), as_json=as_json)
    from annotate_app.client import connect

    with connect(data) as client:
        numbered = ((number, found) for number, found in finished_reports(client).items() if found.get("audit"))
        number, found = next(numbered, (None, None))
    if found is None:
        raise UserError(f"{data} has no finished round or fit yet. Run `nashloop round start --kind fit` or give --input FILE.")
    figures = {"round": number, **found["audit"]}
    report(figures, intransitivity_text(figures), as_json=as_json)


def finished_reports(client: Any) -> dict[int, dict[str, Any]]:
    """Reports of finished jobs by number, newest first."""
    done = [job["number"] for job in client.get("/rounds")["rounds"] if job["status"] == "done"]
    return {number: client.get(f"/rounds/{number}/report") for number in done}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The raw export as rows."""
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


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
        client.download("/exports/raw", path, container="parquet", with_names=True)
        yield path
