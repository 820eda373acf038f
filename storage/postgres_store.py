"""The Store in PostgreSQL, for any number of app replicas. Methods only delegate; reading happens in the reading copy."""

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage import postgres_content as content
from storage import postgres_corrections as corrections
from storage import postgres_labelling as labelling
from storage import postgres_live as live
from storage import reading
from storage.backup import back_up
from storage.campaign import Campaign, campaign_values
from storage.forgetting import redact
from storage.postgres_connection import Server, Transaction
from storage.postgres_follower import Follower
from storage.postgres_lock import SharedLock
from storage.postgres_mirror import Mirror
from storage.postgres_schema import prepare
from storage.postgres_state import PostgresState, training_of
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
from storage.state import utcnow
from storage.store import LEASE_SECONDS


def open_postgres(
    url: str,
    *,
    folder: Path | None = None,
    clock: Callable[[], datetime] = utcnow,
    rng: random.Random | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> "PostgresStore":
    """Open the database at ``url``, with its tables made or brought up to date. UserError where it cannot be used.

    ``folder``: where the reading copy is put, by default the system's folder for temporary files.
    """
    with ExitStack() as opened:
        server = Server(url)
        opened.callback(server.close)
        schema = prepare(server)
        # Both read while transactions of the others wait for them: connections of their own, or all could wait for one.
        followed, mirrored = (Server(url, max_connections=1) for _ in range(2))
        opened.callback(followed.close)
        opened.callback(mirrored.close)
        mirror = Mirror(mirrored, folder)
        opened.callback(mirror.close)
        state = PostgresState(
            server=server,
            follower=Follower(followed),
            database=mirror,
            clock=clock,
            rng=rng or random.Random(),
            lease_seconds=lease_seconds,
        )
        return PostgresStore(state, schema, opened.pop_all())


class PostgresStore:
    def __init__(self, state: PostgresState, schema_version: int, opened: ExitStack) -> None:
        self._state, self._schema_version, self._opened = state, schema_version, opened

    # Content

    def add_prompts(self, prompts: Sequence[Prompt]) -> int:
        return self._add([prompts])

    def add_policy(self, policy: Policy) -> int:
        return self._add([[policy]])

    def add_responses(self, responses: Sequence[Response]) -> int:
        return self._add([responses])

    def add_tasks(self, tasks: Sequence[Task]) -> int:
        return self._add([tasks])

    def add_annotator(self, annotator: Annotator) -> int:
        return self._add([[annotator]])

    def add_user(self, user: User) -> int:
        return self._add([[user]])

    def add_token(self, token: Token) -> int:
        return self._add([[token]])

    def add_credential(self, credential: Credential) -> int:
        return self._add([[credential]])

    def add_round(self, round_: Round) -> int:
        return self._add([[round_]])

    def forget_user(self, user_id: str, *, actor: str, texts: bool = False) -> None:
        now = self._state.clock()

        def operation(transaction: Transaction) -> None:
            transaction.hold(["events"])
            redact(transaction.rows, transaction.execute, user_id, texts=texts)
            content.write_events(transaction, now, actor=actor, kind="user.forgotten", subjects=[user_id], data={"texts": texts})

        self._state.server.run(operation)

    def add_imported_judgments(self, judgments: Sequence[Judgment]) -> int:
        return self._add([], judgments)

    def add_batch(
        self,
        *,
        prompts: Sequence[Prompt] = (),
        responses: Sequence[Response] = (),
        tasks: Sequence[Task] = (),
        annotators: Sequence[Annotator] = (),
        judgments: Sequence[Judgment] = (),
    ) -> int:
        return self._add([prompts, responses, tasks, annotators], judgments)

    def _add(self, groups: Sequence[Sequence[Any]], judgments: Sequence[Judgment] = ()) -> int:
        return self._state.server.run(lambda transaction: content.add_records(transaction, groups, judgments))

    def close_tasks(self, task_ids: Sequence[str], *, actor: str, reason: str) -> None:
        now = self._state.clock()
        self._state.server.run(lambda transaction: content.close_tasks(transaction, now, task_ids, actor=actor, reason=reason))

    def append_event(
        self, *, actor: str, kind: str, subject: str, data: dict[str, Any] | None = None, once: bool = False
    ) -> Event:
        now = self._state.clock()
        return self._state.server.run(
            lambda transaction: content.append_event(
                transaction, now, actor=actor, kind=kind, subject=subject, data=data, once=once
            )
        )

    def set_campaign(self, campaign: Campaign, *, actor: str) -> None:
        if campaign != self.campaign():
            self.append_event(actor=actor, kind="campaign.changed", subject="campaign", data=campaign_values(campaign))

    # Labelling

    def lease(self, annotator_id: str, count: int, *, resume: bool = False) -> list[LeasedPair]:
        return labelling.lease_pairs(self._state, annotator_id, count, resume=resume)

    def renew(self, lease_ids: Sequence[str], annotator_id: str) -> list[str]:
        return labelling.renew(self._state, lease_ids, annotator_id)

    def submit(self, judgment: JudgmentInput, *, annotator_id: str) -> SubmitResult:
        return labelling.submit(self._state, judgment, annotator_id=annotator_id)

    def add_live_pair(self, prompt: Prompt, responses: Sequence[Response], task: Task, *, annotator_id: str) -> LeasedPair | None:
        return live.add_live_pair(self._state, prompt, responses, task, annotator_id=annotator_id)

    def withdraw(self, judgment_id: str, *, annotator_id: str) -> LeasedPair | None:
        return corrections.withdraw(self._state, judgment_id, annotator_id=annotator_id)

    def correct(self, judgment: JudgmentInput, *, annotator_id: str) -> SubmitResult:
        return corrections.correct(self._state, judgment, annotator_id=annotator_id)

    # Reading

    def training(self, annotator_id: str) -> TrainingStatus | None:
        known = self._state.follower.known()
        return self._state.server.run(lambda transaction: training_of(transaction, known, annotator_id))

    def budget_spent(self) -> bool:
        known, now = self._state.follower.known(), self._state.clock()
        return self._state.server.run(lambda transaction: labelling.budget_spent(transaction, known, now))

    def campaign(self) -> Campaign:
        return self._state.follower.known().campaign

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
        return self._state.server.run(lambda transaction: labelling.find_judgment(transaction, judgment_id))

    def list_judgments(self, *, annotator_id: str | None = None, limit: int | None = None) -> list[Judgment]:
        return reading.list_judgments(self._state, annotator_id=annotator_id, limit=limit)

    def count_judgments(self, *, since_seq: int = 0, decided_only: bool = False) -> int:
        return reading.count_judgments(self._state, since_seq=since_seq, decided_only=decided_only)

    def list_annotators(self) -> list[Annotator]:
        return list(self._state.follower.known().accounts.annotators.values())

    def get_annotator(self, handle: str) -> Annotator | None:
        return self._state.follower.known().accounts.annotator_by_handle(handle)

    def list_users(self) -> list[User]:
        return list(self._state.follower.known().accounts.users.values())

    def get_user(self, user_id: str) -> User | None:
        return self._state.follower.known().accounts.users.get(user_id)

    def list_tokens(self) -> list[Token]:
        return list(self._state.follower.known().accounts.tokens.values())

    def list_credentials(self) -> list[Credential]:
        return list(self._state.follower.known().accounts.credentials.values())

    def find_token(self, sha256: str) -> Token | None:
        return self._state.follower.known().accounts.valid_token(sha256, self._state.clock())

    def use_signin_token(self, sha256: str) -> Token | None:
        def operation(transaction: Transaction) -> Token | None:
            transaction.hold(["events"])  # of two who redeem a link at once, one sees that it is used
            token = self.find_token(sha256)
            if token is None or token.kind != "signin":
                return None
            now, actor = self._state.clock(), token.user_id or "system"
            content.write_events(transaction, now, actor=actor, kind="token.revoked", subjects=[token.id], data=None)
            return token

        return self._state.server.run(operation)

    def list_rounds(self) -> list[Round]:
        return reading.list_rounds(self._state)

    def get_round(self, number: int) -> Round | None:
        return next(iter(reading.list_rounds(self._state, number)), None)

    def list_events(self, *, kind_prefix: str = "", since_seq: int = 0, limit: int = 1000) -> list[Event]:
        return reading.list_events(self._state, kind_prefix=kind_prefix, since_seq=since_seq, limit=limit)

    def stats(self) -> dict[str, Any]:
        return reading.stats(self._state, num_leases=self._num_leases(), training_of=self.training)

    def query(self, sql: str, params: dict[str, Any] | None = None) -> pa.Table:
        return reading.query(self._state, sql, params)

    def _num_leases(self) -> int:
        held = "SELECT count(*) AS n FROM slots WHERE free_at > $now AND free_at < 'infinity'"
        return self._state.server.rows(held, {"now": self._state.clock()})[0]["n"]

    # Care

    def backup(self, path: Path) -> None:
        """The copy is a DuckDB database, which opens like any other."""
        back_up(self._state, Path(path))

    def version(self) -> int:
        return int(self._state.server.rows("SELECT sum(last) AS n FROM counters")[0]["n"])

    def health(self) -> dict[str, Any]:
        """Does the server answer, how many operations wait for a connection, which schema, which database."""
        server = self._state.server
        return {"writer": server.alive(), "queue": server.waiting(), "schema": self._schema_version, "path": server.name}

    def shared_value(self, name: str, new: str) -> str:
        """A value that all replicas share: the first one given for this name."""
        values = {"name": name, "value": new}
        self._state.server.rows("INSERT INTO shared_values VALUES ($name, $value) ON CONFLICT DO NOTHING RETURNING name", values)
        return self._state.server.rows("SELECT value FROM shared_values WHERE name = $name", values)[0]["value"]

    def lock(self, name: str) -> SharedLock:
        """A lock that one thread of all replicas holds at a time."""
        return SharedLock(self._state.server, name)

    def close(self) -> None:
        self._opened.close()
