"""Looking at judgments, annotators and policies: pages under /console of which every view is a link, and the same as JSON."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, HTTPException, Query
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import Field

from annotate_app import annotators as people
from annotate_app.adjudication import adjudicate_next, num_adjudicated, waiting_for_adjudication
from annotate_app.api.gates import gate_json
from annotate_app.api.people import Actor, AnnotatorId, Body
from annotate_app.api.shown import lease_json
from annotate_app.auth import require
from annotate_app.browse import PairFilter, choices, find_pairs, pair_of
from annotate_app.context import AppContext
from annotate_app.pages.browse_html import annotator_page, annotators_page, pair_page, pairs_page
from annotate_app.pages.campaign_html import campaign_page
from annotate_app.pages.lineage_html import lineage_page
from annotate_app.pages.queue_html import queue_page
from annotate_app.reports.policies import policies_report
from annotate_app.selection_queue import next_places, queue_facts
from annotate_app.unanimous import promote_unanimous
from storage.contract.settings import UpdateSettings

Text = Annotated[str, Query(max_length=200)]


class ExclusionBody(Body):
    reason: str = Field(min_length=1, max_length=1000, description="kept in the audit log")


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


class UnanimousBody(Body):
    people: int = Field(ge=2, le=100, description="who have to prefer the same response, and nobody another")
    limit: int | None = Field(None, ge=1, description="at most so many new pairs")


class AdjudicationBody(Body):
    task_id: str | None = Field(None, max_length=100, description="of GET /adjudication; the first, if not given")


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

    @router.get("/queue")
    def queue(count: Annotated[int, Query(ge=1, le=1000)] = 50) -> dict[str, Any]:
        """The next pairs in the order they are handed out, and why: purpose, rule, its score, the probability of the draw."""
        return queue_facts(context) | {"places": next_places(store, count)}

    @router.get("/annotators")
    def annotators() -> dict[str, Any]:
        """What is known of each annotator, with 95 % intervals: agreement, known answers, flips, side, consistency, time.

        ``remarks`` says in a sentence each what to look at; ``random`` and ``adversarial`` hold a bound on false alarms.
        """
        return people.known_of_annotators(context)

    @router.get("/adjudication")
    def adjudication() -> dict[str, Any]:
        """Pairs on which people want opposite things and nobody more will be asked, and how many a researcher has settled."""
        waiting = [
            {k: v for k, v in row.items() if k not in ("people", "adjudicated")} for row in waiting_for_adjudication(store)
        ]
        return {"waiting": waiting, "adjudicated": num_adjudicated(store)}

    @router.post("/adjudication/next")
    def adjudicate(body: AdjudicationBody, annotator_id: AnnotatorId) -> dict[str, Any]:
        """Lease a contested pair to judge yourself, blind: that of ``task_id``, else the first. Answer it as any lease."""
        pair = adjudicate_next(store, annotator_id, body.task_id)
        return {"leases": [] if pair is None else [lease_json(pair)]}

    @router.post("/training/unanimous", status_code=201)
    def from_unanimous(body: UnanimousBody, actor: Actor) -> dict[str, int]:
        """Make pairs on which so many people were of one mind training pairs, most votes first; again adds nothing."""
        return promote_unanimous(store, body.people, actor=actor.actor, limit=body.limit)

    @router.post("/annotators/{name}/exclude")
    def exclude(name: str, body: ExclusionBody, actor: Actor) -> dict[str, Any]:
        """Leave somebody's judgments (id or handle) out of fits, reports, estimates and exports; they get no more pairs."""
        annotator = people.find_annotator(store, name)
        people.exclude(store, annotator, actor=actor.actor, reason=body.reason)
        return asdict(annotator) | {"excluded": people.excluded_annotators(store).get(annotator.id)}

    @router.post("/annotators/{name}/include")
    def include(name: str, body: ExclusionBody, actor: Actor) -> dict[str, Any]:
        """Take an exclusion back: everything this person judged counts again."""
        annotator = people.find_annotator(store, name)
        people.include(store, annotator, actor=actor.actor, reason=body.reason)
        return asdict(annotator) | {"excluded": None}

    @router.get("/policies/matrix")
    def matrix() -> dict[str, Any]:
        """Policies with lineage; ranked by people's votes (``people``) and by what preference models expect (``model``).

        Each has a matrix of win rates and, for every policy, its rating, its place in the Nash mixture, and its win rate as it
        is, at equal length, and at equal style. Intervals are 95 %.
        """
        return _policies(context)

    return router


