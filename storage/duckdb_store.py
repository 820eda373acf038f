"""The Store in one DuckDB file. Methods only delegate: content.py adds, labelling.py leases and judges, reading.py reads."""

import json
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from storage import content, corrections, labelling, live, reading
from storage.accounts import load_accounts
from storage.backup import back_up
from storage.campaign import Campaign, build_campaign
from storage.database import IN_MEMORY, Database, fetch_rows
from storage.errors import Unavailable, UserError
from storage.forgetting import ask_to_rewrite, redact, rewrite_if_asked
from storage.journal import journal_path
from storage.lease_tables import load_lease_book, load_training
from storage.records import (
    Annotator,
    Credential,
    Event,
    Judgment,
    JudgmentInput,
    LeasedPair,
    Policy,
    Prompt,
    Response,
    Round,
    SubmitResult,
    Task,
    Token,
    TrainingStatus,
    User,
)
from storage.replay import open_journal
from storage.state import RECENT_JUDGMENTS, Counters, Recent, State, utcnow
from storage.store import LEASE_SECONDS
from storage.tables import SCHEMAS
from storage.writer import Transaction, Writer

logger = logging.getLogger(__name__)


def open_store(
    path: Path | None = None,
    *,
    clock: Callable[[], datetime] = utcnow,
    rng: random.Random | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> "DuckDBStore":
    """Open or create the database at ``path``; None keeps everything in memory. UserError where another process holds it."""
    if path:
        rewrite_if_asked(Path(path))
        _refuse_if_lost(Path(path))
    database = Database(Path(path) if path else IN_MEMORY)
    connection = database.connection
    journal, recovery = None, None
    try:
        if path:
            journal, recovery = open_journal(database)
        state = State(
            database=database,
            book=load_lease_book(database, connection),
            accounts=load_accounts(connection),
            counters=_load_counters(connection),
            campaign=_load_campaign(connection),
            training=load_training(connection),
            writer=Writer(database, journal),
            clock=clock,
            rng=rng or random.Random(),
            lease_seconds=lease_seconds,
        )
    except BaseException:
        if journal:
            journal.close()
        database.close()
        raise
    store = DuckDBStore(state)
    if recovery:
        logger.warning("%s", recovery.sentence())
        data = {"put_back": recovery.put_back, "left": recovery.left, "message": recovery.sentence()}
        with suppress(Unavailable):  # a full disk does not keep the app from starting
            store.append_event(actor="system", kind="journal.compared", subject="database", data=data)
    return store


def _refuse_if_lost(path: Path) -> None:
    """A journal without its database is a campaign that lost a file: beginning an empty one would hide that."""
    if journal_path(path).exists() and not path.exists():
        raise UserError(
            f"{path} is gone, but its journal is there. `nashloop doctor --repair --data {path.parent}` brings it back; "
            "to begin a new campaign, name another --data directory."
        )


class DuckDBStore:
    def __init__(self, state: State) -> None:
        self._state = state
        self._open = True

    # Content

    def add_prompts(self, prompts: Sequence[Prompt]) -> int:
        return content.add_records(self._state, [prompts])

    def add_policy(self, policy: Policy) -> int:
        return content.add_records(self._state, [[policy]])

    def add_responses(self, responses: Sequence[Response]) -> int:
        return content.add_records(self._state, [responses])

    def add_tasks(self, tasks: Sequence[Task]) -> int:
        return content.add_records(self._state, [tasks])

    def close_tasks(self, task_ids: Sequence[str], *, actor: str, reason: str) -> None:
        content.close_tasks(self._state, task_ids, actor=actor, reason=reason)

    def add_annotator(self, annotator: Annotator) -> int:
        return content.add_records(self._state, [[annotator]])

    def add_user(self, user: User) -> int:
        return content.add_records(self._state, [[user]])

    def add_token(self, token: Token) -> int:
        return content.add_records(self._state, [[token]])

    def add_credential(self, credential: Credential) -> int:
        return content.add_records(self._state, [[credential]])

    def add_round(self, round_: Round) -> int:
        return content.add_records(self._state, [[round_]])

    def append_event(
        self, *, actor: str, kind: str, subject: str, data: dict[str, Any] | None = None, once: bool = False
    ) -> Event:
        return content.append_event(self._state, actor=actor, kind=kind, subject=subject, data=data, once=once)

    def forget_user(self, user_id: str, *, actor: str, texts: bool = False) -> None:
        state = self._state

        def operation(transaction: Transaction) -> None:
            redact(transaction.rows, transaction.execute, user_id, texts=texts)
            content.write_events(
                state, transaction, actor=actor, kind="user.forgotten", subjects=[user_id], data={"texts": texts}
            )

        if state.database.path != IN_MEMORY:
            ask_to_rewrite(state.database.path)
        state.writer.run(operation)
        state.judgments = Recent(RECENT_JUDGMENTS)

    def add_imported_judgments(self, judgments: Sequence[Judgment]) -> int:
        return content.add_records(self._state, [], judgments)

    def add_batch(
        self,
        *,
        prompts: Sequence[Prompt] = (),
        responses: Sequence[Response] = (),
        tasks: Sequence[Task] = (),
        annotators: Sequence[Annotator] = (),
        judgments: Sequence[Judgment] = (),
    ) -> int:
        return content.add_records(self._state, [prompts, responses, tasks, annotators], judgments)

    def set_campaign(self, campaign: Campaign, *, actor: str) -> None:
        content.set_campaign(self._state, campaign, actor=actor)

    # Labelling

    def lease(self, annotator_id: str, count: int, *, resume: bool = False) -> list[LeasedPair]:
        if annotator_id in self._state.accounts.excluded:
            return []
        return labelling.lease_pairs(self._state, annotator_id, count, resume=resume)

    def renew(self, lease_ids: Sequence[str], annotator_id: str) -> list[str]:
        return labelling.renew(self._state, lease_ids, annotator_id)

    def submit(self, judgment: JudgmentInput, *, annotator_id: str) -> SubmitResult:
        return labelling.submit(self._state, judgment, annotator_id=annotator_id)

    def withdraw(self, judgment_id: str, *, annotator_id: str) -> LeasedPair | None:
        return corrections.withdraw(self._state, judgment_id, annotator_id=annotator_id)

    def correct(self, judgment: JudgmentInput, *, annotator_id: str) -> SubmitResult:
        return corrections.correct(self._state, judgment, annotator_id=annotator_id)

    def add_live_pair(self, prompt: Prompt, responses: Sequence[Response], task: Task, *, annotator_id: str) -> LeasedPair | None:
        return live.add_live_pair(self._state, prompt, responses, task, annotator_id=annotator_id)

    # Reading

    def training(self, annotator_id: str) -> TrainingStatus | None:
        return labelling.training_of(self._state, annotator_id)

    def budget_spent(self) -> bool:
        return labelling.budget_spent(self._state, self._state.clock())

    def campaign(self) -> Campaign:
        return self._state.campaign

    def list_prompts(self, split: str | None = None) -> list[Prompt]:
        return reading.list_prompts(self._state, split)

    def list_policies(self) -> list[Policy]:
        return reading.list_policies(self._state)

    def get_policy(self, policy_id: str) -> Policy | None:
        return next(iter(reading.list_policies(self._state, policy_id=policy_id)), None)

    def serving_policy(self) -> Policy | None:
        return next(iter(reading.list_policies(self._state, status="serving")), None)

    def list_responses(self, *, policy_id: str | None = None, role: str | None = None) -> list[Response]:
        return reading.list_responses(self._state, policy_id=policy_id, role=role)

    def open_tasks(self) -> list[Task]:
        return reading.open_tasks(self._state)

    def get_judgment(self, judgment_id: str) -> Judgment | None:
        return labelling.find_judgment(self._state, judgment_id)

    def list_judgments(self, *, annotator_id: str | None = None, limit: int | None = None) -> list[Judgment]:
        return reading.list_judgments(self._state, annotator_id=annotator_id, limit=limit)

    def count_judgments(self, *, since_seq: int = 0, decided_only: bool = False) -> int:
        return reading.count_judgments(self._state, since_seq=since_seq, decided_only=decided_only)

    def list_annotators(self) -> list[Annotator]:
        return list(self._state.accounts.annotators.values())

    def get_annotator(self, handle: str) -> Annotator | None:
        return self._state.accounts.annotator_by_handle(handle)

    def list_users(self) -> list[User]:
        return list(self._state.accounts.users.values())

    def get_user(self, user_id: str) -> User | None:
        return self._state.accounts.users.get(user_id)

    def list_tokens(self) -> list[Token]:
        return list(self._state.accounts.tokens.values())

    def list_credentials(self) -> list[Credential]:
        return list(self._state.accounts.credentials.values())

    def find_token(self, sha256: str) -> Token | None:
        return self._state.accounts.valid_token(sha256, self._state.clock())

    def use_signin_token(self, sha256: str) -> Token | None:
        def operation(transaction: Transaction) -> Token | None:
            token = self.find_token(sha256)
            if token is None or token.kind != "signin":
                return None
            actor = token.user_id or "system"
            content.write_events(self._state, transaction, actor=actor, kind="token.revoked", subjects=[token.id], data=None)
            return token

        return self._state.writer.run(operation)

    def list_rounds(self) -> list[Round]:
        return reading.list_rounds(self._state)

    def get_round(self, number: int) -> Round | None:
        return next(iter(reading.list_rounds(self._state, number)), None)

    def list_events(self, *, kind_prefix: str = "", since_seq: int = 0, limit: int = 1000) -> list[Event]:
        return reading.list_events(self._state, kind_prefix=kind_prefix, since_seq=since_seq, limit=limit)

    def stats(self) -> dict[str, Any]:
        now = self._state.clock()
        num_leases = sum(lease.expires_at > now for lease in list(self._state.book.leases.values()))
        return reading.stats(self._state, num_leases=num_leases, training_of=self.training)

    def query(self, sql: str, params: dict[str, Any] | None = None) -> pa.Table:
        return reading.query(self._state, sql, params)

    # Care

    def backup(self, path: Path) -> None:
        back_up(self._state, Path(path))

    def version(self) -> int:
        return self._state.counters.total()

    def health(self) -> dict[str, Any]:
        """Is the writer taking work, how much waits, which schema, which file."""
        state = self._state
        return {
            "writer": self._open and state.writer.alive(),
            "queue": state.writer.waiting(),
            "commits": state.writer.commits,
            "schema": state.database.schema_version,
            "path": str(state.database.path),
        }

    def close(self) -> None:
        if self._open:
            self._open = False
            self._state.writer.close()  # and with it the journal
            self._state.database.close()


def _load_campaign(connection: duckdb.DuckDBPyConnection) -> Campaign:
    last = "SELECT data FROM events WHERE kind = 'campaign.changed' ORDER BY seq DESC LIMIT 1"
    rows = fetch_rows(connection, last)
    return build_campaign(json.loads(rows[0]["data"])) if rows else Campaign()


def _load_counters(connection: duckdb.DuckDBPyConnection) -> Counters:
    tables = [table for table, schema in SCHEMAS.items() if "seq" in schema.names]
    sql = " UNION ALL ".join(f"SELECT '{table}' AS name, coalesce(max(seq), 0) AS last FROM {table}" for table in tables)
    return Counters({row["name"]: row["last"] for row in fetch_rows(connection, sql)})
