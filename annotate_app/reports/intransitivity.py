"""Cycles in the preferences: the audit of a file by the learner, in a process, and any audit in plain words."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from annotate_app.reports.long_table import READERS, parse_columns
from storage.errors import UserError

# What a column may be called in the file -> its name in the learner's table.
ROLES = {
    "prompt": ("prompt_id", ("prompt_id", "question_id", "item_id")),
    "first": ("response_a_id", ("response_a_id", "model_a", "item_a")),
    "second": ("response_b_id", ("response_b_id", "model_b", "item_b")),
    "label": ("verdict", ("verdict", "label", "winner")),
    "annotator": ("annotator_id", ("annotator_id", "annotator", "rater", "judge")),
}


def audit_file(path: Path, columns: str | None, where: str | None) -> dict[str, Any]:
    """The learner's audit of the votes in a table; UserError for a missing file, column, or a filter that is refused."""
    with tempfile.TemporaryDirectory(prefix="nashloop-audit-") as directory:
        votes = Path(directory) / "votes.parquet"
        _write_votes(path, parse_columns(columns), where, votes)
        command = [sys.executable, "-m", "online_learner", "audit", str(votes)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise UserError(ran.stderr.strip().removeprefix("error: ") or f"{' '.join(command[1:4])} failed")
    return json.loads(ran.stdout)


def intransitivity_text(figures: Mapping[str, Any]) -> str:
    """The verdict, then one plain sentence for each look."""
    votes = figures.get("votes") or figures
    sentences = [votes[part]["sentence"] for part in ("hodge", "triads", "annotators") if part in votes]
    if "hodge" in votes and votes["curl"]["num_triangles"]:
        curl = votes["curl"]
        sentences.append(
            f"Of {curl['num_triangles']} judged triangles {curl['num_significant']} are circular beyond chance, each by itself "
            f"(largest z {curl['largest_z']:.1f}); {votes['hodge']['local_share']:.0%} of the residual runs around triangles."
        )
    circle = figures.get("circle")
    if circle:
        (x, y, z), (p, q, r) = circle["responses"], circle["probabilities"]
        sentences.append(f"The clearest circle: {x} beats {y} ({p:.2f}), {y} beats {z} ({q:.2f}), {z} beats {x} ({r:.2f}).")
    said = figures["sentence"]
    return "\n".join([said, *(f"- {sentence}" for sentence in sentences if sentence not in said)])


def _write_votes(path: Path, given: Mapping[str, str], where: str | None, target: Path) -> None:
    if path.suffix not in READERS or not path.is_file():
        raise UserError(f"--input {path} is not a table that exists. Name a file ending in {', '.join(READERS)}.")
    unknown = [role for role in given if role not in ROLES]
    if unknown:
        raise UserError(f"--columns names {', '.join(unknown)}; it can name {', '.join(ROLES)}.")
    with duckdb.connect() as connection:
        try:
            table = connection.sql(f"SELECT * FROM {READERS[path.suffix]}", params=[str(path)])
            chosen = [_column(role, given, table.columns) for role in ROLES]
            table = table.filter("standing") if "standing" in table.columns else table
            table = table.filter(where) if where else table
            pq.write_table(table.project(", ".join(chosen)).to_arrow_table(), target)
        except duckdb.Error as error:
            raise UserError(
                f"{path} with --where {where!r}: {str(error).splitlines()[0]}. Correct the filter or file."
            ) from error


def _column(role: str, given: Mapping[str, str], present: list[str]) -> str:
    name, known = ROLES[role]
    found = given.get(role) or next((column for column in known if column in present), None)
    if found is None and role == "annotator":
        return f"CAST(NULL AS VARCHAR) AS {name}"
    if found is None or found not in present:
        raise UserError(f"No {role} column {found or ''}among {', '.join(present)}. Say --columns {role}=NAME.")
    return f'CAST("{found}" AS VARCHAR) AS {name}'
