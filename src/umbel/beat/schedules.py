"""Periodic tasks at run time: `app.schedules`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

import msgspec

from umbel import clock
from umbel.beat import records
from umbel.beat.declared import owner_of, read_declared
from umbel.beat.entries import (
    END_OF_TIME,
    Definition,
    Entry,
    Misfire,
    decode,
    describe_schedule,
    encode,
    make_entry,
    restore,
    same_times,
)
from umbel.beat.records import Body, ScheduleStore, read_body
from umbel.beat.sending import build
from umbel.beat.ticks import ON_TIME, first_due
from umbel.engines.state import ScheduleChange, ScheduleRecord
from umbel.exceptions import DecodeError, UmbelError
from umbel.schedules import clocked
from umbel.schedules.base import tells_ticks
from umbel.schedules.zones import find_zone

if TYPE_CHECKING:
    from umbel.app import App
    from umbel.app.task import Task
    from umbel.schedules import BaseSchedule

    When = float | timedelta | str | datetime | BaseSchedule

ATTEMPTS = 20
"""How often a change is tried again that a scheduler has come before."""
UNSET: Any = object()


class ScheduleError(UmbelError):
    """A periodic task cannot be added or changed so; the message says why. Nothing was changed."""


@dataclass(frozen=True)
class PeriodicTask:
    """A periodic task as it stands in the store."""

    name: str
    task: str
    schedule: str
    """For people: `every 10 s`, `crontab 0 4 * * *`."""
    args: Sequence[Any] | str
    """Text where only the code knows them."""
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]
    timezone: str | None
    misfire: Misfire
    misfire_limit: int
    jitter: float
    declared_by: str | None
    """The app whose code declares it; None: it was added at run time."""
    paused: bool
    due: datetime | None
    """When its next tick comes, in its own zone; None: never, or not while it is paused."""
    last: datetime | None
    """The last tick that was fired."""
    runs: int
    missed: int
    """Ticks that were passed over as no scheduler ran when they came (`misfire`)."""
    error: str | None
    """Why its last tick could not be sent."""

    @property
    def overdue(self) -> float:
        """Seconds since it should have run, if that is more than a scheduler may take; else 0."""
        late = 0.0 if self.due is None else clock.time() - self.due.timestamp()
        return late if late > ON_TIME else 0.0


class Schedules:
    """The periodic tasks of an app's store, at run time. All schedulers follow within a second.

    Those that the code declares (`declared_by`) are changed there; they can be paused and run.
    """

    def __init__(self, app: App, store: Callable[[], ScheduleStore]) -> None:
        self._app = app
        self._open = store

    def list(self) -> list[PeriodicTask]:
        """All of them, by name."""
        return [self._show(record) for record in self._open().schedules()]

    def get(self, name: str) -> PeriodicTask:
        """One of them; `ScheduleError` if there is none of that name."""
        return self._show(self._record(name))

    def add(
        self,
        name: str,
        schedule: When,
        task: str | Task[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        timezone: str | tzinfo | None = None,
        misfire: Misfire = "once",
        misfire_limit: int = 100,
        jitter: float | timedelta = 0.0,
    ) -> PeriodicTask:
        """Add one: seconds, a timedelta, a schedule, a line of cron, or a datetime for once.

        `options` are those of `apply_async`. `ScheduleError` if there is one of that name, or if
        its time has passed; `TypeError` or `ValueError` says what is wrong with a part.
        """
        entry = make_entry(
            self._app, name, task, _as_schedule(schedule, timezone), args, kwargs, options,
            timezone=timezone, misfire=misfire, misfire_limit=misfire_limit, jitter=jitter,
        )  # fmt: skip
        now = clock.time()
        body = Body(msgspec.Raw(_encode(entry)), added=now)
        change = records.add(name, body, self._first_due(entry, now))
        if self._open().change_schedules([change]):
            raise ScheduleError(f"There is a periodic task {name!r} already; edit or remove it.")
        return self.get(name)

    def edit(
        self,
        name: str,
        *,
        schedule: When = UNSET,
        task: str | Task[..., Any] = UNSET,
        args: Sequence[Any] = UNSET,
        kwargs: Mapping[str, Any] = UNSET,
        options: Mapping[str, Any] = UNSET,
        timezone: str | tzinfo | None = UNSET,
        misfire: Misfire = UNSET,
        misfire_limit: int = UNSET,
        jitter: float | timedelta = UNSET,
    ) -> PeriodicTask:
        """Change what is given. With another schedule or zone its times start afresh from now.

        A tick that is due already, and has not been fired yet, is still fired.
        """
        given = {
            "task": task, "args": args, "kwargs": kwargs, "options": options, "timezone": timezone,
            "misfire": misfire, "misfire_limit": misfire_limit, "jitter": jitter,
        }  # fmt: skip
        given = {key: value for key, value in given.items() if value is not UNSET}

        def change(record: ScheduleRecord, body: Body) -> ScheduleChange:
            old = self._entry(record.name, _own(record, body, "edited"))
            made: dict[str, Any] = {
                "task": old.task, "args": old.args, "kwargs": old.kwargs, "options": old.options,
                "timezone": old.timezone, "misfire": old.misfire,
                "misfire_limit": old.misfire_limit, "jitter": old.jitter, **given,
            }  # fmt: skip
            when = old.schedule
            if schedule is not UNSET:
                when = _as_schedule(schedule, made["timezone"])
            new = make_entry(self._app, name, made.pop("task"), when, **made)
            changed = msgspec.structs.replace(
                body, definition=msgspec.Raw(_encode(new)), error=None
            )
            if same_times(new, old):
                return records.change(record, changed, record.due)
            now = clock.time()
            if record.due is not None and record.due <= now:
                return records.change(record, changed, record.due)  # that tick has come already
            due = self._first_due(new, max(now, body.last or 0.0))
            if body.paused:
                return records.change(record, msgspec.structs.replace(changed, held=due), None)
            return records.change(record, changed, due)

        self._change(name, change)
        return self.get(name)

    def pause(self, name: str) -> None:
        """Fire no ticks of it until `resume`; those that come meanwhile are not made up for."""

        def change(record: ScheduleRecord, body: Body) -> ScheduleChange | None:
            if body.paused:
                return None
            paused = msgspec.structs.replace(body, paused=True, held=record.due)
            return records.change(record, paused, None)

        self._change(name, change)

    def resume(self, name: str) -> None:
        """End a pause. What was to run once, and did not, runs now."""

        def change(record: ScheduleRecord, body: Body) -> ScheduleChange | None:
            if not body.paused:
                return None
            due = body.held
            if due is not None and due <= (now := clock.time()):
                entry = self._entry(name, decode(bytes(body.definition)))
                due = first_due(entry, now) or due
            resumed = msgspec.structs.replace(body, paused=False, held=None)
            return records.change(record, resumed, due)

        self._change(name, change)

    def remove(self, name: str) -> None:
        """Remove it. One that the code still declares comes back when a scheduler starts."""
        self._change(name, lambda record, _: records.remove(record))

    def run(self, name: str) -> str:
        """Send its task now, besides its ticks; the task's id."""
        ids: list[str] = []

        def change(record: ScheduleRecord, body: Body) -> ScheduleChange:
            definition = decode(bytes(body.definition))
            if definition.owner not in {None, owner_of(self._app)}:
                raise ScheduleError(
                    f"The periodic task {name!r} is declared by the code of {definition.owner}, "
                    "which knows its queue and its options. Run it there."
                )
            entry = self._entry(name, definition)
            messages = tuple(build(self._app, entry, clock.time()))
            ids[:] = [message.id for message in messages]
            counted = msgspec.structs.replace(body, runs=body.runs + 1)
            return records.change(record, counted, record.due, messages)

        self._change(name, change)
        return ids[0]

    def next(self, name: str, count: int = 5) -> Sequence[datetime]:
        """When its coming ticks are due, in its own zone. Paused, it has none.

        Of a schedule that only tells whether it is due, it is when it will be asked next.
        """
        record = self._record(name)
        entry = self._entry(name, decode(bytes(read_body(record).definition)))
        times: list[datetime] = []
        due = record.due
        while due is not None and len(times) < count:
            times.append(datetime.fromtimestamp(due, entry.zone))
            due = entry.schedule.next_tick(due, entry.zone) if tells_ticks(entry.schedule) else None
        return times

    # ------------------------------------------------------------------ within

    def _record(self, name: str) -> ScheduleRecord:
        found = self._open().schedules([name])
        if not found:
            raise ScheduleError(f"There is no periodic task {name!r}.")
        return found[0]

    def _change(
        self, name: str, change: Callable[[ScheduleRecord, Body], ScheduleChange | None]
    ) -> None:
        for _ in range(ATTEMPTS):
            record = self._record(name)
            wanted = change(record, read_body(record))
            if wanted is None or not self._open().change_schedules([wanted]):
                return
        raise ScheduleError(
            f"The periodic task {name!r} is changed by others all the time; nothing was changed."
        )

    def _first_due(self, entry: Entry, now: float) -> float | None:
        due = first_due(entry, now)
        if due is None and isinstance(entry.schedule, clocked):
            moment = entry.schedule.clocked_time.isoformat()
            raise ScheduleError(f"The time of {entry.name!r}, {moment}, has passed.")
        return due

    def _entry(self, name: str, definition: Definition) -> Entry:
        if definition.needs_code:
            declared = read_declared(self._app).get(name)
            if declared is not None and encode(declared, definition.owner) == msgspec.json.encode(
                definition
            ):
                return declared
            raise ScheduleError(
                f"The periodic task {name!r} needs the code of {definition.owner}, which is not "
                "what this process has. Do it where that code is."
            )
        return restore(name, definition, self._app)

    def _show(self, record: ScheduleRecord) -> PeriodicTask:
        try:
            body = read_body(record)
            definition = decode(bytes(body.definition))
        except DecodeError as error:  # of a later version
            return PeriodicTask(
                record.name, "", "unknown to this version", [], {}, {}, None, "once", 0, 0.0, None,
                paused=False, due=_moment(record.due, self._app.timezone), last=None, runs=0,
                missed=0, error=str(error),
            )  # fmt: skip
        zone = self._zone(definition)
        args: Any
        kwargs: Any
        options: Any
        try:
            entry = restore(record.name, definition, self._app)
            args, kwargs, options = entry.args, entry.kwargs, entry.options
            zone = entry.zone
        except DecodeError:
            args, kwargs, options = bytes(definition.call).decode(), {}, {}
        return PeriodicTask(
            record.name, definition.task, describe_schedule(definition.schedule), args, kwargs,
            options, definition.timezone, definition.misfire, definition.misfire_limit,
            definition.jitter, definition.owner, body.paused, _moment(record.due, zone),
            _moment(body.last, zone), body.runs, body.missed, body.error,
        )  # fmt: skip

    def _zone(self, definition: Definition) -> tzinfo:
        try:
            return find_zone(definition.timezone) if definition.timezone else self._app.timezone
        except ValueError:  # a zone that is not known here
            return self._app.timezone


