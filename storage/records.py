"""The records of Nashloop (DESIGN 2): what is kept. Append-only; ids are UUIDv7 text made by the application; times are UTC.

What changes over time (a policy's status, a round's state, a revoked token) is an event, never an edited row.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Verdict = Literal["a", "b", "tie", "both_bad", "skip"]
VERDICTS: tuple[Verdict, ...] = ("a", "b", "tie", "both_bad", "skip")
Purpose = Literal["label", "audit", "gold", "repeat", "gate"]
Role = Literal["annotator", "researcher", "admin"]
Scope = Literal["label", "research", "admin"]
PolicyStatus = Literal["candidate", "serving", "retired"]
RoundStatus = Literal["running", "done", "failed", "cancelled", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    id: str
    messages: tuple[Message, ...]
    split: str  # train | heldout | imported | live (came with judgments, or written while labelling: never sampled again)
    source: str
    tags: tuple[str, ...] = ()
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    id: str
    number: int
    base_model: str  # directory or hub id
    base_revision: str | None
    adapter_path: str | None  # None: the bare base model
    adapter_sha256: str | None
    parent_id: str | None
    round_id: str | None
    auxiliary: dict[str, float] = field(default_factory=dict)  # policy id -> coefficient of the optimistic anchor
    status: PolicyStatus = "candidate"  # derived from events when read
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    id: str
    prompt_id: str
    policy_id: str
    text: str
    token_ids: tuple[int, ...] | None
    sum_logp: float | None
    finish_reason: str  # stop | length | imported
    sampler: dict[str, Any]
    seed: int | None
    role: str  # candidate | gate | live
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    id: str
    prompt_id: str
    response_1_id: str
    response_2_id: str
    more_response_ids: tuple[str, ...] = ()  # of a task that ranks more than two
    purpose: Purpose = "label"
    priority: float = 0.0  # larger first
    wanted: int = 1  # judgments by different annotators; 0: only by the one who holds its lease, a live pair's author
    selection_rule: str
    selection_score: float | None
    selection_prob: float
    created_at: datetime

    @property
    def shown_ids(self) -> tuple[str, ...]:
        return self.response_1_id, self.response_2_id, *self.more_response_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedPair:
    """A pair handed to one annotator until ``expires_at``; a and b are the order shown, ``more`` comes after them."""

    lease_id: str
    task_id: str
    annotator_id: str
    prompt: tuple[Message, ...]
    response_a_id: str
    response_b_id: str
    response_a: str
    response_b: str
    more_response_ids: tuple[str, ...] = ()
    more_responses: tuple[str, ...] = ()
    purpose: Purpose = "label"
    issued_at: datetime
    expires_at: datetime
    supersedes: str | None = None  # id of the withdrawn judgment this lease is meant to replace (undo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A marked part of a response's plain text, characters ``start`` to before ``end``."""

    side: Literal["a", "b"]
    start: int
    end: int
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgmentInput:
    """What an annotator says about a leased pair; everything but lease and verdict is optional."""

    lease_id: str
    verdict: Verdict
    strength: int | None = None  # 0-3
    aspects: dict[str, int] = field(default_factory=dict)  # -3 to 3, above 0 where a is better
    rationale: str | None = None
    reasons: tuple[str, ...] = ()  # reason tags; for a skip, why
    edited_text: str | None = None
    spans: tuple[Span, ...] = ()
    ranking: tuple[tuple[str, ...], ...] | None = None  # letters shown, best first, ties together; None of a pair
    shown_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    id: str  # = lease id
    seq: int  # assigned by the writer, gapless order of commits
    task_id: str
    annotator_id: str
    prompt_id: str
    response_a_id: str  # a is the response shown first
    response_b_id: str
    verdict: Verdict
    strength: int | None
    aspects: dict[str, int]
    rationale: str | None
    reasons: tuple[str, ...]
    edited_text: str | None
    shown_at: datetime | None
    submitted_at: datetime
    supersedes: str | None
    spans: tuple[Span, ...] = ()
    more_response_ids: tuple[str, ...] = ()  # in the order shown, after a and b
    ranking: tuple[tuple[str, ...], ...] | None = None  # response ids, best first, ties together; verdict is that of a and b

    @property
    def shown_ids(self) -> tuple[str, ...]:
        return self.response_a_id, self.response_b_id, *self.more_response_ids


SubmitStatus = Literal["stored", "duplicate", "conflict", "expired", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What is told about the answer to a training pair; ``expected`` in the order shown."""

    right: bool
    expected: Verdict
    explanation: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStatus:
    """Training pairs answered and right of the round under way; ``passed`` None: not finished, False: another round begins."""

    done: int
    total: int
    right: int
    passed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitResult:
    """stored: new. duplicate: the same answer again. conflict: another answer for a used lease. expired: lapsed and reissued."""

    status: SubmitStatus
    judgment: Judgment | None = None
    feedback: Feedback | None = None  # of a training pair
    training: TrainingStatus | None = None  # of a training pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotator:
    id: str
    handle: str
    kind: Literal["human", "simulated", "imported"]
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    id: str
    name: str
    role: Role
    annotator_id: str | None  # whose judgments this user makes; researchers may label too
    disabled: bool = False  # derived from events
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A bearer token, one-time sign-in link or browser session; only the SHA-256 of its secret is kept."""

    id: str
    sha256: str
    kind: Literal["bearer", "signin", "session"]
    name: str
    scope: Scope
    user_id: str | None
    annotator_id: str | None
    revoked: bool = False  # derived from events (a used sign-in link is revoked, a session at sign-out)
    expires_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a user proves themselves with; the last one of a user and kind counts."""

    id: str
    user_id: str
    kind: Literal["password", "oidc"]
    secret: str  # password: its argon2id hash; oidc: issuer and subject
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A learner job of any kind; only kind ``round`` makes a policy."""

    id: str
    number: int  # of the job: names its directories
    kind: str  # round | fit | generate | evaluate
    parent_policy_id: str
    new_policy_id: str | None
    job_dir: str
    settings: dict[str, Any]
    status: RoundStatus = "running"  # derived from events
    message: str | None = None  # why it failed, or what the gate decided
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    id: str
    seq: int
    at: datetime
    actor: str  # user id, token name, or "system"
    kind: str  # e.g. policy.promoted, round.failed, judgment.withdrawn, token.revoked
    subject: str  # id of what it is about
    data: dict[str, Any]
