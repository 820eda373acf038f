"""Who may judge what next: the free places of every task, in memory. Pure: no clock, no database, no randomness.

A task has ``wanted`` slots. A slot is free, held by a lease, or filled by a judgment. A lease that has expired keeps its slot
until the slot is given to somebody else, so that a late answer is lost only if it was replaced. Every change returns the
function that undoes it. The book is rebuilt from the tables at start (lease_tables.py); only the writer thread touches it.
"""

import heapq
import threading
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from sortedcontainers import SortedList

from storage.records import Purpose

FILLED = "filled"

Undo = Callable[[], None]
Entry = tuple[float, int, str]  # of a task among the open ones, in the order in which they are given out
LAST: Entry = (float("inf"), 0, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    id: str
    task_id: str
    annotator_id: str
    slot: int
    response_a_id: str
    response_b_id: str
    issued_at: datetime
    expires_at: datetime
    supersedes: str | None = None
    more_response_ids: tuple[str, ...] = ()

    @property
    def shown_ids(self) -> tuple[str, ...]:
        return self.response_a_id, self.response_b_id, *self.more_response_ids


@dataclass(slots=True, kw_only=True)
class TaskBook:
    """One task. ``slots``: None is free, FILLED is judged, anything else the id of the lease that holds it."""

    id: str
    order: int  # of writing: earlier first among equal priorities
    prompt_id: str
    response_1_id: str
    response_2_id: str
    priority: float
    slots: list[str | None]
    purpose: Purpose = "label"
    more_response_ids: tuple[str, ...] = ()
    reserved: bool = False  # nobody else is wanted: a live pair, whose author holds its only slot
    closed: bool = False
    num_made: dict[str, int] = field(default_factory=dict)  # annotator -> judgments of this task ever made
    done: set[str] = field(default_factory=set)  # annotators with a standing judgment or skip

    def reach(self, slot: int) -> None:
        """Training pairs have as many slots as are asked for."""
        self.slots += [None] * (slot + 1 - len(self.slots))

    @property
    def entry(self) -> Entry:
        return -self.priority, self.order, self.id


class Tasks(dict[str, TaskBook]):
    """Tasks by id. One that is not here is fetched when it is asked for by ``[]`` or ``in``, once; from any thread."""

    def __init__(self) -> None:
        self.fetch: Callable[[list[str]], Iterable[TaskBook]] = lambda task_ids: ()
        self._lock = threading.Lock()

    def need(self, task_ids: Iterable[str]) -> None:
        """Fetch those of many that are not here, in one go."""
        with self._lock:
            missing = [task_id for task_id in dict.fromkeys(task_ids) if not dict.__contains__(self, task_id)]
            if missing:
                self.update({task.id: task for task in self.fetch(missing)})

    def __missing__(self, task_id: str) -> TaskBook:
        self.need([task_id])
        if (task := self.get(task_id)) is None:
            raise KeyError(task_id)
        return task

    def __contains__(self, task_id: object) -> bool:
        self.need([str(task_id)])
        return dict.__contains__(self, task_id)


class LeaseBook:
    def __init__(self) -> None:
        self.tasks = Tasks()
        self.leases: dict[str, Lease] = {}  # unanswered and still holding their slot, expired or not
        self.num_labels = 0  # judgments made here that stand, but for skips and training pairs
        self._training: list[TaskBook] = []
        self._held_by: dict[str, dict[str, None]] = {}  # annotator -> lease ids in order of issue
        self._open: SortedList = SortedList()  # entries of tasks that may have a place for somebody
        self._reached: dict[str, Entry] = {}  # annotator -> the entry before which nothing is for them
        self._expiring: list[tuple[datetime, str]] = []

    # Tasks

    def add(self, tasks: Iterable[TaskBook]) -> Undo:
        added = list(tasks)
        for task in added:
            self.tasks[task.id] = task
        self._offer(*added)
        self._training += [task for task in added if task.purpose == "gold"]

        def undo() -> None:
            for task in added:
                self.tasks.pop(task.id, None)
            ids = {task.id for task in added}
            self._training = [task for task in self._training if task.id not in ids]

        return undo

    def close(self, task_ids: Iterable[str]) -> Undo:
        tasks = [self.tasks[task_id] for task_id in task_ids if not self.tasks[task_id].closed]
        for task in tasks:
            task.closed = True

        def undo() -> None:
            for task in tasks:
                task.closed = False
                self._offer(task)

        return undo

    # Leases

    def held(self, annotator_id: str, now: datetime) -> list[Lease]:
        """Open leases of an annotator, in order of issue."""
        leases = [self.leases[lease_id] for lease_id in self._held_by.get(annotator_id, ())]
        return [lease for lease in leases if lease.expires_at > now]

    def resumable(self, annotator_id: str, now: datetime, *, in_training: bool = False) -> list[Lease]:
        """Held leases that are still worth an answer: training pairs in training, else real pairs. Tasks closed meanwhile
        (another policy serves) only where an undo waits."""
        of_task = [(lease, self.tasks[lease.task_id]) for lease in self.held(annotator_id, now)]
        return [
            lease for lease, task in of_task if lease.supersedes or (not task.closed and (task.purpose == "gold") == in_training)
        ]

    def next_task(self, annotator_id: str, now: datetime) -> tuple[TaskBook, int] | None:
        """The task this annotator should judge next and the slot for it; None when nothing is left for them.

        A task that has nothing for anybody leaves the open ones, and one that has nothing for them is not looked at again:
        whatever frees a slot offers the task to all once more.
        """
        self._expire(now)
        taken, found = [], None
        for entry in self._open.irange(minimum=self._reached.get(annotator_id)):
            task = self.tasks.get(entry[2])
            slot = None if task is None else self._slot_for(task, annotator_id, now)
            if task is not None and slot is not None:
                found = task, slot
                break
            if task is None or task.closed or self.free_slot(task, now) is None:
                taken.append(entry)
        self._reached[annotator_id] = LAST if found is None else found[0].entry
        for entry in taken:
            self._open.remove(entry)
        return found

    def training_tasks(self, known: Container[str]) -> list[TaskBook]:
        """Open training pairs whose answer is known."""
        return [task for task in self._training if not task.closed and task.id in known]

    def next_training_task(self, tasks: list[TaskBook], annotator_id: str, now: datetime) -> tuple[TaskBook, int] | None:
        """Of ``tasks`` the one this annotator answered least often, and a slot of their own: everybody answers all of them."""
        busy = {lease.task_id for lease in self.held(annotator_id, now)}
        free = (task for task in tasks if task.id not in busy)
        task = min(free, key=lambda task: (task.num_made.get(annotator_id, 0), task.order), default=None)
        if task is None:
            return None
        holders = [self.leases.get(holder) if holder else None for holder in task.slots]
        lapsed = (k for k, lease in enumerate(holders) if lease is not None and lease.annotator_id == annotator_id)
        return task, next(lapsed, len(task.slots))

    def num_live(self, now: datetime) -> int:
        """Leases of real pairs that may still be answered in time."""
        return sum(lease.expires_at > now and self.tasks[lease.task_id].purpose != "gold" for lease in self.leases.values())

    def free_slot(self, task: TaskBook, now: datetime) -> int | None:
        """A slot that nobody holds: untouched ones first, then those whose lease has expired."""
        if None in task.slots:
            return task.slots.index(None)
        lapsed = (i for i, holder in enumerate(task.slots) if holder in self.leases and self.leases[holder].expires_at <= now)
        return next(lapsed, None)

    def issue(self, lease: Lease) -> Undo:
        """Give the lease's slot to it; whoever held the slot loses it."""
        task = self.tasks[lease.task_id]
        undo = self._remember(task)
        task.reach(lease.slot)
        self._drop(task.slots[lease.slot])
        if task.slots[lease.slot] == FILLED and task.purpose != "gold":
            self.num_labels -= 1  # taken back
        if lease.supersedes is not None:
            task.done.discard(lease.annotator_id)
        self._hold(task, lease)
        return undo

    def renew(self, lease: Lease, expires_at: datetime) -> Undo:
        task = self.tasks[lease.task_id]
        undo = self._remember(task)
        self._hold(task, replace(lease, expires_at=expires_at))
        return undo

    def settle(self, lease: Lease, *, skipped: bool) -> Undo:
        """The lease was answered: its slot is filled, or free for somebody else after a skip."""
        task = self.tasks[lease.task_id]
        undo = self._remember(task)
        self._drop(lease.id)
        task.slots[lease.slot] = None if skipped else FILLED
        self.num_labels += not skipped and task.purpose != "gold"
        self._count(task, lease.annotator_id)
        if skipped:
            self._offer(task)
        return undo

    def fill(self, task_id: str, annotator_id: str, *, skipped: bool) -> Undo:
        """A judgment made elsewhere: takes a free slot if there is one."""
        task = self.tasks[task_id]
        undo = self._remember(task)
        if not skipped and None in task.slots:
            task.slots[task.slots.index(None)] = FILLED
        self._count(task, annotator_id)
        return undo

    # Inside

    def _slot_for(self, task: TaskBook, annotator_id: str, now: datetime) -> int | None:
        if task.closed or annotator_id in task.done:
            return None
        for slot, holder in enumerate(task.slots):
            lease = self.leases.get(holder) if holder else None
            if lease is not None and lease.annotator_id == annotator_id:  # their own lapsed lease is replaced first
                return slot if lease.expires_at <= now else None
        return None if task.reserved else self.free_slot(task, now)

    def _count(self, task: TaskBook, annotator_id: str) -> None:
        task.num_made[annotator_id] = task.num_made.get(annotator_id, 0) + 1
        task.done.add(annotator_id)

    def _hold(self, task: TaskBook, lease: Lease) -> None:
        task.slots[lease.slot] = lease.id
        self.leases[lease.id] = lease
        self._held_by.setdefault(lease.annotator_id, {})[lease.id] = None
        heapq.heappush(self._expiring, (lease.expires_at, lease.id))

    def _drop(self, holder: str | None) -> None:
        lease = self.leases.pop(holder, None) if holder else None
        if lease is not None:
            del self._held_by[lease.annotator_id][lease.id]

    def _offer(self, *tasks: TaskBook) -> None:
        entries = {task.entry for task in tasks if task.purpose != "gold"}
        if not entries:
            return
        self._open.update([entry for entry in entries if entry not in self._open])
        first = min(entries)
        for annotator_id, reached in self._reached.items():
            if first < reached:
                self._reached[annotator_id] = first

    def _expire(self, now: datetime) -> None:
        while self._expiring and self._expiring[0][0] <= now:
            _, lease_id = heapq.heappop(self._expiring)
            lease = self.leases.get(lease_id)
            if lease is not None and lease.expires_at <= now:
                self._offer(self.tasks[lease.task_id])

    def _remember(self, task: TaskBook) -> Undo:
        """The function that puts the task and its leases back as they are now."""
        slots, num_made, done, num_labels = list(task.slots), dict(task.num_made), set(task.done), self.num_labels
        leases = [self.leases[holder] for holder in slots if holder in self.leases]

        def restore() -> None:
            for holder in task.slots:
                self._drop(holder)
            task.slots, task.num_made, task.done, self.num_labels = list(slots), num_made, done, num_labels
            for lease in leases:
                self._hold(task, lease)
            self._offer(task)

        return restore
