"""``nashloop campaign``: what annotators are asked, as one TOML file."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, report
from storage.errors import UserError

group = typer.Typer(help="Show or set what annotators are asked.", no_args_is_help=True)


@group.command("show")
def show(data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """Print the campaign as TOML that `nashloop campaign set` reads."""
    from annotate_app.client import connect

    with connect(data) as client:
        campaign = client.get("/campaign")
    report(campaign, _toml(campaign), as_json=as_json)


@group.command("set")
def set_(
    file: Annotated[Path, typer.Argument(help="TOML file; what it leaves out takes its default.")],
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Replace the campaign by what a TOML file says; it counts from the next pair on."""
    values = _read(file)
    from annotate_app.client import connect

    with connect(data, create=True) as client:
        campaign = client.put("/campaign", values)
    report(campaign, _toml(campaign), as_json=as_json)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {file}: {error}. Name a TOML file, such as `nashloop campaign show` prints.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file} is not valid TOML: {error}. Correct that line.") from error


def _toml(campaign: dict[str, Any]) -> str:
    """The record without what is not set: TOML has no word for nothing."""
    import tomli_w

    return tomli_w.dumps({name: value for name, value in campaign.items() if value is not None}, multiline_strings=True).rstrip()
