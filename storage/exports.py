"""What was judged, in the formats others read. The one place to add an EXPORT FORMAT: a function and a line in EXPORT_FORMATS.

A format turns the judgments of a window of ``seq`` into an Arrow table; windows are written one after the other, so that an
export of any size streams while labelling goes on. Chosen and rejected are derived here, nothing is coerced when stored.
"""

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.contract.schemas import MESSAGE
from storage.errors import UserError
from storage.store import Store

WINDOW = 40_000
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n")  # with which a cell begins that a spreadsheet runs
Query = Callable[[str], pa.Table]
Format = Callable[[Query], pa.Table]

MESSAGES = pa.list_(MESSAGE)


def raw(query: Query) -> pa.Table:
    """Every judgment as it was made, skips and taken-back ones too (``standing`` says which still count). Of a ranking, its
    pairs: ``ranking_id`` says which belong together. Training pairs are left out."""
    return query(f"{_EVERY} AND purpose <> 'gold' ORDER BY seq, judgment_id")


def training(query: Query) -> pa.Table:
    """What ``raw`` leaves out: the judgments of training pairs."""
    return query(f"{_EVERY} AND purpose = 'gold' ORDER BY seq, judgment_id")


def trl(query: Query) -> pa.Table:
    """TRL preference, explicit prompt, conversational: prompt, chosen, rejected as messages; decided pairs only."""
    rows = query(f"SELECT messages AS prompt, {_CHOSEN} AS chosen, {_REJECTED} AS rejected, {_IDS} {_DECIDED}")
    return _as_messages(rows, "prompt", "chosen", "rejected")


def trl_implicit(query: Query) -> pa.Table:
    """TRL preference, implicit prompt: chosen and rejected are whole conversations."""
    sql = f"SELECT messages || {_CHOSEN} AS chosen, messages || {_REJECTED} AS rejected, {_IDS} {_DECIDED}"
    return _as_messages(query(sql), "chosen", "rejected")


def unpaired(query: Query) -> pa.Table:
    """TRL unpaired preference: one row per response; both of a both-bad pair are labelled false, ties are left out."""
    return _as_messages(query(_UNPAIRED), "prompt", "completion")


def arena(query: Query) -> pa.Table:
    """Battles as in the public Chatbot Arena releases; skips are left out, judges are pseudonyms."""
    return _as_messages(query(_ARENA), "conversation_a", "conversation_b")


EXPORT_FORMATS: dict[str, Format] = {
    "raw": raw,
    "training": training,
    "trl": trl,
    "trl-implicit": trl_implicit,
    "unpaired": unpaired,
    "arena": arena,
    "hf": trl,  # the same rows as a dataset folder with a card
}


def write_export(store: Store, format_name: str, path: Path, container: str | None = None, **wanted: bool) -> int:
    """Write an export to ``path`` (for hf: a new folder) and return its number of rows.

    ``container`` is jsonl, parquet or csv, by default what the suffix says. ``wanted``: ``with_excluded`` for judgments of
    excluded annotators too, ``with_names`` for people's names instead of pseudonyms. The file is written aside and renamed:
    it is there whole or not at all. UserError where the format or container is unknown or the folder exists already.
    """
    if format_name not in EXPORT_FORMATS:
        raise UserError(f"there is no export format {format_name!r}. Choose one of {', '.join(EXPORT_FORMATS)}.")
    if format_name == "hf":
        return _write_dataset(store, path, **wanted)
    container = container or path.suffix.removeprefix(".")
    if container not in _CONTAINERS:
        raise UserError(f"{path.name}: container {container!r} is unknown. End the name in .jsonl, .parquet or .csv.")
    aside = path.with_name(f".{path.name}.part")
    try:
        num_rows = _CONTAINERS[container](_tables(store, EXPORT_FORMATS[format_name], **wanted), aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return num_rows


def _tables(store: Store, format_: Format, *, with_excluded: bool = False, with_names: bool = False) -> Iterator[pa.Table]:
    """The format's rows window by window, at least one table so that columns are known; later judgments are left out."""
    last = store.query("SELECT coalesce(max(seq), 0) AS last FROM judgments")["last"][0].as_py()
    for after in range(0, max(last, 1), WINDOW):
        window = {"after": after, "until": min(after + WINDOW, last)}
        window |= {"with_excluded": with_excluded, "with_names": with_names}
        yield format_(lambda sql, window=window: store.query(sql, window))


def _write_parquet(tables: Iterator[pa.Table], path: Path) -> int:
    first = next(tables)
    num_rows = first.num_rows
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table.cast(first.schema))
            num_rows += table.num_rows
    return num_rows


def _write_jsonl(tables: Iterator[pa.Table], path: Path) -> int:
    num_rows = 0
    with path.open("w", encoding="utf-8") as file:
        for table in tables:
            for row in table.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
            num_rows += table.num_rows
    return num_rows


def _write_csv(tables: Iterator[pa.Table], path: Path) -> int:
    """For spreadsheets: lists and messages as JSON, and no text that a spreadsheet takes for a formula."""
    num_rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for number, table in enumerate(tables):
            if number == 0:
                writer.writerow(table.column_names)
            writer.writerows([_cell(value) for value in row.values()] for row in table.to_pylist())
            num_rows += table.num_rows
    return num_rows


