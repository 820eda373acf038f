"""Looking at judgments, annotators and policies: pages under /console of which every view is a link, and the same as JSON."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.responses import HTMLResponse

from annotate_app.auth import require
from annotate_app.browse import PairFilter, choices, find_pairs, pair_of
from annotate_app.context import AppContext
from annotate_app.pages.browse_html import annotator_page, annotators_page, pair_page, pairs_page
from annotate_app.pages.campaign_html import campaign_page
from annotate_app.pages.lineage_html import lineage_page
from annotate_app.reports.annotators import annotators_report
from annotate_app.reports.policies import policies_report
from storage.contract.settings import UpdateSettings

Text = Annotated[str, Query(max_length=200)]


def pair_filter(
    q: Text = "",
    verdict: Text = "",
    annotator: Text = "",
    policy: Text = "",
    purpose: Text = "",
    split: Text = "",
    aspect: Text = "",
    reason: Text = "",
    since: Text = "",
    until: Text = "",
    only: Annotated[str, Query(description="disagreement, flagged, edited or marked")] = "",
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> PairFilter:
    """The search that a link describes; everything is left open that it does not name."""
    return PairFilter(
        q=q, verdict=verdict, annotator=annotator, policy=policy, purpose=purpose, split=split, aspect=aspect, reason=reason,
        since=since, until=until, only=only, page=page,
    )  # fmt: skip


Asked = Annotated[PairFilter, Depends(pair_filter)]


def build_api(context: AppContext) -> APIRouter:
    """JSON, of scope research."""
    router, store = APIRouter(tags=["browse"], dependencies=[Depends(require("research"))]), context.store

    @router.get("/pairs")
    def pairs(asked: Asked) -> dict[str, Any]:
        """Judged pairs that fit every filter, newest first, fifty on a page."""
        return find_pairs(store, asked)

    @router.get("/pairs/{task_id}")
    def one_pair(task_id: str) -> dict[str, Any]:
        """A pair with everything that was said of it."""
        return _pair(context, task_id)

    @router.get("/annotators")
    def annotators() -> dict[str, Any]:
        """What is known of each annotator: labels, agreement, flips, pull of the first place, time."""
        return _annotators(context)

    @router.get("/policies/matrix")
    def matrix() -> dict[str, Any]:
        """Policies with lineage and expected win rates, and people's votes between them with 95 % intervals."""
        return _policies(context)

    return router


def build_pages(context: AppContext) -> APIRouter:
    """HTML under /console, which the guard keeps to researchers."""
    router, store = APIRouter(include_in_schema=False, default_response_class=HTMLResponse), context.store

    @router.get("/console/pairs")
    def pairs(asked: Asked) -> str:
        return pairs_page(asked, find_pairs(store, asked), choices(store))

    @router.get("/console/pairs/{task_id}")
    def one_pair(task_id: str) -> str:
        return pair_page(_pair(context, task_id))

    @router.get("/console/annotators")
    def annotators() -> str:
        return annotators_page(_annotators(context)["annotators"])

    @router.get("/console/annotators/{annotator_id}")
    def one_annotator(annotator_id: str) -> str:
        people = [p for p in _annotators(context)["annotators"] if p["annotator_id"] == annotator_id]
        if not people:
            raise HTTPException(404, "There is no annotator with judgments of this id. /console/annotators lists them.")
        me = {"me": annotator_id}
        shares = store.query(_SHARES, me).to_pylist()
        training = store.training(annotator_id)
        return annotator_page(
            people[0],
            shares={row["verdict"]: row["n"] for row in shares},
            training=asdict(training) if training else None,
            flags=store.query(_FLAGS, me).to_pylist(),
            notes=store.query(_NOTES, me).to_pylist(),
        )

    @router.get("/console/lineage")
    def lineage(a: int | None = None, b: int | None = None, prompt: str = "") -> str:
        figures = _policies(context)
        prompts = store.query(_PROMPTS).to_pylist()
        compared = _compared(context, a, b, prompt) if a is not None and b is not None and prompt else None
        return lineage_page(figures["policies"], figures["votes"], prompts, compared)

    @router.get("/console/campaign")
    def campaign() -> str:
        splits = store.query("SELECT split, count(*) AS n FROM prompts GROUP BY split ORDER BY n DESC").to_pylist()
        [gold] = store.query("SELECT count(*) AS n FROM tasks WHERE purpose = 'gold'")["n"].to_pylist()
        return campaign_page(
            store.campaign(),
            prompts={row["split"]: row["n"] for row in splits},
            training_pairs=gold,
            rules=context.rounds.rules(),
            settings_words={name: field.description or "" for name, field in UpdateSettings.model_fields.items()},
        )

    return router