def build_pages(context: AppContext) -> APIRouter:
    """HTML under /console, which the guard keeps to researchers."""
    router, store = APIRouter(include_in_schema=False, default_response_class=HTMLResponse), context.store

    @router.get("/console/pairs")
    def pairs(asked: Asked) -> str:
        waiting = waiting_for_adjudication(store) if asked.only == "disagreement" else None
        return pairs_page(asked, find_pairs(store, asked), choices(store), None if waiting is None else len(waiting))

    @router.get("/console/queue")
    def queue() -> str:
        return queue_page(queue_facts(context), next_places(store, 50))

    @router.post("/console/adjudicate")
    def adjudicate(annotator_id: AnnotatorId) -> RedirectResponse:
        """The labelling page begins with what its reader holds."""
        pair = adjudicate_next(store, annotator_id)
        return RedirectResponse("/console/pairs?only=disagreement" if pair is None else "/", 303)

    @router.get("/console/pairs/{task_id}")
    def one_pair(task_id: str) -> str:
        return pair_page(_pair(context, task_id))

    @router.get("/console/annotators")
    def annotators() -> str:
        return annotators_page(people.known_of_annotators(context)["annotators"])

    @router.get("/console/annotators/{annotator_id}")
    def one_annotator(annotator_id: str) -> str:
        found = [p for p in people.known_of_annotators(context)["annotators"] if p["annotator_id"] == annotator_id]
        if not found:
            raise HTTPException(404, "There is no annotator with judgments of this id. /console/annotators lists them.")
        me = {"me": annotator_id}
        shares = store.query(_SHARES, me).to_pylist()
        training = store.training(annotator_id)
        return annotator_page(
            found[0],
            shares={row["verdict"]: row["n"] for row in shares},
            training=asdict(training) if training else None,
            flags=store.query(_FLAGS, me).to_pylist(),
            notes=store.query(_NOTES, me).to_pylist(),
        )

    @router.post("/console/annotators/{annotator_id}")
    def set_exclusion(
        annotator_id: str, do: Annotated[Literal["exclude", "include"], Form()], actor: Actor, reason: Annotated[str, Form()] = ""
    ) -> RedirectResponse:
        change = people.exclude if do == "exclude" else people.include
        change(store, people.find_annotator(store, annotator_id), actor=actor.actor, reason=reason[:1000])
        return RedirectResponse(f"/console/annotators/{annotator_id}", 303)

    @router.get("/console/lineage")
    def lineage(a: int | None = None, b: int | None = None, prompt: str = "") -> str:
        figures = _policies(context)
        prompts = store.query(_PROMPTS).to_pylist()
        compared = _compared(context, a, b, prompt) if a is not None and b is not None and prompt else None
        gates = [gate_json(*found) for found in context.rounds.comparisons()]
        ranked = {"people": figures["people"], "model": figures["model"], "gates": gates, "live": context.live is not None}
        return lineage_page(figures["policies"], figures["votes"], prompts, compared, **ranked)

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


_VOTES = """
    SELECT policy_a_id, policy_b_id, verdict, standing, purpose, annotator_id, prompt_id, response_a, response_b
    FROM all_judgments
    WHERE standing AND NOT excluded AND purpose <> 'gold' AND policy_a_id <> policy_b_id
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
