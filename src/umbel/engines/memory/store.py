"""What the memory engine's broker, results and state share: dicts, heaps, and one lock.

Whoever calls a method of `Store` holds its lock.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict, deque
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final

import msgspec

from umbel import clock, states
from umbel.engines.broker import (
    Bury,
    Delivery,
    HistoryEntry,
    Message,
    Part,
    StoredResult,
    Workflow,
)
from umbel.engines.state import DeadLetter, ScheduleRecord, WorkerRecord

HISTORY_ROWS: Final = 10_000
"""Most ended attempts that are kept, whatever the settings allow: memory is dear."""


class Held(msgspec.Struct, gc=False):
    """A message in the store and where it stands. Ready: worker and due are None."""

    number: int
    message: Message
    published: float
    due: float | None
    worker: int | None = None
    attempt: int = 0
    deliveries: int = 0
    suspect: bool = False
    unknown_since: float | None = None
    early: bool = False

    def delivery(self, worker: int) -> Delivery:
        """It as the worker that holds it sees it."""
        message = self.message
        return Delivery(
            self.number, worker, self.attempt, message.queue, message.payload, message.priority,
            self.deliveries, self.suspect, self.unknown_since, self.early,
        )  # fmt: skip


class Pieces(msgspec.Struct):
    """What lies under a workflow's id."""

    expires: float | None
    pieces: dict[tuple[int, str], bytes] = msgspec.field(default_factory=dict)
    """Parts by index and key, or steps by position."""
    size: int = 0
    """Of a chord; 0: steps are kept here."""
    body: Message | None = None


class PipeWaker:
    """One waiting party's pipe (`umbel.engines.broker.Waker`)."""

    def __init__(self, store: Store, kind: str) -> None:
        self._store = store
        self._kind = kind
        self.writing: int
        self._reading, self.writing = os.pipe()
        self.rung: bool = False
        """Whether a byte lies in the pipe; never more than one does."""
        with store.lock:
            store.wakers[kind].append(self)

    def fileno(self) -> int:
        """The descriptor to sleep on."""
        return self._reading

    def drain(self) -> None:
        """Forget the news so far."""
        with self._store.lock:
            if self.rung:
                self.rung = False
                os.read(self._reading, 1)

    def close(self) -> None:
        """Stop listening."""
        with self._store.lock:
            self._store.wakers[self._kind].remove(self)
            os.close(self._reading)
            os.close(self.writing)