def _cell(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    if isinstance(value, datetime):
        return value.isoformat()
    return "'" + value if isinstance(value, str) and value.startswith(FORMULA_SIGNS) else value


_CONTAINERS: dict[str, Callable[[Iterator[pa.Table], Path], int]] = {
    "parquet": _write_parquet,
    "jsonl": _write_jsonl,
    "csv": _write_csv,
}


def _write_dataset(store: Store, folder: Path, **wanted: bool) -> int:
    """A folder that ``datasets.load_dataset`` reads: data/train.parquet and a card."""
    if folder.exists():
        raise UserError(f"{folder} exists already. Name a new folder.")
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        (aside / "data").mkdir(parents=True)
        num_rows = _write_parquet(_tables(store, trl, **wanted), aside / "data" / "train.parquet")
        (aside / "README.md").write_text(_card(store, num_rows, wanted.get("with_excluded", False)), encoding="utf-8")
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return num_rows


def _card(store: Store, num_rows: int, with_excluded: bool) -> str:
    counted = f"FROM all_judgments WHERE standing AND purpose <> 'gold' AND ({with_excluded} OR NOT excluded)"
    facts = store.query(f"SELECT count(*) AS made, count(DISTINCT annotator_id) AS people {counted}").to_pylist()[0]
    verdicts = store.query(f"SELECT verdict, count(*) AS n {counted} GROUP BY verdict ORDER BY verdict").to_pylist()
    table = "\n".join(f"| {row['verdict']} | {row['n']} |" for row in verdicts)
    return _CARD.format(num_rows=num_rows, verdicts=table, **facts)


def _as_messages(table: pa.Table, *names: str) -> pa.Table:
    """The named columns with the message type spelled the same in every window."""
    for name in names:
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(MESSAGES))
    return table


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} has no JSON form")


def _conversation(side: str) -> str:
    """SQL: the turns of one side after the prompt, as messages."""
    answer = f"[{{'role': 'assistant', 'content': response_{side}}}]"
    return f"(coalesce(context_{side}, []) || {answer})"


_A, _B = _conversation("a"), _conversation("b")
_CHOSEN = f"CASE verdict WHEN 'a' THEN {_A} ELSE {_B} END"
_REJECTED = f"CASE verdict WHEN 'a' THEN {_B} ELSE {_A} END"
_IDS = "judgment_id, strength"
# People are told apart and not named; imported ones keep the names that their data set gave them.
_NAME = "CASE WHEN $with_names OR annotator_kind <> 'human' THEN annotator ELSE 'annotator-' || sha256(annotator_id)[:8] END"
_SEEN = f"""FROM (SELECT * REPLACE ({_NAME} AS annotator) FROM all_judgments)
    WHERE seq > $after AND seq <= $until AND ($with_excluded OR NOT excluded)"""
_EVERY = f"SELECT * {_SEEN}"
_WINDOW = f"{_SEEN} AND standing AND purpose <> 'gold'"
_DECIDED = f"{_WINDOW} AND verdict IN ('a', 'b') ORDER BY seq, judgment_id"
_UNPAIRED = f"""
    WITH sides AS (
        SELECT seq, 1 AS side, messages AS prompt, {_A} AS completion, verdict = 'a' AS label, judgment_id {_WINDOW}
            AND verdict IN ('a', 'b', 'both_bad')
        UNION ALL
        SELECT seq, 2 AS side, messages AS prompt, {_B} AS completion, verdict = 'b' AS label, judgment_id {_WINDOW}
            AND verdict IN ('a', 'b', 'both_bad'))
    SELECT prompt, completion, label, judgment_id FROM sides ORDER BY seq, judgment_id, side
"""
_ARENA = f"""
    SELECT judgment_id AS question_id, model_a, model_b,
           CASE verdict WHEN 'a' THEN 'model_a' WHEN 'b' THEN 'model_b' WHEN 'tie' THEN 'tie' ELSE 'tie (bothbad)' END AS winner,
           annotator_id AS judge, messages || {_A} AS conversation_a, messages || {_B} AS conversation_b,
           CAST(len([m FOR m IN messages || {_A} IF m.role = 'user']) AS INTEGER) AS turn, epoch(submitted_at) AS tstamp
    {_WINDOW} AND verdict <> 'skip' ORDER BY seq, judgment_id
"""
_CARD = """---
configs:
- config_name: default
  data_files: data/train.parquet
tags:
- preference
- dpo
- trl
---

# Human pairwise preferences collected with Nashloop

{num_rows} decided pairs out of {made} judgments by {people} annotators. Columns `prompt`, `chosen` and `rejected` hold chat
messages (TRL preference format, explicit prompt); `strength` is 0 to 3 or empty; `judgment_id` leads back to the raw export.

| verdict | judgments |
| --- | --- |
{verdicts}

Ties, both-bad and skipped pairs are counted above but are not rows here: export `raw` for them. The licence of the prompts and
responses is not known to Nashloop: state it here before sharing.
"""
