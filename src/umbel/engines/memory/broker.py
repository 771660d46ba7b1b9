"""The broker in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from umbel import clock
from umbel.engines.broker import (
    MAX_PRIORITY,
    Bury,
    Claim,
    Delivery,
    Joiner,
    LeaseLost,
    Message,
    PutBack,
    QueueCount,
    Settlement,
    Waiting,
    Waker,
    Workflow,
)
from umbel.engines.memory.store import Held, PipeWaker, Store

LEAST_URGENT_EVERY: Final = 16
"""One claim in so many serves the least urgent level first, so that none starves."""


class MemoryBroker:
    """`umbel.engines.broker.Broker` inside one process."""

    browsable = True
    unique_tags = True
    levels: Sequence[int] = range(MAX_PRIORITY + 1)
    shared = False
    joiner: Joiner | None = None

    def __init__(self, store: Store) -> None:
        self._store = store
        self._claims = 0

    def publish(
        self,
        messages: Sequence[Message],
        workflow: Workflow | None = None,
        *,
        timeout: float = 5.0,  # noqa: ARG002
    ) -> None:
        """Store all messages or none; see the contract. Nothing here waits for a `timeout`."""
        store = self._store
        now = clock.time()
        with store.lock:
            if workflow is not None:
                store.change(workflow, now)
            for message in messages:
                store.add(message, now)
            store.ring("work")

    def claim(
        self, worker: int, queues: Sequence[str], limit: int, waker: Waker | None = None
    ) -> Claim:
        """Claim ready messages; see the contract."""
        if waker is not None:
            waker.drain()
        store = self._store
        with store.lock:
            record = store.workers.get(worker)
            if record is None or record.dead:
                raise LeaseLost(worker)
            next_due = store.promote(clock.time())
            self._claims += 1
            upside_down = self._claims % LEAST_URGENT_EVERY == 0
            wanted = set(queues) - store.paused
            found = list(islice(_take(store, wanted, upside_down=upside_down), limit))
            for held in found:
                held.worker = worker
                held.attempt += 1
                store.claimed.setdefault(worker, {})[held.number] = held
            return Claim([held.delivery(worker) for held in found], store.revocations, next_due)

    def accept(self, deliveries: Sequence[Delivery]) -> list[int]:
        """Acknowledge early; see the contract."""
        refused: list[int] = []
        with self._store.lock:
            for delivery in deliveries:
                held = self._held(delivery)
                if held is None:
                    refused.append(delivery.number)
                else:
                    held.early = True
                delivery.early = True
        return refused

    def settle(self, settlements: Sequence[Settlement]) -> list[int]:
        """End claims with all that follows; see the contract."""
        refused = []
        with self._store.lock:
            for settlement in settlements:
                held = self._held(settlement)
                if held is None:
                    refused.append(settlement.number)
                else:
                    self._settle(held, settlement)
        return refused

    def _held(self, fence: Settlement | Delivery) -> Held | None:
        held = self._store.messages.get(fence.number)
        if held is None or (held.worker, held.attempt) != (fence.worker, fence.attempt):
            return None
        return held

    def _settle(self, held: Held, settlement: Settlement) -> None:
        store = self._store
        end = settlement.end
        if isinstance(end, PutBack):
            _note(held, end)
            store.put_back(held, end.due)
        else:
            if isinstance(end, Bury):
                store.bury(held, end)
            store.remove(held)
        if settlement.result is not None:
            store.store(settlement.result)
            store.ring("result")
        now = clock.time()
        if settlement.workflow is not None:
            store.change(settlement.workflow, now)
            store.ring("result")
        for message in settlement.follow_ups:
            store.add(message, now)
        if settlement.history is not None:
            store.history.append(settlement.history)
        if settlement.follow_ups or settlement.workflow or isinstance(end, PutBack):
            store.ring("work")

    def listen(self, queues: Sequence[str] = ()) -> PipeWaker:  # noqa: ARG002
        """A waker for work; see the contract."""
        return PipeWaker(self._store, "work")

    def promote(self) -> None:
        """See the contract; each claim does it."""

    def counts(self) -> list[QueueCount]:
        """What lies where; see the contract."""
        store = self._store
        with store.lock:
            paused = set(store.paused)
            standing: dict[str, list[Held]] = {queue: [] for queue in paused}
            for held in store.messages.values():
                standing.setdefault(held.message.queue, []).append(held)
            return [_count(queue, standing[queue], queue in paused) for queue in sorted(standing)]

    def browse(
        self, queue: str | None = None, *, id: str | None = None, limit: int = 100
    ) -> list[Waiting]:
        """Messages without claiming them; see the contract."""
        store = self._store
        with store.lock:
            found = store.messages if id is None else store.tasks.get(id, {})
            chosen = (
                held
                for held in found.values()
                if id is not None or queue is None or held.message.queue == queue
            )
            return [_waiting(held) for held in islice(chosen, limit)]

    def purge(self, queues: Sequence[str]) -> int:
        """Drop what waits; see the contract."""
        store = self._store
        with store.lock:
            gone = [
                held
                for held in store.messages.values()
                if held.worker is None and held.message.queue in queues
            ]
            for held in gone:
                store.remove(held)
            return len(gone)


def _take(store: Store, queues: set[str], *, upside_down: bool) -> Iterator[Held]:
    """Take ready messages off their heaps in the order in which they are to be claimed."""
    levels = sorted({level for queue, level in store.ready if queue in queues}, reverse=True)
    if upside_down:
        for level in reversed(levels):
            held = store.take(queues, level)
            if held is not None:
                yield held
                levels.insert(0, level)
                break
    for level in levels:
        while (held := store.take(queues, level)) is not None:
            yield held


def _note(held: Held, end: PutBack) -> None:
    """What a message that goes back is known by from now on."""
    if end.deliveries is not None:
        held.deliveries = end.deliveries
    if end.suspect is not None:
        held.suspect = end.suspect
    if end.unknown_since is not None:
        held.unknown_since = end.unknown_since


def _count(queue: str, standing: Sequence[Held], paused: bool) -> QueueCount:
    ready = [held.published for held in standing if held.worker is None and held.due is None]
    claimed = sum(held.worker is not None for held in standing)
    delayed = len(standing) - len(ready) - claimed
    return QueueCount(queue, len(ready), delayed, claimed, min(ready, default=None), paused)


def _waiting(held: Held) -> Waiting:
    message = held.message
    return Waiting(
        held.number, message.queue, message.priority, held.due, message.payload, held.published,
        held.worker, held.deliveries,
    )  # fmt: skip
