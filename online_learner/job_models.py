"""The preference models that a job's settings name: checked before any work, fitted on its judgments, the best one kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from online_learner.jobs import Job
from online_learner.judging import job_encoder, text_pair
from online_learner.pairs_file import Pair
from online_learner.preference_models.audit import audit_intransitivity, choose, fit_and_audit
from online_learner.preference_models.backbone import Tuning
from online_learner.preference_models.fit import FitData, compare, fit_each, prepare
from online_learner.preference_models.fitted import FittedPreference
from online_learner.preference_models.observations import VERDICT_SIGN
from online_learner.preference_models.registry import PREFERENCE_MODELS, TEXT_MODELS
from online_learner.preference_models.text_fit import TextPreference, fit_text_model
from online_learner.preference_models.text_models import TextModel
from online_learner.seeds import stream_seed
from storage.contract.settings import PreferenceSettings
from storage.errors import UserError

AUDITED = ("bradley_terry", "bt_gpm")  # fitted for the audit where the candidates are others


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFit:
    """The selected model, what the audit says, and the model as it is saved."""

    fitted: FittedPreference
    audit: dict[str, Any]
    saved: FittedPreference | TextPreference


def check_models(settings: PreferenceSettings) -> None:
    """UserError where the settings name a model that a job cannot use, with the reason."""
    known = [*PREFERENCE_MODELS, *TEXT_MODELS]
    unknown = [name for name in settings.models if name not in known]
    if unknown or not settings.models:
        what = f"Unknown preference model {unknown[0]!r}" if unknown else "No preference model is named"
        raise UserError(f"{what}. Choose from: {', '.join(known)}.")
    if "few_shot" in settings.models:
        raise UserError(
            "Preference model 'few_shot' predicts one annotator, whose past judgments it reads, and a job needs what people in "
            "general prefer. Use cross_encoder here, and few_shot in nashloop fit."
        )
    if settings.tune == "backbone" and settings.label_map != "none":
        raise UserError(
            f"preference.label_map = {settings.label_map!r} maps labels for heads on frozen features, and preference.tune is "
            "'backbone'. Set one of them back: label_map = 'none' or tune = 'head'."
        )
    if settings.tune == "backbone" and "bt_gpm_gated" in settings.models:
        raise UserError("Preference model 'bt_gpm_gated' reads prompts with an untrained encoder. Set preference.tune = 'head'.")


def fit_models(job: Job, features: Mapping[str, Tensor], say: Callable[[str], None]) -> JobFit:
    """Fit every model that the settings name on the job's judgments; ``features`` of the judged responses by id."""
    settings, judgments, seed = job.settings.preference, job.table("judgments"), stream_seed(job.settings.seed, "preference")
    shared = {"seed": seed, "min_judgments": settings.min_judgments, "label_map": settings.label_map}
    tuning = Tuning(epochs=settings.tune_epochs) if settings.tune == "backbone" else None
    of_text = [name for name in [*PREFERENCE_MODELS, *TEXT_MODELS] if name in settings.models and (tuning or name in TEXT_MODELS)]
    if not of_text:
        fitted, audit = fit_and_audit(features, judgments, models=settings.models, num_heads=settings.num_heads, **shared)
        return JobFit(fitted=fitted, audit=audit, saved=fitted)
    frozen = [name for name in settings.models if name not in of_text]
    data = prepare(features, judgments, **shared)
    fits = fit_each(data, frozen, settings.num_heads) if frozen else {}
    texts = _fit_texts(job, of_text, tuning, shared, say)
    candidates = compare(fits | {name: (text.fitted, losses) for name, (text, losses, _) in texts.items()}, data)
    if set(AUDITED) <= set(frozen):
        audit = audit_intransitivity(data, candidates, list(features))
    else:
        _, audit = fit_and_audit(features, judgments, models=AUDITED, num_heads=settings.num_heads, **shared)
    selected = choose(candidates, audit)
    saved = replace(texts[selected.name][0], fitted=selected) if selected.name in texts else selected
    return JobFit(fitted=selected, audit=audit, saved=saved)


def _fit_texts(
    job: Job, names: list[str], tuning: Tuning | None, shared: Mapping[str, Any], say: Callable[[str], None]
) -> dict[str, tuple[TextPreference, Tensor, FitData]]:
    encoder, pairs = job_encoder(job), judged_pairs(job)
    models = {name: TEXT_MODELS.get(name) or TextModel(family=PREFERENCE_MODELS[name], reads="responses") for name in names}
    return {
        name: fit_text_model(
            model,
            encoder,
            pairs,
            num_heads=job.settings.preference.num_heads,
            tuning=tuning,
            progress=say,
            position_bias=True,
            **shared,
        )
        for name, model in models.items()
    }


def judged_pairs(job: Job) -> list[Pair]:
    """The job's judgments that say something about an order, as text, in their order; a was shown first."""
    return [
        text_pair(
            job,
            job.responses[row["response_a_id"]],
            job.responses[row["response_b_id"]],
            verdict=row["verdict"],
            strength=row["strength"],
            annotator=row["annotator_id"],
            ranking=row.get("ranking_id"),
        )
        for row in job.table("judgments").to_pylist()
        if row["verdict"] in VERDICT_SIGN and {row["response_a_id"], row["response_b_id"]} <= job.responses.keys()
    ]
