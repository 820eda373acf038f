"""``nashloop users sign-out|forget`` and ``nashloop report audit``: what admins do about accounts beside adding and inviting."""

import json
from typing import Annotated

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, report, table
from annotate_app.commands.people import NameArgument, find_person
from storage.errors import UserError

FILES_LATER = (
    "The database file and its journal are made anew at the next start; backups from before still hold the name: delete them, "
    "or let them age out."
)


def sign_out(name: NameArgument, data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """End every session of somebody, as after a lost laptop; they may sign in again."""
    from annotate_app.client import connect

    with connect(data) as client:
        user = find_person(client, name)
        answer = client.post(f"/users/{user['id']}/sign-out")
    report(answer, f"{user['name']} was signed out of {answer['sessions_ended']} browsers.", as_json=as_json)


def forget(
    name: NameArgument,
    texts: Annotated[bool, typer.Option("--texts", help="Also what they wrote beside their verdicts.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Remove what names somebody, and shut them out; their judgments stay under a pseudonym. It cannot be undone."""
    from annotate_app.client import connect

    with connect(data) as client:
        user = find_person(client, name)
        if not yes and not typer.confirm(f"Forget {user['name']} for good?", err=True):
            raise UserError("Nothing was changed.")
        answer = client.post(f"/users/{user['id']}/forget", {"texts": texts})
    report(answer, f"{user['name']} is {answer['name']} from now on. {FILES_LATER}", as_json=as_json)


def audit(
    kind: Annotated[str, typer.Option("--kind", help="Beginning of a kind: session., user., token., policy., api. ...")] = "",
    limit: Annotated[int, typer.Option("--limit", help="How many, newest first.", min=1, max=10_000)] = 50,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show who did what: sign-ins, people, tokens, campaign, rounds, policies, exports."""
    from annotate_app.client import connect

    with connect(data) as client:
        entries = client.get("/audit", kind=kind, limit=limit)["entries"]
    rows = [(e["at"][:19], e["actor_name"], e["kind"], e["about"] or e["subject"], _told(e["data"])) for e in entries]
    columns = ("when, UTC", "who", "what", "about", "more")
    report({"entries": entries}, table(columns, rows, empty="Nothing of this kind was done."), as_json=as_json)


def _told(data: str) -> str:
    text = ", ".join(f"{name}: {value}" for name, value in json.loads(data).items())
    return text if len(text) <= 80 else text[:79] + "…"
