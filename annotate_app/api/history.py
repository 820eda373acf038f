"""One's own work, over HTTP: who one is, progress, the judgments made so far, and figures about oneself."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime

from annotate_app.api.people import AnnotatorId
from annotate_app.api.shown import judgment_json, prompt_json, responses_json
from annotate_app.auth import Principal, require
from annotate_app.context import AppContext
from annotate_app.crowd_platform import study_of
from storage.records import VERDICTS, Judgment, Verdict
from storage.tables import from_row, messages_of

HOURS = 8  # of one's pace
Since = Annotated[AwareDatetime | None, Query(description="start of your day; midnight UTC if not given")]


def build_router(context: AppContext) -> APIRouter:
    """Routes of scope label about the caller alone."""
    router, store = APIRouter(tags=["me"]), context.store

    @router.get("/me")
    def me(who: Annotated[Principal, Depends(require("label"))]) -> dict[str, Any]:
        """Who you are."""
        role = who.user.role if who.user else who.scope
        return {"name": who.user.name if who.user else who.actor, "role": role, "annotator_id": who.annotator_id}

    @router.get("/me/progress")
    def progress(annotator_id: AnnotatorId, since: Since = None) -> dict[str, Any]:
        """Your own numbers, whether new pairs are being prepared, and whether the campaign's budget is spent."""
        [row] = store.query(_PROGRESS, {"me": annotator_id, "today": since or _midnight()}).to_pylist()
        newest = next(iter(store.list_rounds()), None)
        spent = store.budget_spent()
        left = {"remaining": 0} if spent else {}
        study = study_of(store, annotator_id)
        if study is not None:
            left = {"remaining": min(row["remaining"], max(0, study[0].labels - study[1]))} | left
        return (
            row
            | left
            | {"study": None if study is None else {"labels": study[0].labels, "done": study[1]}}
            | {"preparing": newest is not None and newest.status == "running", "budget_reached": spent}
        )

    @router.get("/me/judgments")
    def judgments(
        annotator_id: AnnotatorId,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[int | None, Query(description="only judgments of a smaller seq: next_before of the last page")] = None,
        verdict: Verdict | None = None,
        q: Annotated[str, Query(max_length=200, description="words of the prompt, a response or your rationale")] = "",
    ) -> dict[str, Any]:
        """Your judgments that stand, newest first, with what you were shown; training pairs are left out.

        ``corrections`` counts the versions before; ``next_before`` leads to the next page, null on the last one.
        """
        asked = {"me": annotator_id, "before": before, "verdict": verdict, "q": q.lower(), "limit": limit + 1}
        rows = store.query(_JUDGMENTS, asked).to_pylist()
        page = rows[:limit]
        texts = _more_texts(context, page)
        return {
            "judgments": [_past(row, texts) for row in page],
            "next_before": page[-1]["seq"] if len(rows) > limit else None,
        }

    @router.get("/me/stats")
    def stats(annotator_id: AnnotatorId, since: Since = None) -> dict[str, Any]:
        """Figures about your own work: pace, shares, and whether you judge a repeated pair alike.

        ``per_hour`` is [[start of the hour, judgments], ...] of the last hours, oldest first; shares are 0 to 1;
        ``first_side_share`` is how often the response shown first won; ``repeats`` is null while no pair came twice,
        ``training`` where the campaign has none.
        """
        [row] = store.query(_STATS, {"me": annotator_id, "today": since or _midnight()}).to_pylist()
        verdicts = {v["verdict"]: v["n"] for v in store.query(_VERDICTS, {"me": annotator_id}).to_pylist()}
        total = sum(verdicts.values())
        [repeats] = store.query(_REPEATS, {"me": annotator_id}).to_pylist()
        return row | {
            "per_hour": _per_hour(context, annotator_id),
            "verdict_shares": {name: verdicts.get(name, 0) / total if total else 0.0 for name in VERDICTS},
            "repeats": repeats if repeats["n"] else None,
            "training": asdict(training) if (training := store.training(annotator_id)) else None,
        }

    return router


def _midnight() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _past(row: dict[str, Any], more_texts: dict[str, str]) -> dict[str, Any]:
    judgment = from_row(Judgment, row)
    texts = [row["text_a"], row["text_b"], *(more_texts[i] for i in judgment.more_response_ids)]
    return {
        **judgment_json(judgment),
        "kind": "ranking" if judgment.more_response_ids else "pair",
        **prompt_json(messages_of(row["messages"])),
        "responses": responses_json(texts),
        "current": True,
        "corrections": row["revision"],
    }


