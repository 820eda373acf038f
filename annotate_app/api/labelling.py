"""What an annotator does, over HTTP (DESIGN 6): lease pairs, judge them, take a judgment back, see one's own progress.

The labelling page and programs use the same routes. A verdict may ask for the next pairs, so that the hot path is one request.
"""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from pydantic import AwareDatetime, Field

from annotate_app import texts
from annotate_app.api.people import Body
from annotate_app.auth import Principal, require
from annotate_app.context import AppContext
from annotate_app.render import render_markdown, render_prompt
from storage.errors import UserError
from storage.records import Judgment, JudgmentInput, LeasedPair, Verdict

MAX_LEASES = 100
TEXT_LIMIT = 20_000  # characters of a rationale or an edited response


class LeaseBody(Body):
    count: int = Field(1, ge=1, le=MAX_LEASES, description="pairs wanted")
    resume: bool = Field(False, description="first the pairs you already hold (after a page reload), then new ones")


class RenewBody(Body):
    lease_ids: list[str] = Field(max_length=MAX_LEASES)


class JudgmentBody(Body):
    lease_id: str = Field(max_length=100)
    verdict: Verdict = Field(description="a and b in the order shown; tie; both_bad; skip")
    strength: int | None = Field(None, ge=0, le=3, strict=True, description="1 slightly, 2 clearly, 3 much better")
    aspects: dict[str, int] = Field(default_factory=dict, max_length=20)
    rationale: str | None = Field(None, max_length=TEXT_LIMIT)
    reasons: list[Annotated[str, Field(max_length=100)]] = Field(default_factory=list, max_length=20)
    edited_text: str | None = Field(None, max_length=TEXT_LIMIT)
    shown_at: AwareDatetime | None = Field(None, description="when the pair was seen first, with time zone")
    next: int = Field(0, ge=0, le=10, description="also lease this many pairs")


def annotator_of(who: Annotated[Principal, Depends(require("label"))]) -> str:
    """Whose judgments the caller makes; 403 for a token that does not say."""
    if who.annotator_id is None:
        raise HTTPException(403, "This token does not say whose judgments it makes. Create one with --annotator NAME.")
    return who.annotator_id


AnnotatorId = Annotated[str, Depends(annotator_of)]


def build_router(context: AppContext) -> APIRouter:
    """All routes of scope label."""
    router = APIRouter()
    router.include_router(_labelling(context), tags=["labelling"])
    router.include_router(_me(context), tags=["me"])
    return router


def _labelling(context: AppContext) -> APIRouter:
    router, store = APIRouter(), context.store

    @router.post("/leases")
    def lease(annotator_id: AnnotatorId, body: LeaseBody | None = None) -> dict[str, Any]:
        """Pairs to judge; an empty list when nothing is left for you."""
        body = body or LeaseBody()  # pyright: ignore[reportCallIssue]
        return {"leases": [lease_json(pair) for pair in store.lease(annotator_id, body.count, resume=body.resume)]}

    @router.post("/leases/renew")
    def renew(body: RenewBody, annotator_id: AnnotatorId) -> dict[str, Any]:
        """Keep pairs longer; answers the ids that are still yours."""
        return {"lease_ids": store.renew(body.lease_ids, annotator_id)}

    @router.post("/judgments", status_code=201, responses={200: {"description": "the same answer was stored before"}})
    def judge(body: JudgmentBody, annotator_id: AnnotatorId, response: Response) -> dict[str, Any]:
        """Store the answer to a lease: 201 stored, 200 repeated, 409 answered differently, 410 given away, 404 unknown."""
        result = store.submit(_answer(body), annotator_id=annotator_id)
        if result.status in _REFUSALS:
            raise HTTPException(*_REFUSALS[result.status])
        assert result.judgment is not None
        response.status_code = 201 if result.status == "stored" else 200
        upcoming = store.lease(annotator_id, body.next) if body.next else []
        return {"judgment": judgment_json(result.judgment), "next": [lease_json(pair) for pair in upcoming]}

    @router.post("/judgments/{judgment_id}/withdraw")
    def withdraw(judgment_id: str, annotator_id: AnnotatorId) -> dict[str, Any]:
        """Take back your own judgment and get its pair again."""
        pair = store.withdraw(judgment_id, annotator_id=annotator_id)
        if pair is None:
            raise HTTPException(
                404, "This judgment cannot be taken back: it is not yours, was taken back before, or its pair is taken."
            )
        return {"lease": lease_json(pair)}

    @router.get("/guidelines")
    def guidelines(annotator_id: AnnotatorId) -> dict[str, Any]:
        """What annotators are asked to look for: the campaign's text, else ``guidelines.md``, else the built-in one."""
        path = context.data_dir / "guidelines.md"
        text = store.campaign().guidelines or (path.read_text() if path.exists() else texts.GUIDELINES)
        return {"html": render_markdown(text)}

    return router


