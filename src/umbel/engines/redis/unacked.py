"""What Celery workers hold in `unacked`: which of it dead ones left, and putting that back.

Kombu keeps there what a consumer has received and not acknowledged, and does not say whose it is.
So the living are asked which of it they know (`query_task` of the remote control), and only when
each of them has answered the rest is the dead's. The living are those who subscribe to the remote
control, or whose connection waits for messages (BRPOP). What arrives meanwhile is not looked at.
"""

from __future__ import annotations

import base64
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from umbel import clock
from umbel.engines.redis import heads
from umbel.engines.redis.connection import Server
from umbel.engines.redis.keys import Keys

EXCHANGE: Final = "celery.pidbox"
PAUSE: Final = 0.05
BATCH: Final = 200


class Unanswered(Exception):  # noqa: N818
    """Living Celery workers have not told what they hold, so nobody knows whose it is."""

    def __init__(self, living: int, answered: int) -> None:
        super().__init__(living, answered)
        self.living = living
        self.answered = answered


class Left(NamedTuple):
    """A message in `unacked`."""

    tag: str
    id: str
    task: str
    queue: str
    """The queue that it came from; empty if nobody knows it any more."""
    received: float | None
    """Unix time at which a Celery worker took it."""
    held: bool
    """A living Celery worker has it."""
    score: bytes
    value: bytes
    envelope: bytes
    priority: int


class Unacked:
    """The two keys of Kombu's in which consumers keep what they have not acknowledged."""

    def __init__(
        self, server: Server, keys: Keys, hash_key: str, index_key: str, fanout: str, database: int
    ) -> None:
        self._server = server
        self._keys = keys
        self._topic = f"{keys.prefix}{fanout.format(db=database)}{EXCHANGE}"
        self._database = database
        self._hash = f"{keys.prefix}{hash_key}"
        self._index = f"{keys.prefix}{index_key}"

    def look(self, timeout: float = 5.0) -> list[Left]:
        """Every message in it, oldest first. `Unanswered` if living workers do not tell theirs.

        `timeout` (s) is how long they may take.
        """
        fields, index = self._server.call(
            [("HGETALL", self._hash), ("ZRANGE", self._index, 0, -1, "WITHSCORES")]
        )
        if not fields:
            return []
        scores = dict(zip(index[::2], index[1::2], strict=True))
        ids = [id for value in fields[1::2] if (id := _id(value))]
        held = self._ask(ids, timeout)
        found = [
            self._read(tag, value, scores.get(tag, b""), held)
            for tag, value in zip(fields[::2], fields[1::2], strict=True)
        ]
        return sorted(found, key=lambda left: left.received or 0.0)

    def recover(self, messages: Sequence[Left]) -> int:
        """Put messages back, to be taken next; how many still lay as they were looked at."""
        done = 0
        wanted = [one for one in messages if one.queue and not one.held]
        for start in range(0, len(wanted), BATCH):
            # The oldest is pushed last, so it is the first to be taken.
            part = wanted[start : start + BATCH][::-1]
            keys, arguments = [self._hash, self._index], list[Any]()
            for one in part:
                keys.append(self._keys.list(one.queue, one.priority))
                arguments += [one.tag, one.value, one.score, len(keys), one.envelope]
            done += len(self._server.run("recover", keys, *arguments))
        return done

    # ------------------------------------------------------------------ the messages

    def _read(self, tag: bytes, value: bytes, score: bytes, held: frozenset[str]) -> Left:
        text = tag.decode("utf-8", "backslashreplace")
        received = float(score) if score else None
        try:
            envelope, exchange, key = msgspec.json.decode(
                value, type=tuple[dict[str, Any], str, str]
            )
            properties = envelope["properties"]
            properties["delivery_info"]["redelivered"] = True
            envelope["headers"]["redelivered"] = True
            payload = msgspec.json.encode(envelope)
            priority = int(properties.get("priority") or 0)
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
            return Left(text, "", "", "", received, False, score, value, b"", 0)
        head = heads.headers(payload)
        id = "" if head is None else head.id
        return Left(
            text, id, "" if head is None else head.task, self._queue(exchange, key), received,
            id in held, score, value, payload, priority,
        )  # fmt: skip

    def _queue(self, exchange: str, key: str) -> str:
        """The queue that a message of an exchange goes to, as Kombu finds it."""
        if not exchange:
            return key
        (members,) = self._server.call(
            [("SMEMBERS", f"{self._keys.prefix}_kombu.binding.{exchange}")]
        )
        bindings = [str(m.decode()).split(self._keys.separator) for m in members]
        for bound, pattern, queue in (b for b in bindings if len(b) == 3):
            if bound == key or (pattern and re.match(pattern, key)):
                return queue
        return ""

    # ------------------------------------------------------------------ the living

    def _ask(self, ids: Sequence[str], timeout: float) -> frozenset[str]:
        """Which tasks living Celery workers know."""
        ticket, inbox = str(uuid.uuid4()), str(uuid.uuid4())
        queue = f"{inbox}.reply.{EXCHANGE}"
        binding = f"{self._keys.prefix}_kombu.binding.reply.{EXCHANGE}"
        member = f"{inbox}{self._keys.separator}{self._keys.separator}{queue}"
        replies = f"{self._keys.prefix}{queue}"
        request = _request(ids, ticket, inbox, clock.time() + timeout)
        try:
            _, subscribed, clients = self._server.call(
                [("SADD", binding, member), ("PUBLISH", self._topic, request), ("CLIENT", "LIST")]
            )
            living = max(subscribed, _consumers(clients, self._database))
            return frozenset(self._gather(replies, ticket, living, timeout))
        finally:
            self._server.call([("SREM", binding, member), ("UNLINK", replies)])

    def _gather(self, replies: str, ticket: str, living: int, timeout: float) -> Iterator[str]:
        answered, deadline = 0, time.monotonic() + timeout
        while answered < living:
            (message,) = self._server.call([("RPOP", replies)])
            if message is not None:
                known = _answer(message, ticket)
                if known is not None:
                    answered += 1
                    yield from known
            elif time.monotonic() < deadline:
                time.sleep(PAUSE)
            else:
                raise Unanswered(living, answered)


