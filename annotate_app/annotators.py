"""The annotators of a campaign: what is known of them, and whose judgments count. Exclusion is an event; nothing is deleted."""

from typing import Any

from annotate_app.context import AppContext
from annotate_app.reports.annotators import annotators_report
from storage.errors import UserError
from storage.records import Annotator
from storage.store import Store


def known_of_annotators(context: AppContext) -> dict[str, Any]:
    """The annotators' report of the campaign, excluded people with the reason."""
    rows = context.store.query(_SAID).to_pylist()
    reports = (context.rounds.report(r.number) for r in context.store.list_rounds() if r.kind in ("round", "fit"))
    return annotators_report(rows, next(filter(None, reports), None), excluded_annotators(context.store))


def excluded_annotators(store: Store) -> dict[str, str]:
    """Annotator id -> why their judgments do not count."""
    rows = store.query("SELECT annotator_id, reason FROM excluded_annotators").to_pylist()
    return {row["annotator_id"]: row["reason"] or "" for row in rows}


def exclude(store: Store, annotator: Annotator, *, actor: str, reason: str) -> None:
    """From now on fits, reports, estimates and exports leave this person's judgments out, and they are handed no pairs."""
    reason = _given(reason, "excluded")
    if annotator.id not in excluded_annotators(store):
        store.append_event(actor=actor, kind="annotator.excluded", subject=annotator.id, data={"reason": reason})


def include(store: Store, annotator: Annotator, *, actor: str, reason: str) -> None:
    """Everything this person judged counts again."""
    reason = _given(reason, "included again")
    if annotator.id in excluded_annotators(store):
        store.append_event(actor=actor, kind="annotator.included", subject=annotator.id, data={"reason": reason})


def find_annotator(store: Store, name: str) -> Annotator:
    """By id or handle; UserError if there is none."""
    found = next((a for a in store.list_annotators() if name in (a.id, a.handle)), None)
    if found is None:
        raise UserError(f"There is no annotator {name!r}. `nashloop report annotators` lists those with judgments.")
    return found


def _given(reason: str, what: str) -> str:
    if not reason.strip():
        raise UserError(f"The reason is empty. Say why this person is {what}; it is kept in the audit log.")
    return reason.strip()


# The answer known of a training pair or check, in the order shown; words that have to be read before a verdict.
_SAID = """
    WITH told AS (SELECT subject AS id, arg_max(data ->> '$.verdict', seq) AS verdict FROM events
                  WHERE kind = 'task.answer' GROUP BY subject),
    answers AS (
        SELECT least(response_1_id, response_2_id) AS first, greatest(response_1_id, response_2_id) AS second,
               max(verdict) AS verdict, max(CASE verdict WHEN 'a' THEN response_1_id WHEN 'b' THEN response_2_id END) AS better
        FROM told JOIN tasks USING (id) GROUP BY ALL)
    SELECT judgment_id, ranking_id, annotator_id, annotator, annotator_kind, response_a_id, response_b_id, j.verdict, standing,
           shown_at, submitted_at,
           CASE WHEN better = response_a_id THEN 'a' WHEN better = response_b_id THEN 'b' ELSE answers.verdict END AS known,
           len(string_split_regex(trim(response_a || ' ' || response_b), '\\s+')) AS num_words
    FROM all_judgments j
    LEFT JOIN answers ON (purpose = 'gold' OR selection_rule = 'check')
        AND answers.first = least(response_a_id, response_b_id) AND answers.second = greatest(response_a_id, response_b_id)
    WHERE standing AND (purpose <> 'gold' OR answers.verdict IS NOT NULL) ORDER BY j.seq
"""
