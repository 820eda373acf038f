"""The labelling queue: from the candidates of the serving policy to the tasks annotators are given.

Filling may be repeated: a task's id comes from the promotion that caused it, so doing it twice, or again after kill -9, adds
nothing.
"""

import random
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import combinations, count
from pathlib import Path
from typing import Any

from annotate_app.candidates import pair_scores
from annotate_app.pair_selection import MIX, SELECTIONS, Pair
from annotate_app.selection_draws import SelectedPair, SelectedSet, select_pairs, select_sets
from annotate_app.selection_front import BEHIND, FrontOptions, refill_front
from annotate_app.selection_mix import REPEAT, TRIANGLE
from storage.errors import UserError
from storage.records import Event, Policy, Response, Task
from storage.store import Store

TASKS = uuid.UUID("6f0c1c1e-6d0c-5d0a-9d0f-6e6173686c6f")  # namespace of task ids


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """How a policy's candidates become tasks. Without a preference model's scores the rule falls back to random."""

    selection: str = MIX
    overlap: int | None = None  # judgments wanted of each pair, by different annotators; None: as the campaign says
    pairs_per_prompt: int = 6  # all pairs of four responses
    seed: int = 0

    def __post_init__(self) -> None:
        if self.selection not in SELECTIONS:
            raise UserError(f"Unknown pair-selection rule {self.selection!r}. Choose one of: {', '.join(SELECTIONS)}.")
        if (self.overlap is not None and self.overlap < 1) or self.pairs_per_prompt < 1:
            raise UserError(
                f"overlap {self.overlap} and pairs_per_prompt {self.pairs_per_prompt} must be 1 or more. Correct them."
            )


def make_tasks(store: Store, data_dir: Path, policy: Policy, promotion: Event, options: QueueOptions, *, now: datetime) -> int:
    """Fill the labelling queue of the serving policy and close the label tasks of any other; returns the tasks added.

    A prompt's pairs that are queued or judged count towards ``pairs_per_prompt``, so calling it again adds what is missing.
    Where the campaign ranks more than two responses, each prompt gets one ranking, and open tasks of the other kind are closed.
    Responses with the same text are not compared: nobody can prefer one.
    """
    campaign = store.campaign()
    pairs, ranked = _all_pairs(store, data_dir, policy)
    candidates = {response.id for response in store.list_responses(policy_id=policy.id, role="candidate")}
    queued = _close_others(store, policy, candidates, ranked)
    judged = [judgment for judgment in store.list_judgments() if judgment.verdict != "skip"]
    shown = [task.shown_ids for task in queued] + [judgment.shown_ids for judgment in judged]
    asked = {frozenset(two) for ids in shown for two in combinations(ids, 2)}
    done = {task.prompt_id for task in queued if task.more_response_ids}
    done |= {judgment.prompt_id for judgment in judged if judgment.more_response_ids}
    make = _TaskMaker(promotion, options.overlap or campaign.overlap, now, _closed(store))
    rng = random.Random(f"{options.seed} {policy.number} {sum(_ids(pair) in asked for pair in pairs)}")
    tasks = _pair_tasks([pair for pair in pairs if pair.prompt_id not in ranked], asked, options, rng, make)
    rankings = [pair for pair in pairs if pair.prompt_id in ranked - done]
    tasks += _ranking_tasks(rankings, options, rng, make, size=campaign.responses_per_prompt)
    return store.add_tasks(tasks)


def renew_front(store: Store, data_dir: Path, policy: Policy, promotion: Event, options: QueueOptions, *, now: datetime) -> int:
    """Choose the next pairs anew by what the newest preference model knows, where the queue is the mix; returns tasks made."""
    if options.selection != MIX:
        return 0
    pairs, ranked = _all_pairs(store, data_dir, policy)
    front = FrontOptions(
        promotion_id=promotion.id,
        policy_number=policy.number,
        wanted=options.overlap or store.campaign().overlap,
        pairs_per_prompt=options.pairs_per_prompt,
        seed=options.seed,
    )
    return refill_front(store, [pair for pair in pairs if pair.prompt_id not in ranked], front, now=now)


def _all_pairs(store: Store, data_dir: Path, policy: Policy) -> tuple[list[Pair], set[str]]:
    """Pairs of the policy's candidates with their scores, and the prompts whose responses are ranked instead."""
    train = {prompt.id for prompt in store.list_prompts("train")}
    compared = [r for r in store.list_responses(policy_id=policy.id, role="candidate") if r.prompt_id in train]
    ranked: set[str] = set()
    if store.campaign().responses_per_prompt > 2:
        compared = _distinct(compared)
        ranked = _prompts_to_rank(compared)
    return _pairs(compared, pair_scores(store, data_dir, policy)), ranked


def _distinct(responses: list[Response]) -> list[Response]:
    """The first response of each text."""
    return list({(r.prompt_id, r.text.strip()): r for r in reversed(responses)}.values())[::-1]


def _prompts_to_rank(responses: list[Response]) -> set[str]:
    """Prompts with more than two of these responses."""
    return {prompt_id for prompt_id, number in Counter(r.prompt_id for r in responses).items() if number > 2}