def _id(value: bytes) -> str:
    """The id of the task of a value in unacked; empty if there is none."""
    try:
        envelope = msgspec.json.decode(value, type=tuple[_Envelope, str, str])[0]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    return str(envelope.headers.id)


def _request(ids: Sequence[str], ticket: str, inbox: str, until: float) -> bytes:
    """The envelope of a question to all workers."""
    body = {
        "method": "query_task", "arguments": {"ids": ids}, "destination": None, "pattern": None,
        "matcher": None, "ticket": ticket,
        "reply_to": {"exchange": f"reply.{EXCHANGE}", "routing_key": inbox},
    }  # fmt: skip
    return msgspec.json.encode(
        {
            "body": base64.b64encode(msgspec.json.encode(body)).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"clock": 1, "expires": until},
            "properties": {
                "delivery_mode": 2,
                "delivery_info": {"exchange": EXCHANGE, "routing_key": ""},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


def _answer(message: bytes, ticket: str) -> list[str] | None:
    """The ids that one worker knows; None if this is no answer to the question."""
    try:
        reply = msgspec.json.decode(message, type=_Reply)
        if reply.headers.ticket != ticket:
            return None
        (said,) = msgspec.json.decode(base64.b64decode(reply.body), type=dict[str, Any]).values()
    except (msgspec.MsgspecError, ValueError):
        return None
    if not isinstance(said, dict) or "error" in said:
        return None
    return list(said)


def _consumers(clients: bytes, database: int) -> int:
    """How many connections to a database wait for messages, or did so last."""
    lines = (line.split() for line in clients.splitlines())
    return sum(b"cmd=brpop" in line and f"db={database}".encode() in line for line in lines)


class _Headers(msgspec.Struct):
    id: str = ""
    ticket: str = ""


class _Envelope(msgspec.Struct):
    headers: _Headers


class _Reply(msgspec.Struct):
    headers: _Headers
    body: str
