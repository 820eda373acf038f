"""``nashloop doctor``: is everything that was promised there and whole, and what to do where it is not."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, report
from storage.checks import Check
from storage.errors import UserError

LOW_DISK_BYTES = 500_000_000


def doctor(
    data: DataOption = DATA_DIR,
    mend: Annotated[
        bool,
        typer.Option("--repair", help="Repair a copy of what is damaged and put it in place; stop the app first."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check that the data directory opens and that everything in it is whole; exit code 1 if something is wrong."""
    from annotate_app.databases import database_url
    from annotate_app.server import DATABASE, find_running

    url = database_url(data, None)
    if mend:
        return _mend_server(url, as_json=as_json) if url else _repair(data / DATABASE, as_json=as_json)
    running = find_running(data)
    checks = [_examine_server(url)] if url else [] if running else _examine_closed(data / DATABASE)
    if all(check.ok for check in checks):
        checks += _ask_the_app(data, with_contents=running is not None or url is not None)
    checks.append(_check_disk(data))
    ok = all(check.ok for check in checks)
    text = "\n".join(f"{'ok  ' if check.ok else 'BAD '} {check.name}: {check.detail}" for check in checks)
    report({"ok": ok, "checks": [asdict(check) for check in checks]}, text, as_json=as_json)
    raise typer.Exit(0 if ok else 1)


def _repair(database: Path, *, as_json: bool) -> None:
    from annotate_app.server import check_data
    from storage.journal import journal_path
    from storage.repair import repair, wal_path

    if not any(path.exists() for path in (database, wal_path(database), journal_path(database))):
        check_data(database.parent)
    done = repair(database)
    if done is None:
        report({"repaired": False}, "Nothing is damaged; nothing was changed.", as_json=as_json)
        return
    report({"repaired": True} | asdict(done), done.text(), as_json=as_json)


def _examine_server(url: str) -> Check:
    """PostgreSQL looks after its rows itself; whether what we derive from them is right is for us to see."""
    from annotate_app.commands.migrate import open_server
    from storage.postgres_checks import check_places

    with open_server(url) as server:
        return check_places(server)


def _mend_server(url: str, *, as_json: bool) -> None:
    from annotate_app.commands.migrate import open_server
    from storage.postgres_checks import check_places, mend_places

    with open_server(url) as server:
        wrong = check_places(server)
        if not wrong.ok:
            mend_places(server)
    text = "Nothing is damaged; nothing was changed." if wrong.ok else f"Made the queue anew from the records ({wrong.detail})."
    report({"repaired": not wrong.ok}, text, as_json=as_json)


def _examine_closed(database: Path) -> list[Check]:
    """What the files themselves say while no app has them open."""
    from annotate_app.server import check_data
    from storage.doctor import examine
    from storage.journal import journal_path

    if not journal_path(database).exists():
        check_data(database.parent)
    return examine(database)


def _ask_the_app(data: Path, *, with_contents: bool) -> list[Check]:
    """Jobs, artifacts and policies; ``with_contents``: also every row, as the app that has the database open sees them."""
    from annotate_app.client import connect

    with connect(data) as client:
        contents = client.get("/checks")["checks"] if with_contents else []
        policies, rounds = client.get("/policies")["policies"], client.get("/rounds")["rounds"]
    return [
        *[Check(**check) for check in contents],
        *_check_rounds(rounds),
        *_check_artifacts(data, rounds),
        *[_check_model(policy) for policy in policies[:1]],
        *[_check_adapter(data, policy) for policy in policies if policy.get("adapter_path")],
        _check_backups(data),
    ]


def _check_rounds(rounds: list[dict[str, Any]]) -> list[Check]:
    stuck = [r for r in rounds if r["status"] == "interrupted"]
    detail = "; ".join(f"{r['kind']} {r['number']} was interrupted: nashloop round resume {r['number']}" for r in stuck)
    return [Check(name="rounds", ok=not stuck, detail=detail or f"{len(rounds)} jobs, none interrupted")]


def _check_artifacts(data: Path, rounds: list[dict[str, Any]]) -> list[Check]:
    from storage.contract.jobs import job_name
    from storage.contract.sealing import read_manifest

    checks = []
    for round_ in (r for r in rounds if r["status"] == "done"):
        name = job_name(round_["number"], round_["kind"])
        try:
            files = read_manifest(data / "artifacts" / name)["files"]
            checks.append(Check(name=f"artifact {name}", ok=True, detail=f"{len(files)} files as they were sealed"))
        except UserError as error:
            checks.append(Check(name=f"artifact {name}", ok=False, detail=str(error)))
    return checks


def _check_model(policy: dict[str, Any]) -> Check:
    from annotate_app.bootstrap import model_location

    name = policy["base_model"]
    try:
        place = Path(model_location(name))
    except UserError as error:
        return Check(name="base model", ok=False, detail=str(error))
    if not place.is_absolute():
        return Check(name="base model", ok=True, detail=f"{name}, from the Hugging Face hub (not looked up)")
    whole = (place / "config.json").exists()
    return Check(name="base model", ok=whole, detail=f"{place}" + ("" if whole else " has no config.json: put it back"))


def _check_adapter(data: Path, policy: dict[str, Any]) -> Check:
    from annotate_app.adapter_check import check_adapter

    name = f"adapter of policy {policy['number']}"
    try:
        check_adapter(data, number=policy["number"], path=policy["adapter_path"], sha256_kept=policy["adapter_sha256"])
    except UserError as error:
        return Check(name=name, ok=False, detail=str(error))
    return Check(name=name, ok=True, detail="the weights that were registered")


def _check_backups(data: Path) -> Check:
    from storage.repair import BACKUPS, list_backups, read_backup

    backups = list_backups(data / BACKUPS)
    if not backups:
        return Check(name="backups", ok=True, detail="none yet: nashloop backup")
    try:
        rows = read_backup(backups[0])
    except UserError as error:
        return Check(name="backups", ok=False, detail=f"{error} Delete it and make another: nashloop backup")
    return Check(name="backups", ok=True, detail=f"{len(backups)}; the newest holds {rows.get('judgments', 0)} judgments")


def _check_disk(data: Path) -> Check:
    free = shutil.disk_usage(data).free
    writable = os.access(data, os.W_OK)
    detail = f"{free / 1e9:.1f} GB free" + ("" if writable else f"; {data} is not writable")
    return Check(name="disk", ok=writable and free > LOW_DISK_BYTES, detail=detail)
