"""Bringing prompts and judgments in from files. A file with bad rows is refused whole unless asked to skip them.

Ids are derived from content, so that importing a file twice adds nothing. Prompts that come with judgments get the split
``imported``: they are judged, but no policy is asked to answer them (prompts of a raw export keep the split they had). An
imported response's policy id is derived from the name of its model; no policy record is made, the name is kept with the
response (``sampler.model``).

The one place to add a format for prompts (PROMPT_FORMATS); for judgments see import_judgments.py.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.errors import UserError
from storage.import_judgments import JUDGMENT_FORMATS, Messages
from storage.import_records import build_batch, prompt_record
from storage.import_rows import BadRow, FileRow, convert, messages_from, read_rows, refuse, text_of
from storage.import_training import import_training
from storage.records import Annotator
from storage.store import Store

HELDOUT_NAMES = {"heldout", "held_out", "dev", "test", "valid", "validation", "eval"}

PromptReader = Callable[[dict[str, Any]], Messages]


def _instruction(values: dict[str, Any]) -> Messages:
    more = values.get("input")
    return messages_from(text_of(values, "instruction") + (f"\n\n{more}" if more else ""), "instruction")


def _turns(values: dict[str, Any]) -> Messages:
    """Only the first turn: the others answer replies that are not known here."""
    turns = values.get("turns")
    if not isinstance(turns, list) or not turns:
        raise BadRow("turns is empty or not a list")
    return messages_from(turns[0], "turns")


def _conversation(values: dict[str, Any]) -> Messages:
    """Up to the last message of the user; a reply after it is left out."""
    messages = messages_from(values.get("messages"), "messages")
    while messages and messages[-1]["role"] != "user":
        messages.pop()
    if not messages:
        raise BadRow("messages has no message of the user")
    return messages


# column by which the format is recognised -> reader; the first that fits counts
PROMPT_FORMATS: dict[str, PromptReader] = {
    "prompt": lambda values: messages_from(values.get("prompt"), "prompt"),
    "messages": _conversation,
    "turns": _turns,
    "instruction": _instruction,
    "question": lambda values: messages_from(values.get("question"), "question"),
    "text": lambda values: messages_from(values.get("text"), "text"),
}


def import_file(store: Store, what: str, path: Path, *, skip_bad: bool = False) -> dict[str, Any]:
    """Import ``prompts``, ``judgments`` or ``training`` pairs; see the functions of those names."""
    importers = {"prompts": import_prompts, "judgments": import_judgments, "training": import_training}
    return importers[what](store, path, skip_bad=skip_bad)


def import_prompts(store: Store, path: Path, *, skip_bad: bool = False) -> dict[str, Any]:
    """Add the prompts of a file: {"format", "rows", "prompts" (new ones), "known", "bad_rows"}.

    Without a split column every fourth prompt is held out.
    """
    path = Path(path)
    rows = read_rows(path)
    columns = _columns(rows)
    name = next((name for name in PROMPT_FORMATS if name in columns), None)
    if name is None:
        wanted = ", ".join(PROMPT_FORMATS)
        raise UserError(f"{path.name} has the columns {_listed(columns)}; prompts need one of {wanted}.")
    reader = PROMPT_FORMATS[name]
    read, bad = convert(rows, lambda values: (reader(values), _split(values), values))
    if bad and not skip_bad:
        refuse(path, bad, len(rows))
    now = datetime.now(UTC)
    prompts = []
    unsplit = 0
    for messages, split, values in read:
        unsplit += split is None
        split = split or ("heldout" if unsplit % 4 == 0 else "train")
        source = values.get("source") or path.stem
        prompts.append(prompt_record(messages, split=split, source=str(source), tags=_prompt_tags(values), now=now))
    added = store.add_prompts(prompts) if prompts else 0
    result = {"format": name, "rows": len(rows), "prompts": added, "known": len(prompts) - added, "bad_rows": bad}
    return _recorded(store, "prompts.imported", path, result, added)


def import_judgments(store: Store, path: Path, *, skip_bad: bool = False) -> dict[str, Any]:
    """Add the judgments of a file with their prompts, responses and annotators, in one transaction.

    Returns {"format", "rows", "judgments" (new ones), "known", "taken_back" (raw exports: left out), "bad_rows"}.
    """
    path = Path(path)
    rows = read_rows(path)
    columns = _columns(rows)
    name = next((name for name, (needed, _) in JUDGMENT_FORMATS.items() if needed <= columns), None)
    if name is None:
        wanted = "; ".join(f"{name}: {', '.join(sorted(needed))}" for name, (needed, _) in JUDGMENT_FORMATS.items())
        raise UserError(f"{path.name} has the columns {_listed(columns)}; judgments need those of a known format ({wanted}).")
    read, bad = convert(rows, JUDGMENT_FORMATS[name][1])
    if bad and not skip_bad:
        refuse(path, bad, len(rows))
    pairs = [pair for pair in read if pair is not None]
    batch = build_batch(pairs, default_source=path.stem, now=datetime.now(UTC))
    ids = [judgment.id for judgment in batch["judgments"]]
    sql = "SELECT count(*) AS n FROM judgments WHERE id IN (SELECT unnest($ids))"
    known = store.query(sql, {"ids": ids})["n"][0].as_py() if ids else 0
    batch["annotators"] = _renamed(store, batch["annotators"])
    store.add_batch(**batch)
    added = len(ids) - known
    counts = {"judgments": added, "known": known, "taken_back": len(read) - len(pairs)}
    result = {"format": name, "rows": len(rows), **counts, "bad_rows": bad}
    return _recorded(store, "judgments.imported", path, result, added)


def _columns(rows: list[FileRow]) -> set[str]:
    return {name for row in rows for name in row.values}


def _listed(columns: set[str]) -> str:
    return ", ".join(sorted(columns)) or "none"


def _split(values: dict[str, Any]) -> str | None:
    name = values.get("split")
    if name in (None, ""):
        return None
    if name != "train" and name not in HELDOUT_NAMES:
        raise BadRow(f"split is {name!r}, expected train or heldout")
    return "train" if name == "train" else "heldout"


def _prompt_tags(values: dict[str, Any]) -> tuple[str, ...]:
    given = values.get("tags") or []
    tags = given.split(",") if isinstance(given, str) else given
    named = [f"{name}:{values[name]}" for name in ("category", "license", "id") if values.get(name)]
    return (*(str(tag).strip() for tag in tags), *named)


def _renamed(store: Store, annotators: list[Annotator]) -> list[Annotator]:
    """Imported people are not our people of the same name."""

    def handle(annotator: Annotator) -> str:
        holder = store.get_annotator(annotator.handle)
        taken = holder is not None and holder.id != annotator.id
        return f"{annotator.handle} (imported {annotator.id[:8]})" if taken else annotator.handle

    return [replace(annotator, handle=handle(annotator)) for annotator in annotators]


def _recorded(store: Store, kind: str, path: Path, result: dict[str, Any], added: int) -> dict[str, Any]:
    if added:
        told = {name: value for name, value in result.items() if name != "bad_rows"} | {"num_bad": len(result["bad_rows"])}
        store.append_event(actor="system", kind=kind, subject=path.name, data=told)
    return result
