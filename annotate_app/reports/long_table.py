"""Long tables of labels: one row per item and annotator, from a file or from the raw export of a campaign."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from storage.errors import UserError

# What a column may be called, in order of preference. first and second name the two responses as they were shown.
KNOWN_NAMES = {
    "item": ("item_id", "item", "pair_id", "task_id"),
    "annotator": ("annotator", "annotator_id", "rater", "judge", "worker_id"),
    "label": ("label", "verdict", "winner", "rating"),
    "group": ("annotator_kind",),
    "first": ("response_a_id", "model_a"),
    "second": ("response_b_id", "model_b"),
    "prompt": ("prompt_id", "question_id"),
}
READERS = {".parquet": "read_parquet(?)", ".csv": "read_csv(?)", ".jsonl": "read_json(?)", ".json": "read_json(?)"}
MIRRORED = {"a": "b", "b": "a"}


@dataclass(frozen=True, slots=True)
class Label:
    """What one annotator said about one item; ``group`` is "" of annotators of one kind, ``prompt`` where not known."""

    item: str
    annotator: str
    label: str
    group: str
    prompt: str = ""


def read_labels(path: Path, columns: Mapping[str, str], where: str | None = None) -> tuple[list[Label], int]:
    """Labels of a file in its order, and how many more rows repeat an item by the same annotator, who counts once.

    ``columns`` overrides the names found. Where both responses are named, a and b are turned from the order on the screen
    to one order per pair first: otherwise shuffled sides would look like disagreement. Empty labels, skips and judgments
    taken back are left out. UserError for a missing file, column or a filter that DuckDB refuses.
    """
    if path.suffix not in READERS or not path.is_file():
        ending = ", ".join(READERS)
        raise UserError(f"--input {path} is not a table that exists. Name a file ending in {ending}.")
    with duckdb.connect() as connection:
        try:
            table = connection.sql(f"SELECT * FROM {READERS[path.suffix]}", params=[str(path)])
            names = find_columns(table.columns, columns)
            if "standing" in table.columns:
                table = table.filter("standing")
            table = table.filter(where) if where else table
            chosen = [f'CAST("{name}" AS VARCHAR)' if name else "NULL" for name in names.values()]
            rows = table.project(", ".join(chosen)).fetchall()
        except duckdb.Error as error:
            raise UserError(
                f"{path} with --where {where!r}: {str(error).splitlines()[0]}. Correct the filter or file."
            ) from error
    labelled = [dict(zip(names, row, strict=True)) for row in rows]
    return _first_of_each(in_item_order([row for row in labelled if row["label"] not in (None, "", "skip")]))


def find_columns(present: list[str], given: Mapping[str, str]) -> dict[str, str | None]:
    """The column for each role, None for an optional one that is absent. Roles are the keys of KNOWN_NAMES."""
    unknown = [role for role in given if role not in KNOWN_NAMES]
    if unknown:
        raise UserError(f"--columns names {', '.join(unknown)}; it can name {', '.join(KNOWN_NAMES)}.")
    absent = [name for name in given.values() if name not in present]
    if absent:
        raise UserError(f"The table has no column {', '.join(absent)}; it has {', '.join(present)}.")
    found = {role: given.get(role) or next((n for n in known if n in present), None) for role, known in KNOWN_NAMES.items()}
    if "item" not in given and found["first"] == "response_a_id" and found["second"] == "response_b_id":
        found["item"] = None  # the pair itself: two tasks may ask about the same responses
    elif not found["item"]:
        raise UserError(f"No item column among {', '.join(present)}. Say --columns item=NAME.")
    for role in ("annotator", "label"):
        if not found[role]:
            raise UserError(f"No {role} column among {', '.join(present)}. Say --columns {role}=NAME.")
    return found


def parse_columns(text: str | None) -> dict[str, str]:
    """ "item=a,annotator=b" as a dictionary."""
    parts = [part.partition("=") for part in (text or "").split(",") if part.strip()]
    if any(not equals or not name.strip() for _, equals, name in parts):
        raise UserError(f"--columns {text!r} is not ROLE=NAME,ROLE=NAME. Write for example --columns item=task,label=choice.")
    return {role.strip(): name.strip() for role, _, name in parts}


def in_item_order(rows: Sequence[Mapping[str, str | None]]) -> list[Label]:
    """Rows with the roles of KNOWN_NAMES as labels; where an item's sides come in both orders, a is the alphabetically first.

    Without an item column the item is the pair itself.
    """
    sides = [(str(row["first"]), str(row["second"])) for row in rows]
    items = [row["item"] if row["item"] is not None else "|".join(sorted(pair)) for row, pair in zip(rows, sides, strict=True)]
    orders = set(zip(items, sides, strict=True))
    both_orders = len(orders) > len({item for item, _ in orders})
    labels = []
    for row, item, (first, second) in zip(rows, items, sides, strict=True):
        label = str(row["label"])
        label = MIRRORED.get(label, label) if both_orders and first > second else label
        labels.append(
            Label(
                item=item,
                annotator=str(row["annotator"]),
                label=label,
                group=row["group"] or "",
                prompt=row.get("prompt") or "",
            )
        )
    return labels


def _first_of_each(rows: list[Label]) -> tuple[list[Label], int]:
    first: dict[tuple[str, str], Label] = {}
    for row in rows:
        first.setdefault((row.item, row.annotator), row)
    return list(first.values()), len(rows) - len(first)
