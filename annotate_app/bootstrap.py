"""What a fresh data directory needs before anyone can label: prompts and the base policy (number 0).

The built-in model is found without importing the learner. Everything here may run again on a directory that has it.
"""

import importlib.util
from datetime import datetime
from pathlib import Path

from storage.errors import UserError
from storage.ids import new_id
from storage.imports import import_prompts
from storage.records import Policy
from storage.store import Store

BUILT_IN = "tiny"


def learner_dir() -> Path:
    """Where the learner package lies, found without importing it (it would bring torch into the web process)."""
    spec = importlib.util.find_spec("online_learner")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("The package online_learner is not installed. Install nashloop completely: pip install nashloop.")
    return Path(next(iter(spec.submodule_search_locations)))


def built_in_model_dir() -> Path:
    """Directory of the built-in tiny policy: weights, tokenizer and its prompts."""
    return learner_dir() / "tiny_policy"


def model_name(model: str) -> str:
    """How a model is written down: ``tiny``, the absolute path of a directory, or a hub id as it stands."""
    if model == BUILT_IN:
        return BUILT_IN
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise UserError(f"The model directory {model} does not exist. Name a directory, a Hugging Face id or `tiny`.")
    return model


def model_location(name: str) -> str:
    """Directory or hub id that the learner loads; UserError if a directory has vanished since."""
    if name == BUILT_IN:
        return str(built_in_model_dir())
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise UserError(f"The base model's directory {name} is not there any more. Put it back; policies depend on it.")
    return name


def ensure_prompts(store: Store, model: str) -> None:
    """Import the built-in prompts for the built-in model unless others are there; UserError where there are none at all."""
    if not store.list_prompts("train") and model == BUILT_IN:
        import_prompts(store, built_in_model_dir() / "prompts.jsonl")
    if not store.list_prompts("train"):
        raise UserError(
            f"There are no prompts to answer with the model {model}. Give a file with --prompts FILE, or bring it in with "
            "`nashloop import prompts FILE`."
        )


def ensure_base_policy(store: Store, model: str | None, *, now: datetime) -> Policy:
    """The bare base model as policy number 0, added if missing; UserError if the directory was made with another model.

    ``model`` None means the one the directory was made with, or the built-in one.
    """
    base = next((policy for policy in store.list_policies() if policy.number == 0), None)
    if base is None:
        base = Policy(
            id=new_id(),
            number=0,
            base_model=model_name(model or BUILT_IN),
            base_revision=None,
            adapter_path=None,
            adapter_sha256=None,
            parent_id=None,
            round_id=None,
            created_at=now,
        )
        store.add_policy(base)
    elif model not in (None, base.base_model) and model_name(model) != base.base_model:
        raise UserError(
            f"This data directory was made with the model {base.base_model}, not {model_name(model)}. "
            "Start it with that model, or name another directory with --data."
        )
    return base
