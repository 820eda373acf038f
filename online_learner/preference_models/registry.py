"""The one place to add a preference model: a file with its family, and its line here."""

from online_learner.preference_models.base import PreferenceFamily
from online_learner.preference_models.bradley_terry import BRADLEY_TERRY
from online_learner.preference_models.general_preference import bt_gpm, gpm
from online_learner.preference_models.micro import micro
from online_learner.preference_models.plackett_luce import PLACKETT_LUCE
from online_learner.preference_models.text_models import TextModel, cross_encoder, few_shot, gated

# Simplest first: a later one is chosen only if its held-out log loss is clearly lower.
PREFERENCE_MODELS: dict[str, PreferenceFamily] = {
    "bradley_terry": BRADLEY_TERRY,
    "plackett_luce": PLACKETT_LUCE,
    "bt_gpm": bt_gpm(1),
    "bt_gpm_2": bt_gpm(2),
    "bt_gpm_4": bt_gpm(4),
    "gpm": gpm(),
    "micro": micro(),
}

# Models whose heads score other texts than a prompt with one response.
TEXT_MODELS: dict[str, TextModel] = {
    "bt_gpm_gated": gated(),
    "cross_encoder": cross_encoder(),
    "few_shot": few_shot(),
}


def family_named(name: str) -> PreferenceFamily:
    """The heads of a model of either list; KeyError for an unknown name."""
    return TEXT_MODELS[name].family if name in TEXT_MODELS else PREFERENCE_MODELS[name]
