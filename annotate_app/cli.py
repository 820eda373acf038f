"""The command ``nashloop`` (DESIGN 5): composition root of the app; every command lives in a file of ``commands/``.

Only light imports here and at the head of those files: `nashloop --help` answers at once.
"""

import logging
import sys
from typing import NoReturn

import typer

from annotate_app.commands import (
    accounts,
    annotators,
    bench,
    campaign,
    crowd,
    doctor,
    learner,
    migrate,
    people,
    prompts,
    report,
    rounds,
    simulate,
    transfer,
    up,
    upkeep,
)
from storage.errors import UserError

app = typer.Typer(
    name="nashloop",
    help="Collect pairwise preferences on a language model's responses and align the model to them online.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up")(up.up)
app.command("simulate")(simulate.simulate)
app.add_typer(transfer.imports, name="import")
app.command("export")(transfer.export)
app.add_typer(campaign.group, name="campaign")
app.add_typer(prompts.group, name="prompts")
app.add_typer(rounds.group, name="round")
app.command("fit", context_settings=learner.PASS_ON, add_help_option=False)(learner.fit)
app.command("games", context_settings=learner.PASS_ON, add_help_option=False)(learner.games)
app.command("rules")(learner.rules)
app.add_typer(report.group, name="report")
app.add_typer(bench.group, name="bench")
app.add_typer(annotators.group, name="annotators")
app.add_typer(crowd.group, name="crowd")
app.add_typer(people.users, name="users")
app.add_typer(people.tokens, name="tokens")
people.users.command("sign-out")(accounts.sign_out)
people.users.command("forget")(accounts.forget)
report.group.command("audit")(accounts.audit)
app.command("backup")(upkeep.backup)
app.command("restore")(upkeep.restore)
app.command("migrate")(migrate.migrate)
app.command("doctor")(doctor.doctor)


def main() -> NoReturn:
    """Run the command line: what a person can fix is one sentence on standard error and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `nashloop round list | head`
        sys.stderr.close()
        sys.exit(141)
    sys.exit(0)


if __name__ == "__main__":
    main()
