"""Chords and kept workflows on Redis; keys.py describes what lies where, flow.lua what happens.

The step that brings a chord's last part moves the body's message to `umbel:joined`; whoever took
that step publishes it from there at once, or any worker does within a second. That is a settlement
too, whose claim is the entry. Where others serve the queue, what is published is not the body's
own message, which only this package can read: `Joiner` makes of it one with the results among its
arguments.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel import clock
from umbel.engines.broker import Acknowledge, Joiner, Joining, Message, Settlement, Workflow
from umbel.engines.redis.connection import Server, script
from umbel.engines.redis.keys import Keys
from umbel.exceptions import OperationalError

if TYPE_CHECKING:
    from umbel.engines.redis.broker import RedisBroker

logger: Final = logging.getLogger("umbel.engines.redis")

COUNTED: Final = 86_400_000
"""Milliseconds for which parts are kept of a chord that Celery has begun, as it does by default."""
encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Message).decode


class Flow:
    """Writes what changes in workflows as steps of a script."""

    def __init__(self, keys: Keys, names: list[str], now: float) -> None:
        self._keys = keys
        self._names = names
        self._now = now
        self._places: dict[str, int] = {}
        """The index of the first key of each chord."""

    def change(self, workflow: Workflow, steps: list[Any]) -> int:
        """Add the steps of all but the results; how many they are."""
        now, count = self._now, len(workflow.parts) + len(workflow.grown)
        for chord in workflow.opened:
            ttl = life(chord.expires, now)
            if ttl != 0:
                steps += ("co", self._chord(chord.id), chord.size, ttl, encode(chord.body))
                count += 1
        for id, more in workflow.grown:
            steps += ("cg", self._chord(id), more)
        for kept in workflow.kept:
            ttl = life(kept.expires, now)
            if ttl != 0:
                self._names.append(self._keys.kept(kept.id))
                steps += ("kk", len(self._names), ttl, len(kept.steps), *kept.steps)
                count += 1
        for part in workflow.parts:
            body, ttl = (b"", "") if part.body is None else (encode(part.body), COUNTED)
            steps += (
                "cp", self._chord(part.chord), part.chord, part.index, part.key, part.task,
                part.data, body, ttl,
            )  # fmt: skip
        for id in workflow.dropped:
            self._names.append(self._keys.kept(id))
            steps += ("kd", len(self._names), "cd", self._chord(id))
            count += 2
        return count

    def _chord(self, id: str) -> int:
        place = self._places.get(id)
        if place is None:
            place = self._places[id] = len(self._names) + 1
            self._names += self._keys.chord(id)
        return place


class Joins:
    """What a broker does for workflows besides settling."""

    def __init__(self, broker: RedisBroker, server: Server, keys: Keys) -> None:
        self._broker = broker
        self._server = server
        self._keys = keys
        self.joiner: Joiner | None = None

    def publish(self, messages: Sequence[Message], workflow: Workflow, deadline: float) -> None:
        """Store messages and a workflow, by a monotonic deadline; see the contract."""
        broker, now = self._broker, clock.time()
        names = [self._keys.sent(broker.next_token())]
        steps: list[Any] = []
        Flow(self._keys, names, now).change(workflow, steps)
        for result in workflow.results:
            broker.storing(result, now, names, steps)
        for message in messages:
            broker.following(message, now, names, steps)
        command = script("send")(names, *steps)
        (joined,) = self._server.call([command], deadline - time.monotonic(), patient=True)
        self.publish_bodies(pairs(joined))

    def publish_bodies(self, complete: Iterable[tuple[str, Message]]) -> None:
        """Publish the bodies of chords that are complete, and of those complete by that.

        They lie in the store until then: what cannot be done now, any worker does later.
        """
        waiting = deque(complete)
        try:
            while waiting:
                waiting += self._publish_body(*waiting.popleft())
        except OperationalError as error:
            logger.warning("The body of a chord will be published a little later: %s", error)

    def _publish_body(self, id: str, body: Message) -> Iterable[tuple[str, Message]]:
        """Publish one, whoever else tries too; the chords that are complete by that."""
        made = None
        if self.joiner is not None:
            parts = read_parts(self._server, self._keys, id)
            if parts is None:
                return ()  # somebody else has done it
            (nesting,) = self._server.call([("GET", self._keys.nesting(id))])
            made = self.joiner(body, parts, nesting)
        if made is None:
            made = Settlement(0, 0, 1, Acknowledge(), follow_ups=(body,))
        command = self._broker.ending(self._keys.joined, 0, [(id, made)])
        ((_, joined),) = self._server.call([command])
        if made.follow_ups:
            self._broker.say_used(made.follow_ups)
        return pairs(joined)

    def look(self) -> None:
        """Publish what whoever has completed a chord had no time for."""
        (fields,) = self._server.call([("HGETALL", self._keys.joined)])
        if fields:
            self.publish_bodies(pairs(fields))


def pairs(reply: Sequence[bytes]) -> list[tuple[str, Message]]:
    """Ids of chords, and their bodies."""
    return [(id.decode(), decode(body)) for id, body in zip(reply[::2], reply[1::2], strict=True)]


def life(expires: float | None, now: float) -> int | str:
    """Milliseconds until a Unix time, as the server counts them; '' for ever."""
    return "" if expires is None else max(0, round((expires - now) * 1000))


LIST: Final = {"all": ("LRANGE", 0, -1), "count": ("LLEN",)}
ZSET: Final = {"all": ("ZRANGE", 0, -1), "count": ("ZCARD",)}


def read_parts(server: Server, keys: Keys, id: str) -> list[bytes] | None:
    """The parts of a chord, by index and key; None if there is no such chord."""
    found = _read(server, keys, id, "all")
    return None if found is None else list(found or ())


def read_progress(server: Server, keys: Keys, id: str) -> tuple[int, int] | None:
    """How many parts of a chord are there, of how many; None if there is no such chord."""
    size, _, grown, *_ = keys.chord(id)
    found = _read(server, keys, id, "count")
    if found is None:
        return None
    first, more = server.call([("GET", size), ("GET", grown)])
    return int(found), int(found) if first is None else int(first) + int(more or 0)


def read_open(server: Server, keys: Keys, limit: int) -> list[Joining]:
    """The chords whose body's message lies in the store."""
    start = keys.chord("")[5]
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", start) + "*"
    found: list[Joining] = []
    cursor: Any = b"0"
    while len(found) < limit:
        ((cursor, names),) = server.call([("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)])
        bodies = server.call([("GET", name) for name in names]) if names else []
        for name, body in zip(names, bodies, strict=True):
            id = name.decode().removeprefix(start)
            counted = None if body is None else read_progress(server, keys, id)
            if counted is not None:
                ended, size = counted
                found.append(Joining(id, size, ended, decode(body)))
        if cursor == b"0":
            break
    return found[:limit]


def _read(server: Server, keys: Keys, id: str, what: str) -> Any:
    """What is asked of a chord's parts; 0 if it has none yet, None if there is no such chord."""
    size, counted, *_, complete, _ = keys.chord(id)
    for _ in range(3):  # it may become complete in between
        *kinds, begun = server.call([("TYPE", complete), ("TYPE", counted), ("EXISTS", size)])
        for name, kind in zip((complete, counted), kinds, strict=True):
            if kind != b"none":
                command, *rest = (ZSET if kind == b"zset" else LIST)[what]
                (found,) = server.call([(command, name, *rest)])
                if found:
                    return found
                break
        else:
            return 0 if begun else None
    return None
