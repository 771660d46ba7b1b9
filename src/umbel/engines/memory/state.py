"""The state store in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop
from itertools import islice
from types import MappingProxyType
from typing import Unpack

import msgspec

from umbel import clock
from umbel.engines.broker import Delivery, HistoryEntry, StoredResult, Workflow
from umbel.engines.memory.store import Store
from umbel.engines.state import (
    DeadLetter,
    HistoryFilter,
    NameTaken,
    ScheduleChange,
    ScheduleRecord,
    WorkerRecord,
    select,
)


class MemoryState:
    """`umbel.engines.state.StateStore` inside one process."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def register(self, record: WorkerRecord) -> int:
        """Add an incarnation; see the contract."""
        store = self._store
        with store.lock:
            for other in store.workers.values():
                if other.node == record.node:
                    raise NameTaken(other)
            store.incarnations = number = store.incarnations + 1
            store.workers[number] = msgspec.structs.replace(
                record, number=number, renewals=0, dead=False
            )
            return number

    def renew(self, worker: int) -> bool:
        """Count the lease up; see the contract."""
        store = self._store
        with store.lock:
            record = store.workers.get(worker)
            if record is None or record.dead:
                return False
            renewals = record.renewals + 1
            store.workers[worker] = msgspec.structs.replace(record, renewals=renewals)
            return True

    def workers(self) -> list[WorkerRecord]:
        """All incarnations; see the contract."""
        with self._store.lock:
            return list(self._store.workers.values())

    def declare_dead(self, worker: int, *, renewals: int | None = None) -> bool:
        """Bar an incarnation from claiming; see the contract."""
        store = self._store
        with store.lock:
            record = store.workers.get(worker)
            if record is None or renewals not in {None, record.renewals}:
                return False
            store.workers[worker] = msgspec.structs.replace(record, dead=True)
            return True

    def claims(self, worker: int, limit: int = 500) -> list[Delivery]:
        """What an incarnation holds; see the contract."""
        with self._store.lock:
            held = self._store.claimed.get(worker, {})
            return [held[number].delivery(worker) for number in sorted(held)[:limit]]

    def unregister(self, worker: int) -> bool:
        """Remove an incarnation that holds nothing; see the contract."""
        with self._store.lock:
            if worker in self._store.claimed:
                return False
            return self._store.workers.pop(worker, None) is not None

    def revoke(
        self,
        results: Sequence[StoredResult],
        *,
        until: float,
        workflows: Mapping[str, Workflow] = MappingProxyType({}),
        signal: int = 0,
        history: Sequence[HistoryEntry] = (),
    ) -> list[str]:
        """Revoke task ids; see the contract."""
        store = self._store
        waiting = []
        with store.lock:
            for result in results:
                before = store.revoked.pop(result.id, (0, 0.0, 0))
                store.revocations += 1
                store.revoked[result.id] = (store.revocations, until, signal or before[2])
                siblings = store.tasks.get(result.id, {})
                gone = [held for held in siblings.values() if held.worker is None]
                for held in gone:
                    store.remove(held)
                if gone:
                    waiting.append(result.id)
                    store.store(result)
                    if result.id in workflows:
                        store.change(workflows[result.id], clock.time())
            ended = set(waiting)
            store.history.extend(one for one in history if one.id in ended)
            store.ring("work")  # workers that read ahead look again
            store.ring("result")
        return waiting

    def revocations(self, after: int) -> tuple[int, dict[str, int]]:
        """Ids revoked since a version; see the contract."""
        store = self._store
        now = clock.time()
        with store.lock:
            ids = {
                id: signal
                for id, (version, until, signal) in store.revoked.items()
                if version > after and until > now
            }
            return store.revocations, ids

    def pause(self, queue: str) -> None:
        """Let nobody claim from a queue; see the contract."""
        with self._store.lock:
            self._store.paused.add(queue)

    def resume(self, queue: str) -> bool:
        """End a pause; see the contract."""
        store = self._store
        with store.lock:
            was_paused = queue in store.paused
            store.paused.discard(queue)
            store.ring("work")
            return was_paused

    def dead_letters(self, *, limit: int = 100, task: str | None = None) -> list[DeadLetter]:
        """Dead letters, newest first; see the contract."""
        with self._store.lock:
            newest = (letter for letter, _ in reversed(self._store.dead.values()))
            chosen = (letter for letter in newest if task is None or letter.task == task)
            return list(islice(chosen, limit))

    def dead_letter(self, number_or_id: str) -> DeadLetter | None:
        """One dead letter with its payload; see the contract."""
        with self._store.lock:
            dead = self._store.dead
            found = dead.get(int(number_or_id)) if number_or_id.isdecimal() else None
            if found is None:
                found = next((f for f in reversed(dead.values()) if f[0].id == number_or_id), None)
        return found and msgspec.structs.replace(found[0], payload=found[1].payload)

    def replay(self, numbers: Sequence[int]) -> int:
        """Put dead letters back; see the contract."""
        store = self._store
        done = 0
        with store.lock:
            for number in numbers:
                found = store.dead.pop(number, None)
                if found is not None:
                    letter, message = found
                    # Its FAILURE goes: the task is pending again.
                    store.results.pop(letter.id, None)
                    store.add(msgspec.structs.replace(message, due=None), clock.time())
                    done += 1
            store.ring("work")
        return done

    def drop(self, numbers: Sequence[int]) -> int:
        """Delete dead letters; see the contract."""
        with self._store.lock:
            return sum(self._store.dead.pop(number, None) is not None for number in numbers)

    def history(self, **which: Unpack[HistoryFilter]) -> list[HistoryEntry]:
        """Ended attempts, newest first; see the contract."""
        with self._store.lock:
            return select(reversed(self._store.history), which)

    def schedules(self, names: Sequence[str] | None = None) -> list[ScheduleRecord]:
        """The periodic tasks; see the contract."""
        with self._store.lock:
            there = self._store.schedules
            wanted = there.keys() if names is None else there.keys() & set(names)
            return [there[name] for name in sorted(wanted)]

    def due_schedules(self, now: float, limit: int) -> tuple[list[ScheduleRecord], float | None]:
        """Periodic tasks that are due; see the contract."""
        with self._store.lock:
            waiting = [(r.due, r) for r in self._store.schedules.values() if r.due is not None]
        waiting.sort(key=lambda pair: pair[0])
        due = [record for at, record in waiting if at <= now]
        return due[:limit], next((at for at, _ in waiting if at > now), None)

    def change_schedules(self, changes: Sequence[ScheduleChange]) -> list[str]:
        """Move periodic tasks on; see the contract."""
        store = self._store
        refused = []
        now = clock.time()
        with store.lock:
            for change in changes:
                found = store.schedules.get(change.name)
                if change.version != (0 if found is None else found.version):
                    refused.append(change.name)
                    continue
                if change.record is None:
                    store.schedules.pop(change.name, None)
                else:
                    store.schedules[change.name] = change.record
                for message in change.messages:
                    store.add(message, now)
            store.ring("work")
        return refused

    def keep_house(
        self, *, history_age: float | None = None, history_rows: int | None = None
    ) -> bool:
        """Drop what has outlived its time; see the contract."""
        store = self._store
        now = clock.time()
        with store.lock:
            while store.expiring and store.expiring[0][0] <= now:
                expires, id = heappop(store.expiring)
                found = store.results.get(id)
                if found is not None and found.expires == expires:
                    del store.results[id]
            for id in [id for id, (_, until, _) in store.revoked.items() if until <= now]:
                del store.revoked[id]
            for id in [
                id
                for id, pieces in store.workflows.items()
                if pieces.expires is not None and pieces.expires <= now
            ]:
                del store.workflows[id]
            oldest = float("-inf") if history_age is None else now - history_age
            rows = len(store.history) if history_rows is None else history_rows
            while store.history and (len(store.history) > rows or store.history[0].at < oldest):
                store.history.popleft()
        return False
