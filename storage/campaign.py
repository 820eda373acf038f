"""What the researcher asks of annotators: one record, kept whole in the event ``campaign.changed``; the last one counts."""

from dataclasses import asdict, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from storage.errors import UserError

Word = Annotated[str, Field(min_length=1, max_length=60, pattern=r"\S")]
MAX_RESPONSES = 5  # more cannot be ranked with care


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Campaign:
    """With every default: two responses, one key is one decision, nothing else is asked."""

    aspects: Annotated[tuple[Word, ...], Field(max_length=8)] = ()  # such as helpful, correct, safe; shown as given
    reason_tags: Annotated[tuple[Word, ...], Field(max_length=20)] = ()  # offered after a verdict
    min_rationale: int = Field(default=0, ge=0, le=2000)  # characters of rationale that a decided verdict needs; 0: optional
    ask_strength: bool = False  # the verdict bar is a scale of seven; a bare A or B means "clearly"
    allow_edits: bool = True  # "edit the better one"
    guidelines: str | None = Field(default=None, max_length=100_000)  # Markdown; None: guidelines.md of the data directory
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})?$")  # of the page; None: the browser's
    overlap: int = Field(default=1, ge=1, le=20)  # judgments wanted per new pair
    overlap_max: int | None = Field(
        default=None, ge=3, le=20
    )  # people asked where those before want opposite things; None: no more
    check_share: float = Field(default=0, ge=0, le=0.5)  # of the pairs handed out: unanimous ones, given silently
    pass_mark: float | None = Field(default=None, ge=0, le=1)  # share of training pairs that must be right; None: no training
    num_training: int = Field(default=0, ge=0, le=100)  # training pairs to answer before real work
    break_minutes: int | None = Field(default=None, ge=1, le=480)  # a gentle reminder
    price_per_label: float | None = Field(default=None, ge=0)
    currency: str = Field(default="USD", min_length=1, max_length=8)
    budget_labels: int | None = Field(default=None, ge=0)  # no new pairs are handed out once so many are labelled
    responses_per_prompt: int = Field(default=2, ge=2, le=MAX_RESPONSES)  # above 2: all of them are ranked at once
    gate: Literal["manual", "human", "model"] = "model"  # who lets a new policy serve: a researcher, votes, the preference model
    gate_share: float = Field(default=0, ge=0, le=0.9)  # of the pairs handed out: blind ones of a new policy and the serving one
    gate_threshold: float = Field(default=0.5, ge=0.3, le=0.9)  # win rate that the lower bound has to pass
    gate_votes: int = Field(default=300, ge=20, le=10_000)  # most votes of one comparison
    gate_trains: bool = False  # votes of the gate teach the preference model too
    round_every_labels: int | None = Field(default=None, ge=20)  # a round starts by itself after so many decided labels
    round_every_hours: float | None = Field(default=None, ge=0.1, le=10_000)  # after so long, if there are new labels
    round_below_bits: float | None = Field(default=None, gt=0, le=1)  # when a waiting pair tells less: its expected information
    refit_every_labels: int | None = Field(default=25, ge=5)  # the model that chooses pairs is fitted anew; None: never
    round: dict[str, Any] = field(default_factory=dict)  # defaults of the round form, keys as in a round's settings

    @model_validator(mode="after")
    def _fits_together(self) -> "Campaign":
        for name in ("aspects", "reason_tags"):
            words = getattr(self, name)
            if len(set(words)) < len(words):
                raise ValueError(f"{name} names {max(words, key=words.count)!r} twice")
        if self.pass_mark is not None and self.num_training == 0:
            raise ValueError("pass_mark needs num_training, the number of training pairs, above 0")
        if self.overlap_max is not None and self.overlap_max <= self.overlap:
            raise ValueError(f"overlap_max {self.overlap_max} must be above overlap {self.overlap}, or left out")
        if self.gate == "human" and self.gate_share == 0:
            raise ValueError("gate human needs gate_share, the share of pairs that compare policies, above 0; such as 0.2")
        return self


_ADAPTER = TypeAdapter(Campaign)


def build_campaign(values: dict[str, Any]) -> Campaign:
    """A checked campaign from plain values; UserError names each wrong one, its value and what is allowed."""
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise UserError(f"campaign: {'; '.join(_sentence(e) for e in error.errors())}.") from error


def campaign_values(campaign: Campaign) -> dict[str, Any]:
    """The record as plain values that JSON can hold."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(campaign).items()}


def _sentence(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "unexpected_keyword_argument":
        return f"{name!r} is not a field of the campaign; leave it out"
    if not name:
        return error["msg"].removeprefix("Value error, ")
    return f"{name} = {error['input']!r} is refused: {error['msg'][0].lower()}{error['msg'][1:]}"
