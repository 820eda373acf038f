"""``nashloop prompts``: what annotators are asked about, beside what policies write."""

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption
from annotate_app.commands.transfer import FileArgument, SkipBadOption, send_file

group = typer.Typer(help="Prompts and pairs that annotators are asked about.", no_args_is_help=True)


@group.command("gold")
def gold(file: FileArgument, skip_bad: SkipBadOption = False, data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """Import training pairs: prompt, response_a, response_b, verdict (a, b, tie or both_bad) and, if given, explanation.

    Annotators get them before real work where the campaign has a pass_mark and num_training; judgments of them enter no fit.
    """
    send_file("training", file, skip_bad, data, as_json)
