"""``python -m online_learner audit``: what votes alone say about cycles, without features or an app.

Reads Parquet with prompt_id, response_a_id, response_b_id, verdict (a | b | tie; others are left out) and annotator_id (may
be null). Prints one JSON object.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from online_learner.preference_models.triads import Votes
from online_learner.preference_models.vote_cycles import SIGNIFICANT, audit_votes, labels_needed
from storage.errors import UserError

SIGN = {"a": 1, "tie": 0, "b": -1}
COLUMNS = ("prompt_id", "response_a_id", "response_b_id", "verdict", "annotator_id")
MAX_PLANNED = 200


def run(path: Path, seed: int) -> int:
    """Audit a file and print the result; UserError where it cannot be read or holds no votes."""
    try:
        rows = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {error}. Give Parquet with the columns {', '.join(COLUMNS)}.") from error
    print(json.dumps(audit_rows(rows, np.random.default_rng(seed)), allow_nan=False))
    return 0


def audit_rows(rows: Sequence[dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
    """``audit_votes`` with a decision: {"cyclic": true | false | null, "num_votes", "labels_per_pair_needed", "sentence", ...}.

    False only where cycles of scale 1 on standard normal utilities would be found with as many labels per pair.
    """
    kept = [row for row in rows if row["verdict"] in SIGN]
    if not kept:
        raise UserError("There is no vote a, b or tie to audit. Collect judgments, or name the label column.")
    found = audit_votes(_votes(kept), rng)
    if not found["num_triangles"]:
        return {"cyclic": None, "num_votes": len(kept), "labels_per_pair_needed": None, **found}
    utility, x, y = rng.standard_normal((3, min(found["num_prompts"], MAX_PLANNED), 4))
    skew = x[:, :, None] * y[:, None, :]
    needed = labels_needed(utility[:, :, None] - utility[:, None, :] + skew - skew.swapaxes(1, 2), rng)
    could_tell = needed is not None and found["labels_per_pair"] >= needed
    cyclic = True if found["hodge"]["p_value"] <= SIGNIFICANT else False if could_tell else None
    return {
        "cyclic": cyclic,
        "num_votes": len(kept),
        "labels_per_pair_needed": needed,
        **found,
        "sentence": _sentence(cyclic, needed, found),
    }


def _votes(rows: Sequence[dict[str, Any]]) -> Votes:
    def numbered(keys: Sequence[Any]) -> np.ndarray:
        numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        return np.array([numbers[key] for key in keys])

    prompts = [row["prompt_id"] for row in rows]
    sides = [(row["prompt_id"], row[name]) for name in ("response_a_id", "response_b_id") for row in rows]
    responses = numbered(sides)
    annotators = numbered([row["annotator_id"] for row in rows])
    known = np.array([row["annotator_id"] is not None for row in rows])
    return Votes(
        prompt=numbered(prompts),
        a=responses[: len(rows)],
        b=responses[len(rows) :],
        verdict=np.array([SIGN[row["verdict"]] for row in rows]),
        annotator=np.where(known, annotators, -1),
    )


def _sentence(cyclic: bool | None, needed: int | None, found: dict[str, Any]) -> str:
    begin = {
        True: "These preferences contain cycles.",
        False: "No sign of cycles, and cycles of scale 1 in logits would have been found.",
        None: "These data cannot tell whether preferences are cyclic.",
    }[cyclic]
    has = f"{found['labels_per_pair']:.1f} labels on each judged pair of {found['num_prompts']} prompts"
    plan = f"About {needed} would" if needed else "Even 15 on each pair of four would not: judge more prompts"
    return f"{begin} There are {has}." + ("" if cyclic is not None else f" {plan}, for cycles of scale 1.")
