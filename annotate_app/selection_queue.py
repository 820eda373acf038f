"""What annotators are asked next and why: the queue as the console and the API show it."""

from typing import Any

from annotate_app.context import AppContext
from annotate_app.pair_selection import SELECTIONS
from storage.store import Store


def queue_facts(context: AppContext) -> dict[str, Any]:
    """{"selection", "meaning", "chosen_by", "labels_since"}: how pairs are chosen, and the job whose preference model chooses.

    chosen_by: its number and kind, None while no model has scored the serving policy's pairs and everything is random.
    """
    selection = context.rounds.selection()
    chosen_by, since = context.rounds.scored_by(), None
    if chosen_by is not None:
        [row] = context.store.query(_SINCE, {"at": chosen_by.created_at}).to_pylist()
        since = row["labels"]
    return {
        "selection": selection,
        "meaning": SELECTIONS[selection],
        "chosen_by": None if chosen_by is None else {"number": chosen_by.number, "kind": chosen_by.kind},
        "labels_since": since,
    }


def next_places(store: Store, count: int) -> list[dict[str, Any]]:
    """Up to ``count`` open pairs in the order they are handed out, with the question and why they are asked."""
    return [{"place": place, **row} for place, row in enumerate(store.query(_NEXT, {"count": count}).to_pylist(), 1)]


_NEXT = """
    SELECT t.id AS task_id, p.messages[len(p.messages)].content AS question, t.purpose, t.selection_rule AS rule,
           t.selection_score AS score, t.selection_prob AS probability, t.wanted - t.num_made AS judgments
    FROM task_status t JOIN prompts p ON p.id = t.prompt_id
    WHERE NOT t.closed AND t.num_made < t.wanted AND t.purpose <> 'gold'
    ORDER BY t.priority DESC, t.seq LIMIT $count
"""
_SINCE = "SELECT count(*) AS labels FROM judged_pairs WHERE verdict <> 'skip' AND submitted_at > $at"
