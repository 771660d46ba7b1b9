"""The broker on Redis; keys.py describes what lies where."""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from umbel import clock, states
from umbel.engines.broker import (
    Acknowledge,
    Bury,
    Claim,
    Delivery,
    Joiner,
    LeaseLost,
    Message,
    PutBack,
    QueueCount,
    Settlement,
    StoredResult,
    Waiting,
    Waker,
    Workflow,
)
from umbel.engines.redis import heads
from umbel.engines.redis.connection import Command, Server, script
from umbel.engines.redis.heads import Held
from umbel.engines.redis.keys import HISTORY_ROWS, NOTES_TTL, PRIVATE, PROMOTER_TTL, Keys
from umbel.engines.redis.wake import WorkWaker
from umbel.engines.redis.workflows import Flow, Joins, life, pairs
from umbel.exceptions import OperationalError, UnconfirmedError

logger: Final = logging.getLogger("umbel.engines.redis")

LEAST_URGENT_EVERY: Final = 16
"""One claim in so many serves the least urgent level first, so that none starves."""
PROMOTE: Final = 500
"""Most delayed messages that one script makes ready, so that nobody else waits long."""
BATCH: Final = 500
"""Most settlements of one script."""
SCAN: Final = 1000
"""Most envelopes that one script looks at."""
FEW: Final = 8
"""So many ids are looked for by the server; for more, the envelopes travel."""
SAID_EVERY: Final = 60.0
"""Seconds after which a process says once more that it uses a queue: the server may have been
replaced by an empty one."""
PROMOTER_KNOWN: Final = 30.0
"""Seconds for which a process believes that a worker makes ready what is due; 5 that none does."""
ENDED: Final = 20_000
"""So many ends a process remembers, for a replica that takes the server's place and lacks them."""
RESENT: Final = 10_000
"""How far back in a list a resend looks for itself."""

encode: Final = msgspec.json.Encoder().encode