def _more_texts(context: AppContext, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Texts of the responses that rankings showed after the first two."""
    ids = [response_id for row in rows for response_id in row["more_response_ids"]]
    if not ids:
        return {}
    found = context.store.query("SELECT id, text FROM responses WHERE id IN (SELECT unnest($ids))", {"ids": ids})
    return {row["id"]: row["text"] for row in found.to_pylist()}


def _per_hour(context: AppContext, annotator_id: str) -> list[list[Any]]:
    this_hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [this_hour - timedelta(hours=k) for k in reversed(range(HOURS))]
    counted = context.store.query(_PER_HOUR, {"me": annotator_id, "since": hours[0]}).to_pylist()
    num_of = {row["hour"]: row["n"] for row in counted}
    return [[hour.isoformat(), num_of.get(hour, 0)] for hour in hours]


# Judgments of mine that stand, but for training pairs.
_MINE = """
    mine AS (SELECT standing.* FROM standing JOIN tasks ON tasks.id = standing.task_id AND tasks.purpose <> 'gold'
             WHERE annotator_id = $me)
"""
# Pairs left are those nobody else fills up: still wanted, and without a judgment of mine.
_PROGRESS = f"""
    WITH {_MINE}
    SELECT count(*) FILTER (verdict <> 'skip' AND submitted_at >= $today) AS done_today,
           count(*) FILTER (verdict <> 'skip') AS done_total,
           count(*) FILTER (verdict = 'skip') AS skipped,
           (SELECT count(*) FROM task_status WHERE NOT closed AND num_made < wanted
            AND id NOT IN (SELECT task_id FROM mine)) AS remaining,
           median(epoch(submitted_at) - epoch(shown_at)) AS median_seconds
    FROM mine
"""
_JUDGMENTS = f"""
    WITH {_MINE}
    SELECT mine.*, prompts.messages, a.text AS text_a, b.text AS text_b
    FROM mine
    JOIN prompts ON prompts.id = mine.prompt_id
    JOIN responses a ON a.id = mine.response_a_id
    JOIN responses b ON b.id = mine.response_b_id
    WHERE ($before IS NULL OR mine.seq < $before) AND ($verdict IS NULL OR verdict = $verdict)
      AND ($q = '' OR contains(lower(concat_ws(chr(10), a.text, b.text, rationale,
                                              array_to_string([m.content FOR m IN prompts.messages], chr(10)))), $q))
    ORDER BY mine.seq DESC LIMIT $limit
"""
_STATS = f"""
    WITH {_MINE}
    SELECT count(*) FILTER (verdict <> 'skip' AND submitted_at >= $today) AS today,
           count(*) FILTER (verdict <> 'skip') AS total,
           median(epoch(submitted_at) - epoch(shown_at)) AS seconds_median,
           (SELECT avg(CAST(verdict = 'a' AS INTEGER)) FROM judged_pairs
            WHERE annotator_id = $me AND verdict IN ('a', 'b')) AS first_side_share
    FROM mine
"""
_VERDICTS = "SELECT verdict, count(*) AS n FROM judged_pairs WHERE annotator_id = $me GROUP BY verdict"
_PER_HOUR = f"""
    WITH {_MINE}
    SELECT date_trunc('hour', submitted_at) AS hour, count(*) AS n FROM mine
    WHERE submitted_at >= $since AND verdict <> 'skip' GROUP BY hour
"""
# Pairs of the same two responses that I judged in more than one task: alike if the same response won, or neither.
_REPEATS = """
    WITH said AS (
        SELECT least(response_a_id, response_b_id) AS low, greatest(response_a_id, response_b_id) AS high, task_id,
               CASE verdict WHEN 'a' THEN response_a_id WHEN 'b' THEN response_b_id ELSE verdict END AS won
        FROM judged_pairs WHERE annotator_id = $me AND verdict <> 'skip'),
    twice AS (SELECT count(DISTINCT won) = 1 AS alike FROM said GROUP BY low, high HAVING count(DISTINCT task_id) > 1)
    SELECT count(*) AS n, count(*) FILTER (alike) AS consistent FROM twice
"""
