"""What the app does by itself while it runs: follow votes on policies, start the rounds that the campaign wants, and fit the
preference model anew after every batch of labels, so that the choice of pairs is never a round behind."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np

from annotate_app.candidates import pair_scores
from annotate_app.context import AppContext
from annotate_app.job_setup import OPTION_NAMES
from annotate_app.launcher import JobRunning
from annotate_app.pair_selection import MIX, information
from annotate_app.selection_mix import MIN_LABELS
from annotate_app.triggers import Facts, NextRound, has_triggers, next_round
from storage.campaign import Campaign
from storage.contract.settings import build_settings
from storage.errors import UserError

logger = logging.getLogger(__name__)

LOOK_S = 3.0
REFIT_SHARE = 0.1  # of the labels so far: a batch grows with them, since each label changes the model less
REFIT_HEADS = 16  # fewer make a poor estimate of what the model does not know (`nashloop bench selection`)


class Attendant:
    """Follows votes and starts rounds that are due, from a thread of its own."""

    def __init__(self, context: AppContext, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store, self._rounds, self._data_dir, self._clock = context.store, context.rounds, context.data_dir, clock
        self._version: int | None = None  # of the store when votes were followed
        self._refused_at: int | None = None  # labels when a round could not be started
        self._not_refitted_at: int | None = None  # labels when a fit could not be started

    def look(self) -> None:
        """Once: follow votes if anything was written, and start a round if one is due."""
        version = self._store.version()
        if version != self._version:
            self._version = version
            self._rounds.follow_votes()
            self._rounds.top_up_front()
        campaign = self._store.campaign()
        if has_triggers(campaign):
            self._start_if_due(campaign)
        if campaign.refit_every_labels is not None and self._rounds.selection() == MIX:
            self._refit_if_due(campaign, campaign.refit_every_labels)

    def next_round(self) -> NextRound:
        """When the next round begins."""
        campaign = self._store.campaign()
        needed = _settings(campaign)["settings"].preference.min_judgments
        return next_round(campaign, self._facts(campaign), needed)

    def _start_if_due(self, campaign: Campaign) -> None:
        facts, given = self._facts(campaign), _settings(campaign)
        due = next_round(campaign, facts, given["settings"].preference.min_judgments)
        if due.reason is None or facts.new_labels == self._refused_at:
            return
        try:
            started = self._rounds.start(**given, actor="system")
        except JobRunning:  # tried again with the next look
            return
        except UserError as error:  # tried again with the next label
            self._refused_at = facts.new_labels
            logger.warning("a round was due (%s) but did not start: %s", due.reason, error)
            return
        self._store.append_event(actor="system", kind="trigger.fired", subject=started.id, data={"reason": due.reason})

    def _refit_if_due(self, campaign: Campaign, every: int) -> None:
        rounds, given = self._store.list_rounds(), _settings(campaign)
        if any(round_.status == "running" for round_ in rounds):
            return
        last = next((r.created_at for r in rounds if r.kind in ("round", "fit")), datetime.fromtimestamp(0, UTC))
        [row] = self._store.query(_LABELS, {"last": last, "with_gate": campaign.gate_trains}).to_pylist()
        enough = max(given["settings"].preference.min_judgments, MIN_LABELS)
        due = row["all_labels"] >= enough and row["new_labels"] >= max(every, REFIT_SHARE * row["all_labels"])
        if not due or row["all_labels"] == self._not_refitted_at:
            return
        preference = given["settings"].preference
        more = preference.model_copy(update={"num_heads": max(preference.num_heads, REFIT_HEADS)})
        settings = given["settings"].model_copy(update={"preference": more})
        try:
            self._rounds.start(settings, actor="system", kind="fit", options=given["options"])
        except UserError as error:  # tried again with the next label
            self._not_refitted_at = row["all_labels"]
            logger.warning("the preference model was not fitted anew: %s", error)

    def _facts(self, campaign: Campaign) -> Facts:
        rounds = self._store.list_rounds()
        last = next((r.created_at for r in rounds if r.kind == "round"), None)
        asked = {"last": last or datetime.fromtimestamp(0, UTC), "with_gate": campaign.gate_trains}
        [row] = self._store.query(_LABELS, asked).to_pylist()
        since = last or row["first_at"]
        voted_on = (one.candidate for one, _, _ in self._rounds.comparisons(only_open=True))
        return Facts(
            new_labels=row["new_labels"],
            all_labels=row["all_labels"],
            since_last=None if since is None else self._clock() - since,
            information=self._information() if campaign.round_below_bits is not None else None,
            running=next((r.kind for r in rounds if r.status == "running"), None),
            undecided=next((policy.number for policy in voted_on if policy.status == "candidate"), None),
        )

    @contextmanager
    def running(self) -> Iterator["Attendant"]:
        """Look every few seconds while the block runs; what goes wrong is told in the log, and the app goes on."""
        stop = threading.Event()
        thread = threading.Thread(target=self._loop, args=(stop,), name="nashloop-attendant", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def _loop(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK_S):
            try:
                self.look()
            except Exception:
                logger.exception("votes were not followed, or a due round was not started")

    def _information(self) -> float | None:
        """Mean over the label pairs that wait, by the newest ensemble; None where no ensemble has scored them."""
        policy = self._store.serving_policy()
        waiting = {(t.response_1_id, t.response_2_id) for t in self._store.open_tasks() if t.purpose == "label"}
        if not waiting:
            return 0.0
        scores = pair_scores(self._store, self._data_dir, policy) if policy else {}
        known = [
            row["ensemble_logits"]
            for (x, y), row in scores.items()
            if row["ensemble_logits"] and ((x, y) in waiting or (y, x) in waiting)
        ]
        return float(information(np.array(known)).mean()) if known else None


def _settings(campaign: Campaign) -> dict[str, Any]:
    """What a started round is given: the campaign's settings and options of a round."""
    values = dict(campaign.round)
    options = {name: values.pop(name) for name in OPTION_NAMES if name in values}
    return {"settings": build_settings(values, where="round"), "options": options}


_LABELS = """
    SELECT count(*) AS all_labels, count(*) FILTER (j.submitted_at > $last) AS new_labels, min(j.submitted_at) AS first_at
    FROM judged_pairs j JOIN tasks ON tasks.id = j.task_id
    WHERE j.verdict IN ('a', 'b') AND ($with_gate OR tasks.purpose <> 'gate')
"""