def _close_others(store: Store, policy: Policy, candidates: set[str], ranked: set[str]) -> list[Task]:
    """The open label tasks of this policy that are still wanted as they are; all others are closed."""
    open_tasks = [task for task in store.open_tasks() if task.purpose == "label" or task.selection_rule in (TRIANGLE, REPEAT)]
    stale = [task.id for task in open_tasks if task.response_1_id not in candidates]
    if stale:
        store.close_tasks(stale, actor="system", reason=f"policy {policy.number} serves")
    ours = [task for task in open_tasks if task.response_1_id in candidates]
    other = {task.id for task in ours if bool(task.more_response_ids) != (task.prompt_id in ranked)}
    if other:
        store.close_tasks(list(other), actor="system", reason="the campaign's responses_per_prompt changed")
    return [task for task in ours if task.id not in other]


def _pair_tasks(
    pairs: list[Pair], asked: set[frozenset[str]], options: QueueOptions, rng: random.Random, make: "_TaskMaker"
) -> list[Task]:
    num_asked = Counter(pair.prompt_id for pair in pairs if _ids(pair) in asked)
    fresh = [pair for pair in pairs if _ids(pair) not in asked]
    order = [
        replace(selected, rank=selected.rank + num_asked[selected.pair.prompt_id])
        for selected in select_pairs(fresh, _rule(fresh, options), rng=rng, per_prompt=options.pairs_per_prompt)
    ]
    order = [selected for selected in order if selected.rank < options.pairs_per_prompt]
    tasks = []
    for place, selected in enumerate(order):
        shown = (selected.pair.response_1_id, selected.pair.response_2_id)
        priority = -selected.rank - place / len(order)  # in the order drawn; later additions mix in by rank
        if options.selection == MIX:  # any of these might have come first; the mix draws from all prompts' pairs
            selected, priority = replace(selected, probability=1 / (len(order) - place)), BEHIND + priority
        tasks.append(make.task(selected.pair.prompt_id, shown, selected, priority))
    return tasks


def _ranking_tasks(pairs: list[Pair], options: QueueOptions, rng: random.Random, make: "_TaskMaker", *, size: int) -> list[Task]:
    sets = select_sets(pairs, _rule(pairs, options), rng=rng, size=size)
    return [make.task(chosen.prompt_id, chosen.response_ids, chosen, -place / len(sets)) for place, chosen in enumerate(sets)]


def _rule(pairs: list[Pair], options: QueueOptions) -> str:
    scored = all(pair.mean_logit is not None for pair in pairs)
    return options.selection if scored and options.selection != MIX else "random"


def _ids(pair: Pair) -> frozenset[str]:
    return frozenset((pair.response_1_id, pair.response_2_id))


def _closed(store: Store) -> set[str]:
    return {row["subject"] for row in store.query("SELECT subject FROM events WHERE kind = 'task.closed'").to_pylist()}


def _pairs(responses: list[Response], scores: dict[tuple[str, str], dict[str, Any]]) -> list[Pair]:
    by_prompt: dict[str, list[Response]] = defaultdict(list)
    for response in sorted(
        responses, key=lambda r: (r.prompt_id, r.text)
    ):  # equal texts stay as stored: ids differ from run to run
        by_prompt[response.prompt_id].append(response)
    return [
        _pair(first, second, scores)
        for of_prompt in by_prompt.values()
        for first, second in combinations(of_prompt, 2)
        if first.text.strip() != second.text.strip()
    ]


def _pair(first: Response, second: Response, scores: dict[tuple[str, str], dict[str, Any]]) -> Pair:
    if (row := scores.get((second.id, first.id))) is not None:
        first, second = second, first
    else:
        row = scores.get((first.id, second.id), {})
    return Pair(
        prompt_id=first.prompt_id,
        response_1_id=first.id,
        response_2_id=second.id,
        mean_logit=row.get("mean_logit"),
        ensemble_logits=tuple(row.get("ensemble_logits") or ()),
    )


@dataclass(frozen=True, slots=True)
class _TaskMaker:
    """What all tasks of one filling share."""

    promotion: Event
    wanted: int
    now: datetime
    closed: set[str]  # ids of tasks that were closed: the same responses need a new one

    def task(self, prompt_id: str, response_ids: tuple[str, ...], chosen: SelectedPair | SelectedSet, priority: float) -> Task:
        return Task(
            id=self._id(response_ids),
            prompt_id=prompt_id,
            response_1_id=response_ids[0],
            response_2_id=response_ids[1],
            more_response_ids=response_ids[2:],
            priority=priority,
            wanted=self.wanted,
            selection_rule=chosen.rule,
            selection_score=chosen.score,
            selection_prob=chosen.probability,
            created_at=self.now,
        )

    def _id(self, response_ids: tuple[str, ...]) -> str:
        name = " ".join((self.promotion.id, *sorted(response_ids)))
        ids = (str(uuid.uuid5(TASKS, name + f" {k}" * (k > 1))) for k in count(1))
        return next(task_id for task_id in ids if task_id not in self.closed)
