"""What annotators are asked, over HTTP: the campaign's one record, read by everybody and set by researchers."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import ValidationError

from annotate_app.api.people import Actor
from annotate_app.api.research import OptionsBody
from annotate_app.auth import Principal, require
from annotate_app.context import AppContext
from storage.campaign import Campaign, campaign_values
from storage.contract.settings import build_settings
from storage.errors import UserError

FOR_RESEARCHERS = ("price_per_label", "currency", "budget_labels", "round", "gate", "check")  # names begin so


def build_router(context: AppContext) -> APIRouter:
    """Routes of scope label (reading) and research (setting)."""
    router, store = APIRouter(tags=["campaign"]), context.store

    @router.get("/campaign")
    def show_campaign(who: Annotated[Principal, Depends(require("label"))]) -> dict[str, Any]:
        """What annotators are asked; price, budget and round settings are told to researchers only."""
        return campaign_json(store.campaign(), all_of_it=who.may("research"))

    @router.put("/campaign", dependencies=[Depends(require("research"))])
    def set_campaign(body: Campaign, actor: Actor) -> dict[str, Any]:
        """Replace the whole record; what is left out takes its default. Answers the record as it is kept."""
        check_round(body.round)
        before = store.campaign().responses_per_prompt
        store.set_campaign(body, actor=actor.actor)
        if body.responses_per_prompt != before:  # pairs become rankings, or the other way round
            context.rounds.fill_queue()
        return campaign_json(store.campaign(), all_of_it=True)

    return router


def campaign_json(campaign: Campaign, *, all_of_it: bool) -> dict[str, Any]:
    """The campaign as the API shows it to researchers (``all_of_it``) or annotators."""
    values = campaign_values(campaign)
    return values if all_of_it else {name: value for name, value in values.items() if not name.startswith(FOR_RESEARCHERS)}


def check_round(values: dict[str, Any]) -> None:
    """UserError unless these are settings and options that a round accepts."""
    options = {name: value for name, value in values.items() if name in OptionsBody.model_fields}
    try:
        OptionsBody.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"round.{first['loc'][0]} = {first['input']!r} is refused: {first['msg']}.") from error
    build_settings({name: value for name, value in values.items() if name not in options}, where="round")
