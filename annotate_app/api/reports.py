"""Pages that the console fetches: the overview, and a job's report, to read there or to download and send to a colleague."""

import hashlib
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

from annotate_app.api.gates import what_is_coming
from annotate_app.api.research import find_round
from annotate_app.auth import require
from annotate_app.context import AppContext
from annotate_app.pages.now_html import STOPPED, now_page
from annotate_app.pages.overview import Overview
from annotate_app.pages.report_facts import gather_facts
from annotate_app.pages.report_html import report_page
from annotate_app.pages.report_summary import summarise
from storage.records import Round


def build_router(context: AppContext) -> APIRouter:
    """Routes of scope research."""
    router = APIRouter(tags=["jobs"], dependencies=[Depends(require("research"))])
    overview = Overview(context)

    @router.get("/overview.html", response_class=HTMLResponse)
    def overview_html(request: Request) -> Response:
        """The console's overview; 304 to the ETag of the last answer while nothing has changed."""
        return _unless_known(request, overview.read())

    @router.get("/now.html", response_class=HTMLResponse)
    def now_html(request: Request) -> Response:
        """How far the newest job is; 304 as above."""
        rounds = context.store.list_rounds()
        job = context.rounds.progress(rounds[0].number) if rounds else None
        log_tail = context.rounds.log_tail(job.number) if job is not None and job.status in STOPPED else ""
        return _unless_known(request, now_page(job, log_tail, what_is_coming(context)))

    @router.get("/reports")
    def reports() -> dict[str, Any]:
        """Jobs that have a report, newest first."""
        jobs = [round_ for round_ in context.store.list_rounds() if context.rounds.report(round_.number)]
        return {"reports": [{"number": j.number, "kind": j.kind, "status": j.status, "created_at": j.created_at} for j in jobs]}

    @router.get("/rounds/{number}/summary")
    def summary(number: int) -> dict[str, Any]:
        """Did it help, is it safe to promote, what next: a short answer to each and why; 404 before there is a report."""
        _check_report(context, number)
        return {"summary": [asdict(answer) for answer in summarise(gather_facts(context, number))]}

    @router.get("/rounds/{number}/report.html", response_class=HTMLResponse)
    def report_html(number: int, download: bool = False) -> HTMLResponse:
        """The report as one HTML file that needs nothing else; 404 before there is one. ``download``: as an attachment."""
        round_ = _check_report(context, number)
        name = f"{round_.kind}-{number}-report.html"
        headers = {"content-disposition": f'attachment; filename="{name}"'} if download else {}
        return HTMLResponse(report_page(gather_facts(context, number)), headers=headers)

    return router


def _check_report(context: AppContext, number: int) -> Round:
    round_ = find_round(context, number)
    if not context.rounds.report(number):
        raise HTTPException(404, f"Job {number} has no report yet. It is written when the job finishes.")
    return round_


def _unless_known(request: Request, page: str) -> Response:
    """The page under an ETag, or 304 where the browser has it."""
    mark = f'"{hashlib.sha256(page.encode()).hexdigest()[:32]}"'
    headers = {"etag": mark, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == mark:
        return Response(status_code=304, headers=headers)
    return HTMLResponse(page, headers=headers)
