"""What an annotator does, over HTTP (DESIGN 6): lease pairs, judge them, take a judgment back or correct it.

The labelling page and programs use the same routes. A verdict may ask for the next pairs, so that the hot path is one request.
"""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Response
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, Field

from annotate_app import texts
from annotate_app.api.people import AnnotatorId, Body
from annotate_app.api.shown import judgment_json, lease_json
from annotate_app.context import AppContext
from annotate_app.handing_out import HandingOut
from annotate_app.render import render_markdown
from storage.campaign import MAX_RESPONSES
from storage.errors import UserError
from storage.rankings import Groups, check_ranking, verdict_of_first_two
from storage.records import JudgmentInput, Span, Verdict

MAX_LEASES = 100
TEXT_LIMIT = 20_000  # characters of a rationale or an edited response


class LeaseBody(Body):
    count: int = Field(1, ge=1, le=MAX_LEASES, description="pairs wanted")
    resume: bool = Field(False, description="first the pairs you already hold (after a page reload), then new ones")


class RenewBody(Body):
    lease_ids: list[str] = Field(max_length=MAX_LEASES)


class SpanBody(Body):
    side: Literal["a", "b"]
    start: int = Field(ge=0, description="character of the response's plain text")
    end: int = Field(ge=1, description="the character after the last marked one")
    note: str | None = Field(None, max_length=1000)


class AnswerBody(Body):
    verdict: Verdict | None = Field(
        None, description="a and b in the order shown; tie; both_bad; skip. Of a ranking it follows from the ranking"
    )
    strength: int | None = Field(None, ge=0, le=3, strict=True, description="1 slightly, 2 clearly, 3 much better")
    aspects: dict[str, int] = Field(
        default_factory=dict, max_length=20, description="the campaign's aspects, -3 to 3, above 0 where a is better"
    )
    rationale: str | None = Field(None, max_length=TEXT_LIMIT)
    reasons: list[Annotated[str, Field(max_length=100)]] = Field(default_factory=list, max_length=20)
    edited_text: str | None = Field(None, max_length=TEXT_LIMIT)
    spans: list[SpanBody] = Field(default_factory=list, max_length=20, description="marked parts of the responses")
    ranking: list[list[str]] | None = Field(
        None, max_length=MAX_RESPONSES, description="of a ranking lease: the letters shown, best first, ties together"
    )
    shown_at: AwareDatetime | None = Field(None, description="when the pair was seen first, with time zone")


class JudgmentBody(AnswerBody):
    lease_id: str = Field(max_length=100)
    next: int = Field(0, ge=0, le=10, description="also lease this many pairs")


