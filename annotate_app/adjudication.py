"""Pairs on which people want opposite things: one more opinion where two disagree and it matters, then a researcher's verdict.

A further opinion and an adjudication are tasks of their own on the same two responses, given to one person who has not judged the
pair. What was said before stays, and everything counts as one more judgment with its purpose and selection rule.
"""

import random
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from annotate_app.annotators import excluded_annotators
from storage.records import LeasedPair, Prompt, Purpose, Task
from storage.store import LEASE_SECONDS, Store
from storage.tables import from_row

NAMESPACE = uuid.UUID("7d0a3c52-0f6e-5c57-9a43-61646a756469")
OPINION, ADJUDICATION = "further opinion", "adjudication"  # selection rules of these tasks
REFRESH_SECONDS = 5.0  # how old the list of contested pairs may be
CLEAR = 0.75  # share of the votes for one side from which a pair is not contested


class FurtherOpinions:
    """Hands contested pairs to people who have not judged them, before other pairs, up to ``overlap_max`` people a pair."""

    def __init__(self, store: Store, refresh_seconds: float = REFRESH_SECONDS) -> None:
        self._store, self._refresh_seconds = store, refresh_seconds
        self._lock = threading.Lock()
        self._given: dict[tuple[str, str], datetime] = {}  # pair -> until when somebody may answer
        self._waiting: list[dict[str, Any]] = []
        self._read_at = datetime.min.replace(tzinfo=UTC)

    def lease(self, annotator_id: str, count: int, *, resume: bool = False) -> list[LeasedPair]:
        """As the store's ``lease``; where the campaign says so, contested pairs come first."""
        further = self._further(annotator_id, count)
        rest = self._store.lease(annotator_id, count - len(further), resume=resume) if count > len(further) else []
        known = {lease.lease_id for lease in further}
        return further + [lease for lease in rest if lease.lease_id not in known]

    def _further(self, annotator_id: str, count: int) -> list[LeasedPair]:
        store, most = self._store, self._store.campaign().overlap_max
        if most is None:
            return []
        training = store.training(annotator_id)
        if (training is not None and not training.passed) or store.budget_spent():
            return []
        with self._lock:
            now = datetime.now(UTC)
            self._given = {pair: until for pair, until in self._given.items() if until > now}
            free = [row for row in self._contested(now, most) if _pair(row) not in self._given]
            mine = [row for row in free if annotator_id not in row["people"]][:count]
            if not mine or annotator_id in excluded_annotators(store):
                return []
            self._given |= {_pair(row): now + timedelta(seconds=LEASE_SECONDS) for row in mine}
        leases = [(row, give_to(store, row, annotator_id, OPINION, "label")) for row in mine]
        for row, lease in leases:
            if lease is None:  # skipped by this person before: somebody else may be asked
                self._given.pop(_pair(row), None)
        return [lease for _, lease in leases if lease is not None]

    def _contested(self, now: datetime, most: int) -> list[dict[str, Any]]:
        if (now - self._read_at).total_seconds() >= self._refresh_seconds:
            self._waiting = [row for row in contested(self._store) if _asks_more(row, most)]
            self._read_at = now
        return self._waiting


def waiting_for_adjudication(store: Store) -> list[dict[str, Any]]:
    """Contested pairs that nobody will be asked about any more and nobody has adjudicated, most votes first."""
    most = store.campaign().overlap_max or 0
    return [row for row in contested(store) if not row["adjudicated"] and not _asks_more(row, most)]


def adjudicate_next(store: Store, annotator_id: str, task_id: str | None = None) -> LeasedPair | None:
    """A contested pair (that of ``task_id``, else the first) for this researcher to judge, blind; None if none waits."""
    rows = waiting_for_adjudication(store)
    found = next((row for row in rows if task_id in (None, row["task_id"]) and annotator_id not in row["people"]), None)
    return None if found is None else give_to(store, found, annotator_id, ADJUDICATION, "audit")