_REFUSALS = {
    "conflict": (409, "This pair was already answered differently. Take that judgment back first if it was wrong."),
    "expired": (410, "This lease expired and its pair was given to somebody else. Lease another pair."),
    "unknown": (404, "There is no such lease of yours. Lease a pair first."),
}


def _answer(body: JudgmentBody) -> JudgmentInput:
    """Empty texts count as not given; a time in the future is a wrong clock, so now."""
    now = datetime.now(UTC)
    if body.shown_at is not None and body.shown_at > now + timedelta(days=1):
        raise UserError(f"shown_at {body.shown_at.isoformat()} is in the future. Correct the clock, or leave it out.")
    return JudgmentInput(
        lease_id=body.lease_id,
        verdict=body.verdict,
        strength=body.strength,
        aspects=body.aspects,
        rationale=(body.rationale or "").strip() or None,
        reasons=tuple(body.reasons),
        edited_text=body.edited_text or None,
        shown_at=min(body.shown_at, now) if body.shown_at else None,
    )


def _me(context: AppContext) -> APIRouter:
    router, store = APIRouter(), context.store

    @router.get("/me")
    def me(who: Annotated[Principal, Depends(require("label"))]) -> dict[str, Any]:
        """Who you are."""
        role = who.user.role if who.user else who.scope
        return {"name": who.user.name if who.user else who.actor, "role": role, "annotator_id": who.annotator_id}

    @router.get("/me/progress")
    def progress(
        annotator_id: AnnotatorId, since: Annotated[AwareDatetime | None, Query(description="start of your day")] = None
    ) -> dict[str, Any]:
        """Your own numbers; ``since`` defaults to midnight UTC."""
        today = since or datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        [row] = store.query(_PROGRESS, {"me": annotator_id, "today": today}).to_pylist()
        newest = next(iter(store.list_rounds()), None)
        return row | {"preparing": newest is not None and newest.status == "running"}

    @router.get("/me/judgments")
    def judgments(annotator_id: AnnotatorId, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> dict[str, Any]:
        """Your judgments that stand, newest first."""
        mine = store.list_judgments(annotator_id=annotator_id, limit=limit)
        return {"judgments": [judgment_json(judgment) for judgment in mine]}

    return router


def lease_json(pair: LeasedPair) -> dict[str, Any]:
    """A leased pair as the API shows it; which response is whose is not told."""
    return {
        "lease_id": pair.lease_id,
        "task_id": pair.task_id,
        "prompt": [asdict(message) for message in pair.prompt],
        "prompt_html": render_prompt(pair.prompt),
        "response_a": {"text": pair.response_a, "html": render_markdown(pair.response_a)},
        "response_b": {"text": pair.response_b, "html": render_markdown(pair.response_b)},
        "expires_at": pair.expires_at.isoformat(),
        "supersedes": pair.supersedes,
    }


def judgment_json(judgment: Judgment) -> dict[str, Any]:
    """A judgment as its annotator sees it."""
    hidden = ("response_a_id", "response_b_id")  # a policy could be recognised by its responses' ids
    return {name: value for name, value in asdict(judgment).items() if name not in hidden}


# Pairs left are those nobody else fills up: still wanted, and without a judgment of mine.
_PROGRESS = """
    WITH mine AS (SELECT * FROM standing WHERE annotator_id = $me)
    SELECT count(*) FILTER (verdict <> 'skip' AND submitted_at >= $today) AS done_today,
           count(*) FILTER (verdict <> 'skip') AS done_total,
           count(*) FILTER (verdict = 'skip') AS skipped,
           (SELECT count(*) FROM task_status WHERE NOT closed AND num_made < wanted
            AND id NOT IN (SELECT task_id FROM mine)) AS remaining,
           median(epoch(submitted_at) - epoch(shown_at)) AS median_seconds
    FROM mine
"""
