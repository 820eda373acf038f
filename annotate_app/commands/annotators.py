"""``nashloop annotators``: whose judgments count."""

from typing import Annotated
from urllib.parse import quote

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, report

group = typer.Typer(help="Whose judgments count; `nashloop report annotators` says what is known of them.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="Name or id of the annotator.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in the audit log.")]


@group.command()
def exclude(name: NameArgument, reason: ReasonOption, data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """Leave somebody's judgments out of fits, reports, win rates and exports; they get no more pairs. Nothing is deleted."""
    from annotate_app.client import connect

    with connect(data) as client:
        answer = client.post(f"/annotators/{quote(name, safe='')}/exclude", {"reason": reason})
    report(answer, f"{answer['handle']} is excluded. `nashloop annotators include` takes it back.", as_json=as_json)


@group.command()
def include(name: NameArgument, reason: ReasonOption, data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """Take an exclusion back: everything that was judged counts again."""
    from annotate_app.client import connect

    with connect(data) as client:
        answer = client.post(f"/annotators/{quote(name, safe='')}/include", {"reason": reason})
    report(answer, f"What {answer['handle']} judged counts again.", as_json=as_json)
