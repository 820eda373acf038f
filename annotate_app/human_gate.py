"""Blind comparisons of a new policy with the one it would replace: their pairs in everybody's queue, and what the votes decide.

A comparison is opened by the event ``gate.opened`` and ends with ``gate.decided`` (data: action, sentence, figures). Its tasks
have ids made from the pair, so filling may be repeated. Only a few are open at a time: they stand among the label pairs at the
campaign's share, counted from the head of the queue, and are placed anew where the queue has changed before them.
"""

import random
import uuid
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import accumulate, count, islice, product, repeat, zip_longest
from typing import Any

from annotate_app.gate import HumanGate, Tally, decide_by_votes
from annotate_app.labelling_queue import TASKS
from storage.records import Event, Policy, Response, Task
from storage.store import Store

REACH = 24  # other pairs among which the next ones stand; whatever re-orders the queue leaves so many in place
MOST_OPEN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A new policy and the one that served when it was made; ``decided`` None: people still vote."""

    candidate: Policy
    opponent: Policy
    opened: Event
    decided: Event | None


class Comparisons:
    """Opens comparisons, keeps their pairs in the queue and says how they stand."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store, self._clock = store, clock

    def open(self, candidate: Policy, opponent: Policy) -> None:
        """Begin to compare, unless that was done; fills the queue."""
        if self.of(candidate) is None:
            self._store.append_event(
                actor="system", kind="gate.opened", subject=candidate.id, data={"opponent_id": opponent.id}, once=True
            )
        self.fill()

    def can_compare(self, candidate: Policy, opponent: Policy) -> bool:
        """Whether both have answered a held-out prompt, and differently."""
        return bool(gate_pairs(*self._sides(candidate, opponent), seed=""))

    def all(self) -> list[Comparison]:
        """Every comparison, oldest first."""
        policies = {policy.id: policy for policy in self._store.list_policies()}
        events = self._store.list_events(kind_prefix="gate.", limit=1_000_000)
        ended = {event.subject: event for event in events if event.kind == "gate.decided"}
        return [
            Comparison(
                candidate=policies[event.subject],
                opponent=policies[event.data["opponent_id"]],
                opened=event,
                decided=ended.get(event.subject),
            )
            for event in events
            if event.kind == "gate.opened"
        ]

    def of(self, candidate: Policy) -> Comparison | None:
        """The comparison of a policy with the one before it; None where people are not asked."""
        return next((found for found in self.all() if found.candidate.id == candidate.id), None)

    def standing(self, comparison: Comparison) -> HumanGate:
        """What the votes say now."""
        rows = self._store.query(_TALLIES, _ids(comparison.candidate, comparison.opponent)).to_pylist()
        return decide_by_votes([Tally(**row) for row in rows], threshold=self._store.campaign().gate_threshold)

    def decide(self, comparison: Comparison, action: str, gate: HumanGate, sentence: str) -> None:
        """Record how it ended and take its pairs out of the queue."""
        data = {"action": action, "sentence": sentence, "figures": asdict(gate)}
        self._store.append_event(actor="system", kind="gate.decided", subject=comparison.candidate.id, data=data)
        tasks = [row["id"] for row in self._tasks(comparison) if row["is_open"]]
        if tasks:
            self._store.close_tasks(tasks, actor="system", reason=sentence)

    def fill(self) -> int:
        """Put the next pairs of every open comparison into the queue; returns their number."""
        return sum(self._fill(comparison) for comparison in self.all() if comparison.decided is None)

    def num_open(self, comparison: Comparison) -> int:
        """Pairs of it that wait in the queue."""
        return sum(row["is_open"] for row in self._tasks(comparison))

    def _fill(self, comparison: Comparison) -> int:
        share = self._store.campaign().gate_share
        if share == 0:
            return 0
        queue, tasks = self._store.query(_QUEUE).to_pylist(), self._tasks(comparison)
        lost = {row["id"] for row in tasks if row["is_open"] and _num_before(row["priority"], queue) > 3 * REACH}
        if lost:  # others were put before them since
            self._store.close_tasks(sorted(lost), actor="system", reason="they stood too far behind in the queue")
        asked = {row["pair"] for row in tasks if row["id"] not in lost and (row["is_open"] or row["num_made"])}
        num_open = sum(row["is_open"] for row in tasks) - len(lost)
        times = Counter(row["pair"] for row in tasks)  # a pair that was taken out of the queue comes back under another id
        fresh = [pair for pair in self._pairs(comparison) if _key(pair) not in asked]
        rng = random.Random(f"{comparison.opened.id} {len(tasks)}")
        room = window(share, sum(row["left"] for row in queue)) - num_open
        places = islice(places_among(queue, share, rng, after=num_open), max(0, room))
        now = self._clock()
        return self._store.add_tasks(
            [
                Task(
                    id=str(uuid.uuid5(TASKS, f"gate {comparison.opened.id} {_key(pair)} {times[_key(pair)]}")),
                    prompt_id=pair[0].prompt_id,
                    response_1_id=pair[0].id,
                    response_2_id=pair[1].id,
                    purpose="gate",
                    priority=priority,
                    selection_rule="gate",
                    selection_score=None,
                    selection_prob=1.0,
                    created_at=now,
                )
                for pair, priority in zip(fresh, places, strict=False)
            ]
        )

    def is_spent(self, comparison: Comparison) -> bool:
        """Whether every pair there is was judged."""
        judged = {row["pair"] for row in self._tasks(comparison) if row["num_made"]}
        return all(_key(pair) in judged for pair in self._pairs(comparison))

    def _tasks(self, comparison: Comparison) -> list[dict[str, Any]]:
        return self._store.query(_TASKS, _ids(comparison.candidate, comparison.opponent)).to_pylist()

    def _pairs(self, comparison: Comparison) -> list[tuple[Response, Response]]:
        """All pairs that may be asked, in order: as many as the campaign wants votes, or as there are."""
        sides = self._sides(comparison.candidate, comparison.opponent)
        return gate_pairs(*sides, seed=comparison.opened.id)[: self._store.campaign().gate_votes]

    def _sides(self, candidate: Policy, opponent: Policy) -> tuple[list[Response], list[Response]]:
        ours, theirs = (self._store.list_responses(policy_id=policy.id, role="gate") for policy in (candidate, opponent))
        return ours, theirs


