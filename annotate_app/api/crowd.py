"""Studies on crowd platforms: opening and following them over HTTP, the page their link leads to, and the completion code."""

from dataclasses import asdict
from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from pydantic import Field

from annotate_app import crowd_platform as crowd
from annotate_app.api.people import Actor, AnnotatorId, Body
from annotate_app.auth import require
from annotate_app.context import AppContext
from annotate_app.pages.sign_in import signed_in
from annotate_app.pages.small import button, language_of, page, paragraph, to_labelling
from annotate_app.rate_limits import Rate
from annotate_app.texts import sentence
from storage.errors import UserError

Id = Annotated[str, Form(max_length=100)]


class StudyBody(Body):
    name: str = Field(max_length=40)
    labels: int = Field(ge=1, le=10_000, description="judgments after which the code is shown")
    code: str | None = Field(None, min_length=1, max_length=100, description="completion code; a new one, if not given")
    return_url: str = Field(crowd.RETURN_URL, max_length=500, description="where the platform takes the code: {code}")


def build_router(context: AppContext) -> APIRouter:
    """Routes of scope research."""
    router, store = APIRouter(tags=["crowd"], dependencies=[Depends(require("research"))]), context.store

    @router.get("/crowd")
    def list_studies() -> dict[str, Any]:
        """Studies, with the link to give to the platform."""
        return {"studies": [study_json(study) for study in crowd.studies(store).values()]}

    @router.post("/crowd", status_code=201)
    def open_study(body: StudyBody, actor: Actor) -> dict[str, Any]:
        """Open a study. Give ``path`` (on this host) to the platform, and ``code`` as its completion code."""
        return study_json(crowd.open_study(store, actor=actor.actor, **body.model_dump()))

    @router.get("/crowd/{name}")
    def show_study(name: str) -> dict[str, Any]:
        """A study and everybody who joined: labels, pairs held and given back, finished, working or abandoned."""
        study = crowd.find_study(store, name)
        return study_json(study) | {"participants": crowd.participants(store, study)}

    @router.post("/crowd/{name}/close")
    def close_study(name: str, actor: Actor) -> dict[str, Any]:
        """Let nobody join any more; who has joined may finish."""
        crowd.close_study(store, crowd.find_study(store, name), actor=actor.actor)
        return study_json(crowd.find_study(store, name))

    return router


def build_pages(context: AppContext) -> APIRouter:
    """/join, open to everybody with the link, and /completion."""
    router = APIRouter(include_in_schema=False)
    coming = Rate(per_s=1 / 5, burst=60)  # of one address: a room of participants, but no program that invents them

    @router.get("/join/{key}")
    def show(request: Request, key: str, PROLIFIC_PID: str = "", STUDY_ID: str = "", SESSION_ID: str = "") -> Response:
        study, language = crowd.study_of_key(context.store, key), language_of(request, context)
        if study is None or study.closed:
            return _small(request, context, "crowd.closed_title", paragraph(sentence("crowd.closed", language)), 410)
        ids = {"participant": PROLIFIC_PID, "session": SESSION_ID, "platform_study": STUDY_ID}
        if not crowd.PARTICIPANT.fullmatch(PROLIFIC_PID):
            return _small(request, context, "crowd.title", paragraph(sentence("crowd.id_missing", language), "problem"), 422)
        fields = "".join(f'<input type="hidden" name="{name}" value="{escape(value[:100])}">' for name, value in ids.items())
        told = paragraph(sentence("crowd.line", language, participant=PROLIFIC_PID, number=str(study.labels)))
        return _small(request, context, "crowd.title", told + button(f"/join/{key}", sentence("crowd.begin", language), fields))

    @router.post("/join/{key}")
    def begin(request: Request, key: str, participant: Id = "", session: Id = "", platform_study: Id = "") -> Response:
        study, language = crowd.study_of_key(context.store, key), language_of(request, context)
        if study is None or study.closed:
            return _small(request, context, "crowd.closed_title", paragraph(sentence("crowd.closed", language)), 410)
        if not coming.take(request.client.host if request.client else "?"):
            told = paragraph(sentence("crowd.many", language), "problem")
            return _small(request, context, "crowd.title", told, 429)
        try:
            user = crowd.join(context.store, study, participant, session=session, platform_study=platform_study)
        except UserError as error:
            return _small(request, context, "crowd.title", paragraph(str(error), "problem"), 422)
        return signed_in(context, request, user, "crowd")

    @router.get("/completion")
    def completion(request: Request, annotator_id: AnnotatorId) -> Response:
        found, language = crowd.study_of(context.store, annotator_id), language_of(request, context)
        if found is None:
            return _small(request, context, "crowd.none", to_labelling(language), 404)
        study, labels = found
        if labels < study.labels:
            told = sentence("crowd.progress", language, done=str(labels), number=str(study.labels))
            return _small(request, context, "crowd.progress_title", paragraph(told) + to_labelling(language))
        context.store.append_event(actor=annotator_id, kind="crowd.completed", subject=annotator_id, data={}, once=True)
        told = paragraph(sentence("crowd.done", language, number=str(study.labels)))
        told += f'<p class="code"><code>{escape(study.code)}</code></p>'
        back = f'<p><a class="button" href="{escape(study.link_back)}">{escape(sentence("crowd.return", language))}</a></p>'
        return _small(request, context, "crowd.done_title", told + back)

    return router


def study_json(study: crowd.Study) -> dict[str, Any]:
    """A study as researchers see it."""
    return {name: value for name, value in asdict(study).items() if name != "key"} | {"path": study.path}


def _small(request: Request, context: AppContext, title: str, body: str, status: int = 200) -> Response:
    language = language_of(request, context)
    return page(sentence(title, language), body, context.campaign, language=language, status=status)