class Store:
    """Everything that one memory engine holds."""

    def __init__(self) -> None:
        self.lock: threading.Lock = threading.Lock()
        self.number: int = 0
        """The last message's."""
        self.messages: dict[int, Held] = {}
        self.tags: dict[str, int] = {}
        self.tasks: dict[str, dict[int, Held]] = {}
        """The messages of each task id, by number."""
        self.ready: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        """A heap of numbers for each queue and priority; one whose message is gone is passed."""
        self.delayed: list[tuple[float, int]] = []
        """A heap of due times and numbers; one whose message is gone is passed."""
        self.claimed: dict[int, dict[int, Held]] = {}
        """The messages that each worker holds, by number."""
        self.paused: set[str] = set()
        self.schedules: dict[str, ScheduleRecord] = {}
        self.workers: dict[int, WorkerRecord] = {}
        self.incarnations = 0
        self.revoked: dict[str, tuple[int, float, int]] = {}
        """Version and end of each revocation, oldest version first."""
        self.revocations = 0
        self.dead: dict[int, tuple[DeadLetter, Message]] = {}
        """Oldest first, like the history."""
        self.burials: int = 0
        self.history: deque[HistoryEntry] = deque(maxlen=HISTORY_ROWS)
        self.results: dict[str, StoredResult] = {}
        self.expiring: list[tuple[float, str]] = []
        """A heap of the times at which results expire; one that was replaced is passed."""
        self.workflows: dict[str, Pieces] = {}
        """Chords and kept steps, by id."""
        self.wakers: dict[str, list[PipeWaker]] = {"work": [], "result": []}

    def add(self, message: Message, published: float) -> None:
        """Add a message; one whose tag is there already is left as it is."""
        if message.tag in self.tags:
            return
        self.number = number = self.number + 1
        held = Held(number, message, published, message.due)
        self.messages[number] = held
        self.tags[message.tag] = number
        self.tasks.setdefault(message.id, {})[number] = held
        if message.due is None:
            heappush(self.ready[message.queue, message.priority], number)
        else:
            heappush(self.delayed, (message.due, number))

    def remove(self, held: Held) -> None:
        """Forget a message, claimed or not."""
        del self.messages[held.number]
        del self.tags[held.message.tag]
        siblings = self.tasks[held.message.id]
        del siblings[held.number]
        if not siblings:
            del self.tasks[held.message.id]
        self._release(held)

    def put_back(self, held: Held, due: float | None) -> None:
        """End the claim of a message and let it wait at its old place."""
        self._release(held)
        held.early = False
        held.due = due
        if due is None:
            heappush(self.ready[held.message.queue, held.message.priority], held.number)
        else:
            heappush(self.delayed, (due, held.number))

    def bury(self, held: Held, end: Bury) -> None:
        """Keep a message that is about to be removed as a dead letter."""
        self.burials = number = self.burials + 1
        charged = held.deliveries if end.deliveries is None else end.deliveries
        letter = DeadLetter(
            number, end.id, end.task, held.message.queue, end.reason, end.detail, clock.time(),
            charged,
        )  # fmt: skip
        self.dead[number] = (letter, held.message)

    def _release(self, held: Held) -> None:
        if held.worker is not None:
            of_worker = self.claimed[held.worker]
            del of_worker[held.number]
            if not of_worker:
                del self.claimed[held.worker]
            held.worker = None

    def promote(self, now: float) -> float | None:
        """Make ready what is due; the next due time, if a delayed message waits."""
        delayed = self.delayed
        while delayed:
            due, number = delayed[0]
            held = self.messages.get(number)
            if held is not None and held.worker is None and held.due == due:
                if due > now:
                    return due
                held.due = None
                heappush(self.ready[held.message.queue, held.message.priority], number)
            heappop(delayed)
        return None

    def take(self, queues: Iterable[str], priority: int) -> Held | None:
        """Take the oldest ready message of one level of the queues off its heap."""
        oldest: list[int] | None = None
        for queue in queues:
            heap = self.ready.get((queue, priority))
            if heap is None:
                continue
            while heap and heap[0] not in self.messages:
                heappop(heap)
            if not heap:
                del self.ready[queue, priority]
            elif oldest is None or heap[0] < oldest[0]:
                oldest = heap
        return None if oldest is None else self.messages[heappop(oldest)]

    def store(self, result: StoredResult) -> None:
        """Store a result; a SUCCESS that has not expired stays."""
        old = self.result(result.id)
        if old is not None and old.status == states.SUCCESS:
            return
        self.results[result.id] = result
        if result.expires is not None:
            heappush(self.expiring, (result.expires, result.id))

    def change(self, workflow: Workflow, now: float) -> None:
        """All that a step changes in workflows."""
        for result in workflow.results:
            self.store(result)
        for chord in workflow.opened:
            self.workflows.setdefault(
                chord.id, Pieces(chord.expires, size=chord.size, body=chord.body)
            )
        for id, more in workflow.grown:
            if id in self.workflows:
                self.workflows[id].size += more
        for kept in workflow.kept:
            steps = {(place, ""): step for place, step in enumerate(kept.steps)}
            self.workflows.setdefault(kept.id, Pieces(kept.expires, steps))
        for part in workflow.parts:
            self._join(part, now)
        for id in workflow.dropped:
            self.workflows.pop(id, None)

    def _join(self, part: Part, now: float) -> None:
        found = self.workflows.get(part.chord)
        if found is None or (part.index, part.key) in found.pieces:
            return
        found.pieces[part.index, part.key] = part.data
        body = found.body or part.body
        if len(found.pieces) == found.size and body is not None:
            self.add(body, now)

    def result(self, id: str) -> StoredResult | None:
        """A result that is there and has not expired."""
        found = self.results.get(id)
        if found is None or found.expires is None or found.expires > clock.time():
            return found
        return None

    def ring(self, kind: str) -> None:
        """Wake whoever listens for `work` or `result`."""
        for waker in self.wakers[kind]:
            if not waker.rung:
                waker.rung = True
                os.write(waker.writing, b"!")
