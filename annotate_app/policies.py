"""Which policy serves: promotion, rollback, and the labelling queue that follows from it; by hand, or as people's votes say."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Literal

from annotate_app.adapter_check import check_adapter
from annotate_app.candidates import read_report
from annotate_app.gate import HumanGate
from annotate_app.human_gate import Comparison, Comparisons
from annotate_app.job_setup import options_of
from annotate_app.labelling_queue import QueueOptions, make_tasks, renew_front
from annotate_app.selection_front import is_short
from storage.errors import UserError
from storage.records import Event, Policy, Round
from storage.store import Store

logger = logging.getLogger(__name__)


class PolicyService:
    """Promotes policies and keeps the queue filled from the one that serves. ``lock`` is shared with whoever runs jobs."""

    def __init__(
        self,
        store: Store,
        data_dir: Path,
        queue: QueueOptions,
        clock: Callable[[], datetime],
        lock: AbstractContextManager[object],
    ) -> None:
        self._store, self._data_dir, self._queue, self._clock, self._lock = store, data_dir, queue, clock, lock
        self.comparisons = Comparisons(store, clock)
        self.admit: Callable[[Policy], None] = lambda policy: None  # asked before a policy serves; UserError refuses it

    def get(self, policy_id: str | None) -> Policy:
        """The named policy, or the serving one; UserError if there is none."""
        policy = self._store.get_policy(policy_id) if policy_id else self._store.serving_policy()
        if policy is None:
            known = ", ".join(f"{p.number} ({p.id})" for p in self._store.list_policies()) or "none yet"
            raise UserError(f"There is no policy {policy_id or 'in service'}. Policies here: {known}.")
        return policy

    def promote(self, policy_id: str, *, actor: str, reason: str | None) -> Policy:
        """Let a policy serve; the serving one changes nothing. Against its round's limits or people's votes it needs a reason."""
        with self._lock:
            policy = self.get(policy_id)
            if policy.status == "serving":
                return policy
            made_by = self._made_by(policy)
            report = read_report(self._data_dir, made_by) if made_by else None
            if report and report.get("status") == "failed" and not reason:
                raise UserError(
                    f"Policy {policy.number} left a limit of its round: {' '.join(report.get('reasons', []))} "
                    "To promote it all the same, give a reason."
                )
            self._check_adapter(policy)
            overruled = self._votes_against(policy)
            if overruled and not reason:
                raise UserError(f"Policy {policy.number}: {overruled} To promote it all the same, give a reason.")
            self.put_in_service(policy, actor=actor, reason=reason)
            if overruled:
                data = {"reason": reason, "sentence": overruled}
                self._store.append_event(actor=actor, kind="gate.overruled", subject=policy.id, data=data)
            return self.get(policy_id)

    def rollback(self, *, actor: str, reason: str | None) -> Policy:
        """Let the parent of the serving policy serve again."""
        with self._lock:
            serving = self.get(None)
            if serving.parent_id is None:
                raise UserError("The base model is serving; there is no earlier policy to roll back to.")
            return self.promote(serving.parent_id, actor=actor, reason=reason or f"rolled back from {serving.number}")

    def put_in_service(self, policy: Policy, *, actor: str, reason: str | None) -> None:
        """Record the promotion unless it is recorded, and fill the queue; may be repeated after a crash in between."""
        serving = self._store.serving_policy()
        if serving is None or serving.id != policy.id:
            self.admit(policy)
            self._store.append_event(actor=actor, kind="policy.promoted", subject=policy.id, data={"reason": reason})
        self.fill_queue()

    def compare(self, candidate: Policy) -> None:
        """Have people compare a new policy with the serving one, where the campaign wants that."""
        serving = self._store.serving_policy()
        if self._store.campaign().gate_share > 0 and serving is not None and serving.id != candidate.id:
            self.comparisons.open(candidate, serving)

    def compare_by_hand(self, policy_id: str) -> None:
        """The same for any policy; UserError where people cannot compare it."""
        policy, serving = self.get(policy_id), self.get(None)
        if policy.id == serving.id:
            raise UserError(f"Policy {policy.number} serves. Name one to compare with it.")
        if self._store.campaign().gate_share == 0:
            raise UserError("The campaign's gate_share is 0, so people are not asked. Set it first, such as to 0.2.")
        if not self.comparisons.can_compare(policy, serving):
            raise UserError(
                f"Policies {policy.number} and {serving.number} have not answered the same held-out prompts. A round makes such "
                "responses for its policy and its parent."
            )
        known = self.comparisons.of(policy)
        if known is not None and (known.decided is not None or known.opponent.id != serving.id):
            outcome = known.decided.data["sentence"] if known.decided else "They still vote."
            raise UserError(f"Policy {policy.number} was given to compare with policy {known.opponent.number} before. {outcome}")
        self.comparisons.open(policy, serving)

    def follow_votes(self) -> None:
        """Carry out what people's votes decide: promote, reject, roll back; then put the next pairs into the queue."""
        with self._lock:
            for comparison in self.comparisons.all():
                if comparison.decided is None:
                    try:
                        self._follow(comparison, self.comparisons.standing(comparison))
                    except UserError as error:  # such as an adapter that is gone
                        logger.warning("votes on policy %s cannot be followed: %s", comparison.candidate.number, error)
            self.comparisons.fill()

    def _follow(self, comparison: Comparison, gate: HumanGate) -> None:
        candidate, opponent, serving = comparison.candidate, comparison.opponent, self.get(None)
        mode = self.gate_mode(self._made_by(candidate))
        if candidate.status == "retired" or serving.id not in (candidate.id, opponent.id):
            self._end(comparison, "stopped", gate, f"Policy {serving.number} was put in service meanwhile. {gate.sentence}")
        elif serving.id == candidate.id and gate.high < 0.5 and mode != "manual":
            reason = f"Rolled back from {candidate.number}. {gate.sentence}"
            self._check_adapter(opponent)
            self.put_in_service(opponent, actor="system", reason=reason)
            self._end(comparison, "rollback", gate, reason)
        elif serving.id == opponent.id and gate.action == "promote" and mode == "human":
            self._check_adapter(candidate)
            self.put_in_service(candidate, actor="system", reason=gate.sentence)
            self._tell(candidate, f"Promoted. {gate.sentence}")  # votes go on: they may yet turn
        elif gate.action == "reject":
            if mode == "human" and serving.id == opponent.id:
                self._store.append_event(actor="system", kind="policy.retired", subject=candidate.id)
            self._end(comparison, "reject", gate, gate.sentence)
        elif self.comparisons.is_spent(comparison):
            self._end(comparison, "stopped", gate, f"All pairs are judged. {gate.sentence}")

    def _end(self, comparison: Comparison, action: str, gate: HumanGate, sentence: str) -> None:
        self.comparisons.decide(comparison, action, gate, sentence)
        self._tell(comparison.candidate, sentence)

    def _tell(self, policy: Policy, sentence: str) -> None:
        """The remark of the round that made a policy says how people voted."""
        if policy.round_id is not None:
            message = f"Policy {policy.number}. {sentence}"
            self._store.append_event(actor="system", kind="round.done", subject=policy.round_id, data={"message": message})

    def _votes_against(self, policy: Policy) -> str | None:
        """Why promoting it now overrules people; None if it does not."""
        comparison = self.comparisons.of(policy)
        if comparison is None:
            return None
        if comparison.decided is not None:
            action = comparison.decided.data["action"]
            return comparison.decided.data["sentence"] if action in ("reject", "rollback") else None
        gate = self.comparisons.standing(comparison)
        return gate.sentence if self.gate_mode(self._made_by(policy)) == "human" and gate.action != "promote" else None

    def gate_mode(self, round_: Round | None) -> Literal["model", "human", "manual"]:
        """Whose word lets the policy of a round serve."""
        if round_ is not None and options_of(round_).promote == "manual":
            return "manual"
        return self._store.campaign().gate

    def fill_queue(self, *, renew: bool = False) -> int:
        """Make the tasks that the serving policy lacks, and the next pairs of comparisons; returns the number of the former.

        Chooses what to ask next where too little is chosen; ``renew``: in any case, for a new preference model.
        """
        policy = self.get(None)
        with_what = (self._store, self._data_dir, policy, self._promotion(policy), self.queue_options())
        made = make_tasks(*with_what, now=self._clock())
        if renew or is_short(self._store):
            renew_front(*with_what, now=self._clock())
        self.comparisons.fill()
        return made

    def queue_options(self) -> QueueOptions:
        """How the serving policy's candidates become tasks."""
        made_by = self._made_by(self.get(None))
        return options_of(made_by).queue if made_by else self._queue

    def top_up_front(self) -> None:
        """Choose what to ask next where little of what was chosen is left."""
        with self._lock:
            policy = self._store.serving_policy()
            if policy is not None and is_short(self._store):
                promotion = self._promotion(policy)
                renew_front(self._store, self._data_dir, policy, promotion, self.queue_options(), now=self._clock())

    def _made_by(self, policy: Policy) -> Round | None:
        return next((r for r in self._store.list_rounds() if r.id == policy.round_id), None)

    def _promotion(self, policy: Policy) -> Event:
        events = self._store.list_events(kind_prefix="policy.promoted", limit=1_000_000)
        return max((event for event in events if event.subject == policy.id), key=lambda event: event.seq)

    def _check_adapter(self, policy: Policy) -> None:
        if policy.adapter_path:
            check_adapter(self._data_dir, number=policy.number, path=policy.adapter_path, sha256_kept=policy.adapter_sha256)
