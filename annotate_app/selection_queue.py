"""What annotators are asked next and why: the queue as the console and the API show it."""

from typing import Any

import numpy as np

from annotate_app.context import AppContext
from annotate_app.estimates import DrawnVotes, ShareEstimate, by_random_share, estimate_share, naively
from annotate_app.pair_selection import SELECTIONS
from annotate_app.selection_front import BEHIND
from annotate_app.selection_mix import MIX
from storage.store import Store


def queue_facts(context: AppContext) -> dict[str, Any]:
    """{"selection", "meaning", "chosen_by", "labels_since", "longer_wins"}: how pairs are chosen, and what that does to figures.

    chosen_by: number and kind of the job whose preference model chooses, None while no model has scored the serving policy's
    pairs and everything is random. longer_wins: see the function.
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
        "longer_wins": longer_wins(context.store),
    }


def longer_wins(store: Store) -> list[ShareEstimate] | None:
    """How often the longer of the serving policy's responses wins, ties one half: the figure to trust first, then others.

    None where judged pairs were chosen within each prompt by a rule, whose probabilities are of another kind.
    """
    policy = store.serving_policy()
    if policy is None:
        return None
    rows = store.query(_LENGTHS, {"policy": policy.id}).to_pylist()
    if not rows or any(row["rule"] not in MIX for row in rows):
        return None
    [total] = store.query(_PAIRS, {"policy": policy.id}).to_pylist()
    num_pairs = max(total["pairs"], len(rows))
    even = 1 / np.arange(num_pairs, num_pairs - len(rows), -1)  # of pairs that wait behind the front, in random order
    votes = DrawnVotes(
        score=np.array([row["score"] for row in rows]),
        probability=np.where([row["priority"] > BEHIND / 2 for row in rows], [row["probability"] for row in rows], even),
        is_random=np.array([row["rule"] == "random" for row in rows]),
        num_pairs=num_pairs,
    )
    first = estimate_share(votes)
    others = () if votes.is_random.all() else (by_random_share(votes), naively(votes))
    return [found for found in (first, *others) if found is not None]


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
_LENGTHS = """
    SELECT t.selection_rule AS rule, any_value(t.selection_prob) AS probability, any_value(t.priority) AS priority,
           avg(CASE WHEN j.verdict = 'tie' THEN 0.5 WHEN (length(a.text) > length(b.text)) = (j.verdict = 'a') THEN 1 ELSE 0 END)
               AS score
    FROM judged_pairs j JOIN tasks t ON t.id = j.task_id AND t.purpose = 'label'
    JOIN responses a ON a.id = j.response_a_id AND a.policy_id = $policy
    JOIN responses b ON b.id = j.response_b_id AND b.policy_id = $policy
    WHERE j.verdict IN ('a', 'b', 'tie') AND length(a.text) <> length(b.text)
    GROUP BY t.id, t.selection_rule ORDER BY min(j.submitted_at)
"""
_PAIRS = """
    SELECT count(DISTINCT (least(t.response_1_id, t.response_2_id), greatest(t.response_1_id, t.response_2_id))) AS pairs
    FROM tasks t JOIN responses r ON r.id = t.response_1_id AND r.policy_id = $policy
"""
_SINCE = "SELECT count(*) AS labels FROM judged_pairs WHERE verdict <> 'skip' AND submitted_at > $at"
