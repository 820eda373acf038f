"""Before a job runs: its options, whether it can run at all, and its sealed input."""

import errno
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from annotate_app.bootstrap import model_location
from annotate_app.labelling_queue import QueueOptions
from storage.contract.settings import JobSettings, build_settings
from storage.errors import UserError
from storage.records import Policy, Round
from storage.round_export import export_job
from storage.store import Store

PROMOTIONS = ("gate", "manual")
# Of the app, not the learner.
OPTION_NAMES = ("promote", "selection", "overlap", "pairs_per_prompt", "with_imported", "max_prompts")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What the app does with a job's result; kept with the round beside the learner's settings."""

    promote: Literal["gate", "manual"] = "gate"
    with_imported: bool = True  # judgments made elsewhere count too
    max_prompts: int | None = None  # only the first so many of each split
    queue: QueueOptions

    def as_dict(self) -> dict[str, Any]:
        """Flat plain values, as ``build_options`` takes them."""
        own = {"promote": self.promote, "with_imported": self.with_imported, "max_prompts": self.max_prompts}
        return {**own, **asdict(self.queue)}


def build_options(values: Mapping[str, Any], queue: QueueOptions) -> JobOptions:
    """Validated options: those given, else the defaults and ``queue``; UserError names what is unknown or refused."""
    known = JobOptions(queue=queue).as_dict()
    unknown = values.keys() - known.keys()
    if unknown:
        raise UserError(f"Unknown option {', '.join(sorted(unknown))}. Options: {', '.join(known)}.")
    known |= {name: value for name, value in values.items() if value is not None}
    own = {name: known.pop(name) for name in ("promote", "with_imported", "max_prompts")}
    if own["promote"] not in PROMOTIONS:
        raise UserError(f"promote = {own['promote']!r} is refused. Choose one of: {', '.join(PROMOTIONS)}.")
    if own["max_prompts"] is not None and own["max_prompts"] < 1:
        raise UserError(f"max_prompts = {own['max_prompts']} is refused: a job needs a prompt. Leave it out or raise it.")
    return JobOptions(**own, queue=QueueOptions(**known))


def new_round_settings(settings: JobSettings, options: JobOptions) -> dict[str, Any]:
    """What a Round record keeps: the learner's settings, and the app's options under ``options``."""
    return {**settings.model_dump(mode="json"), "options": options.as_dict()}


def settings_of(round_: Round) -> JobSettings:
    """The learner's settings of a recorded job."""
    return build_settings({name: value for name, value in round_.settings.items() if name != "options"})


def options_of(round_: Round) -> JobOptions:
    """The app's options of a recorded job."""
    return build_options(round_.settings["options"], QueueOptions())


def check_ready(store: Store, settings: JobSettings, parent: Policy) -> None:
    """UserError if a job of these settings cannot run from this policy: what is missing and how to get it."""
    model_location(parent.base_model)
    if settings.kind == "evaluate" and not store.list_prompts("heldout"):
        raise UserError("There are no held-out prompts to evaluate on. Import some with split = heldout.")
    if settings.kind == "generate" and not store.list_prompts("train"):
        raise UserError("There are no prompts to answer. Import some with `nashloop import prompts FILE`.")
    if settings.kind != "round":
        return
    if not store.list_responses(policy_id=parent.id, role="candidate"):
        raise UserError(
            f"Policy {parent.number} has no candidate responses to learn from. Run a generate job for it first, or wait for "
            "the one that is running."
        )
    decided = store.count_judgments(decided_only=True)
    if decided < settings.preference.min_judgments:
        raise UserError(
            f"There are {decided} decided judgments; a round needs {settings.preference.min_judgments}. Label more pairs, or "
            "lower preference.min_judgments."
        )


def write_job(store: Store, data_dir: Path, round_: Round) -> None:
    """Export a job's sealed input; UserError, and nothing left behind, where the disk is full or cannot be written."""
    parent, options = store.get_policy(round_.parent_policy_id), options_of(round_)
    assert parent is not None, "a job starts from a registered policy"
    try:
        export_job(
            store,
            data_dir / round_.job_dir,
            settings_of(round_),
            kind=round_.kind,
            number=round_.number,
            policy_id=round_.parent_policy_id,
            new_policy_id=round_.new_policy_id,
            base_model=model_location(parent.base_model),
            with_imported=options.with_imported,
            max_prompts=options.max_prompts,
        )
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise UserError(
            f"The input of job {round_.number} could not be written to {data_dir / 'jobs'}: {what}. Make room or correct "
            "the permissions, then start it again."
        ) from error
