"""Preference models that read more than one response at a time, and what each of them reads."""

from dataclasses import dataclass, replace
from typing import Literal

from online_learner.preference_models.base import PreferenceFamily
from online_learner.preference_models.bradley_terry import BRADLEY_TERRY
from online_learner.preference_models.general_preference import bt_gpm_gated


@dataclass(frozen=True, slots=True, kw_only=True)
class TextModel:
    """A family of heads and the texts whose features they score. ``shots``: labelled pairs of the annotator's past, at most."""

    family: PreferenceFamily
    reads: Literal["responses", "ordered_pairs", "responses_and_prompts"]
    shots: int = 0

    @property
    def name(self) -> str:
        """Name of the family."""
        return self.family.name


def cross_encoder() -> TextModel:
    """f(x, y1, y2) - f(x, y2, y1): Bradley-Terry between the two orders of one pair, free to be cyclic between pairs."""
    summary = "cross-encoder: reads both responses at once, in both orders; can represent cycles; two passes for each pair"
    return TextModel(family=replace(BRADLEY_TERRY, name="cross_encoder", summary=summary), reads="ordered_pairs")


def gated() -> TextModel:
    """BT + GPM with a gate that reads the prompt apart from the response: a row of features is both, side by side."""
    return TextModel(family=bt_gpm_gated(), reads="responses_and_prompts")


def few_shot(shots: int = 4) -> TextModel:
    """The cross-encoder after labelled pairs of the same annotator (arXiv:2502.19312): tastes that differ, without parameters."""
    summary = "few-shot: a cross-encoder that first reads labelled pairs of the same annotator"
    return TextModel(family=replace(BRADLEY_TERRY, name="few_shot", summary=summary), reads="ordered_pairs", shots=shots)