def gate_pairs(ours: Sequence[Response], theirs: Sequence[Response], *, seed: str) -> list[tuple[Response, Response]]:
    """A response of each side: one pair of every prompt before any second one, no response twice before all came once.

    Equal texts are left out: nobody can prefer one, and a tie would say nothing about who is better.
    """
    mine, other = _by_prompt(ours), _by_prompt(theirs)
    prompts = sorted(mine.keys() & other.keys())
    rng = random.Random(seed)
    rng.shuffle(prompts)
    for responses in (*mine.values(), *other.values()):
        rng.shuffle(responses)
    of_prompts = [[(mine[p][i], other[p][j]) for i, j in _passes(len(mine[p]), len(other[p]))] for p in prompts]
    rounds = zip_longest(*of_prompts)
    pairs = [pair for one_each in rounds for pair in one_each if pair is not None]
    return [(first, second) for first, second in pairs if first.text.strip() != second.text.strip()]


def _passes(first: int, second: int) -> list[tuple[int, int]]:
    """All pairs of indices, in passes that use no index twice."""
    return sorted(product(range(first), range(second)), key=lambda ij: ((ij[1] - ij[0]) % max(first, second), ij[0]))


def window(share: float, num_others: int) -> int:
    """Pairs of a comparison that wait at a time: as many as come up while the next REACH other pairs are judged."""
    return max(1, min(MOST_OPEN, round(REACH * share / (1 - share)))) if num_others > REACH else MOST_OPEN


def places_among(queue: Sequence[dict[str, Any]], share: float, rng: random.Random, *, after: int) -> Iterator[float]:
    """Priorities of gate pairs, so that they are ``share`` of what is handed out from here on: one at random in every stretch.

    queue: priority and left (judgments still wanted) of the other pairs, highest first. ``after``: gate pairs that stand in it.
    Every fifth pair would be told apart, and always the same of people who take turns would get it.
    """
    if not queue:
        yield from repeat(0.0)
    ends = list(accumulate(row["left"] for row in queue))
    stretch = (1 - share) / share  # other pairs for each of the gate
    for index in count(after):
        before = round((index + rng.random()) * stretch)  # other pairs handed out before this one
        place = min(bisect_left(ends, before), len(ends) - 1)
        yield queue[place]["priority"] + (before == 0)  # among equals the older task goes first


def _by_prompt(responses: Sequence[Response]) -> dict[str, list[Response]]:
    found: dict[str, list[Response]] = defaultdict(list)
    for response in sorted(responses, key=lambda r: (r.text, r.id)):
        found[response.prompt_id].append(response)
    return found


def _num_before(priority: float, queue: Sequence[dict[str, Any]]) -> int:
    """Judgments of other pairs that come before a task of this priority."""
    return sum(row["left"] for row in queue if row["priority"] > priority)


def _key(pair: tuple[Response, Response]) -> str:
    return f"{pair[0].id} {pair[1].id}"


def _ids(candidate: Policy, opponent: Policy) -> dict[str, Any]:
    return {"candidate": candidate.id, "opponent": opponent.id}


_TALLIES = """
    WITH votes AS (
        SELECT j.annotator_id, CASE j.verdict WHEN 'a' THEN a.policy_id WHEN 'b' THEN b.policy_id ELSE 'tie' END AS favoured
        FROM judged_pairs j
        JOIN tasks ON tasks.id = j.task_id AND tasks.purpose = 'gate'
        JOIN responses a ON a.id = j.response_a_id
        JOIN responses b ON b.id = j.response_b_id
        WHERE j.verdict <> 'skip' AND (a.policy_id, b.policy_id) IN (($candidate, $opponent), ($opponent, $candidate)))
    SELECT count(*) FILTER (favoured = $candidate) AS wins, count(*) FILTER (favoured = 'tie') AS ties,
           count(*) FILTER (favoured = $opponent) AS losses
    FROM votes GROUP BY annotator_id ORDER BY annotator_id
"""
_TASKS = """
    SELECT t.id, x.id || ' ' || y.id AS pair, t.priority, t.num_made, NOT t.closed AND t.num_made < t.wanted AS is_open
    FROM task_status t
    JOIN responses x ON x.id = t.response_1_id AND x.policy_id = $candidate
    JOIN responses y ON y.id = t.response_2_id AND y.policy_id = $opponent
    WHERE t.purpose = 'gate'
"""
_QUEUE = """
    SELECT priority, wanted - num_made AS left FROM task_status
    WHERE NOT closed AND num_made < wanted AND purpose NOT IN ('gold', 'gate') ORDER BY priority DESC, seq
"""
