"""Commands that belong to the learner and need no app: handed to ``python -m online_learner`` as a process."""

import json
import subprocess
import sys

import typer

from annotate_app.commands.options import JsonOption, report, table
from storage.errors import UserError

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def fit(context: typer.Context) -> None:
    """Fit and compare preference models on a file of pairs, without an app: `nashloop fit --help` lists the options."""
    raise typer.Exit(subprocess.call([sys.executable, "-m", "online_learner", "fit", *context.args]))


def games(context: typer.Context) -> None:
    """Play update rules on tabular games: `nashloop games run --help` and `nashloop games rates --help` list the options."""
    raise typer.Exit(subprocess.call([sys.executable, "-m", "online_learner", "games", *context.args]))


def bench_learner(context: typer.Context) -> None:
    """Speed and memory of the policy update against TRL on the same work: `nashloop bench learner --help` lists the options."""
    raise typer.Exit(subprocess.call([sys.executable, "-m", "online_learner", "bench-learner", *context.args]))


def rules(as_json: JsonOption = False) -> None:
    """List the update rules a round can use, with what each needs and where it comes from."""
    command = [sys.executable, "-m", "online_learner", "rules", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise UserError(ran.stderr.strip().removeprefix("error: ") or f"{' '.join(command[1:])} failed")
    rows = json.loads(ran.stdout)
    rows = rows["rules"] if isinstance(rows, dict) else rows
    lines = [(row["name"], row["summary"], ", ".join(row["needs"])) for row in rows]
    text = table(("name", "what it does", "needs"), lines, empty="No rules.")
    report({"rules": rows}, text, as_json=as_json)
