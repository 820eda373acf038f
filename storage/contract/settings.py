"""Every setting of a job: what ``config.toml`` in a job directory may say, validated before anything is written.

Defaults are the settings we recommend. ``auto`` means: the learner picks the value from the data or a short probe and says
in the report what it picked. Unknown names are refused.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.errors import UserError


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GenerationSettings(_Settings):
    """How responses are sampled. Temperature 1 and top_p 1 are the policy itself; anything else is another sampler."""

    num_responses: int = Field(4, ge=2, le=16, description="responses per prompt (K)")
    max_new_tokens: int = Field(128, ge=4, le=4096, description="longest response, in tokens")
    temperature: float = Field(1.0, gt=0, le=2, description="1 samples the policy itself, as the update assumes")
    top_p: float = Field(1.0, gt=0, le=1, description="1 samples the policy itself, as the update assumes")
    batch_size: int = Field(256, ge=1, description="sequences sampled at once")


class PreferenceSettings(_Settings):
    """How judgments become preference probabilities."""

    models: tuple[str, ...] = Field(("bradley_terry", "bt_gpm"), description="candidates; held-out log loss chooses")
    tune: Literal["head", "backbone"] = Field(
        "head", description="heads on the frozen encoder, or LoRA on the encoder with them (slow without a GPU)"
    )
    tune_epochs: int = Field(3, ge=1, le=20, description="most epochs tried where the backbone is tuned; held-out answers choose")
    encoder: str | None = Field(None, description="Hugging Face model for features; empty: the policy's base model")
    num_heads: int = Field(8, ge=1, le=64, description="bootstrap heads for uncertainty")
    min_judgments: int = Field(20, ge=1, description="decided judgments below which a round is refused")
    label_map: Literal["none", "flip", "soften", "margin", "flip_margin", "soften_margin"] = Field(
        "none",
        description="labels that an ensemble votes against: kept, turned, or softened, and margins by its votes; for many labels "
        "of unknown people",
    )


Automatic = Literal["auto"]


class UpdateSettings(_Settings):
    """The policy update on the LoRA adapter. What a rule does not read is ignored; `python -m online_learner rules` says."""

    rule: str = Field("onpo_ref", description="update rule; see `python -m online_learner rules`")
    step_size: float | Literal["auto"] = Field("auto", description="eta; auto: 5 without cycles, 5, 4, 4, then 3 with")
    kl_coef: float | Literal["auto"] = Field("auto", description="tau, pull to the reference; auto: .01 or .05")
    beta: Annotated[float, Field(gt=0)] | Automatic = Field("auto", description="scale of the logistic rules (DPO); auto: .1")
    momentum: Annotated[float, Field(ge=0, lt=1)] | Automatic = Field(
        "auto", description="alpha, share of the last round's movement that is repeated; auto: .3"
    )
    flip_rate: Annotated[float, Field(ge=0, lt=0.5)] | Automatic = Field(
        "auto", description="probability that a verdict is the wrong way round; auto: as the preference model found"
    )
    margin_coef: Annotated[float, Field(ge=0)] | Automatic = Field(
        "auto", description="size of the margin that some logistic rules ask for; auto: what suits the rule"
    )
    extra_coef: Annotated[float, Field(ge=0)] | Automatic = Field(
        "auto", description="coefficient of a rule's extra term (likelihood of winners, reasons, KL); auto: what suits the rule"
    )
    main_weight: Annotated[float, Field(gt=0, le=1)] | Automatic = Field(
        "auto", description="weight of the verdict where aspects are rated too; auto: .5"
    )
    num_candidates: int = Field(16, ge=4, le=256, description="responses per prompt that rejection sampling chooses from")
    sampling_temperature: float = Field(0.5, gt=0, description="of rejection sampling, logits; low keeps the best")
    sampling_steps: int = Field(3, ge=1, le=20, description="steps of multi-step rejection sampling")
    learning_rate: float | Literal["auto"] = Field("auto", description="AdamW peak rate; auto: from a short probe")
    epochs: int = Field(5, ge=1, le=100, description="passes over the training prompts")
    prompts_per_step: int = Field(16, ge=1, description="prompts in one optimiser step, all their pairs")
    pairs: Literal["all", "random", "best_worst"] = Field(
        "all", description="pairs of a prompt's responses that are trained on; best_worst is refused where it breaks the rule"
    )
    for_comparison: bool = Field(
        False, description="take pairs that are refused because they break the rule: for benches, and the report says so"
    )
    lora_rank: int = Field(8, ge=1, le=256)
    lora_alpha: int = Field(16, ge=1)


class EvaluationSettings(_Settings):
    """What a finished policy is measured on, and the limits beyond which a round counts as failed."""

    num_responses: int = Field(4, ge=1, le=64, description="samples per held-out prompt")
    max_kl_to_parent_nats: float = Field(6.0, gt=0, description="KL to the parent above which the round fails")
    min_text_quality: float = Field(0.6, ge=0, le=1, description="text quality below which the round fails")


class JobSettings(_Settings):
    """The resolved configuration of one job."""

    kind: Literal["round", "fit", "generate", "evaluate"] = "round"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    generation: GenerationSettings = GenerationSettings()  # pyright: ignore[reportCallIssue]
    preference: PreferenceSettings = PreferenceSettings()  # pyright: ignore[reportCallIssue]
    update: UpdateSettings = UpdateSettings()  # pyright: ignore[reportCallIssue]
    evaluation: EvaluationSettings = EvaluationSettings()  # pyright: ignore[reportCallIssue]


def build_settings(values: dict[str, Any], *, where: str = "settings") -> JobSettings:
    """Validated settings from nested plain values; UserError names each wrong setting, its value and what is allowed."""
    try:
        return JobSettings.model_validate(values)
    except ValidationError as error:
        wrong = [e for e in error.errors() if e["loc"][-1] != _AUTO]  # the number's own error says that auto is allowed
        raise UserError(f"{where}: {'; '.join(_sentence(e) for e in wrong)}.") from error


def load_settings(path: Path) -> JobSettings:
    """Settings of a ``config.toml``; UserError where it is missing, not TOML, or says something unknown."""
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist. Name a job directory or a settings file.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}. Correct that line.") from error
    return build_settings(values, where=str(path))


def dump_settings(settings: JobSettings) -> str:
    """The settings as TOML text; settings that are None are left out."""
    return tomli_w.dumps(settings.model_dump(exclude_none=True, mode="json"))


_AUTO = "literal['auto']"


def _sentence(error: Any) -> str:
    kinds = ("float", "constrained-float", _AUTO)
    name = ".".join(str(part) for part in error["loc"] if part not in kinds)
    if error["type"] == "extra_forbidden":
        return f"unknown setting {name!r} (value {error['input']!r}); see `nashloop round start --help` for the names"
    or_auto = ", or 'auto'" if error["loc"][-1] in kinds else ""
    return f"{name} = {error['input']!r} is refused: {error['msg'][0].lower()}{error['msg'][1:]}{or_auto}"
