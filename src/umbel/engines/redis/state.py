"""The state store on Redis; keys.py describes what lies where."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Unpack

import msgspec

from umbel import clock
from umbel.engines.broker import Delivery, HistoryEntry, Message, StoredResult, Workflow
from umbel.engines.redis import heads
from umbel.engines.redis.broker import RedisBroker
from umbel.engines.redis.connection import TIMEOUT, Server
from umbel.engines.redis.keys import HISTORY_ROWS, Keys
from umbel.engines.redis.results import RedisResults
from umbel.engines.state import (
    DeadLetter,
    HistoryFilter,
    NameTaken,
    ScheduleChange,
    ScheduleRecord,
    WorkerRecord,
    select,
)

logger: Final = logging.getLogger("umbel.engines.redis")

BATCH: Final = 500
QUEUE_KEPT: Final = 86400.0
"""Seconds for which an empty queue that nobody has named stays in the list of queues."""


class RedisState:
    """`umbel.engines.state.StateStore` on one database of one server."""

    def __init__(
        self, server: Server, keys: Keys, broker: RedisBroker, on_worker: Callable[[], None]
    ) -> None:
        self._server = server
        self._keys = keys
        self._broker = broker
        self._on_worker = on_worker

    # ------------------------------------------------------------------ workers

    def register(self, record: WorkerRecord) -> int:
        """Add an incarnation; see the contract."""
        self._on_worker()
        keys = self._keys
        reply = self._server.run(
            "register",
            [keys.node, keys.counter, keys.worker, keys.lease],
            record.node,
            msgspec.json.encode(record),
        )
        if isinstance(reply, list):
            number, data, lease = reply
            raise NameTaken(_record(number, data, lease))
        self._broker.promote()
        return int(reply)

    def renew(self, worker: int) -> bool:
        """Count the lease up; see the contract."""
        return bool(self._server.run("lease", [self._keys.lease], worker, "renew"))

    def workers(self) -> list[WorkerRecord]:
        """All incarnations; see the contract."""
        keys = self._keys
        reply = self._server.call(
            [("MULTI",), ("HGETALL", keys.worker), ("HGETALL", keys.lease), ("EXEC",)]
        )[-1]
        records, leases = (dict(zip(r[::2], r[1::2], strict=True)) for r in reply)
        found = [
            _record(number, data, leases[number])
            for number, data in records.items()
            if number in leases
        ]
        return sorted(found, key=lambda record: record.number)

    def declare_dead(self, worker: int, *, renewals: int | None = None) -> bool:
        """Bar an incarnation from claiming; see the contract."""
        at = "" if renewals is None else renewals
        return bool(self._server.run("lease", [self._keys.lease], worker, "end", at))

    def claims(self, worker: int, limit: int = 500) -> list[Delivery]:
        """What an incarnation holds; see the contract."""
        keys = self._keys
        numbers, early = self._server.call(
            [("HKEYS", keys.claims(worker)), ("SMEMBERS", keys.early(worker))]
        )
        first = sorted(map(int, numbers))[:limit]
        if not first:
            return []
        (held,) = self._server.call([("HMGET", keys.claims(worker), *first)])
        marked = set(map(int, early))
        return [
            heads.delivery(number, worker, data, early=number in marked)
            for number, data in zip(first, held, strict=True)
            if data is not None
        ]

    def unregister(self, worker: int) -> bool:
        """Remove an incarnation that holds nothing; see the contract."""
        keys = self._keys
        (data,) = self._server.call([("HGET", keys.worker, worker)])
        if data is None:
            return False
        node = msgspec.json.decode(data, type=WorkerRecord).node
        names = [
            keys.lease, keys.worker, keys.node, keys.claims(worker), keys.early(worker),
            keys.claimed(worker), keys.settled(worker),
        ]  # fmt: skip
        gone = bool(self._server.run("unregister", names, worker, node))
        if gone and self._broker.celerys_eta:
            self._broker.release()
        return gone

    # ------------------------------------------------------------------ revocations, pauses

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
        keys = self._keys
        waiting: list[str] = []
        for start in range(0, len(results), BATCH):
            part = results[start : start + BATCH]
            life = max(1, round((until - clock.time()) * 1000))
            # Noted first: whoever claims from here on knows of it.
            self._server.run(
                "revoke",
                [keys.counter, keys.revoked, keys.revoked_until, keys.revoked_signal],
                until,
                life,
                signal,
                *(result.id for result in part),
            )
            waiting += self._broker.revoke_waiting(part, workflows)
        late = [one for id in waiting if id in workflows for one in workflows[id].results]
        RedisResults(self._server, keys).put(late)
        ended = set(waiting)
        self._add_to_history([one for one in history if one.id in ended])
        return waiting

    def _add_to_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Add attempts that did not succeed."""
        if entries:
            rows = [msgspec.json.encode(msgspec.structs.astuple(entry)) for entry in entries]
            lists = (self._keys.history, self._keys.failed)
            self._server.call(
                [("LPUSH", name, *rows) for name in lists]
                + [("LTRIM", name, 0, HISTORY_ROWS - 1) for name in lists]
            )

    def revocations(self, after: int) -> tuple[int, dict[str, int]]:
        """Ids revoked since a version; see the contract."""
        keys = self._keys
        reply = self._server.call(
            [("MULTI",), ("HGET", keys.counter, "revocation"),
             ("ZRANGEBYSCORE", keys.revoked, f"({after}", "+inf"), ("EXEC",)]
        )[-1]  # fmt: skip
        version, ids = int(reply[0] or 0), reply[1]
        if not ids:
            return version, {}
        ends, signals = self._server.call(
            [("ZMSCORE", keys.revoked_until, *ids), ("HMGET", keys.revoked_signal, *ids)]
        )
        now = clock.time()
        return version, {
            id.decode(): int(signal or 0)
            for id, end, signal in zip(ids, ends, signals, strict=True)
            if end is not None and float(end) > now
        }

    def pause(self, queue: str) -> None:
        """Let nobody claim from a queue; see the contract."""
        self._server.call([("SADD", self._keys.paused, queue)])

    def resume(self, queue: str) -> bool:
        """End a pause; see the contract."""
        return bool(self._server.call([("SREM", self._keys.paused, queue)])[0])

    # ------------------------------------------------------------------ periodic tasks

    def schedules(self, names: Sequence[str] | None = None) -> list[ScheduleRecord]:
        """The periodic tasks; see the contract."""
        keys = self._keys
        found: Iterable[tuple[str, bytes | None]]
        if names is None:
            (flat,) = self._server.call([("HGETALL", keys.schedule)])
            found = zip((name.decode() for name in flat[::2]), flat[1::2], strict=True)
        elif names:
            wanted = list(dict.fromkeys(names))
            (rows,) = self._server.call([("HMGET", keys.schedule, *wanted)])
            found = zip(wanted, rows, strict=True)
        else:
            found = ()
        records = [_schedule(name, data) for name, data in found if data is not None]
        return sorted(records, key=lambda record: record.name)

    def due_schedules(self, now: float, limit: int) -> tuple[list[ScheduleRecord], float | None]:
        """Periodic tasks that are due; see the contract."""
        due, coming = self._server.call(
            [("ZRANGEBYSCORE", self._keys.schedule_due, "-inf", now, "LIMIT", 0, limit),
             ("ZRANGEBYSCORE", self._keys.schedule_due, f"({now!r}", "+inf", "WITHSCORES",
              "LIMIT", 0, 1)]
        )  # fmt: skip
        # A tick is the pair of due time and version, so both have to be of one moment: the record.
        found = [
            (record.due, record)
            for record in self.schedules([name.decode() for name in due])
            if record.due is not None and record.due <= now
        ]
        found.sort(key=lambda pair: pair[0])
        return [record for _, record in found], float(coming[1]) if coming else None

    def change_schedules(self, changes: Sequence[ScheduleChange]) -> list[str]:
        """Move periodic tasks on; see the contract."""
        broker, now = self._broker, clock.time()
        refused: list[str] = []
        for start in range(0, len(changes), BATCH):
            names = [self._keys.schedule, self._keys.schedule_due]
            arguments: list[Any] = []
            for change in changes[start : start + BATCH]:
                messages: Sequence[Message] = change.messages
                if any(message.due is not None for message in messages):
                    messages = broker.undelayed(messages, TIMEOUT)
                steps: list[Any] = []
                count = sum(broker.following(m, now, names, steps) for m in messages)
                value, due = _schedule_value(change.record)
                arguments += (change.name, change.version or "", value, due, count, *steps)
            if arguments:
                reply = self._server.run("schedule", names, *arguments)
                refused += [name.decode() for name in reply]
        sent = [message for change in changes for message in change.messages]
        if sent:
            broker.say_used(sent)
        return refused

    # ------------------------------------------------------------------ dead letters

    def dead_letters(self, *, limit: int = 100, task: str | None = None) -> list[DeadLetter]:
        """Dead letters, newest first; see the contract."""
        found: list[DeadLetter] = []
        for letter in self._letters():
            if task in {None, letter.task}:
                found.append(letter)
                if len(found) == limit:
                    break
        return found

    def _letters(self) -> Iterator[DeadLetter]:
        keys = self._keys
        numbers = sorted(map(int, self._server.call([("HKEYS", keys.dead)])[0]), reverse=True)
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            (rows,) = self._server.call([("HMGET", keys.dead, *part)])
            yield from (_letter(n, row) for n, row in zip(part, rows, strict=True) if row)

    def dead_letter(self, number_or_id: str) -> DeadLetter | None:
        """One dead letter with its payload; see the contract."""
        keys = self._keys
        found = None
        if number_or_id.isdecimal() and len(number_or_id) <= 18:
            (row,) = self._server.call([("HGET", keys.dead, int(number_or_id))])
            found = _letter(int(number_or_id), row) if row else None
        if found is None:
            found = next((one for one in self._letters() if one.id == number_or_id), None)
        if found is None:
            return None
        (data,) = self._server.call([("HGET", keys.dead_message, found.number)])
        return (
            None
            if data is None
            else msgspec.structs.replace(found, payload=heads.read(data).payload)
        )

    def replay(self, numbers: Sequence[int]) -> int:
        """Put dead letters back; see the contract."""
        keys, done = self._keys, 0
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            letters, messages = self._server.call(
                [("HMGET", keys.dead, *part), ("HMGET", keys.dead_message, *part)]
            )
            there: list[int] = []
            names = [keys.dead, keys.dead_message]
            for number, letter, data in zip(part, letters, messages, strict=True):
                if letter is not None and data is not None:
                    held, id = heads.read(data), _letter(number, letter).id
                    there.append(number)
                    names += (
                        keys.list_at(held.queue, held.step), keys.result(id), keys.status(id)
                    )  # fmt: skip
            if there:
                done += self._server.run("replay", names, *there)
        return done

    def drop(self, numbers: Sequence[int]) -> int:
        """Delete dead letters; see the contract."""
        done = 0
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            gone, _ = self._server.call(
                [("HDEL", self._keys.dead, *part), ("HDEL", self._keys.dead_message, *part)]
            )
            done += gone
        return done

    # ------------------------------------------------------------------ history, house

    def history(self, **which: Unpack[HistoryFilter]) -> list[HistoryEntry]:
        """Ended attempts, newest first; see the contract."""
        return select(self._entries(), which)

    def _entries(self) -> Iterator[HistoryEntry]:
        start = 0
        while True:
            (rows,) = self._server.call([("LRANGE", self._keys.history, start, start + BATCH - 1)])
            yield from map(_entry, rows)
            if len(rows) < BATCH:
                return
            start += BATCH

    def keep_house(
        self, *, history_age: float | None = None, history_rows: int | None = None
    ) -> bool:
        """Drop what has outlived its time; see the contract."""
        keys, now = self._keys, clock.time()
        (ended,) = self._server.call(
            [("ZRANGEBYSCORE", keys.revoked_until, "-inf", now, "LIMIT", 0, BATCH)]
        )
        if ended:
            self._server.call(
                [
                    ("ZREM", keys.revoked, *ended),
                    ("ZREM", keys.revoked_until, *ended),
                    ("HDEL", keys.revoked_signal, *ended),
                ]
            )
        more = len(ended) == BATCH
        for name in (keys.history, keys.failed):
            if history_rows is not None:
                self._server.call([("LTRIM", name, 0, history_rows - 1)])
            if history_age is not None:
                more |= self._drop_old(name, now - history_age)
        self._forget_queues(now)
        return more

    def _drop_old(self, name: str, oldest: float) -> bool:
        (rows,) = self._server.call([("LRANGE", name, -BATCH, -1)])
        old = sum(_entry(row).at < oldest for row in rows)
        if old:
            self._server.call([("LTRIM", name, 0, -old - 1)])
        return old == BATCH

    def _forget_queues(self, now: float) -> None:
        keys = self._keys
        (unnamed,) = self._server.call(
            [("ZRANGEBYSCORE", keys.queues, "-inf", now - QUEUE_KEPT, "LIMIT", 0, BATCH)]
        )
        for name in unnamed:
            queue = name.decode()
            self._server.run(
                "forget", [keys.queues, keys.delayed(queue)[0], *keys.lists(queue)], queue
            )


def _record(number: bytes, data: bytes, lease: bytes) -> WorkerRecord:
    record = msgspec.json.decode(data, type=WorkerRecord)
    dead = lease.startswith(b"dead")
    return msgspec.structs.replace(
        record, number=int(number), renewals=int(lease.removeprefix(b"dead ")), dead=dead
    )


def _schedule(name: str, data: bytes) -> ScheduleRecord:
    version, due, body = data.split(b"\0", 2)
    return ScheduleRecord(name, int(version), float(due) if due else None, body)


def _schedule_value(record: ScheduleRecord | None) -> tuple[bytes, bytes]:
    """What is stored of a record, and its due time; nothing of one that is removed."""
    if record is None:
        return b"", b""
    due = b"" if record.due is None else repr(record.due).encode()
    return b"%d\0%b\0%b" % (record.version, due, record.body), due


def _letter(number: int, row: bytes) -> DeadLetter:
    return DeadLetter(number, *msgspec.json.decode(row))


def _entry(row: bytes) -> HistoryEntry:
    fields: list[Any] = msgspec.json.decode(row)
    return HistoryEntry(*fields)
