"""What researchers do, over HTTP (DESIGN 6): jobs, policies, exports and imports. Thin: one call each.

Every path is under /api/v1. Bodies refuse unknown fields. A UserError answers 422, a busy accelerator 409, an unknown id 404.
"""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import Field
from starlette.background import BackgroundTask

from annotate_app.api.people import Actor, Body, build_people_router
from annotate_app.auth import Principal, require
from annotate_app.context import AppContext
from annotate_app.launcher import JobRunning
from annotate_app.uploads import safe_name
from storage.contract.settings import build_settings
from storage.doctor import check_contents
from storage.exports import EXPORT_FORMATS, write_export
from storage.imports import import_file
from storage.records import Policy, Round

Kind = Literal["round", "generate", "evaluate", "fit"]


class OptionsBody(Body):
    """What the app does with a job: how its policy's candidates become pairs to label, once it serves."""

    promote: Literal["gate", "manual"] | None = Field(None, description="gate: serve the new policy if it passes")
    selection: str | None = Field(None, description="which pairs to label next: mix, random, near_tie, bald ...")
    overlap: int | None = Field(None, description="judgments wanted of each pair, by different annotators")
    pairs_per_prompt: int | None = None
    with_imported: bool | None = Field(None, description="whether imported judgments count")
    max_prompts: int | None = Field(None, description="only the first so many prompts of each split")


class RoundBody(OptionsBody):
    settings: dict[str, Any] = Field(default_factory=dict, description="what differs from the defaults, nested by group")


class JobBody(RoundBody):
    kind: Kind
    policy: int | None = Field(None, description="number of the policy; the serving one if not given")


class ReasonBody(Body):
    reason: str | None = None


def build_router(context: AppContext) -> APIRouter:
    """All routes of scope research and admin."""
    router = APIRouter()
    router.include_router(_jobs(context), tags=["jobs"], dependencies=[Depends(require("research"))])
    router.include_router(_policies(context), tags=["policies"], dependencies=[Depends(require("research"))])
    router.include_router(_data(context), tags=["data"], dependencies=[Depends(require("research"))])
    router.include_router(build_people_router(context), tags=["people"], dependencies=[Depends(require("admin"))])
    return router


def _jobs(context: AppContext) -> APIRouter:
    router, rounds, store = APIRouter(), context.rounds, context.store

    @router.get("/status")
    def status() -> dict[str, Any]:
        """What serves, what runs, what waits."""
        serving, all_rounds = store.serving_policy(), store.list_rounds()
        running = [rounds.progress(r.number) for r in all_rounds if r.status == "running"]
        return {
            "campaign": context.campaign,
            "serving": policy_json(context, serving) if serving else None,
            "running": [asdict(progress) for progress in running],
            "tasks_open": len(store.open_tasks()),
            "judgments": store.count_judgments(),
            "rounds": sum(r.kind == "round" and r.status == "done" for r in all_rounds),
        }

    @router.get("/stats")
    def stats() -> dict[str, Any]:
        """Numbers about labelling."""
        return store.stats()

    @router.get("/rules")
    def rules() -> dict[str, Any]:
        """Update rules a round can use."""
        return {"rules": rounds.rules()}

    @router.post("/jobs", status_code=201)
    def start_job(body: JobBody, actor: Actor) -> dict[str, Any]:
        """Start a job of any kind."""
        policy_id = None if body.policy is None else find_policy(context, body.policy).id
        return _start(body, actor, kind=body.kind, policy_id=policy_id)

    @router.post("/rounds", status_code=201)
    def start_round(body: RoundBody, actor: Actor) -> dict[str, Any]:
        """Start a round from the serving policy."""
        return _start(body, actor, kind="round", policy_id=None)

    def _start(body: RoundBody, actor: Principal, *, kind: Kind, policy_id: str | None) -> dict[str, Any]:
        settings = build_settings({**body.settings, "kind": kind})
        options = body.model_dump(include=set(OptionsBody.model_fields), exclude_none=True)
        with _busy_is_409():
            started = rounds.start(settings, actor=actor.actor, kind=kind, policy_id=policy_id, options=options)
        return round_json(context, started)

    @router.get("/rounds")
    def list_rounds() -> dict[str, Any]:
        """All jobs, newest first."""
        return {"rounds": [round_json(context, round_) for round_ in store.list_rounds()]}

    @router.get("/rounds/{number}")
    def show_round(number: int) -> dict[str, Any]:
        """One job."""
        return round_json(context, find_round(context, number))

    @router.get("/rounds/{number}/progress")
    def progress(number: int) -> dict[str, Any]:
        """How far a job is."""
        find_round(context, number)
        return asdict(rounds.progress(number))

    @router.get("/rounds/{number}/report")
    def report(number: int) -> dict[str, Any]:
        """The report of a finished job; 404 before that."""
        found = rounds.report(find_round(context, number).number)
        if found is None:
            raise HTTPException(404, f"Job {number} has no report yet.")
        return dict(found)

    @router.get("/rounds/{number}/log")
    def log(number: int, lines: Annotated[int, Query(ge=1, le=2000)] = 50) -> dict[str, Any]:
        """Last lines of a job's log."""
        return {"log": rounds.log_tail(find_round(context, number).number, lines)}

    @router.post("/rounds/{number}/cancel")
    def cancel(number: int, actor: Actor) -> dict[str, Any]:
        """Stop a running job; it can be resumed."""
        find_round(context, number)
        return round_json(context, rounds.cancel(number, actor=actor.actor))

    @router.post("/rounds/{number}/resume")
    def resume(number: int, actor: Actor) -> dict[str, Any]:
        """Go on with a job that stopped."""
        find_round(context, number)
        with _busy_is_409():
            return round_json(context, rounds.resume(number, actor=actor.actor))

    return router


