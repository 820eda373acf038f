"""``nashloop backup`` and ``nashloop doctor``: keeping the data safe and saying what is wrong."""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, JsonOption, report
from storage.errors import UserError

LOW_DISK_BYTES = 500_000_000


def backup(
    out: Annotated[Path | None, typer.Option("--out", help="File to write; by default a dated one under backups/.")] = None,
    data: DataOption = DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Write a verified copy of the database, also while the app runs; artifacts never change and can be copied as they are."""
    if out is not None and out.exists():
        raise UserError(f"--out {out} exists already. Name another file.")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist. Create it first.")
    from annotate_app.client import connect

    with connect(data) as client:
        made = client.post("/backups")
    if out is not None:
        try:
            made["path"] = shutil.move(made["path"], out)
        except OSError as error:
            raise UserError(f"The backup is at {made['path']}: moving it to {out} failed ({error.strerror}).") from error
    report({**made, "path": str(made["path"])}, f"Wrote {made['path']} ({made['bytes']:,} bytes).", as_json=as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing the doctor looked at."""

    name: str
    ok: bool
    detail: str


def doctor(data: DataOption = DATA_DIR, as_json: JsonOption = False) -> None:
    """Check that the data directory opens and that everything in it is whole; exit code 1 if something is wrong."""
    from annotate_app.client import connect

    with connect(data) as client:
        counts = client.get("/stats")
        policies, rounds = _rows(client.get("/policies"), "policies"), _rows(client.get("/rounds"), "rounds")
    checks = [
        Check(name="database", ok=True, detail=_counted(counts)),
        *_check_rounds(rounds),
        *_check_artifacts(data, rounds),
        *[_check_model(policy) for policy in policies[:1]],
        *[_check_adapter(data, policy) for policy in policies if policy.get("adapter_path")],
        _check_disk(data),
    ]
    ok = all(check.ok for check in checks)
    text = "\n".join(f"{'ok  ' if check.ok else 'BAD '} {check.name}: {check.detail}" for check in checks)
    report({"ok": ok, "checks": [asdict(check) for check in checks]}, text, as_json=as_json)
    raise typer.Exit(0 if ok else 1)


def _rows(answer: Any, name: str) -> list[dict[str, Any]]:
    return answer[name] if isinstance(answer, dict) else answer


def _counted(counts: dict[str, Any]) -> str:
    names = ("prompts", "responses", "judgments", "tasks_open", "leases_open")
    return ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in names if name in counts)


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
    path = data / policy["adapter_path"]
    detail = f"{path}" if path.exists() else f"{path} is missing: put it back from a backup of artifacts/"
    return Check(name=f"adapter of policy {policy['number']}", ok=path.exists(), detail=detail)


def _check_disk(data: Path) -> Check:
    free = shutil.disk_usage(data).free
    writable = os.access(data, os.W_OK)
    detail = f"{free / 1e9:.1f} GB free" + ("" if writable else f"; {data} is not writable")
    return Check(name="disk", ok=writable and free > LOW_DISK_BYTES, detail=detail)
