"""``nashloop crowd``: studies on crowd platforms such as Prolific."""

from typing import Annotated, Any

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, report, table

group = typer.Typer(help="Studies on crowd platforms: sign-in by link, completion codes, who has finished.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="Name of the study: letters, digits, - and _.")]


@group.command("open")
def open_study(
    name: NameArgument,
    labels: Annotated[int, typer.Option("--labels", min=1, help="Judgments after which the completion code is shown.")],
    code: Annotated[str | None, typer.Option("--code", help="Completion code; a new one, if not given.")] = None,
    return_url: Annotated[
        str | None,
        typer.Option("--return-url", help="Where the platform takes the code, {code} in it; Prolific's, if not given."),
    ] = None,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Open a study and print the link for the platform, and the code to enter there."""
    from annotate_app.client import connect

    chosen = {"code": code, "return_url": return_url}
    body = {"name": name, "labels": labels} | {key: value for key, value in chosen.items() if value is not None}
    with connect(data) as client:
        study = client.post("/crowd", body)
    link = _host(data) + study["path"]
    text = f"Study link, for the platform:\n  {link}\nCompletion code: {study['code']}, shown after {labels} judgments."
    report(study | {"link": link}, text, as_json=as_json)


@group.command("list")
def list_studies(data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """List studies."""
    from annotate_app.client import connect

    with connect(data) as client:
        found = client.get("/crowd")["studies"]
    rows = [(s["name"], s["labels"], s["code"], "closed" if s["closed"] else "open", _host(data) + s["path"]) for s in found]
    report({"studies": found}, table(("study", "labels", "code", "", "link"), rows, empty="No studies yet."), as_json=as_json)


@group.command("show")
def show_study(name: NameArgument, data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """Say who joined a study, how far they are, and which pairs came back unanswered."""
    from annotate_app.client import connect

    with connect(data) as client:
        study = client.get(f"/crowd/{name}")
    columns = ("participant", "labels", "holds", "given back", "state", "last seen")
    rows = [
        (p["annotator"].partition(":")[2], p["labels"], p["held"], p["given_back"], p["state"], str(p["last_at"])[:16])
        for p in study["participants"]
    ]
    report(study, table(columns, rows, empty="Nobody has joined yet."), as_json=as_json)


@group.command("close")
def close_study(name: NameArgument, data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """Let nobody join any more; who has joined may finish."""
    from annotate_app.client import connect

    with connect(data) as client:
        study = client.post(f"/crowd/{name}/close")
    report(study, f"Study {name} is closed.", as_json=as_json)


def _host(data: Any) -> str:
    from annotate_app.server import find_running

    running = find_running(data)
    return running.url if running else "http://127.0.0.1:7860"
