"""How people's comparisons of policies stand, and when the next round begins, over HTTP."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, HTTPException
from pydantic import Field

from annotate_app.api.people import Body
from annotate_app.api.research import find_policy, find_round
from annotate_app.attendant import Attendant
from annotate_app.auth import require
from annotate_app.context import AppContext
from annotate_app.gate import HumanGate
from annotate_app.human_gate import Comparison
from annotate_app.triggers import has_triggers


class CompareBody(Body):
    policy: int = Field(ge=0, description="number of the policy to compare with the serving one")


def build_router(context: AppContext) -> APIRouter:
    """Routes of scope research."""
    router = APIRouter(tags=["policies"], dependencies=[Depends(require("research"))])

    @router.get("/gates")
    def gates() -> dict[str, Any]:
        """Blind comparisons of new policies with the serving one, newest first: votes, bounds, decision."""
        return {"gates": [gate_json(*found) for found in context.rounds.comparisons()]}

    @router.post("/gates", status_code=201)
    def compare(body: CompareBody) -> dict[str, Any]:
        """Have people compare a policy with the serving one, as the campaign's gate does with new ones."""
        candidate = find_policy(context, body.policy)
        context.rounds.compare(candidate.id)
        found = context.rounds.comparison_of(candidate)
        assert found is not None, "it was just opened"
        return gate_json(*found)

    @router.get("/rounds/{number}/gate")
    def gate_of_round(number: int) -> dict[str, Any]:
        """How people's votes on the policy of a round stand; 404 where they are not asked."""
        made = context.store.get_policy(find_round(context, number).new_policy_id or "")
        found = context.rounds.comparison_of(made) if made else None
        if found is None:
            raise HTTPException(404, f"People do not compare a policy of job {number}. The campaign's gate_share has them asked.")
        return gate_json(*found)

    @router.get("/next-round")
    def next_round() -> dict[str, Any]:
        """When the next round begins by itself; ``reason`` is given where it is due now."""
        return asdict(Attendant(context).next_round())

    return router


def what_is_coming(context: AppContext) -> list[str]:
    """What votes and triggers will decide by themselves, a sentence each; empty where everything is done by hand."""
    told = [
        f"People compare policy {one.candidate.number} with policy {one.opponent.number}. {gate.sentence}"
        for one, gate, _ in context.rounds.comparisons(only_open=True)
    ]
    return [*told, Attendant(context).next_round().sentence] if has_triggers(context.store.campaign()) else told


def gate_json(comparison: Comparison, gate: HumanGate, pairs_waiting: int) -> dict[str, Any]:
    """A comparison as the API shows it, policies by number. ``action`` follows from the votes, ``decided`` from what was done."""
    decided = comparison.decided
    told = None if decided is None else {"at": decided.at, **{key: decided.data[key] for key in ("action", "sentence")}}
    who = {"candidate": comparison.candidate.number, "opponent": comparison.opponent.number}
    return {**who, "decided": told, "pairs_waiting": pairs_waiting, "votes": gate.votes, **asdict(gate)}
