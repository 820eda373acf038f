"""What an annotator is given next: no more than a study asks of them, now and then a check, contested pairs, then the queue.

A check is a pair on which several people were of one mind, given like any other pair: its answer is known, nobody is told, and
the judgment counts as one more. Nobody gets a pair twice that way.
"""

import random
from typing import Any

from annotate_app.adjudication import FurtherOpinions, give_to
from annotate_app.crowd_platform import labels_left
from annotate_app.unanimous import RULE
from storage.records import LeasedPair
from storage.store import Store

CHECK = "check"  # selection rule of its tasks


class HandingOut:
    """Safe from any thread."""

    def __init__(self, store: Store, rng: random.Random | None = None) -> None:
        self._store, self._rng = store, rng or random.Random()
        self._opinions = FurtherOpinions(store)
        self._in_no_study: set[str] = set()  # nobody joins one later: participants are new annotators

    def lease(self, annotator_id: str, count: int, *, resume: bool = False) -> list[LeasedPair]:
        """As the store's ``lease``."""
        left = None if annotator_id in self._in_no_study else labels_left(self._store, annotator_id, with_held=resume)
        if left is None:
            self._in_no_study.add(annotator_id)
        count = count if left is None else min(count, left)
        checks = self._checks(annotator_id, count) if count else []
        wanted = count - len(checks)
        return (self._opinions.lease(annotator_id, wanted, resume=resume) if wanted else []) + checks

    def _checks(self, annotator_id: str, count: int) -> list[LeasedPair]:
        share = self._store.campaign().check_share
        number = sum(self._rng.random() < share for _ in range(count)) if share else 0
        if not number or self._store.budget_spent() or not _at_work(self._store, annotator_id):
            return []
        rows = self._store.query(_UNSEEN, {"annotator": annotator_id, "rule": RULE}).to_pylist()
        chosen: list[dict[str, Any]] = self._rng.sample(rows, min(number, len(rows)))
        given = (give_to(self._store, row, annotator_id, CHECK, "audit") for row in chosen)
        return [lease for lease in given if lease is not None]


def _at_work(store: Store, annotator_id: str) -> bool:
    """Not in training, and not excluded."""
    training = store.training(annotator_id)
    excluded = "SELECT count(*) AS n FROM excluded_annotators WHERE annotator_id = $annotator"
    return (training is None or bool(training.passed)) and not store.query(excluded, {"annotator": annotator_id})["n"][0].as_py()


# Known answers on which this person was not asked in any form.
_UNSEEN = """
    WITH seen AS (
        SELECT least(response_a_id, response_b_id) AS first, greatest(response_a_id, response_b_id) AS second
        FROM leases WHERE annotator_id = $annotator)
    SELECT prompt_id, least(response_1_id, response_2_id) AS first, greatest(response_1_id, response_2_id) AS second
    FROM tasks ANTI JOIN seen
        ON seen.first = least(response_1_id, response_2_id) AND seen.second = greatest(response_1_id, response_2_id)
    WHERE purpose = 'gold' AND selection_rule = $rule AND id IN (SELECT subject FROM events WHERE kind = 'task.answer')
    ORDER BY seq
"""
