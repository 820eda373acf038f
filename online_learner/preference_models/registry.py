"""The one place to add a preference model: a file with its family, and its line here."""

from online_learner.preference_models.base import PreferenceFamily
from online_learner.preference_models.bradley_terry import BRADLEY_TERRY
from online_learner.preference_models.general_preference import bt_gpm

# Simplest first: a later one is chosen only if its held-out log loss is clearly lower.
PREFERENCE_MODELS: dict[str, PreferenceFamily] = {
    "bradley_terry": BRADLEY_TERRY,
    "bt_gpm": bt_gpm(1),
}
