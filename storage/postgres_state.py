"""What the parts of the PostgreSQL store share: the server, what is followed of it in memory, and the reading copy."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from storage.labelling import pair_of
from storage.postgres_connection import Server, Transaction
from storage.postgres_follower import Follower, Known
from storage.postgres_mirror import Mirror
from storage.postgres_places import Given
from storage.records import LeasedPair, Message, TrainingStatus
from storage.state import TEXTS_KEPT, Recent
from storage.tables import messages_of
from storage.training import TrainingBook, oriented, training_status


@dataclass(slots=True, kw_only=True)
class PostgresState:
    server: Server
    follower: Follower
    database: Mirror
    clock: Callable[[], datetime]
    rng: random.Random  # which side is shown first
    lease_seconds: float
    prompts: Recent[tuple[Message, ...]] = field(default_factory=lambda: Recent(TEXTS_KEPT))
    responses: Recent[str] = field(default_factory=lambda: Recent(TEXTS_KEPT))


def training_book(transaction: Transaction, known: Known, annotator_id: str) -> tuple[TrainingBook, int]:
    """What is known of training pairs and what this annotator said of them; and how many pairs can be given."""
    book = TrainingBook(answers=known.answers)
    for row in transaction.rows(_GIVEN, {"annotator": annotator_id}):
        verdict = oriented(row["verdict"], row["response_a_id"], row["response_1_id"])
        book.given.setdefault(annotator_id, []).append((row["task_id"], verdict))
    open_ = transaction.rows("SELECT task_id FROM queue WHERE purpose = 'gold' AND NOT closed ORDER BY seq")
    return book, sum(row["task_id"] in known.answers for row in open_)


def training_of(transaction: Transaction, known: Known, annotator_id: str) -> TrainingStatus | None:
    """How far an annotator's training is; None where the campaign has none, or no training pairs."""
    campaign = known.campaign
    if campaign.pass_mark is None:
        return None
    book, num_open = training_book(transaction, known, annotator_id)
    num_training = min(campaign.num_training, num_open)
    return training_status(book.outcomes(annotator_id), num_training, campaign.pass_mark) if num_training else None


def leased_pairs(state: PostgresState, given: list[Given]) -> list[LeasedPair]:
    """Leases with what is shown."""
    messages = _prompts(state, {task.prompt_id for _, task in given})
    texts = _texts(state, {response_id for lease, _ in given for response_id in lease.shown_ids})
    return [pair_of(lease, task.purpose, messages[task.prompt_id], texts) for lease, task in given]


def _prompts(state: PostgresState, ids: set[str]) -> dict[str, tuple[Message, ...]]:
    known = {prompt_id: state.prompts.get(prompt_id) for prompt_id in ids}
    missing = [prompt_id for prompt_id, messages in known.items() if messages is None]
    if missing:
        sql = "SELECT id, messages FROM prompts WHERE id = ANY($ids)"
        rows = state.server.rows(sql, {"ids": missing})
        found = {row["id"]: messages_of(row["messages"]) for row in rows}
        state.prompts.put(found.items())
        known |= found
    return {prompt_id: messages for prompt_id, messages in known.items() if messages is not None}


def _texts(state: PostgresState, ids: set[str]) -> dict[str, str]:
    known = {response_id: state.responses.get(response_id) for response_id in ids}
    missing = [response_id for response_id, text in known.items() if text is None]
    if missing:
        sql = "SELECT id, text FROM responses WHERE id = ANY($ids)"
        rows = state.server.rows(sql, {"ids": missing})
        found = {row["id"]: row["text"] for row in rows}
        state.responses.put(found.items())
        known |= found
    return {response_id: text for response_id, text in known.items() if text is not None}


_GIVEN = """
    SELECT j.annotator_id, j.task_id, j.verdict, j.response_a_id, t.response_1_id
    FROM queue q JOIN judgments j ON j.task_id = q.task_id JOIN tasks t ON t.id = q.task_id
    WHERE q.purpose = 'gold' AND j.annotator_id = $annotator AND j.verdict <> 'skip' ORDER BY j.seq
"""