def num_adjudicated(store: Store) -> int:
    """Pairs that a researcher has settled."""
    counted = (
        "SELECT count(DISTINCT task_id) AS n FROM judged_pairs j JOIN tasks ON tasks.id = task_id WHERE selection_rule = $rule"
    )
    return store.query(counted, {"rule": ADJUDICATION})["n"][0].as_py()


def contested(store: Store) -> list[dict[str, Any]]:
    """Pairs of which some people prefer one response and some the other, neither with CLEAR of the decided votes."""
    return store.query(_CONTESTED, {"clear": CLEAR, "rule": ADJUDICATION}).to_pylist()


def give_to(store: Store, row: dict[str, Any], annotator_id: str, rule: str, purpose: Purpose) -> LeasedPair | None:
    """A task on the same responses that only this person is given, sides drawn; the same lease again for a retry."""
    name = f"{rule} {row['first']} {row['second']} {annotator_id}"
    first, second = random.Random(name).sample([row["first"], row["second"]], 2)
    task = Task(
        id=str(uuid.uuid5(NAMESPACE, name)),
        prompt_id=row["prompt_id"],
        response_1_id=first,
        response_2_id=second,
        purpose=purpose,
        wanted=0,  # nobody else is given it
        selection_rule=rule,
        selection_score=None,
        selection_prob=1.0,
        created_at=datetime.now(UTC),
    )
    return store.add_live_pair(_kept_prompt(row, store), (), task, annotator_id=annotator_id)


def _kept_prompt(row: dict[str, Any], store: Store) -> Prompt:
    """The prompt as it is kept: adding it again changes nothing."""
    [found] = store.query("SELECT * FROM prompts WHERE id = $id", {"id": row["prompt_id"]}).to_pylist()
    return from_row(Prompt, found)


def _pair(row: dict[str, Any]) -> tuple[str, str]:
    return row["first"], row["second"]


def _asks_more(row: dict[str, Any], most: int) -> bool:
    """Whether a further opinion is worth a label: not where a slight difference is all that anybody saw, and not on pairs that
    compare policies, of which each vote counts by itself."""
    return len(row["people"]) < most and row["strongest"] != 1 and row["purpose"] != "gate"


# Of each pair and person the last verdict, in one order of the two responses. Rankings are left out: their pairs go together.
_CONTESTED = """
    WITH said AS (
        SELECT j.seq, j.task_id, j.prompt_id, j.annotator_id, j.strength, tasks.purpose, tasks.selection_rule,
               least(response_a_id, response_b_id) AS first, greatest(response_a_id, response_b_id) AS second,
               CASE WHEN verdict NOT IN ('a', 'b') THEN 0 WHEN (verdict = 'a') = (response_a_id < response_b_id) THEN 1
                    ELSE -1 END AS side
        FROM judged_pairs j JOIN tasks ON tasks.id = j.task_id WHERE verdict <> 'skip' AND ranking_id IS NULL),
    votes AS (
        SELECT prompt_id, first, second, annotator_id, arg_max(side, seq) AS side, max(strength) AS strength, min(seq) AS seq,
               arg_min(task_id, seq) AS task_id, arg_min(purpose, seq) AS purpose, bool_or(selection_rule = $rule) AS adjudicated
        FROM said GROUP BY prompt_id, first, second, annotator_id)
    SELECT prompt_id, first, second, arg_min(task_id, seq) AS task_id, arg_min(purpose, seq) AS purpose,
           list(annotator_id) AS people,
           count(*) FILTER (side = 1) AS for_first, count(*) FILTER (side = -1) AS for_second,
           count(*) FILTER (side = 0) AS undecided, max(strength) AS strongest, bool_or(adjudicated) AS adjudicated
    FROM votes GROUP BY prompt_id, first, second
    HAVING least(for_first, for_second) > 0 AND greatest(for_first, for_second) < $clear * (for_first + for_second)
    ORDER BY count(*) DESC, min(seq)
"""