def _policies(context: AppContext) -> APIRouter:
    router, rounds = APIRouter(), context.rounds

    @router.get("/policies")
    def list_policies() -> dict[str, Any]:
        """All policies by number."""
        return {"policies": [policy_json(context, policy) for policy in context.store.list_policies()]}

    @router.post("/policies/rollback")
    def rollback(actor: Actor, body: ReasonBody | None = None) -> dict[str, Any]:
        """Let the parent of the serving policy serve again."""
        return policy_json(context, rounds.rollback(actor=actor.actor, reason=body.reason if body else None))

    @router.post("/policies/{number}/promote")
    def promote(number: int, actor: Actor, body: ReasonBody | None = None) -> dict[str, Any]:
        """Let a policy serve."""
        policy = find_policy(context, number)
        return policy_json(context, rounds.promote(policy.id, actor=actor.actor, reason=body.reason if body else None))

    return router


def _data(context: AppContext) -> APIRouter:
    router, store = APIRouter(), context.store

    @router.get("/exports/{format_name}")
    def export(
        format_name: str,
        container: Literal["jsonl", "parquet", "csv"] = "jsonl",
        with_excluded: bool = False,
        with_names: bool = False,
    ) -> FileResponse:
        """Download what was judged. Written to a temporary file in a worker thread, so labelling goes on meanwhile.

        ``with_excluded``: judgments of excluded annotators too; ``with_names``: people's names instead of pseudonyms.
        """
        if format_name not in EXPORT_FORMATS:
            raise HTTPException(404, f"There is no export format {format_name!r}. Formats: {', '.join(EXPORT_FORMATS)}.")
        aside = Path(tempfile.mkdtemp(prefix="nashloop-export-"))
        try:
            wanted = {"with_excluded": with_excluded, "with_names": with_names}
            path = _write_export(context, format_name, container, aside, wanted)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        cleanup = BackgroundTask(shutil.rmtree, aside, ignore_errors=True)
        return FileResponse(path, filename=path.name, background=cleanup)

    @router.post("/backups", status_code=201)
    def backup() -> dict[str, Any]:
        """Write a checked copy of the database under ``backups/`` of the data directory; labelling goes on meanwhile."""
        path = context.data_dir.resolve() / "backups" / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.duckdb"
        store.backup(path)
        return {"path": str(path), "bytes": path.stat().st_size}

    @router.get("/checks")
    def checks() -> dict[str, Any]:
        """Whether every row can be read, refers to what is there, and is in the journal; takes seconds on a large database."""
        path = Path(store.health()["path"])
        return {"checks": [asdict(check) for check in check_contents(store.query, path if path.is_file() else None)]}

    @router.post("/imports/{what}")
    async def import_(
        request: Request, what: Literal["prompts", "judgments", "training"], filename: str, skip_bad: bool = False
    ) -> dict[str, Any]:
        """Import the file in the body; ``filename`` says by its ending what it is."""
        async with _received(request, filename) as path:
            return await run_in_threadpool(import_file, store, what, path, skip_bad=skip_bad)

    return router


def find_round(context: AppContext, number: int) -> Round:
    """The job of this number; 404 if there is none."""
    round_ = context.store.get_round(number)
    if round_ is None:
        raise HTTPException(404, f"There is no job {number}.")
    return round_


def find_policy(context: AppContext, number: int) -> Policy:
    """The policy of this number; 404 if there is none."""
    policy = next((p for p in context.store.list_policies() if p.number == number), None)
    if policy is None:
        raise HTTPException(404, f"There is no policy {number}.")
    return policy


def round_json(context: AppContext, round_: Round) -> dict[str, Any]:
    """A job as the API shows it, policies by number too."""
    numbers = {policy.id: policy.number for policy in context.store.list_policies()}
    policies = {"policy": numbers.get(round_.parent_policy_id), "new_policy": numbers.get(round_.new_policy_id or "")}
    return {**asdict(round_), **policies}


def policy_json(context: AppContext, policy: Policy) -> dict[str, Any]:
    """A policy as the API shows it, its parent and round by number too."""
    numbers = {p.id: p.number for p in context.store.list_policies()}
    made_by = next((r.number for r in context.store.list_rounds() if r.id == policy.round_id), None)
    return {**asdict(policy), "parent": numbers.get(policy.parent_id or ""), "round": made_by}


@contextmanager
def _busy_is_409() -> Iterator[None]:
    try:
        yield
    except JobRunning as error:
        raise HTTPException(409, str(error)) from error


def _write_export(context: AppContext, format_name: str, container: str, aside: Path, wanted: dict[str, bool]) -> Path:
    """The export as one file: a folder format becomes a zip."""
    if format_name == "hf":
        folder = aside / "nashloop-hf"
        write_export(context.store, format_name, folder, container, **wanted)
        return Path(shutil.make_archive(str(folder), "zip", folder))
    path = aside / f"nashloop-{format_name}.{container}"
    write_export(context.store, format_name, path, container, **wanted)
    return path


@asynccontextmanager
async def _received(request: Request, filename: str) -> AsyncIterator[Path]:
    """The request's body as a temporary file with the ending of ``filename``; removed afterwards."""
    aside = Path(tempfile.mkdtemp(prefix="nashloop-import-"))
    try:
        path = aside / safe_name(filename)
        with path.open("wb") as file:
            async for chunk in request.stream():
                await run_in_threadpool(file.write, chunk)
        yield path
    finally:
        shutil.rmtree(aside, ignore_errors=True)