def _moment(at: float | None, zone: tzinfo) -> datetime | None:
    return None if at is None or at > END_OF_TIME else datetime.fromtimestamp(at, zone)


def _as_schedule(when: When, timezone: str | tzinfo | None) -> Any:
    """A datetime is a time to run once; without a zone it is in the one that is given, or UTC."""
    if not isinstance(when, datetime):
        return when
    if when.tzinfo is None and timezone is not None:
        when = when.replace(tzinfo=find_zone(timezone) if isinstance(timezone, str) else timezone)
    return clocked(when)


def _encode(entry: Entry) -> bytes:
    """The definition of an entry that is added at run time, so it has to say everything."""
    definition = encode(entry, None)
    if decode(definition).needs_code:
        raise TypeError(
            f"{entry.name!r} cannot be kept: its schedule, arguments and options have to be plain "
            "data, as the store names no code. Declare it in the code (beat_schedule) instead."
        )
    return definition


def _own(record: ScheduleRecord, body: Body, verb: str) -> Definition:
    definition = decode(bytes(body.definition))
    if definition.owner is not None:
        raise ScheduleError(
            f"The periodic task {record.name!r} is declared by the code of {definition.owner} and "
            f"can only be {verb} there; here it can be paused, resumed and run."
        )
    return definition
