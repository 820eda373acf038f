"""The front of the queue: the next pairs, chosen by the default mix from what the newest preference model does not know.

All other pairs wait behind it in random order, so annotators never run out and the first labels, before there is a model, are
random. A new front takes the place of what is left of the old one.
"""

import random
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from annotate_app.pair_selection import Pair, build_pool
from annotate_app.selection_mix import AUDIT_JUDGMENTS, REPEAT, TRIANGLE, Place, draw_places
from storage.records import Task
from storage.store import Store

FRONT = 50  # judgments in the front
BEHIND = -1e6  # priority of the pairs behind it
STEP = 1e-3  # between priorities in the front
FRONTS = uuid.UUID("2b3f7c52-8b7e-5c9e-9d34-66726f6e7473")  # namespace of task ids


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontOptions:
    """Whose front: the policy's promotion and number, judgments wanted of a pair, pairs to ask of a prompt, seed."""

    promotion_id: str
    policy_number: int
    wanted: int
    pairs_per_prompt: int
    seed: int


def is_front(task: Task) -> bool:
    """Whether the mix chose the task for the front."""
    return (task.purpose == "label" or task.selection_rule in (TRIANGLE, REPEAT)) and task.priority > BEHIND / 2


def is_short(store: Store) -> bool:
    """Whether less than half a front waits."""
    [row] = store.query(_WAITING, {"behind": BEHIND / 2}).to_pylist()
    return row["waiting"] < FRONT / 2


def refill_front(store: Store, pairs: Sequence[Pair], options: FrontOptions, *, now: datetime) -> int:
    """Choose a new front among ``pairs``, all pairs of the serving policy's candidates; returns the number of tasks made.

    Tasks that were ever handed out stay as they are.
    """
    pool = build_pool(pairs)
    if not pool.is_scored:
        return 0
    of_policy = {i for pair in pairs for i in (pair.response_1_id, pair.response_2_id)}
    open_tasks = [task for task in store.open_tasks() if task.purpose != "gate" and task.response_1_id in of_policy]
    handed_out = {row["task_id"] for row in store.query("SELECT DISTINCT task_id FROM leases").to_pylist()}
    old = [task for task in open_tasks if is_front(task) and task.id not in handed_out]
    kept = [task for task in open_tasks if is_front(task) and task.id in handed_out]
    waiting = [task for task in open_tasks if not is_front(task)]
    judged = Counter(frozenset(j.shown_ids) for j in store.list_judgments() if j.verdict != "skip")
    asked = judged + Counter(_key(task) for task in (*kept, *waiting) if task.id in handed_out)
    rng = random.Random(f"front {options.seed} {options.policy_number} {sum(asked.values())}")
    num_asked = _num_asked(pairs, asked, options.pairs_per_prompt)
    if num_asked.all():
        return 0
    places = _within(draw_places(pool, num_asked, rng=rng, count=FRONT), pairs, num_asked, options.pairs_per_prompt)
    start = max((task.priority for task in old), default=min((task.priority for task in kept), default=STEP) - STEP)
    made = [
        _task(pairs[place.index], place, options, priority=start - STEP * k, fresh=f"{now.isoformat()} {k}", now=now)
        for k, place in enumerate(places)
    ]
    behind = [task for task in waiting if task.id not in handed_out]
    replaced = [task.id for task in old] + _superseded(made, behind, asked.keys(), options.pairs_per_prompt)
    if replaced:
        store.close_tasks(replaced, actor="system", reason="the pairs to ask next were chosen anew")
    return store.add_tasks(made)


def _num_asked(pairs: Sequence[Pair], asked: Counter[frozenset[str]], pairs_per_prompt: int) -> np.ndarray:
    """Judgments each pair has or waits for; other pairs of a prompt that was asked often enough count as done."""
    num_asked = np.array([asked[frozenset((pair.response_1_id, pair.response_2_id))] for pair in pairs], dtype=int)
    of_prompt = Counter(pair.prompt_id for pair, number in zip(pairs, num_asked, strict=True) if number)
    spent = np.array([of_prompt[pair.prompt_id] >= pairs_per_prompt for pair in pairs])
    return np.where(spent & (num_asked == 0), AUDIT_JUDGMENTS, num_asked)


def _within(places: Sequence[Place], pairs: Sequence[Pair], num_asked: np.ndarray, pairs_per_prompt: int) -> list[Place]:
    """Those places that leave no prompt with more pairs than are to be asked of it."""
    asked = set(np.flatnonzero(num_asked).tolist())
    of_prompt = Counter(pairs[index].prompt_id for index in asked)
    kept = []
    for place in places:
        prompt = pairs[place.index].prompt_id
        if place.index not in asked and of_prompt[prompt] >= pairs_per_prompt:
            continue
        of_prompt[prompt] += place.index not in asked
        asked.add(place.index)
        kept.append(place)
    return kept


def _superseded(made: Sequence[Task], waiting: Sequence[Task], asked: Collection[frozenset[str]], limit: int) -> list[str]:
    """Tasks behind the front whose pair is in it now, or that would be one too many of their prompt."""
    pairs: dict[str, set[frozenset[str]]] = {task.prompt_id: set() for task in made}
    for task in made:
        pairs[task.prompt_id].add(_key(task))
    prompt_of = {task.response_1_id: task.prompt_id for task in (*made, *waiting)}
    for pair in asked:
        prompt = next((prompt_of[i] for i in pair if i in prompt_of), None)
        if prompt in pairs:
            pairs[prompt].add(pair)
    closed = []
    for task in sorted(waiting, key=lambda task: -task.priority):
        chosen = pairs.get(task.prompt_id)
        if chosen is None:  # nothing of its prompt is in the front
            continue
        if _key(task) in chosen or len(chosen) >= limit:
            closed.append(task.id)
        chosen.add(_key(task))
    return closed


def _task(pair: Pair, place: Place, options: FrontOptions, *, priority: float, fresh: str, now: datetime) -> Task:
    return Task(
        id=str(uuid.uuid5(FRONTS, f"{options.promotion_id} {fresh}")),
        prompt_id=pair.prompt_id,
        response_1_id=pair.response_1_id,
        response_2_id=pair.response_2_id,
        purpose=place.purpose,
        priority=priority,
        wanted=options.wanted if place.purpose == "label" else place.judgments,
        selection_rule=place.rule,
        selection_score=place.score,
        selection_prob=place.probability,
        created_at=now,
    )


def _key(task: Task) -> frozenset[str]:
    return frozenset(task.shown_ids)


_WAITING = """
    SELECT coalesce(sum(wanted - num_made), 0) AS waiting FROM task_status
    WHERE NOT closed AND num_made < wanted AND priority > $behind
      AND (purpose = 'label' OR selection_rule IN ('triangle', 'repeat'))
"""
