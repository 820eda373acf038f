"""``nashloop up``: one command from nothing to a page to label on."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_app.commands.options import DATA_DIR, DatabaseOption, DataOption, DeviceOption, ModelOption, note
from storage.errors import UserError

RESEARCHER = "researcher"


def up(
    context: typer.Context,
    data: DataOption = DATA_DIR,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 lets other machines in, see --allow-http.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on.", min=1, max=65535)] = 7860,
    model: ModelOption = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="File of prompts to import (JSONL, CSV, Parquet).")] = None,
    database: DatabaseOption = None,
    device: DeviceOption = "auto",
    policy_server: Annotated[
        str, typer.Option("--policy-server", help="Live prompts: auto starts a server, URL uses one, off leaves them out.")
    ] = "off",
    backup_every: Annotated[
        float, typer.Option("--backup-every", min=0, help="Hours between backups that the app makes by itself; 0 for none.")
    ] = 24,
    keep_backups: Annotated[int, typer.Option("--keep-backups", min=1, help="How many of these backups to keep.")] = 7,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Let other machines in without TLS, in a network you trust.")
    ] = False,
    log_format: Annotated[str, typer.Option("--log-format", help="The app's log: text for people, json for machines.")] = "text",
) -> None:
    """Start the labelling app and the researchers' console on this machine.

    What is not given here is taken from the table [up] of DATA/settings.toml, if there is one.
    """
    from annotate_app.up_settings import resolved

    start(**resolved(context, data))


def start(
    *,
    data: Path,
    host: str,
    port: int,
    model: str | None,
    prompts: Path | None,
    database: str | None,
    device: str,
    policy_server: str,
    backup_every: float,
    keep_backups: int,
    allow_http: bool,
    log_format: str,
) -> None:
    """Serve with these options until somebody stops it."""
    check_device(device)
    check_policy_server(policy_server)
    from annotate_app.logs import set_up_logging

    if log_format not in ("text", "json"):
        raise UserError(f"--log-format {log_format!r} is unknown. Use text or json.")
    set_up_logging(log_format)
    from annotate_app.security_settings import check_exposure, read_security

    security = read_security(data)
    check_exposure(host, security, allow_http=allow_http)
    from annotate_app.databases import database_url
    from annotate_app.server import address, announced, find_running, listen, serve, stop_cleanly_on_sigterm

    database = database_url(data, database)
    running = find_running(data)
    if running is not None and database is None:  # a server has room for more of us
        raise UserError(
            f"Nashloop already runs on {data} at {running.url} (process {running.pid}, since {running.started_at}). "
            "Open that address, or stop it first, or name another --data."
        )
    stop_cleanly_on_sigterm()
    with ExitStack() as stack:
        listener = stack.enter_context(listen(host, port))
        note("Starting ...")
        from annotate_app.commands.compose import admin_token, check_model, open_context, with_live_prompts

        check_model(model)
        check_file(prompts)
        context = stack.enter_context(
            open_context(data, create=True, database=database, model=model, device=device, prompts=prompts)
        )
        context.rounds.ensure_started()
        context = stack.enter_context(with_live_prompts(context, policy_server, device))
        from annotate_app.attendant import Attendant
        from annotate_app.retention import retention
        from annotate_app.web import build_app

        stack.enter_context(Attendant(context).running())
        app, url = build_app(context), address(host, port)
        shown = security.public_url or url
        link = fresh_link(context)
        stack.enter_context(retention(context.store, security.forget_after_days))
        if backup_every:
            stack.enter_context(scheduled_backups(context, backup_every, keep_backups).running())
        token = stack.enter_context(admin_token(context.store))
        stack.enter_context(announced(data, url, token))
        serve(app, listener, on_ready=lambda: print(welcome(shown, link, data), flush=True))
    note("Stopped. What was labelled is kept in " + str(data))


def scheduled_backups(context: Any, hours: float, keep: int) -> Any:
    """Backups under ``backups/`` while the app runs."""
    from datetime import timedelta

    from annotate_app.scheduled_backups import ScheduledBackups

    return ScheduledBackups(context.store, context.data_dir / "backups", every=timedelta(hours=hours), keep=keep)


def check_device(device: str) -> None:
    """Refuse a device name before anything is opened."""
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device!r} is unknown. Use auto, cpu or cuda.")


def check_policy_server(how: str) -> None:
    """Refuse a policy server that cannot be meant before anything is opened."""
    if how not in ("auto", "off") and not how.startswith(("http://", "https://")):
        raise UserError(f"--policy-server {how!r} is unknown. Use auto, off, or the URL of a running server.")


def check_file(prompts: Path | None) -> None:
    """Refuse a missing file of prompts before anything is written."""
    if prompts is not None and not prompts.is_file():
        raise UserError(f"The prompts file {prompts} does not exist. Name a JSONL, CSV or Parquet file.")


def fresh_link(context: Any) -> str | None:
    """Path of a one-time sign-in link for the first researcher, made with the data directory; None once one was used."""
    from annotate_app.auth import issue_signin_link

    users = context.store.list_users()
    if not users:
        user = create_researcher(context.store)
        return issue_signin_link(context.store, user)
    first = min(users, key=lambda user: user.created_at)
    tokens = context.store.list_tokens()
    used = any(token.kind == "signin" and token.user_id == first.id and token.revoked for token in tokens)
    return None if used or first.disabled else issue_signin_link(context.store, first)


def create_researcher(store: Any) -> Any:
    """The first user, who may do everything, label too."""
    from datetime import UTC, datetime

    from storage.ids import new_id
    from storage.records import Annotator, User

    now = datetime.now(UTC)
    annotator = Annotator(id=new_id(), handle=RESEARCHER, kind="human", created_at=now)
    user = User(id=new_id(), name=RESEARCHER, role="admin", annotator_id=annotator.id, created_at=now)
    store.add_annotator(annotator)
    store.add_user(user)
    return user


def welcome(url: str, link: str | None, data: Path) -> str:
    """What a person reads when the app is ready."""
    where = "" if data == DATA_DIR else f" --data {data}"
    lines = [f"Nashloop is ready: {url}", ""]
    if link is not None:
        lines += ["Sign in as the researcher with this one-time link:", f"  {url}{link}", ""]
    else:
        lines += [f"Another sign-in link:   nashloop users invite {RESEARCHER}{where}"]
    lines += [f"Invite an annotator:    nashloop users add NAME{where}", "Stop:                   Ctrl-C"]
    return boxed(lines)


def boxed(lines: list[str]) -> str:
    """Lines in a frame; plain ASCII where the terminal cannot show more."""
    encoding = (sys.stdout.encoding or "ascii").lower()
    corners = "╭╮╰╯─│" if "utf" in encoding else "++++-|"
    width = max(map(len, lines))
    top = corners[0] + corners[4] * (width + 2) + corners[1]
    bottom = corners[2] + corners[4] * (width + 2) + corners[3]
    return "\n".join([top, *(f"{corners[5]} {line.ljust(width)} {corners[5]}" for line in lines), bottom])
