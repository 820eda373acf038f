"""Which policy serves: promotion, rollback, and the labelling queue that follows from it."""

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from annotate_app.candidates import read_report
from annotate_app.job_setup import options_of
from annotate_app.labelling_queue import QueueOptions, make_tasks
from storage.errors import UserError
from storage.records import Event, Policy, Round
from storage.store import Store


class PolicyService:
    """Promotes policies and keeps the queue filled from the one that serves. ``lock`` is shared with whoever runs jobs."""

    def __init__(
        self, store: Store, data_dir: Path, queue: QueueOptions, clock: Callable[[], datetime], lock: threading.RLock
    ) -> None:
        self._store, self._data_dir, self._queue, self._clock, self._lock = store, data_dir, queue, clock, lock
        self.admit: Callable[[Policy], None] = lambda policy: None  # asked before a policy serves; UserError refuses it

    def get(self, policy_id: str | None) -> Policy:
        """The named policy, or the serving one; UserError if there is none."""
        policy = self._store.get_policy(policy_id) if policy_id else self._store.serving_policy()
        if policy is None:
            known = ", ".join(f"{p.number} ({p.id})" for p in self._store.list_policies()) or "none yet"
            raise UserError(f"There is no policy {policy_id or 'in service'}. Policies here: {known}.")
        return policy

    def promote(self, policy_id: str, *, actor: str, reason: str | None) -> Policy:
        """Let a policy serve; the serving one changes nothing. One whose round left its limits needs a reason."""
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
            self.put_in_service(policy, actor=actor, reason=reason)
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

    def fill_queue(self) -> int:
        """Make the label tasks that the serving policy lacks; returns their number."""
        policy = self.get(None)
        made_by = self._made_by(policy)
        queue = options_of(made_by).queue if made_by else self._queue
        return make_tasks(self._store, self._data_dir, policy, self._promotion(policy), queue, now=self._clock())

    def _made_by(self, policy: Policy) -> Round | None:
        return next((r for r in self._store.list_rounds() if r.id == policy.round_id), None)

    def _promotion(self, policy: Policy) -> Event:
        events = self._store.list_events(kind_prefix="policy.promoted", limit=1_000_000)
        return max((event for event in events if event.subject == policy.id), key=lambda event: event.seq)

    def _check_adapter(self, policy: Policy) -> None:
        if policy.adapter_path and not (self._data_dir / policy.adapter_path).is_dir():
            raise UserError(
                f"The adapter of policy {policy.number} is not at {self._data_dir / policy.adapter_path} any more. "
                "Restore the artifacts directory from a backup, or promote another policy."
            )
