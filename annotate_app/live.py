"""Live prompts: the policy server kept in step with the policy in service, and the pairs that people ask it for.

A policy serves live prompts only after its canary: the server's log-probabilities of responses that the learner sampled must be
those that the learner wrote down. Every version has a name of its own, so nobody is ever answered by another than they asked.
"""

import logging
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from annotate_app.adapter_check import check_adapter
from annotate_app.policy_server import BASE_NAME, Messages, Piece, PolicyServer, PolicyServerDown, Refused
from storage.contract.settings import GenerationSettings, build_settings
from storage.errors import UserError
from storage.records import LeasedPair, Message, Policy, Prompt, Response, Task
from storage.store import Store

logger = logging.getLogger(__name__)

NAMESPACE = uuid.UUID("6c697665-6e61-5368-8c6f-6f706c697665")
CANARY_RESPONSES = 4
TOLERANCE = 0.01  # nats a token, mean over the canary's tokens: float32 differs by 1e-6, bfloat16 by some 1e-3
LOOK_S = 2.0
STARTING = "the policy server is starting"


class ServerSource(Protocol):
    """Where the server comes from."""

    def ensure(self) -> PolicyServer: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class Answer:
    """One response as it comes."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logp: float = 0.0
    finish_reason: str | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.token_ids += piece.token_ids
        self.logp += piece.logp
        self.finish_reason = piece.finish_reason or self.finish_reason


class LiveService:
    """Answers live prompts with the policy in service. Safe to call from any thread."""

    def __init__(self, store: Store, data_dir: Path, source: ServerSource) -> None:
        self._store, self._data_dir, self._source = store, data_dir.resolve(), source
        self.problem: str | None = STARTING  # why nothing can be asked now
        self._current: tuple[Policy, str] | None = None
        self._checked: dict[str, float] = {}  # name -> what its canary differed by, nats a token
        self._in_use: Counter[str] = Counter()
        self._lock = threading.RLock()  # one change of what is loaded at a time
        self._wake = threading.Event()
        self._open = True
        self._thread = threading.Thread(target=self._keep, name="nashloop-live", daemon=True)

    def start(self) -> None:
        """Bring the server up in the background and keep it up."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and end a server of our own."""
        self._open = False
        self._wake.set()
        self._source.close()
        if self._thread.is_alive():
            self._thread.join(10)
            self._source.close()  # it may have been starting one

    def admit(self, policy: Policy) -> None:
        """Before a policy is put in service: load it and run its canary; UserError where the server would answer as another.

        A server that does not answer stops no promotion: live prompts pause until it does, and the canary runs then.
        """
        if self.problem == STARTING:
            return
        try:
            with self._lock:
                self._load_checked(self._source.ensure(), policy)
        except PolicyServerDown as error:
            self.problem = str(error)
        self._wake.set()

    def served(self) -> None:
        """Another policy may serve now: look at once."""
        self._wake.set()

    def require(self) -> tuple[Policy, str]:
        """The policy that answers and its name at the server; PolicyServerDown with the reason where none does."""
        current, problem = self._current, self.problem
        if current is None or problem is not None:
            raise PolicyServerDown(problem or STARTING)
        return current

    def require_policy(self, policy: Policy) -> str:
        """Have any policy answer, for a comparison; its name at the server."""
        self.require()
        with self._lock:
            return self._load_checked(self._source.ensure(), policy)

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """While the block runs, that version stays loaded."""
        self._in_use[name] += 1
        try:
            yield
        finally:
            self._in_use[name] -= 1

    async def stream(
        self, name: str, messages: Messages, *, n: int, seed: int, settings: GenerationSettings
    ) -> AsyncIterator[Piece]:
        """Pieces of ``n`` responses; PolicyServerDown, or UserError where the server refuses the prompt."""
        with self.using(name):
            try:
                async for piece in self._source.ensure().stream(
                    name, messages, n=n, seed=seed, temperature=settings.temperature, top_p=settings.top_p,
                    max_tokens=settings.max_new_tokens,
                ):  # fmt: skip
                    yield piece
            except PolicyServerDown as error:
                self.problem = str(error)
                self._wake.set()
                raise
            except Refused as error:
                raise UserError(f"The policy cannot answer this: {error}") from error

    # Keeping it up

    def _keep(self) -> None:
        while self._open:
            try:
                self._look()
                self.problem = None
            except (PolicyServerDown, Refused, UserError) as error:
                if self.problem != str(error):
                    logger.warning("live prompts pause: %s", error)
                self.problem = str(error)
            except Exception:
                logger.exception("live prompts pause")
                self.problem = "the policy server could not be looked after; the log says why"
            self._wake.wait(LOOK_S)
            self._wake.clear()

    def _look(self) -> None:
        server = self._source.ensure()
        with self._lock:
            serving = self._store.serving_policy()
            if serving is None:
                raise PolicyServerDown("no policy is in service yet")
            name = self._load_checked(server, serving)
            self._current = (serving, name)
            for other, parent in server.models().items():
                if parent is not None and other.startswith("policy-") and other != name and not self._in_use[other]:
                    server.unload(other)

    def _load_checked(self, server: PolicyServer, policy: Policy) -> str:
        """Load a policy under its name unless it is, and run its canary once."""
        models = server.models()
        name = next((model for model, parent in models.items() if parent is None), BASE_NAME)
        if policy.adapter_path is not None:
            name = f"policy-{policy.number}-{(policy.adapter_sha256 or policy.id)[:12]}"
        if name not in models:
            self._checked.pop(name, None)
            path = str(policy.adapter_path)
            check_adapter(self._data_dir, number=policy.number, path=path, sha256_kept=policy.adapter_sha256)
            server.load(name, self._data_dir / path)
        if name not in self._checked:
            server.warm_up(name)
            difference = canary(server, name, self._store, policy)
            if difference is not None and not difference <= TOLERANCE:
                if policy.adapter_path is not None:
                    server.unload(name)
                raise UserError(
                    f"The policy server answers otherwise than policy {policy.number}: its log-probabilities differ by "
                    f"{difference:.3g} nats a token on responses that this policy gave (at most {TOLERANCE} is allowed). "
                    "Restart the policy server; if that does not help, its model or precision is not the learner's."
                )
            if difference is not None:
                self._checked[name] = difference
                self._store.append_event(
                    actor="system", kind="policy.canary", subject=policy.id, data={"name": name, "nats_per_token": difference}
                )
        return name


