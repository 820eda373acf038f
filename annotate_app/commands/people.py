"""``nashloop users`` and ``nashloop tokens``: who may sign in, and which programs may call the API."""

from typing import Annotated, Any

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, report, table
from annotate_app.commands.rounds import rows_of
from storage.errors import UserError

users = typer.Typer(help="Add, invite, list and disable people.", no_args_is_help=True)
tokens = typer.Typer(help="Create, list and revoke API tokens.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="Name of the person.")]


@users.command("add")
def add_user(
    name: NameArgument,
    role: Annotated[str, typer.Option("--role", help="annotator, researcher or admin (people and tokens too).")] = "annotator",
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Add a person and print a one-time sign-in link for them."""
    from annotate_app.client import connect

    with connect(data, create=True) as client:
        user = client.post("/users", {"name": name, "role": role})
        link = _link(client, user["id"], data)
    report({**user, "link": link}, f"Added {name} ({role}). One-time sign-in link:\n  {link}", as_json=as_json)


@users.command()
def invite(name: NameArgument, data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """Print a new one-time sign-in link for somebody."""
    from annotate_app.client import connect

    with connect(data) as client:
        user = find_person(client, name)
        link = _link(client, user["id"], data)
    report({**user, "link": link}, f"One-time sign-in link for {user['name']}:\n  {link}", as_json=as_json)


@users.command("list")
def list_users(data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """List everybody who may sign in."""
    from annotate_app.client import connect

    with connect(data) as client:
        found = rows_of(client.get("/users"), "users")
    rows = [(user["name"], user["role"], "disabled" if user.get("disabled") else "") for user in found]
    report({"users": found}, table(("name", "role", ""), rows, empty="Nobody yet."), as_json=as_json)


@users.command()
def disable(name: NameArgument, data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """Shut somebody out at once; their judgments stay."""
    from annotate_app.client import connect

    with connect(data) as client:
        user = find_person(client, name)
        answer = client.post(f"/users/{user['id']}/disable")
    report(answer or user, f"{name} can no longer sign in.", as_json=as_json)


@tokens.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="What the token is for.")],
    scope: Annotated[str, typer.Option("--scope", help="label, research (includes label) or admin (includes all).")] = "label",
    annotator: Annotated[str | None, typer.Option("--annotator", help="Whose judgments are made with it.")] = None,
    days: Annotated[float | None, typer.Option("--days", help="How many days it works; always, if not given.")] = None,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Create a bearer token; it is shown this once, only its hash is kept."""
    from annotate_app.client import connect

    body = (
        {"name": name, "scope": scope}
        | ({} if annotator is None else {"annotator": annotator})
        | ({} if days is None else {"days": days})
    )
    with connect(data, create=True) as client:
        answer = client.post("/tokens", body)
    report(answer, answer["token"], as_json=as_json)


@tokens.command("list")
def list_tokens(data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """List the tokens that work, by name and id, never the secrets; --json lists revoked ones too."""
    from annotate_app.client import connect

    with connect(data) as client:
        found = rows_of(client.get("/tokens"), "tokens")
    rows = [(t["id"], t["name"], t["scope"]) for t in found if t["kind"] == "bearer" and not t["revoked"]]
    report({"tokens": found}, table(("id", "name", "scope"), rows, empty="No tokens."), as_json=as_json)


@tokens.command()
def revoke(
    token: Annotated[str, typer.Argument(help="Id or name of the token.")],
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Make a token worthless at once."""
    from annotate_app.client import connect

    with connect(data) as client:
        matching = [t for t in rows_of(client.get("/tokens"), "tokens") if token in (t["id"], t["name"]) and not t.get("revoked")]
        if len(matching) != 1:
            many = f"{len(matching)} tokens are called" if matching else "No token is called"
            raise UserError(f"{many} {token!r}. Give one id that `nashloop tokens list` shows.")
        answer = client.delete(f"/tokens/{matching[0]['id']}")
    report(answer or {"revoked": matching[0]["id"]}, f"Revoked {matching[0]['name']}.", as_json=as_json)


def find_person(client: Any, name: str) -> dict[str, Any]:
    """The user of this name or id; UserError naming who there is."""
    found = rows_of(client.get("/users"), "users")
    for user in found:
        if name in (user["name"], user["id"]):
            return user
    known = ", ".join(user["name"] for user in found) or "nobody yet"
    raise UserError(f"There is no user {name!r}. Known: {known}. Add one with `nashloop users add {name}`.")


def _link(client: Any, user_id: str, data: Any) -> str:
    from annotate_app.server import find_running

    answer = client.post(f"/users/{user_id}/invite")
    path = answer.get("path") or answer.get("link") or answer.get("url")
    if path.startswith("http"):
        return path
    running = find_running(data)
    return (running.url if running else "http://127.0.0.1:7860") + path