class RedisBroker:
    """`umbel.engines.broker.Broker` on one database of one server."""

    browsable = True
    unique_tags = False
    shared = True

    def __init__(
        self,
        server: Server,
        keys: Keys,
        *,
        urgent_first: bool = True,
        celerys_eta: bool = False,
    ) -> None:
        self._server = server
        self._keys = keys
        self.celerys_eta = celerys_eta
        """What has an ETA goes into the list: any worker that takes it waits for the time."""
        # Before what is shared comes what only our workers can run.
        steps = range(len(keys.steps))
        self._levels = [
            level
            for step in (reversed(steps) if urgent_first else steps)
            for level in (len(steps) + step, step)
        ]
        self._joins = Joins(self, server, keys)
        self._claims = 0
        self._said: dict[str, float] = {}
        self._promoter: tuple[bool, float] = (False, 0.0)
        """Whether there was one, and the monotonic time until which that is believed."""
        self._bells = False
        """A worker is there that hears of messages only from who publishes them."""
        self._token = os.urandom(6).hex()
        self._tokens = 0
        self._unanswered: dict[int, str] = {}
        """By worker: the token of a claim of which nobody knows whether it was made."""
        self._ended: deque[int] = deque(maxlen=ENDED)
        """The numbers of the last claims that were ended here."""
        self._highest: dict[int, int] = {}
        """By worker: the last number that it was given."""
        self._looked: dict[int, int] = {}
        """By worker: after how many connections it was looked for ends that the server lacks."""

    @property
    def joiner(self) -> Joiner | None:
        """What makes of a chord's body a message that Celery can read; see the contract."""
        return self._joins.joiner

    @joiner.setter
    def joiner(self, joiner: Joiner | None) -> None:
        self._joins.joiner = joiner

    @property
    def levels(self) -> tuple[int, ...]:
        """The priorities that are told apart."""
        return self._keys.steps

    # ------------------------------------------------------------------ publish

    def publish(
        self,
        messages: Sequence[Message],
        workflow: Workflow | None = None,
        *,
        timeout: float = 5.0,
    ) -> None:
        """Store all messages or none; see the contract."""
        if not messages and workflow is None:
            return
        deadline = time.monotonic() + timeout
        if any(message.due is not None for message in messages):
            messages = self.undelayed(messages, timeout)
        if workflow is not None:
            self._joins.publish(messages, workflow, deadline)
            self.say_used(messages)
            return
        commands = self._publishing(messages)
        if len(commands) > 1:
            commands = [("MULTI",), *commands, ("EXEC",)]

        def again(deadline: float) -> Sequence[Command]:
            rest = [m for m in messages if not self._arrived(m, deadline)]
            made = self._publishing(rest)
            if not made and self._server.replicas:
                # It is there, and this connection has written nothing that could be confirmed.
                return [("HINCRBY", self._keys.counter, "resent", 1)]
            return [("MULTI",), *made, ("EXEC",)] if made else []

        try:
            self._server.call(commands, deadline - time.monotonic(), patient=True, again=again)
        except UnconfirmedError:
            self.say_used(messages)  # it is there
            raise
        self.say_used(messages)

    def undelayed(self, messages: Sequence[Message], timeout: float) -> Sequence[Message]:
        """Messages as they are to be stored: delayed ones only where an Umbel worker lives.

        Without one they go into the list: their time stands in their headers, and a Celery worker
        waits for it. An Umbel worker that comes delays them then.
        """
        there, believed = self._promoter
        if not self.celerys_eta and believed < (now := time.monotonic()):
            command = ("EXISTS", self._keys.promoter)
            there = bool(self._server.call([command], timeout, patient=True)[0])
            self._promoter = there, now + (PROMOTER_KNOWN if there else PROMOTER_KNOWN / 6)
        if there and not self.celerys_eta:
            return messages
        return [msgspec.structs.replace(message, due=None) for message in messages]

    def _publishing(self, messages: Sequence[Message]) -> list[Command]:
        if len(messages) == 1 and messages[0].due is None:  # the short road
            message = messages[0]
            return [("LPUSH", self._list_of(message), message.payload)]
        now = clock.time()
        ready: dict[str, list[Any]] = {}
        commands: list[Command] = []
        for message in messages:
            if message.due is None or message.due <= now:
                name = self._list_of(message)
                ready.setdefault(name, ["LPUSH", name]).append(message.payload)
            else:
                due, tags, later = self._keys.delayed(message.queue)
                member = self.member(message)
                commands += [
                    ("ZADD", due, "NX", message.due, member),
                    ("ZADD", tags, "NX", 0, member),
                    ("HSETNX", later, member, message.payload),
                ]
        return [*map(tuple, ready.values()), *commands]

    def member(self, message: Message) -> str:
        """What a delayed message is called in its three keys."""
        level = self._keys.level(message.priority, private=message.private)
        return f"{message.tag}\0{self._keys.places[level]}"

    def _list_of(self, message: Message) -> str:
        return self._keys.list(message.queue, message.priority, private=message.private)

    def _arrived(self, message: Message, deadline: float) -> bool:
        """Whether a message lies in the store, or was there, though its sender got no answer."""
        keys = self._keys
        rest = deadline - time.monotonic()
        (leases,) = self._server.call([("HKEYS", keys.lease)], rest, patient=True)
        claims = [keys.claims(int(worker)) for worker in leases]
        name = self._list_of(message)
        commands: list[Command] = [
            ("LPOS", name, message.payload, "MAXLEN", RESENT),
            ("HEXISTS", keys.delayed(message.queue)[2], self.member(message)),
            ("EXISTS", keys.result(message.id)),
        ]
        if claims:
            commands.append(script("held")(claims, message.payload))
        rest = deadline - time.monotonic()
        place, *others = self._server.call(commands, rest, patient=True)
        return place is not None or any(others)

    def say_used(self, messages: Sequence[Message]) -> None:
        """Let others know of the queues: Celery by its bindings, ours by the list of queues.

        And of the messages those workers that the server does not tell of them.
        """
        said, now = self._said, time.monotonic()
        new = {m.queue for m in messages if said.get(m.queue, 0.0) < now}
        if new:
            commands: list[Command] = [("EXISTS", self._keys.deaf)]
            for queue in new:
                binding, permanent, member = self._keys.bindings(queue)
                commands += [
                    ("SADD", binding, member),
                    ("SADD", permanent, member),
                    ("ZADD", self._keys.queues, clock.time(), queue),
                ]
            self._bells = bool(self._server.call(commands)[0])
            said.update(dict.fromkeys(new, now + SAID_EVERY))
        if self._bells:
            bells = [("PUBLISH", self._keys.ready(q), "") for q in {m.queue for m in messages}]
            try:
                self._server.call(bells)
            except OperationalError as error:  # those workers look every second anyway
                self._bells = False
                logger.info("Nobody is told of what is queued: %s", error)

    # ------------------------------------------------------------------ claim

    def claim(
        self, worker: int, queues: Sequence[str], limit: int, waker: Waker | None = None
    ) -> Claim:
        """Claim ready messages; see the contract."""
        line = waker if isinstance(waker, WorkWaker) else None
        if line is not None:
            line.prepare()
        if self._server.made != self._looked.get(worker):
            self._end_again(worker)
        names = list(dict.fromkeys(queues))
        self._claims += 1
        if len(names) > 1:  # each queue is the first in its turn
            turn = self._claims % len(names)
            names = names[turn:] + names[:turn]
        command = self._claiming(worker, names, limit)
        reply = None if line is None else line.ask([command])
        if reply is None:
            line = None
            (reply,) = self._server.call([command])
        del self._unanswered[worker]
        if reply == 0:
            raise LeaseLost(worker)
        version, due, chunks, again = reply
        next_due = None if due is None else float(due)
        found = self._claimed(worker, names, chunks)
        for number, data in zip(again[::2], again[1::2], strict=True):
            found.append(heads.delivery(int(number), worker, data))
            self._highest[worker] = max(int(number), self._highest.get(worker, 0))
        if line is not None and len(found) < limit:
            line.ring_for_more(next_due, version)
        return Claim(found, version, next_due)

    def _claiming(self, worker: int, queues: Sequence[str], limit: int) -> Command:
        """The command of a claim; of the same as before while that has no answer."""
        token = self._unanswered.get(worker)
        if token is None:
            token = self._unanswered[worker] = self.next_token()
        keys, levels = self._keys, self._levels
        named = [keys.lease, keys.paused, keys.counter, keys.notes, keys.claims(worker),
                 keys.claimed(worker)]  # fmt: skip
        for name in queues:
            lists = keys.lists(name)
            named += keys.delayed(name)
            named += [lists[level] for level in levels]
        steps = [keys.places[level] for level in levels]
        upside_down = int(self._claims % LEAST_URGENT_EVERY == 0)
        return script("claim")(
            named, worker, token, limit, clock.time(), upside_down, PROMOTE, len(levels), *steps,
            *queues, self._highest.get(worker, 0),
        )  # fmt: skip

    def _claimed(
        self, worker: int, queues: Sequence[str], chunks: Sequence[Sequence[Any]]
    ) -> list[Delivery]:
        """The deliveries that a claim tells of."""
        steps, found = [self._keys.places[level] for level in self._levels], []
        for first, queue, level, payloads, notes in chunks:
            known = dict(zip(notes[::2], notes[1::2], strict=True))
            name, step = queues[queue - 1], steps[level - 1] % PRIVATE
            for place, payload in enumerate(payloads):
                delivery = Delivery(first + place, worker, 1, name, payload, step)
                if known and (note := known.get(place + 1)) is not None:
                    (
                        delivery.deliveries,
                        delivery.suspect,
                        delivery.unknown_since,
                    ) = heads.read_notes(note)
                found.append(delivery)
            self._highest[worker] = first + len(payloads) - 1
        return found

    def _end_again(self, worker: int) -> None:
        """Put back what was ended and is claimed all the same.

        A replica has taken the server's place, and it had not heard of these ends.
        """
        made = self._server.made
        names = self._keys.claims(worker), self._keys.early(worker)
        numbers, early = self._server.call([("HKEYS", names[0]), ("SMEMBERS", names[1])])
        undone = {int(number) for number in numbers}.intersection(self._ended)
        if undone:
            logger.warning(
                "%d tasks had ended of which %s does not know, as it has taken another server's "
                "place: they run again, but for those that were acknowledged early.",
                len(undone),
                self._server.name,
            )
            done = {int(number) for number in early}
            self.settle(
                [
                    Settlement(n, worker, 1, Acknowledge() if n in done else PutBack())
                    for n in sorted(undone)
                ]
            )
        self._looked[worker] = made

    def next_token(self) -> str:
        """What tells one call from all others, for when its answer is lost."""
        self._tokens += 1
        return f"{self._token}.{self._tokens}"

    def accept(self, deliveries: Sequence[Delivery]) -> list[int]:
        """Acknowledge early; see the contract."""
        refused: list[int] = []
        by_worker: defaultdict[int, list[int]] = defaultdict(list)
        for delivery in deliveries:
            by_worker[delivery.worker].append(delivery.number)
        for worker, numbers in by_worker.items():
            keys = [self._keys.claims(worker), self._keys.early(worker)]
            refused += map(int, self._server.run("accept", keys, *numbers))
        for delivery in deliveries:
            delivery.early = True
        return refused

    # ------------------------------------------------------------------ settle

    def settle(self, settlements: Sequence[Settlement]) -> list[int]:
        """End claims with all that follows; see the contract."""
        refused: list[int] = []
        for start in range(0, len(settlements), BATCH):
            part = settlements[start : start + BATCH]
            held = self._look_up(part)
            by_worker: defaultdict[int, list[Settlement]] = defaultdict(list)
            for settlement in part:
                by_worker[settlement.worker].append(settlement)
            commands = [self._settling(w, ends, held) for w, ends in by_worker.items()]
            for numbers, joined in self._server.call(commands):
                refused += [abs(int(number)) for number in numbers]
                if joined:
                    self._joins.publish_bodies(pairs(joined))
            self._ended.extend([settlement.number for settlement in part])
        queues = [m for s in settlements for m in s.follow_ups]
        if queues:
            self.say_used(queues)
        return refused

    def _look_up(self, settlements: Sequence[Settlement]) -> dict[tuple[int, int], Held]:
        """What is put back or buried, whose list is not known otherwise."""
        wanted: defaultdict[int, list[int]] = defaultdict(list)
        for settlement in settlements:
            if not isinstance(settlement.end, Acknowledge):
                wanted[settlement.worker].append(settlement.number)
        if not wanted:
            return {}
        commands = [("HMGET", self._keys.claims(w), *numbers) for w, numbers in wanted.items()]
        replies = self._server.call(commands)
        return {
            (worker, number): heads.read(data)
            for (worker, numbers), reply in zip(wanted.items(), replies, strict=True)
            for number, data in zip(numbers, reply, strict=True)
            if data is not None
        }

    def _settling(
        self, worker: int, settlements: Sequence[Settlement], held: dict[tuple[int, int], Held]
    ) -> Command:
        # A message gets a new number at each claim, so there is no second attempt of one.
        ends = [(s.number if s.attempt == 1 else -s.number, s) for s in settlements]
        return self.ending(self._keys.claims(worker), worker, ends, held)

    def ending(
        self,
        claims: str,
        worker: int,
        ends: Sequence[tuple[int | str, Settlement]],
        held: Mapping[tuple[int, int], Held] = MappingProxyType({}),
    ) -> Command:
        """The command that settles what lies in one hash under these fields."""
        names = self._keys
        keys: list[str] = [
            claims, names.early(worker), names.settled(worker), names.history,
            names.failed, names.counter, names.dead, names.dead_message, names.notes,
        ]  # fmt: skip
        arguments: list[Any] = [self.next_token(), HISTORY_ROWS, NOTES_TTL]
        now = clock.time()
        flow = Flow(names, keys, now)
        for field, settlement in ends:
            steps: list[Any] = []
            count = 0
            end = settlement.end
            if not isinstance(end, Acknowledge):
                found = held.get((worker, settlement.number))
                if found is not None:
                    count += self._returning(end, found, now, keys, steps)
            results = [] if settlement.result is None else [settlement.result]
            if settlement.workflow is not None:
                count += flow.change(settlement.workflow, steps)
                results += settlement.workflow.results
            for result in results:
                self.storing(result, now, keys, steps)
            count += len(results)
            for message in settlement.follow_ups:
                count += self.following(message, now, keys, steps)
            if (history := settlement.history) is not None:
                failed = history.state not in {states.SUCCESS, states.IGNORED}
                steps += ("f" if failed else "h", encode(msgspec.structs.astuple(history)))
                count += 1
            arguments += (field, count)
            arguments += steps
        return script("settle")(keys, *arguments)

    def _returning(
        self, end: PutBack | Bury, held: Held, now: float, keys: list[str],
        steps: list[Any],
    ) -> int:  # fmt: skip
        """The steps of a message that does not end well; how many they are."""
        if not isinstance(end, PutBack):
            charged = held.deliveries if end.deliveries is None else end.deliveries
            letter = (
                end.id, end.task, held.queue, end.reason, end.detail, clock.time(), charged
            )  # fmt: skip
            steps += ("x", encode(letter), heads.write(held))
            return 1
        deliveries = held.deliveries if end.deliveries is None else end.deliveries
        suspect = held.suspect if end.suspect is None else end.suspect
        since = held.unknown_since if end.unknown_since is None else end.unknown_since
        if end.due is None or end.due <= now:
            keys.append(self._keys.list_at(held.queue, held.step))
            steps += ("b", len(keys), held.payload)
        else:
            tag = _tag(held.payload)
            keys += self._keys.delayed(held.queue)
            steps += ("d", len(keys) - 2, f"{tag}\0{held.step}", end.due, held.payload)
        if not (deliveries or suspect or since):
            return 1
        steps += ("n", heads.digest(held.payload), heads.write_notes(deliveries, suspect, since))
        return 2

    def following(self, message: Message, now: float, keys: list[str], steps: list[Any]) -> int:
        """The step that publishes a message within a script; how many they are."""
        if message.due is None or message.due <= now or self.celerys_eta:
            keys.append(self._list_of(message))
            steps += ("l", len(keys), message.payload)
        else:
            keys += self._keys.delayed(message.queue)
            steps += ("d", len(keys) - 2, self.member(message), message.due, message.payload)
        return 1

    def storing(self, result: StoredResult, now: float, keys: list[str], steps: list[Any]) -> None:
        """The step that stores a result within a script."""
        keys.append(self._keys.result(result.id))
        steps += ("r", len(keys), life(result.expires, now), result.meta)
        if result.meta[:1] == b"{":
            steps += (0, "")
        else:  # its first bytes do not tell its status
            keys.append(self._keys.status(result.id))
            steps += (len(keys), result.status)

    # ------------------------------------------------------------------ wake

    def listen(self, queues: Sequence[str] = ()) -> WorkWaker:
        """A waker for work; see the contract."""
        return WorkWaker(self._server, self._keys, queues)

    def promote(self) -> None:
        """Make ready what is due in any queue; see the contract."""
        there = ("SET", self._keys.promoter, 1, "EX", PROMOTER_TTL)
        self._server.call([there])
        self._joins.look()
        queues = self.queues()
        looks = [("ZRANGE", self._keys.delayed(q)[0], 0, 0, "WITHSCORES") for q in queues]
        now = clock.time()
        for queue, first in zip(queues, self._server.call(looks) if looks else (), strict=True):
            if first and float(first[1]) <= now:
                keys = [*self._keys.delayed(queue), *self._keys.lists(queue)]
                while (
                    self._server.run("promote", keys, now, PROMOTE, *self._keys.places) == PROMOTE
                ):
                    pass

    def release(self) -> None:
        """Put all that is delayed into its lists, for Celery workers to wait for its time.

        They cannot see where it lies; a worker that is started with `compat` and is the last that
        ends does this.
        """
        if not self._server.call([("HLEN", self._keys.lease)])[0]:
            for queue in self.queues():
                keys = [*self._keys.delayed(queue), *self._keys.lists(queue)]
                while self._server.run("promote", keys, "+inf", PROMOTE, *self._keys.places):
                    pass

    # ------------------------------------------------------------------ look

    def queues(self) -> list[str]:
        """The queues that anybody has named."""
        keys = self._keys
        named, records, paused = self._server.call(
            [("ZRANGE", keys.queues, 0, -1), ("HVALS", keys.worker), ("SMEMBERS", keys.paused)]
        )
        found = {name.decode() for name in (*named, *paused)}
        for record in records:
            found.update(msgspec.json.decode(record, type=_Consumer).queues)
        return sorted(found)

    def counts(self) -> list[QueueCount]:
        """What lies where; see the contract."""
        keys, queues = self._keys, self.queues()
        commands: list[Command] = [("SMEMBERS", keys.paused), ("HKEYS", keys.lease)]
        for queue in queues:
            commands.append(("ZCARD", keys.delayed(queue)[0]))
            for name in keys.lists(queue):
                commands += [("LLEN", name), ("LINDEX", name, -1)]
        paused, workers, *replies = self._server.call(commands)
        held: dict[str, int] = {}
        if workers:
            reply = self._server.run("held", [keys.claims(int(w)) for w in workers])
            held = {q.decode(): n for q, n in zip(reply[::2], reply[1::2], strict=True)}
        halted = {name.decode() for name in paused}
        found = []
        for queue in dict.fromkeys([*queues, *held]):
            if queue not in queues:
                found.append(QueueCount(queue, 0, 0, held[queue], None, queue in halted))
                continue
            delayed, *lists = replies[: 1 + 2 * len(keys.places)]
            del replies[: 1 + 2 * len(keys.places)]
            ready = sum(lists[::2])
            ages = [t for p in lists[1::2] if p is not None and (t := heads.published(p))]
            claimed = held.get(queue, 0)
            if ready or delayed or claimed or queue in halted:
                oldest = min(ages, default=None)
                found.append(QueueCount(queue, ready, delayed, claimed, oldest, queue in halted))
        return sorted(found, key=lambda count: count.queue)

    def browse(
        self, queue: str | None = None, *, id: str | None = None, limit: int = 100
    ) -> list[Waiting]:
        """Messages without claiming them; see the contract."""
        queues = self.queues() if queue is None else [queue]
        found: list[Waiting] = []
        if id is not None:
            found = self._find_ready(queues, [id]) + self._find_delayed(queues, [id])
        else:
            for name in queues:
                found += self._browse_queue(name, limit)
        # Claims come last: what was claimed meanwhile is then seen twice, not never.
        claimed = self._browse_claims(queue)
        if id is not None:
            claimed = [w for w in claimed if (h := heads.headers(w.payload)) and h.id == id]
        moved = {waiting.payload for waiting in claimed}
        every = claimed + [waiting for waiting in found if waiting.payload not in moved]
        return [_without_mark(waiting) for waiting in every[:limit]]

    def _browse_claims(self, queue: str | None) -> list[Waiting]:
        (workers,) = self._server.call([("HKEYS", self._keys.lease)])
        if not workers:
            return []
        replies = self._server.call([("HGETALL", self._keys.claims(int(w))) for w in workers])
        found = []
        for worker, fields in zip(workers, replies, strict=True):
            for number, data in zip(fields[::2], fields[1::2], strict=True):
                held = heads.read(data)
                if queue in {None, held.queue}:
                    found.append(
                        Waiting(
                            int(number), held.queue, held.step, None, held.payload,
                            heads.published(held.payload), int(worker), held.deliveries,
                        )
                    )  # fmt: skip
        return sorted(found, key=lambda waiting: waiting.number or 0)

    def _browse_queue(self, queue: str, limit: int) -> list[Waiting]:
        keys = self._keys
        due, _, later = keys.delayed(queue)
        commands: list[Command] = [("LRANGE", name, -limit, -1) for name in keys.lists(queue)]
        *lists, members = self._server.call(
            [*commands, ("ZRANGE", due, 0, limit - 1, "WITHSCORES")]
        )
        found: list[tuple[int, bytes, float | None]] = [
            (keys.places[level], payload, None)
            for level in reversed(range(len(lists)))
            for payload in reversed(lists[level])
        ]
        if members:
            (payloads,) = self._server.call([("HMGET", later, *members[::2])])
            found += [
                (int(member.rpartition(b"\0")[2]), payload, float(score))
                for member, score, payload in zip(
                    members[::2], members[1::2], payloads, strict=True
                )
                if payload is not None
            ]
        return self._waiting(queue, found[:limit])

    def _waiting(
        self, queue: str, found: Sequence[tuple[int, bytes, float | None]]
    ) -> list[Waiting]:
        """Messages that nobody holds, with what was noted of them."""
        if not found:
            return []
        digests = [heads.digest(payload) for _, payload, _ in found]
        (notes,) = self._server.call([("HMGET", self._keys.notes, *digests)])
        return [
            Waiting(
                None, queue, step, due, payload, heads.published(payload), None,
                0 if note is None else heads.read_notes(note)[0],
            )
            for (step, payload, due), note in zip(found, notes, strict=True)
        ]  # fmt: skip

    def _find_ready(self, queues: Sequence[str], ids: Sequence[str]) -> list[Waiting]:
        """The ready messages of some tasks: all lists are looked through, part by part."""
        wanted, texts = set(ids), ids if len(ids) <= FEW else ()
        found: list[Waiting] = []
        for queue in queues:
            for step, name in zip(self._keys.places, self._keys.lists(queue), strict=True):
                mine: dict[bytes, None] = {}
                start = 0
                while True:
                    # From the newest end: what is pushed meanwhile shifts the rest towards us.
                    last = start + SCAN - 1
                    looked, *payloads = self._server.run("scan", [name], start, last, *texts)
                    for payload in payloads:
                        head = heads.headers(payload)
                        if head is not None and head.id in wanted:
                            mine[payload] = None
                    if looked < SCAN:
                        break
                    start += SCAN
                rows = [(step, payload, None) for payload in reversed(mine)]
                found += self._waiting(queue, rows)
        return found

    def _find_delayed(self, queues: Sequence[str], ids: Sequence[str]) -> list[Waiting]:
        """The delayed messages of some tasks."""
        pairs = [(queue, id) for queue in queues for id in ids]
        if not pairs:
            return []
        replies = self._server.call(
            [("ZRANGEBYLEX", self._keys.delayed(q)[1], f"[{id}:", f"({id};") for q, id in pairs]
        )
        found = []
        for (queue, id), members in zip(pairs, replies, strict=True):
            for member in members:
                tag, _, step = member.decode().rpartition("\0")
                if tag.rpartition(":")[0] != id:
                    continue
                due, _, later = self._keys.delayed(queue)
                score, payload = self._server.call(
                    [("ZSCORE", due, member), ("HGET", later, member)]
                )
                if payload is not None and score is not None:
                    found += self._waiting(queue, [(int(step), payload, float(score))])
        return found

    def revoke_waiting(
        self, results: Sequence[StoredResult], workflows: Mapping[str, Workflow]
    ) -> list[str]:
        """Take the waiting messages of revoked tasks out; the ids of those that there were."""
        queues = self.queues()
        ids = [result.id for result in results]
        messages: defaultdict[str, list[Waiting]] = defaultdict(list)
        for waiting in self._find_ready(queues, ids) + self._find_delayed(queues, ids):
            head = heads.headers(waiting.payload)
            if head is not None:
                messages[head.id].append(waiting)
        now = clock.time()
        commands = []
        gone = [result for result in results if result.id in messages]
        for result in gone:
            keys = [self._keys.result(result.id), self._keys.status(result.id)]
            status = "" if result.meta[:1] == b"{" else result.status
            arguments: list[Any] = [
                life(result.expires, now),
                result.meta,
                status,
                len(messages[result.id]),
            ]
            for waiting in messages[result.id]:
                if waiting.due is None:
                    keys.append(self._keys.list_at(waiting.queue, waiting.priority))
                    arguments += ("l", len(keys), waiting.payload)
                else:
                    keys += self._keys.delayed(waiting.queue)
                    member = f"{_tag(waiting.payload)}\0{waiting.priority}"
                    arguments += ("d", len(keys) - 2, member)
            if result.id in workflows:
                Flow(self._keys, keys, now).change(workflows[result.id], arguments)
            commands.append(script("remove")(keys, *arguments))
        replies = self._server.call(commands) if commands else []
        for _, joined in replies:
            self._joins.publish_bodies(pairs(joined))
        return [result.id for result, (count, _) in zip(gone, replies, strict=True) if count]

    def purge(self, queues: Sequence[str]) -> int:
        """Drop what waits; see the contract."""
        gone = 0
        for queue in queues:
            due, tags, later = self._keys.delayed(queue)
            lists = self._keys.lists(queue)
            replies = self._server.call(
                [("MULTI",), *(("LLEN", name) for name in lists), ("ZCARD", due),
                 ("UNLINK", *lists, due, tags, later), ("EXEC",)]
            )  # fmt: skip
            gone += sum(replies[-1][:-1])
        return gone


class _Consumer(msgspec.Struct):
    """Of a worker's record, what matters here."""

    queues: tuple[str, ...]


class _Properties(msgspec.Struct):
    delivery_tag: str


class _Tagged(msgspec.Struct):
    properties: _Properties


_decode_tag = msgspec.json.Decoder(_Tagged).decode


def _tag(payload: bytes) -> str:
    """The tag by which a delayed message is found: `<id>:<nonce>`."""
    head = heads.headers(payload)
    id = "" if head is None else head.id
    try:
        tag = _decode_tag(payload).properties.delivery_tag
    except (msgspec.MsgspecError, UnicodeDecodeError):
        tag = ""
    if tag.rpartition(":")[0] == id:
        return tag
    # A Celery producer's tag is a UUID of its own; what is no message goes by its digest.
    return f"{id}:{tag or heads.digest(payload)}"


def _without_mark(waiting: Waiting) -> Waiting:
    """With the priority alone, without whether it is private."""
    if waiting.priority < PRIVATE:
        return waiting
    return msgspec.structs.replace(waiting, priority=waiting.priority % PRIVATE)
