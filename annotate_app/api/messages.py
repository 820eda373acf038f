"""From annotators to researchers, over HTTP: flags on pairs and notes. Both are events; sending one again adds nothing."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import Field

from annotate_app.api.people import Actor, AnnotatorId, Body
from annotate_app.auth import require
from annotate_app.context import AppContext

TEXT_LIMIT = 4000
Limit = Annotated[int, Query(ge=1, le=1000)]


class FlagBody(Body):
    lease_id: str = Field(max_length=100, description="of a pair you hold or have judged")
    reason: str = Field(min_length=1, max_length=100, pattern=r"\S")
    comment: str | None = Field(None, max_length=TEXT_LIMIT)


class NoteBody(Body):
    text: str = Field(min_length=1, max_length=TEXT_LIMIT, pattern=r"\S")
    lease_id: str | None = Field(None, max_length=100, description="the pair it is about")


def build_router(context: AppContext) -> APIRouter:
    """Sending is of scope label, reading of scope research."""
    router, store = APIRouter(tags=["messages"]), context.store

    @router.post("/flags", status_code=201)
    def flag(body: FlagBody, actor: Actor, annotator_id: AnnotatorId) -> dict[str, Any]:
        """Say that something is wrong with a pair; it stays yours to judge or skip."""
        task_id = _task_of(context, body.lease_id, annotator_id)
        data = body.model_dump() | {"annotator_id": annotator_id}
        event = store.append_event(actor=actor.actor, kind="pair.flagged", subject=task_id, data=data, once=True)
        return {"id": event.id}

    @router.post("/notes", status_code=201)
    def note(body: NoteBody, actor: Actor, annotator_id: AnnotatorId) -> dict[str, Any]:
        """Send a note to the researchers, about a pair or in general."""
        task_id = _task_of(context, body.lease_id, annotator_id) if body.lease_id else None
        data = body.model_dump() | {"task_id": task_id}
        event = store.append_event(actor=actor.actor, kind="note.sent", subject=annotator_id, data=data, once=True)
        return {"id": event.id}

    @router.get("/flags", dependencies=[Depends(require("research"))])
    def flags(limit: Limit = 200) -> dict[str, Any]:
        """Flagged pairs, newest first, with the prompt and the verdict given since."""
        return {"flags": store.query(_FLAGS, {"limit": limit}).to_pylist()}

    @router.get("/notes", dependencies=[Depends(require("research"))])
    def notes(limit: Limit = 200) -> dict[str, Any]:
        """Notes of annotators, newest first, with the prompt of the pair they are about."""
        return {"notes": store.query(_NOTES, {"limit": limit}).to_pylist()}

    return router


def _task_of(context: AppContext, lease_id: str, annotator_id: str) -> str:
    """The task of one's own lease, answered or not; 404 for any other."""
    own = "SELECT task_id FROM leases WHERE id = $id AND annotator_id = $me"
    rows = context.store.query(own, {"id": lease_id, "me": annotator_id}).to_pylist()
    if not rows:
        raise HTTPException(404, "There is no such lease of yours. Name the lease_id of a pair you were shown.")
    return rows[0]["task_id"]


_FLAGS = """
    WITH flags AS (
        SELECT seq, "at", subject AS task_id, data ->> '$.lease_id' AS lease_id, data ->> '$.annotator_id' AS annotator_id,
               data ->> '$.reason' AS reason, data ->> '$.comment' AS comment
        FROM events WHERE kind = 'pair.flagged')
    SELECT flags.*, annotators.handle AS annotator, prompts.messages[-1].content AS prompt, standing.verdict
    FROM flags
    JOIN annotators ON annotators.id = flags.annotator_id
    JOIN tasks ON tasks.id = flags.task_id
    JOIN prompts ON prompts.id = tasks.prompt_id
    LEFT JOIN standing ON standing.id = flags.lease_id
    ORDER BY flags.seq DESC LIMIT $limit
"""
_NOTES = """
    WITH notes AS (
        SELECT seq, "at", subject AS annotator_id, data ->> '$.text' AS text, data ->> '$.lease_id' AS lease_id,
               data ->> '$.task_id' AS task_id
        FROM events WHERE kind = 'note.sent')
    SELECT notes.*, annotators.handle AS annotator, prompts.messages[-1].content AS prompt
    FROM notes
    JOIN annotators ON annotators.id = notes.annotator_id
    LEFT JOIN tasks ON tasks.id = notes.task_id
    LEFT JOIN prompts ON prompts.id = tasks.prompt_id
    ORDER BY notes.seq DESC LIMIT $limit
"""