def canary(server: PolicyServer, name: str, store: Store, policy: Policy) -> float | None:
    """|served minus the learner's log-probability| of a few of the policy's own responses, nats a token; None without any."""
    sampled = """
        SELECT p.messages, r.token_ids, r.sum_logp FROM responses r JOIN prompts p ON p.id = r.prompt_id
        WHERE r.policy_id = $policy AND r.sum_logp IS NOT NULL AND len(r.token_ids) > 0 AND r.role IN ('candidate', 'gate')
        ORDER BY len(r.token_ids) DESC, r.id LIMIT $number
    """
    rows = store.query(sampled, {"policy": policy.id, "number": CANARY_RESPONSES}).to_pylist()
    if not rows:
        return None
    served = [server.response_logp(name, row["messages"], row["token_ids"]) for row in rows]
    differences = [abs(logp - row["sum_logp"]) for logp, row in zip(served, rows, strict=True)]
    return sum(differences) / sum(len(row["token_ids"]) for row in rows)


# Pairs that people ask for


def live_settings(store: Store) -> GenerationSettings:
    """How responses are sampled: as the campaign's rounds sample them."""
    return build_settings({"generation": store.campaign().round.get("generation", {})}).generation


def conversation(store: Store, annotator_id: str, text: str, after: str | None) -> tuple[Message, ...]:
    """What the policy is asked: ``text`` alone, or the conversation of one's own judgment ``after`` with its better response."""
    asked = Message(role="user", content=text)
    if after is None:
        return (asked,)
    judgment = store.get_judgment(after)
    if judgment is None or judgment.annotator_id != annotator_id or judgment.more_response_ids:
        raise UserError("There is no such pair of yours to go on from. Begin a new conversation.")
    better = {"a": judgment.response_a_id, "b": judgment.response_b_id, "tie": judgment.response_a_id}.get(judgment.verdict)
    if better is None:
        raise UserError("Neither response was good enough to go on from. Begin a new conversation.")
    [row] = store.query(
        "SELECT p.messages, r.text FROM responses r JOIN prompts p ON p.id = r.prompt_id WHERE r.id = $id", {"id": better}
    ).to_pylist()
    said = Message(role="assistant", content=judgment.edited_text or row["text"])
    return (*(Message(**message) for message in row["messages"]), said, asked)


def store_live_pair(
    store: Store,
    *,
    annotator_id: str,
    request_id: str,
    messages: tuple[Message, ...],
    policy: Policy,
    answers: list[Answer],
    seed: int,
    settings: GenerationSettings,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> LeasedPair | None:
    """Keep what was asked and answered and lease it to its author; the same request again gives the same pair."""
    now = clock()

    def made_id(what: str) -> str:
        return str(uuid.uuid5(NAMESPACE, f"{annotator_id}/{request_id}/{what}"))

    prompt = Prompt(id=made_id("prompt"), messages=messages, split="live", source="live", created_at=now)
    sampler: dict[str, Any] = {
        "temperature": settings.temperature, "top_p": settings.top_p, "max_new_tokens": settings.max_new_tokens, "n": len(answers)
    }  # fmt: skip
    responses = [
        Response(
            id=made_id(f"response {k}"), prompt_id=prompt.id, policy_id=policy.id, text=answer.text.strip(),
            token_ids=tuple(answer.token_ids), sum_logp=answer.logp, finish_reason=answer.finish_reason or "length",
            sampler=sampler | {"choice": k}, seed=seed, role="live", created_at=now,
        )
        for k, answer in enumerate(answers)
    ]  # fmt: skip
    task = Task(
        id=made_id("task"), prompt_id=prompt.id, response_1_id=responses[0].id, response_2_id=responses[1].id, wanted=0,
        selection_rule="live", selection_score=None, selection_prob=1.0, created_at=now,
    )  # fmt: skip
    return store.add_live_pair(prompt, responses, task, annotator_id=annotator_id)
