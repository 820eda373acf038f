"""``nashloop round``: start, watch and decide about rounds from the command line."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, note, report, table
from storage.errors import UserError

group = typer.Typer(help="Start, watch, list, show, cancel, resume rounds; promote policies and roll back.", no_args_is_help=True)

NumberArgument = Annotated[int, typer.Argument(help="Number of the round, as `nashloop round list` shows it.", min=0)]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Why; kept in the audit log.")]


@group.command()
def start(
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting, such as update.rule=onpo; repeatable.")] = None,
    settings_file: Annotated[Path | None, typer.Option("--settings", help="TOML file of settings; --set wins over it.")] = None,
    kind: Annotated[str, typer.Option("--kind", help="round, generate, evaluate or fit.")] = "round",
    policy: Annotated[
        int | None, typer.Option("--policy", help="Policy number for other kinds; the serving one if not given.")
    ] = None,
    promote: Annotated[
        str, typer.Option("--promote", help="gate: serve the new policy if it passes; manual: you decide.")
    ] = "gate",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job until it ends.")] = True,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Fit preferences on all judgments so far and take one update step; needs no running app.

    Settings and their defaults: storage/contract/settings.py; `update.rule` takes the names of `nashloop rules`.
    """
    body = job_body(read_settings(settings_file, settings or []), kind=kind, policy=policy, promote=promote)
    from annotate_app.client import connect
    from annotate_app.server import find_running

    if not wait and find_running(data) is None:
        raise UserError("--no-wait needs a running app, which would follow the job. Start `nashloop up`, or leave --no-wait out.")
    with connect(data, jobs=True) as client:
        number = client.post("/rounds" if kind == "round" else "/jobs", body)["number"]
        if not wait:
            return report({"number": number, "status": "running"}, f"Started {kind} {number}.", as_json=as_json)
        _follow_to_end(client, number, as_json=as_json)


