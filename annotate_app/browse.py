"""Finding judgments: filters as they stand in a link, one page of pairs, and everything that was said of one pair."""

from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlencode

from storage.store import Store

PAGE = 50
VERDICTS = ("a", "b", "tie", "both_bad", "skip")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFilter:
    """What a link asks for; an empty text asks for everything. Names are those of the link's parameters."""

    q: str = ""  # words of the prompt, a response or a rationale
    verdict: str = ""
    annotator: str = ""  # handle
    policy: str = ""  # number of a policy, or the model of an imported response, that wrote one of the two
    purpose: str = ""
    split: str = ""
    aspect: str = ""  # rated
    reason: str = ""  # tag given
    since: str = ""  # day, YYYY-MM-DD, UTC
    until: str = ""
    only: str = ""  # disagreement | flagged | edited | marked
    page: int = 1

    def link(self, **changes: Any) -> str:
        """The address of this search with some values changed; a change of anything but the page begins at the first."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"page": 1} | changes
        return "/console/pairs?" + urlencode({name: value for name, value in values.items() if value not in ("", 1)})


def find_pairs(store: Store, asked: PairFilter) -> dict[str, Any]:
    """{"pairs": [...], "total": n, "page", "pages"}: judged pairs, newest first; in disagreement, the most contested first."""
    params = {field.name: getattr(asked, field.name) for field in fields(asked) if field.name not in ("page", "only")}
    params |= {"q": asked.q.lower()}
    where = _WHERE + _ONLY.get(asked.only, "")
    [total] = store.query(f"{_FOUND} SELECT count(*) AS n FROM found WHERE {where}", params)["n"].to_pylist()
    order = "num_verdicts DESC, seq DESC" if asked.only == "disagreement" else "seq DESC"
    rows = store.query(
        f"{_FOUND} SELECT {_COLUMNS} FROM found WHERE {where} ORDER BY {order} LIMIT {PAGE} OFFSET {PAGE * (asked.page - 1)}",
        params,
    )
    return {"pairs": rows.to_pylist(), "total": total, "page": asked.page, "pages": max(1, -(-total // PAGE))}


def pair_of(store: Store, task_id: str) -> dict[str, Any] | None:
    """One task: prompt, responses with who wrote them, every judgment ever made of it, and flags; None where unknown."""
    tasks = store.query(_TASK, {"id": task_id}).to_pylist()
    if not tasks:
        return None
    said = store.query("SELECT * FROM all_judgments WHERE task_id = $id ORDER BY seq DESC", {"id": task_id}).to_pylist()
    ids = [tasks[0]["response_1_id"], tasks[0]["response_2_id"], *(tasks[0]["more_response_ids"] or [])]
    texts = store.query("SELECT id, text, model FROM written WHERE id IN (SELECT unnest($ids))", {"ids": ids}).to_pylist()
    by_id = {row["id"]: row for row in texts}
    flags = store.query(_FLAGS, {"id": task_id}).to_pylist()
    return tasks[0] | {"responses": [by_id[i] for i in ids], "judgments": said, "flags": flags}


def choices(store: Store) -> dict[str, list[str]]:
    """What each filter may be set to."""
    queries = {
        "annotator": "SELECT DISTINCT annotator AS v FROM all_judgments ORDER BY v",
        "policy": "SELECT DISTINCT unnest([model_a, model_b]) AS v FROM all_judgments ORDER BY v",
        "purpose": "SELECT DISTINCT purpose AS v FROM tasks ORDER BY v",
        "split": "SELECT DISTINCT split AS v FROM prompts ORDER BY v",
        "reason": "SELECT DISTINCT unnest(reasons) AS v FROM judgments ORDER BY v",
        "aspect": "SELECT DISTINCT unnest(json_keys(aspects)) AS v FROM judgments ORDER BY v",
    }
    found = {name: [str(v) for v in store.query(sql)["v"].to_pylist() if v] for name, sql in queries.items()}
    return {"verdict": list(VERDICTS), **found}


# Verdicts are compared in one order of the two responses, not in the order shown.
_FOUND = """
    WITH judged AS (
        SELECT *, CASE WHEN response_a_id < response_b_id OR verdict NOT IN ('a', 'b') THEN verdict
                       WHEN verdict = 'a' THEN 'b' ELSE 'a' END AS canonical
        FROM all_judgments WHERE standing),
    counted AS (
        SELECT task_id, count(DISTINCT canonical) FILTER (verdict <> 'skip' AND NOT excluded) AS num_verdicts,
               count(DISTINCT annotator_id) FILTER (NOT excluded) AS num_annotators
        FROM judged GROUP BY task_id),
    found AS (
        SELECT judged.*, num_verdicts, num_annotators,
               task_id IN (SELECT subject FROM events WHERE kind = 'pair.flagged') AS flagged
        FROM judged JOIN counted USING (task_id))
"""
_COLUMNS = """seq, task_id, judgment_id, annotator, verdict, strength, aspects, reasons, rationale, purpose, split, source,
    messages[-1].content AS prompt, model_a, model_b, submitted_at, num_verdicts, num_annotators, flagged,
    edited_text IS NOT NULL AS edited"""
_WHERE = """
    ($q = '' OR contains(lower(concat_ws(chr(10), response_a, response_b, rationale,
                                         array_to_string([m.content FOR m IN messages], chr(10)))), $q))
    AND ($verdict = '' OR verdict = $verdict) AND ($annotator = '' OR annotator = $annotator)
    AND ($policy = '' OR $policy IN (model_a, model_b, replace(model_a, 'policy-', ''), replace(model_b, 'policy-', '')))
    AND ($purpose = '' OR purpose = $purpose) AND ($split = '' OR split = $split)
    AND ($aspect = '' OR list_contains(json_keys(aspects), $aspect)) AND ($reason = '' OR list_contains(reasons, $reason))
    AND ($since = '' OR submitted_at >= TRY_CAST($since AS DATE))
    AND ($until = '' OR submitted_at < TRY_CAST($until AS DATE) + INTERVAL 1 DAY)
"""
_ONLY = {
    "disagreement": " AND num_verdicts > 1",
    "flagged": " AND flagged",
    "edited": " AND edited_text IS NOT NULL",
    "marked": " AND spans <> '[]'",
}
_TASK = """
    SELECT tasks.*, prompts.messages, prompts.split, prompts.source, prompts.tags
    FROM tasks JOIN prompts ON prompts.id = tasks.prompt_id WHERE tasks.id = $id
"""
_FLAGS = """
    SELECT "at", data ->> '$.reason' AS reason, data ->> '$.comment' AS comment, annotators.handle AS annotator
    FROM events JOIN annotators ON annotators.id = data ->> '$.annotator_id'
    WHERE events.kind = 'pair.flagged' AND subject = $id ORDER BY events.seq DESC
"""
