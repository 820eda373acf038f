"""How people's comparisons of policies stand, and when the next round begins, over HTTP."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, HTTPException

from annotate_app.api.research import find_round
from annotate_app.attendant import Attendant
from annotate_app.auth import require
from annotate_app.context import AppContext
from annotate_app.gate import HumanGate
from annotate_app.human_gate import Comparison


def build_router(context: AppContext) -> APIRouter:
    """Routes of scope research."""
    router = APIRouter(tags=["policies"], dependencies=[Depends(require("research"))])

    @router.get("/gates")
    def gates() -> dict[str, Any]:
        """Blind comparisons of new policies with the serving one, newest first: votes, bounds, decision."""
        return {"gates": [gate_json(*found) for found in context.rounds.comparisons()]}

    @router.get("/rounds/{number}/gate")
    def gate_of_round(number: int) -> dict[str, Any]:
        """How people's votes on the policy of a round stand; 404 where they are not asked."""
        made = find_round(context, number).new_policy_id
        for found in context.rounds.comparisons():
            if found[0].candidate.id == made:
                return gate_json(*found)
        raise HTTPException(404, f"People do not compare a policy of job {number}. The campaign's gate_share has them asked.")

    @router.get("/next-round")
    def next_round() -> dict[str, Any]:
        """When the next round begins by itself; ``reason`` is given where it is due now."""
        return asdict(Attendant(context).next_round())

    return router


def gate_json(comparison: Comparison, gate: HumanGate, pairs_waiting: int) -> dict[str, Any]:
    """A comparison as the API shows it, policies by number. ``action`` follows from the votes, ``decided`` from what was done."""
    decided = comparison.decided
    told = None if decided is None else {"at": decided.at, **{key: decided.data[key] for key in ("action", "sentence")}}
    who = {"candidate": comparison.candidate.number, "opponent": comparison.opponent.number}
    return {**who, "decided": told, "pairs_waiting": pairs_waiting, "votes": gate.votes, **asdict(gate)}