def _pair(context: AppContext, task_id: str) -> dict[str, Any]:
    pair = pair_of(context.store, task_id)
    if pair is None:
        raise HTTPException(404, f"There is no pair {task_id}. /console/pairs finds pairs.")
    return pair


def _annotators(context: AppContext) -> dict[str, Any]:
    rows = context.store.query(_SAID).to_pylist()
    reports = (context.rounds.report(r.number) for r in context.store.list_rounds() if r.kind in ("round", "fit"))
    return annotators_report(rows, next(filter(None, reports), None))


def _policies(context: AppContext) -> dict[str, Any]:
    rounds = {r.id: r.number for r in context.store.list_rounds()}
    policies = context.store.list_policies()
    numbers = {policy.id: policy.number for policy in policies}
    listed = [
        {
            "id": p.id,
            "number": p.number,
            "parent": numbers.get(p.parent_id or ""),
            "round": rounds.get(p.round_id or ""),
            "status": p.status,
        }
        for p in policies
    ]
    reports = {number: context.rounds.report(number) or {} for number in rounds.values()}
    return policies_report(listed, reports, context.store.query(_VOTES).to_pylist())


def _compared(context: AppContext, a: int, b: int, prompt: str) -> dict[str, Any]:
    found = context.store.query("SELECT messages FROM prompts WHERE id = $id", {"id": prompt}).to_pylist()
    if not found:
        raise HTTPException(404, f"There is no prompt {prompt}. Choose one of the list.")
    rows = context.store.query(_RESPONSES, {"prompt": prompt}).to_pylist()
    texts = {number: [row["text"] for row in rows if row["number"] == number] for number in (a, b)}
    return {"a": a, "b": b, "prompt_id": prompt, "messages": found[0]["messages"], "texts_a": texts[a], "texts_b": texts[b]}


_SAID = """
    SELECT annotator_id, annotator, annotator_kind, response_a_id, response_b_id, verdict, standing, shown_at, submitted_at
    FROM all_judgments WHERE standing AND purpose <> 'gold'
"""
_VOTES = """
    SELECT policy_a_id, policy_b_id, verdict, standing, purpose FROM all_judgments
    WHERE standing AND purpose <> 'gold' AND policy_a_id <> policy_b_id
"""
_SHARES = "SELECT verdict, count(*) AS n FROM judged_pairs WHERE annotator_id = $me GROUP BY verdict ORDER BY n DESC"
_FLAGS = """
    SELECT data ->> '$.reason' AS reason, data ->> '$.comment' AS comment FROM events
    WHERE kind = 'pair.flagged' AND data ->> '$.annotator_id' = $me ORDER BY seq DESC LIMIT 100
"""
_NOTES = "SELECT data ->> '$.text' AS text FROM events WHERE kind = 'note.sent' AND subject = $me ORDER BY seq DESC LIMIT 100"
_PROMPTS = """
    SELECT id, messages[-1].content AS text FROM prompts
    WHERE id IN (SELECT prompt_id FROM responses) ORDER BY split DESC, seq LIMIT 500
"""
_RESPONSES = """
    SELECT policies.number, responses.text FROM responses JOIN policies ON policies.id = responses.policy_id
    WHERE prompt_id = $prompt ORDER BY responses.seq LIMIT 64
"""
