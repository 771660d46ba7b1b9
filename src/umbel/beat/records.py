"""An entry's record: its definition, and what has become of it so far.

Every change goes from one version of a record to the next. Whoever makes it names the version that
it starts from, so of several schedulers or people that act at the same time one succeeds, and the
others look again.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Protocol

import msgspec

from umbel.engines.broker import Message
from umbel.engines.state import ScheduleChange, ScheduleRecord
from umbel.exceptions import DecodeError


class ScheduleStore(Protocol):
    """Where records lie: the part of `umbel.engines.state.StateStore` that is about them."""

    def schedules(self, names: Sequence[str] | None = None) -> list[ScheduleRecord]:
        """See `StateStore.schedules`."""
        ...

    def due_schedules(self, now: float, limit: int) -> tuple[list[ScheduleRecord], float | None]:
        """See `StateStore.due_schedules`."""
        ...

    def change_schedules(self, changes: Sequence[ScheduleChange]) -> list[str]:
        """See `StateStore.change_schedules`."""
        ...


class Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a record's bytes hold."""

    definition: msgspec.Raw
    added: float
    """Unix time."""
    last: float | None = None
    """Unix time of the last tick that was fired."""
    runs: int = 0
    missed: int = 0
    """Ticks that were passed over as no scheduler ran when they came."""
    paused: bool = False
    held: float | None = None
    """When it would have been due, while it is paused."""
    error: str | None = None
    """Why its last tick could not be sent."""


def read_body(record: ScheduleRecord) -> Body:
    """The body of a record; `DecodeError` if this package cannot read it."""
    try:
        return _read_body(record.body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"no record of an entry that this version knows: {error}") from None


def add(name: str, body: Body, due: float | None) -> ScheduleChange:
    """The change that adds a record."""
    return ScheduleChange(name, 0, _record(name, body, due))


def change(
    record: ScheduleRecord, body: Body, due: float | None, messages: tuple[Message, ...] = ()
) -> ScheduleChange:
    """The change of a record."""
    return ScheduleChange(record.name, record.version, _record(record.name, body, due), messages)


def remove(record: ScheduleRecord) -> ScheduleChange:
    """The change that removes a record."""
    return ScheduleChange(record.name, record.version, None)


def _record(name: str, body: Body, due: float | None) -> ScheduleRecord:
    return ScheduleRecord(name, secrets.randbits(62) + 1, due, msgspec.json.encode(body))


_read_body = msgspec.json.Decoder(Body).decode