@group.command()
def watch(number: NumberArgument, data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """Follow a running round until it ends."""
    from annotate_app.client import connect

    with connect(data, jobs=True) as client:
        _follow_to_end(client, number, as_json=as_json)


@group.command("list")
def list_rounds(data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """List all jobs, newest first."""
    from annotate_app.client import connect

    with connect(data) as client:
        rounds = rows_of(client.get("/rounds"), "rounds")
    rows = [(r["number"], r["kind"], r["status"], str(r["created_at"])[:19], r.get("message") or "") for r in rounds]
    text = table(("number", "kind", "status", "started", "message"), rows, empty="No rounds yet.")
    report({"rounds": rounds}, text, as_json=as_json)


@group.command()
def show(
    number: NumberArgument,
    html: Annotated[Path | None, typer.Option("--html", help="Also write the report to this HTML file.")] = None,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show a round: its state and, when it is finished, its report."""
    from annotate_app.client import connect

    with connect(data) as client:
        round_ = client.get(f"/rounds/{number}")
        if html is not None:
            _write_page(client, number, html)
        found, answers = None, []
        if any(finished["number"] == number for finished in client.get("/reports")["reports"]):
            found, answers = client.get(f"/rounds/{number}/report"), client.get(f"/rounds/{number}/summary")["summary"]
        gate = next((g for g in client.get("/gates")["gates"] if g["candidate"] == round_["new_policy"]), None)
    said = [f"{answer['question']} {answer['short']} {answer['why']}" for answer in answers]
    text = "\n".join([*said, describe(round_, found), *([_gate_text(gate)] if gate else [])])
    report({**round_, "report": found, "summary": answers, "gate": gate}, text, as_json=as_json)


@group.command()
def cancel(number: NumberArgument, data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """Stop a running round; its finished stages are kept and `resume` continues them."""
    _act(
        data,
        f"/rounds/{number}/cancel",
        {},
        "Cancelling {kind} {number}; `nashloop round resume {number}` continues it later.",
        as_json,
    )


@group.command()
def resume(number: NumberArgument, data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """Continue an interrupted, failed or cancelled round from its last finished stage."""
    from annotate_app.client import connect

    with connect(data, jobs=True) as client:
        client.post(f"/rounds/{number}/resume")
        _follow_to_end(client, number, as_json=as_json)


@group.command()
def promote(
    policy: Annotated[int, typer.Argument(help="Number of the policy that shall answer from now on.", min=0)],
    reason: ReasonOption = None,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Let a policy serve: annotators get its responses next."""
    _act(data, f"/policies/{policy}/promote", {"reason": reason}, "Policy {number} serves now.", as_json)


@group.command()
def rollback(reason: ReasonOption = None, data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """Let the parent of the serving policy serve again."""
    _act(data, "/policies/rollback", {"reason": reason}, "Rolled back: policy {number} serves now.", as_json)


@group.command()
def compare(
    policy: Annotated[int, typer.Argument(help="Number of the policy to compare with the serving one.", min=0)],
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Have people compare a policy blindly with the serving one; the campaign's gate_share says how many pairs they get."""
    _act(data, "/gates", {"policy": policy}, "People compare policy {candidate} with policy {opponent} now.", as_json)


def _write_page(client: Any, number: int, path: Path) -> None:
    """The report as one HTML file; UserError where there is none yet or the file cannot be written."""
    try:
        client.download(f"/rounds/{number}/report.html", path)
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {path}: {error.strerror}. Name a file in a folder that exists."
        ) from error
    note(f"Wrote {path}.")


def rows_of(answer: Any, name: str) -> list[dict[str, Any]]:
    """The list in an answer, which may be wrapped in an object under ``name``."""
    return answer[name] if isinstance(answer, dict) else answer


def job_body(settings: dict[str, Any], *, kind: str, policy: int | None, promote: str) -> dict[str, Any]:
    """What to POST for a job; refuses what the API would not understand before any app is opened."""
    if kind not in ("round", "generate", "evaluate", "fit"):
        raise UserError(f"--kind {kind!r} is unknown. Use round, generate, evaluate or fit.")
    if promote not in ("gate", "manual"):
        raise UserError(f"--promote {promote!r} is unknown. Use gate or manual.")
    if kind == "round":
        if policy is not None:
            raise UserError(
                f"--policy {policy} does not go with a round, which starts from the serving policy. Promote it first."
            )
        return {"settings": settings, "promote": promote}
    return {"kind": kind, "settings": settings} | ({} if policy is None else {"policy": policy})


def read_settings(path: Path | None, assignments: list[str]) -> dict[str, Any]:
    """Nested settings from a TOML file and ``a.b=value`` assignments, checked by name and value."""
    from storage.contract.settings import build_settings

    values = _read_toml(path) if path else {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--set {assignment!r} is not NAME=VALUE. Write for example --set update.rule=onpo.")
        _assign(values, name.strip().split("."), _plain_value(value.strip()), assignment)
    if "kind" in values:
        raise UserError(f"kind = {values['kind']!r} is not a setting here. Use `nashloop round start --kind`.")
    build_settings(values, where=str(path) if path and not assignments else "settings")
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Name a TOML file of settings.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}. Correct that line.") from error


def _assign(values: dict[str, Any], path: list[str], value: Any, assignment: str) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {assignment!r}: {part} is a value, not a group of settings. Leave out what follows it.")
    values[path[-1]] = value


def _plain_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:  # a bare word
        return text


def _act(data: Path, path: str, body: dict[str, Any], done: str, as_json: bool) -> None:
    from annotate_app.client import connect

    with connect(data, jobs=True) as client:
        answer = client.post(path, {key: value for key, value in body.items() if value is not None})
    report(answer, done.format(**answer), as_json=as_json)


def _follow_to_end(client: Any, number: int, *, as_json: bool) -> None:
    from annotate_app.commands.watching import watch as follow

    try:
        progress = follow(client, number)
    except KeyboardInterrupt:
        note(f"Stopped watching. `nashloop round watch {number}` looks again, `nashloop round cancel {number}` stops the job.")
        raise
    round_ = client.get(f"/rounds/{number}")
    if progress["status"] != "done":
        tail = client.get(f"/rounds/{number}/log")
        note(tail["log"] if isinstance(tail, dict) else tail)
        raise UserError(f"{round_['kind']} {number} ended as {progress['status']}: {round_.get('message') or 'no reason given'}")
    found = client.get(f"/rounds/{number}/report")
    report({**round_, "report": found}, describe(round_, found), as_json=as_json)


def describe(round_: dict[str, Any], found: dict[str, Any] | None) -> str:
    """A round and its report in a few lines of text."""
    lines = [f"{round_['kind']} {round_['number']}: {round_['status']}. {round_.get('message') or ''}".rstrip()]
    for name, value in ((found or {}).get("picked") or {}).items():
        why = (found or {}).get("picked_why", {}).get(name)
        lines.append(f"  {name} = {value}" + (f"  ({why})" if why else ""))
    for name, value in ((found or {}).get("evaluation") or {}).items():
        lines.append(f"  {name}: {_measure(value)}")
    lines += [f"  limit left: {reason}" for reason in (found or {}).get("reasons", [])]
    return "\n".join(lines)


def _gate_text(gate: dict[str, Any]) -> str:
    """How people's votes on the round's policy stand."""
    counts = f"{gate['wins']} wins, {gate['ties']} ties, {gate['losses']} losses"
    state = gate["decided"]["action"] if gate["decided"] else f"open, {gate['pairs_waiting']} pairs wait in the queue"
    return f"  people, policy {gate['candidate']} against {gate['opponent']}: {gate['sentence']} {counts}; {state}"


def _measure(value: Any) -> str:
    if isinstance(value, dict) and "mean" in value:
        return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_measure(inner)}" for key, inner in value.items())
    return f"{value:.3f}" if isinstance(value, float) else "not measured" if value is None else str(value)
