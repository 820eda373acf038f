"""A job's report as a page, over HTTP: to read in the console, or to download and send to a colleague."""

from typing import Any

from fastapi import APIRouter, Depends, HTTPException
from fastapi.responses import HTMLResponse

from annotate_app.api.research import find_round
from annotate_app.auth import require
from annotate_app.context import AppContext
from annotate_app.pages.report_facts import gather_facts
from annotate_app.pages.report_html import report_page


def build_router(context: AppContext) -> APIRouter:
    """Routes of scope research."""
    router = APIRouter(tags=["jobs"], dependencies=[Depends(require("research"))])

    @router.get("/reports")
    def reports() -> dict[str, Any]:
        """Jobs that have a report, newest first."""
        jobs = [round_ for round_ in context.store.list_rounds() if context.rounds.report(round_.number)]
        return {"reports": [{"number": j.number, "kind": j.kind, "status": j.status, "created_at": j.created_at} for j in jobs]}

    @router.get("/rounds/{number}/report.html", response_class=HTMLResponse)
    def report_html(number: int, download: bool = False) -> HTMLResponse:
        """The report as one HTML file that needs nothing else; 404 before there is one. ``download``: as an attachment."""
        round_ = find_round(context, number)
        if not context.rounds.report(number):
            raise HTTPException(404, f"Job {number} has no report yet. It is written when the job finishes.")
        name = f"{round_.kind}-{number}-report.html"
        headers = {"content-disposition": f'attachment; filename="{name}"'} if download else {}
        return HTMLResponse(report_page(gather_facts(context, number)), headers=headers)

    return router
