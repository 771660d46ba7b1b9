"""What stands before an envelope that is not in a list, and what can be read off an envelope."""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple

from umbel.engines.broker import Delivery
from umbel.engines.redis.keys import PRIVATE
from umbel.exceptions import DecodeError
from umbel.message import task as task_message
from umbel.message.task import Headers


class Held(NamedTuple):
    """A head and the envelope behind it."""

    step: int
    deliveries: int
    suspect: bool
    unknown_since: float | None
    queue: str
    payload: bytes


def read(data: bytes) -> Held:
    """Take a head off an envelope."""
    step, deliveries, suspect, unknown, queue, payload = data.split(b"\0", 5)
    since = float(unknown) if unknown else None
    return Held(int(step), int(deliveries), suspect == b"1", since, queue.decode(), payload)


def write(held: Held) -> bytes:
    """Put a head before an envelope."""
    notes = write_notes(held.deliveries, held.suspect, held.unknown_since)
    return b"%d\0%b\0%b\0%b" % (held.step, notes, held.queue.encode(), held.payload)


def write_notes(deliveries: int, suspect: bool, unknown_since: float | None) -> bytes:
    """What is known of a message that goes back."""
    since = b"" if unknown_since is None else repr(unknown_since).encode()
    return b"%d\0%d\0%b" % (deliveries, suspect, since)


def read_notes(data: bytes) -> tuple[int, bool, float | None]:
    """The same as values."""
    deliveries, suspect, unknown = data.split(b"\0")
    return int(deliveries), suspect == b"1", float(unknown) if unknown else None


def digest(payload: bytes) -> str:
    """The name under which notes of an envelope are kept (Lua's `redis.sha1hex`)."""
    return sha1(payload, usedforsecurity=False).hexdigest()


def delivery(number: int, worker: int, data: bytes, *, early: bool = False) -> Delivery:
    """One claim, of head and envelope."""
    held = read(data)
    return Delivery(
        number, worker, 1, held.queue, held.payload, held.step % PRIVATE, held.deliveries,
        held.suspect, held.unknown_since, early,
    )  # fmt: skip


def headers(payload: bytes) -> Headers | None:
    """An envelope's headers; None if it is no task message."""
    try:
        return task_message.decode_headers(payload)
    except DecodeError:
        return None


def published(payload: bytes) -> float | None:
    """When a message was sent, where its id tells: UUIDs of version 7 begin with their time."""
    found = headers(payload)
    if found is None or len(found.id) != 36 or found.id[14] != "7":
        return None
    try:
        return int(found.id[:8] + found.id[9:13], 16) / 1000
    except ValueError:
        return None
