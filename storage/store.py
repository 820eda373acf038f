"""The Store: everything the app may ask of what is kept. One interface, one implementation per engine.

Every writing method returns after COMMIT: what it acknowledges survives kill -9. All methods may be called from any thread.
Event kinds with a meaning here: ``policy.promoted`` (that policy serves, the one before is retired), ``policy.retired``,
``round.done|failed|cancelled|interrupted|resumed`` (data.message), ``judgment.withdrawn``, ``task.closed`` (no more leases),
``user.disabled``, ``user.forgotten``, ``token.revoked``, ``campaign.changed`` (data: the whole record, campaign.py),
``task.answer`` (what is known of a training pair: verdict, explanation), ``annotator.excluded|included`` (data.reason:
their judgments do not count and they are handed no pairs; what was said last counts).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from storage.campaign import Campaign
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


class Store(Protocol):
    # Content. Adding a record whose id exists is a no-op (idempotent); each call is one transaction. Returns rows added.
    def add_prompts(self, prompts: Sequence[Prompt]) -> int: ...
    def add_policy(self, policy: Policy) -> int: ...
    def add_responses(self, responses: Sequence[Response]) -> int: ...
    def add_tasks(self, tasks: Sequence[Task]) -> int: ...
    def close_tasks(self, task_ids: Sequence[str], *, actor: str, reason: str) -> None: ...
    def add_annotator(self, annotator: Annotator) -> int: ...
    def add_user(self, user: User) -> int: ...
    def add_token(self, token: Token) -> int: ...
    def add_credential(self, credential: Credential) -> int: ...
    def add_round(self, round_: Round) -> int: ...
    def append_event(
        self, *, actor: str, kind: str, subject: str, data: dict[str, Any] | None = None, once: bool = False
    ) -> Event:
        """``once``: if the very same event was written before, that one (a retry)."""
        ...

    def forget_user(self, user_id: str, *, actor: str, texts: bool = False) -> None:
        """Overwrite what names a person, shut them out and keep their judgments under a pseudonym (forgetting.py).

        ``texts``: rationales, edits and notes on marked parts too. Again for the same person: nothing new.
        """
        ...

    def add_imported_judgments(self, judgments: Sequence[Judgment]) -> int:
        """Judgments that were made elsewhere (no lease); seq is reassigned by the writer. Their tasks, responses and
        annotators must have been added before."""
        ...

    def add_batch(
        self,
        *,
        prompts: Sequence[Prompt] = (),
        responses: Sequence[Response] = (),
        tasks: Sequence[Task] = (),
        annotators: Sequence[Annotator] = (),
        judgments: Sequence[Judgment] = (),
    ) -> int:
        """All of it in one transaction (imports: everything or nothing)."""
        ...

    def set_campaign(self, campaign: Campaign, *, actor: str) -> None: ...  # what annotators are asked from now on

    # Labelling.
    def lease(self, annotator_id: str, count: int, *, resume: bool = False) -> list[LeasedPair]:
        """Up to ``count`` pairs for this annotator, highest priority first, sides randomised and recorded.

        Never a task this annotator already judged, skipped or holds, never more annotators than ``wanted`` at a time.
        ``resume``: first the pairs this annotator holds open (after a page reload) unless their task was closed,
        then new ones. [] when nothing is left.
        """
        ...

    def renew(self, lease_ids: Sequence[str], annotator_id: str) -> list[str]:
        """Extend leases of this annotator by the lease time, expired ones too if nobody else got their place; the ids held."""
        ...

    def submit(self, judgment: JudgmentInput, *, annotator_id: str) -> SubmitResult:
        """Store the answer to a lease. An expired lease counts as long as its place was not given to somebody else."""
        ...

    def withdraw(self, judgment_id: str, *, annotator_id: str) -> LeasedPair | None:
        """Undo: take back one's own judgment and get its pair again, same sides, ``supersedes`` set.

        Asked again while that pair is unanswered: the same lease (a retry). None if the judgment is unknown, not theirs,
        imported, withdrawn and answered anew, a training pair's, or a skip whose place somebody else has taken meanwhile.
        """
        ...

    def correct(self, judgment: JudgmentInput, *, annotator_id: str) -> SubmitResult:
        """Replace one's own judgment, named by ``lease_id``, in one transaction: stored, duplicate (the same correction
        again) or unknown (where ``withdraw`` would give None, and where it was replaced by something else)."""
        ...

    def add_live_pair(self, prompt: Prompt, responses: Sequence[Response], task: Task, *, annotator_id: str) -> LeasedPair | None:
        """What an annotator asked and the policy answered, and the lease of its author, in one transaction.

        ``task.wanted`` is 0: nobody else is given it. A retry gets the same lease; None once it is answered.
        """
        ...

    # Reading.
    def campaign(self) -> Campaign: ...
    def training(self, annotator_id: str) -> TrainingStatus | None: ...  # None: the campaign has no training round
    def budget_spent(self) -> bool: ...  # no new pairs are handed out until the campaign's budget is raised
    def list_prompts(self, split: str | None = None) -> list[Prompt]: ...
    def list_policies(self) -> list[Policy]: ...  # by number, with status
    def get_policy(self, policy_id: str) -> Policy | None: ...
    def serving_policy(self) -> Policy | None: ...
    def list_responses(self, *, policy_id: str | None = None, role: str | None = None) -> list[Response]: ...
    def open_tasks(self) -> list[Task]: ...  # not closed and still wanting judgments
    def get_judgment(self, judgment_id: str) -> Judgment | None: ...
    def list_judgments(self, *, annotator_id: str | None = None, limit: int | None = None) -> list[Judgment]:
        """Standing judgments (not withdrawn, not superseded), newest first."""
        ...

    def count_judgments(self, *, since_seq: int = 0, decided_only: bool = False) -> int: ...  # standing judgments
    def list_annotators(self) -> list[Annotator]: ...
    def get_annotator(self, handle: str) -> Annotator | None: ...
    def list_users(self) -> list[User]: ...
    def get_user(self, user_id: str) -> User | None: ...
    def list_tokens(self) -> list[Token]: ...
    def list_credentials(self) -> list[Credential]: ...  # oldest first
    def find_token(self, sha256: str) -> Token | None: ...  # not revoked, not expired
    def use_signin_token(self, sha256: str) -> Token | None:
        """Redeem a one-time sign-in token: returns it and revokes it in one transaction; None if used, expired or unknown."""
        ...

    def list_rounds(self) -> list[Round]: ...  # newest first, with status
    def get_round(self, number: int) -> Round | None: ...
    def list_events(self, *, kind_prefix: str = "", since_seq: int = 0, limit: int = 1000) -> list[Event]: ...
    def stats(self) -> dict[str, Any]:
        """Numbers for the console: prompts, responses, tasks_open, leases_open, judgments, verdicts {..}, annotators_active_1h,
        judgments_per_hour [[hour ISO, n], ...], median_seconds_per_judgment, first_shown_wins (share), by_annotator [...]."""
        ...

    def query(self, sql: str, params: dict[str, Any] | None = None) -> pa.Table:
        """Read-only SQL over tables and the views of the schema (``standing_judgments`` joins what exports need)."""
        ...

    def backup(self, path: Path) -> None: ...
    def version(self) -> int: ...  # grows with every record written; costs nothing to ask
    def health(self) -> dict[str, Any]: ...  # {"writer": bool, "queue": n, "schema": version, "path": .., "commits": Latencies}
    def close(self) -> None: ...


LEASE_SECONDS = 30 * 60
