"""``nashloop prompts``: what annotators are asked about, beside what policies write."""

from pathlib import Path
from typing import Annotated

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, report
from annotate_app.commands.transfer import SkipBadOption, send_file
from storage.errors import UserError

group = typer.Typer(help="Prompts and pairs that annotators are asked about.", no_args_is_help=True)


@group.command("gold")
def gold(
    file: Annotated[Path | None, typer.Argument(help="JSONL, CSV or Parquet; the layout is recognised by its columns.")] = None,
    from_unanimous: Annotated[
        int | None, typer.Option("--from-unanimous", help="Instead of a file: pairs on which so many people were of one mind.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many pairs, most votes first.")] = None,
    skip_bad: SkipBadOption = False,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Import training pairs: prompt, response_a, response_b, verdict (a, b, tie or both_bad) and, if given, explanation.

    Annotators get them before real work where the campaign has a pass_mark and num_training; judgments of them enter no fit, and
    say how often somebody is right.
    """
    if (file is None) == (from_unanimous is None):
        raise UserError(
            "Give a file of training pairs, or --from-unanimous N to take pairs on which N people agreed; one of them."
        )
    if file is not None:
        return send_file("training", file, skip_bad, data, as_json)
    from annotate_app.client import connect

    with connect(data) as client:
        made = client.post("/training/unanimous", {"people": from_unanimous} | ({} if limit is None else {"limit": limit}))
    text = (
        f"{made['unanimous']} pairs are unanimous among {from_unanimous} people or more; {made['pairs']} are new training pairs."
    )
    report(made, text, as_json=as_json)
