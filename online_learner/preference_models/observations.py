"""From a table of judgments to the tensors the likelihood reads. Files and people's mistakes stop here."""

from collections.abc import Mapping

import pyarrow as pa
import torch

from online_learner.preference_models.likelihood import Observations, threshold_indices
from online_learner.preference_models.plackett_luce import read_rankings
from storage.errors import UserError

VERDICT_SIGN = {"a": 1, "tie": 0, "b": -1}
NO_PREFERENCE = ("both_bad", "skip")


def encode_judgments(judgments: pa.Table, row_of: Mapping[str, int], *, position_bias: bool = True) -> Observations:
    """Judgments (columns of storage.contract.schemas.JUDGMENTS) whose two responses have a feature row, as observations.

    Reads prompt_id, response_a_id (shown first), response_b_id, verdict and, where present, strength, annotator_id and
    ranking_id. both_bad and skip are left out. ``position_bias`` is False where a is not known to be the side shown first.
    Raises UserError for an unknown verdict, and for pairs that are said to be of one ranking and are not.
    """
    rows = [row for row in judgments.to_pylist() if _is_observation(row, row_of)]
    strengths = tuple(sorted({row["strength"] for row in rows if _has_strength(row)}))
    names = sorted({row["annotator_id"] for row in rows if row.get("annotator_id") is not None})
    annotators = tuple(names) if len(names) > 1 else ()  # one person's slips cannot be told from weak preferences
    number = {name: i + 1 for i, name in enumerate(annotators)}
    levels = {strength: i for i, strength in enumerate(strengths)}
    prompt_number = {prompt: i for i, prompt in enumerate(dict.fromkeys(row["prompt_id"] for row in rows))}
    intervals = [
        threshold_indices(
            VERDICT_SIGN[row["verdict"]],
            levels[row["strength"]] if _has_strength(row) else None,
            max(len(strengths), 1),
        )
        for row in rows
    ]
    return Observations(
        row_a=torch.tensor([row_of[row["response_a_id"]] for row in rows], dtype=torch.long),
        row_b=torch.tensor([row_of[row["response_b_id"]] for row in rows], dtype=torch.long),
        low=torch.tensor([low for low, _ in intervals], dtype=torch.long),
        high=torch.tensor([high for _, high in intervals], dtype=torch.long),
        verdict=torch.tensor([VERDICT_SIGN[row["verdict"]] for row in rows], dtype=torch.long),
        annotator=torch.tensor([number.get(row.get("annotator_id"), 0) for row in rows], dtype=torch.long),
        prompt=torch.tensor([prompt_number[row["prompt_id"]] for row in rows], dtype=torch.long),
        annotators=annotators,
        strengths=strengths,
        has_ties=any(row["verdict"] == "tie" for row in rows),
        position_bias=position_bias,
        rankings=read_rankings(rows, row_of, VERDICT_SIGN),
    )


def _has_strength(row: dict) -> bool:
    return row.get("strength") is not None and row["verdict"] != "tie"


def _is_observation(row: dict, row_of: Mapping[str, int]) -> bool:
    verdict = row["verdict"]
    if verdict not in VERDICT_SIGN and verdict not in NO_PREFERENCE:
        allowed = ", ".join([*VERDICT_SIGN, *NO_PREFERENCE])
        raise UserError(f"A judgment has the verdict {verdict!r}. Verdicts are {allowed}; correct the file.")
    return verdict in VERDICT_SIGN and row["response_a_id"] in row_of and row["response_b_id"] in row_of
