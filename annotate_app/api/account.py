"""What admins do about accounts beside adding and inviting (people.py): ending sessions, and reading the audit log."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import HTMLResponse
from pydantic import Field

from annotate_app.api.people import Actor, Body, find_user
from annotate_app.audit import read_audit
from annotate_app.auth import require
from annotate_app.context import AppContext
from annotate_app.pages.audit_html import PAGE, audit_page
from annotate_app.sessions import end_sessions
from storage.errors import UserError

Limit = Annotated[int, Query(ge=1, le=10_000)]


class ForgetBody(Body):
    texts: bool = Field(False, description="also what they wrote beside their verdicts")


def build_router(context: AppContext) -> APIRouter:
    """Routes of scope admin."""
    router, store = APIRouter(tags=["people"], dependencies=[Depends(require("admin"))]), context.store

    @router.post("/users/{user_id}/sign-out")
    def sign_out(user_id: str, actor: Actor) -> dict[str, Any]:
        """End every session of a person, as after a lost laptop."""
        user = find_user(context, user_id)
        return {"name": user.name, "sessions_ended": end_sessions(store, user, actor=actor.actor)}

    @router.post("/users/{user_id}/forget")
    def forget(user_id: str, actor: Actor, body: ForgetBody | None = None) -> dict[str, Any]:
        """Remove what names a person, and shut them out; their judgments stay under a pseudonym. It cannot be undone."""
        user = find_user(context, user_id)
        if user.id == actor.actor:
            raise UserError("That is you. Another admin can do it, or `nashloop users forget`.")
        store.forget_user(user.id, actor=actor.actor, texts=bool(body and body.texts))
        return {"id": user.id, "name": find_user(context, user_id).name}

    @router.get("/audit")
    def audit(limit: Limit = 200, before: int | None = None, kind: str = "") -> dict[str, Any]:
        """Who did what, newest first; ``before`` is a ``seq`` to go on from, ``kind`` a beginning such as ``user.``."""
        return {"entries": read_audit(store, limit=limit, before=before, kind=kind)}

    return router


def build_pages(context: AppContext) -> APIRouter:
    """The audit log as a page."""
    router = APIRouter(include_in_schema=False, dependencies=[Depends(require("admin"))])

    @router.get("/console/audit", response_class=HTMLResponse)
    def audit(before: int | None = None, kind: str = "") -> HTMLResponse:
        return audit_page(read_audit(context.store, limit=PAGE, before=before, kind=kind), kind)

    return router
