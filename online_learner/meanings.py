"""What the diagnostics of a round mean, in one sentence each, for the report and the console. Numbers in, sentences out."""

from collections.abc import Mapping
from typing import Any

TOO_LITTLE, TOO_MUCH = 0.3, 1.1  # of the reachable step


def meanings(
    update: Mapping[str, float | None], evaluation: Mapping[str, Any], *, max_kl_nats: float, min_text_quality: float
) -> dict[str, str]:
    """Name of a diagnostic -> sentence, for those that were measured.

    update: train_r2, heldout_r2, train_achieved_fraction, train_potential_fraction; evaluation: section of report.json.
    """
    potential, plain = update.get("train_potential_fraction"), update.get("train_achieved_fraction")
    train, held_out = update.get("train_r2"), update.get("heldout_r2")
    found = {}
    if potential is not None:
        found["achieved_fraction"] = _of_potential(potential)
    elif plain is not None:
        found["achieved_fraction"] = (
            f"Margins reached {plain:.0%} of their targets on average. On cyclic preferences even an exact fit stays below "
            "100 %, and groups of fewer than four responses, or too noisy ones, do not show which part can be reached."
        )
    if train is not None:
        found["train_r2"] = _of_train(train, held_out)
    if held_out is not None:
        found["heldout_r2"] = _of_held_out(held_out)
    if evaluation.get("kl_to_parent_nats"):
        found["kl_to_parent_nats"] = (
            f"How far this round moved: the mean log-ratio to the parent on the new policy's own responses. Above "
            f"{max_kl_nats:g} nats the round fails, because the text rarely survives such a step."
        )
    if evaluation.get("value_vs_base"):
        found["value_vs_base"] = _of_value(evaluation["value_vs_base"])
    if evaluation.get("text_quality") is not None:
        found["text_quality"] = (
            f"The guard of the language itself: a policy can win comparisons while its text breaks. Below "
            f"{min_text_quality:.0%} the round fails."
        )
    return found


def _of_potential(fraction: float) -> str:
    reached = f"The fit reached {fraction:.0%} of the part of the step that a policy can reach"
    if fraction < TOO_LITTLE:
        return f"{reached}: too little. Train for more epochs, or lower step_size."
    if fraction > TOO_MUCH:
        return f"{reached}: more than was asked for, so it is over-fitted or too fast. Lower the learning rate."
    return f"{reached}; at 100 % it is the exact step, cyclic preferences or not."


def _of_train(train: float, held_out: float | None) -> str:
    share = f"The fit explains {max(train, 0):.0%} of the squared target margins on the prompts it trained on"
    if held_out is not None and train < held_out - 0.1:
        return f"{share}, less than on prompts it never saw: a few garbled responses dominate. Lower the learning rate."
    return f"{share}; on cyclic preferences even an exact fit stays below 100 %."


def _of_held_out(held_out: float) -> str:
    if held_out < 0:
        return "On prompts it never saw the fit is worse than not moving at all: it is over-fitted or too fast."
    return (
        f"The fit explains {held_out:.0%} of the squared target margins on prompts it never saw: what carries over to new ones."
    )


def _of_value(value: Mapping[str, float]) -> str:
    least = f"The judgments allow utilities that give the policy {value['pessimistic']:+.2f} logits above the base and no less"
    if value["pessimistic"] > 0:
        return f"{least}: it is better whichever of them is true, although it was chosen by the same judgments."
    return f"{least}: they do not yet rule out that it only exploits what was never compared. More labels on its responses would."