def build_router(context: AppContext) -> APIRouter:
    """Routes of scope label that hand out pairs and take judgments."""
    router, store = APIRouter(tags=["labelling"]), context.store
    queue = HandingOut(store)

    @router.post("/leases")
    def lease(annotator_id: AnnotatorId, body: LeaseBody | None = None) -> JSONResponse:  # a dict would be checked and copied
        """Pairs to judge; an empty list when nothing is left for you.

        ``kind`` is pair, ranking (answer with ``ranking``) or training (its answer is known; pairs of this kind come first
        while the campaign's training is not passed). a and b are in the order shown; a ranking has ``responses`` too, all of
        them.
        """
        body = body or LeaseBody()  # pyright: ignore[reportCallIssue]
        return JSONResponse({"leases": [lease_json(pair) for pair in queue.lease(annotator_id, body.count, resume=body.resume)]})

    @router.post("/leases/renew")
    def renew(body: RenewBody, annotator_id: AnnotatorId) -> dict[str, Any]:
        """Keep pairs longer; answers the ids that are still yours."""
        return {"lease_ids": store.renew(body.lease_ids, annotator_id)}

    @router.post("/judgments", status_code=201, responses={200: {"description": "the same answer was stored before"}})
    def judge(body: JudgmentBody, annotator_id: AnnotatorId) -> JSONResponse:
        """Store the answer to a lease: 201 stored, 200 repeated, 409 answered differently, 410 given away, 404 unknown.

        On a training pair ``feedback`` says whether it was right, which verdict was expected and why, and ``training`` how far
        the round is (``passed`` null until it is finished); both are null otherwise.
        """
        result = store.submit(_answer(body, body.lease_id), annotator_id=annotator_id)
        if result.status in _REFUSALS:
            raise HTTPException(*_REFUSALS[result.status])
        assert result.judgment is not None
        upcoming = queue.lease(annotator_id, body.next) if body.next else []
        answer = {
            "judgment": jsonable_encoder(judgment_json(result.judgment)),
            "feedback": asdict(result.feedback) if result.feedback else None,
            "training": asdict(result.training) if result.training else None,
            "next": [lease_json(pair) for pair in upcoming],
        }
        return JSONResponse(answer, 201 if result.status == "stored" else 200)

    @router.post("/judgments/{judgment_id}/correct", status_code=201, responses={200: {"description": "corrected so before"}})
    def correct(judgment_id: str, body: AnswerBody, annotator_id: AnnotatorId, response: Response) -> dict[str, Any]:
        """Replace your own judgment by a new one that supersedes it: 201 stored, 200 repeated, 404 where it does not stand."""
        result = store.correct(_answer(body, judgment_id), annotator_id=annotator_id)
        if result.judgment is None:
            raise HTTPException(404, _NOT_YOURS.format(what="corrected"))
        response.status_code = 201 if result.status == "stored" else 200
        return {"judgment": judgment_json(result.judgment)}

    @router.post("/judgments/{judgment_id}/withdraw")
    def withdraw(judgment_id: str, annotator_id: AnnotatorId) -> dict[str, Any]:
        """Take back your own judgment and get its pair again."""
        pair = store.withdraw(judgment_id, annotator_id=annotator_id)
        if pair is None:
            raise HTTPException(404, _NOT_YOURS.format(what="taken back"))
        return {"lease": lease_json(pair)}

    @router.get("/guidelines")
    def guidelines(annotator_id: AnnotatorId, language: str = "en") -> dict[str, Any]:
        """What annotators are asked to look for: the campaign's text, else ``guidelines.md``, else the built-in one, which is
        there in several languages.
        """
        path = context.data_dir / "guidelines.md"
        text = store.campaign().guidelines or (path.read_text() if path.exists() else texts.guidelines(language))
        return {"html": render_markdown(text)}

    return router


_REFUSALS = {
    "conflict": (409, "This pair was already answered differently. Take that judgment back first if it was wrong."),
    "expired": (410, "This lease expired and its pair was given to somebody else. Lease another pair."),
    "unknown": (404, "There is no such lease of yours. Lease a pair first."),
}
_NOT_YOURS = (
    "This judgment cannot be {what}: it is not yours, does not stand any more, was on a training pair, or its pair is taken."
)


def _answer(body: AnswerBody, lease_id: str) -> JudgmentInput:
    """Empty texts count as not given; a time in the future is a wrong clock, so now."""
    if body.ranking is not None:
        check_ranking(_groups(body.ranking), max(2, sum(map(len, body.ranking))))
    elif body.verdict is None:
        raise RequestValidationError([{"type": "missing", "loc": ("body", "verdict"), "msg": "Field required", "input": None}])
    now = datetime.now(UTC)
    if body.shown_at is not None and body.shown_at > now + timedelta(days=1):
        raise UserError(f"shown_at {body.shown_at.isoformat()} is in the future. Correct the clock, or leave it out.")
    return JudgmentInput(
        lease_id=lease_id,
        verdict=body.verdict or verdict_of_first_two(_groups(body.ranking or [])),
        strength=body.strength,
        aspects=body.aspects,
        rationale=(body.rationale or "").strip() or None,
        reasons=tuple(body.reasons),
        edited_text=body.edited_text or None,
        spans=tuple(Span(**span.model_dump()) for span in body.spans),
        ranking=None if body.ranking is None else _groups(body.ranking),
        shown_at=min(body.shown_at, now) if body.shown_at else None,
    )


def _groups(ranking: list[list[str]]) -> Groups:
    return tuple(tuple(group) for group in ranking)
