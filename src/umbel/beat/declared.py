"""The entries that the code declares, and how the records follow them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from umbel import clock
from umbel.beat import records
from umbel.beat.entries import (
    Definition,
    Entry,
    decode,
    encode,
    read_entry,
    restore,
    same_times,
)
from umbel.beat.records import Body, ScheduleStore, read_body
from umbel.beat.ticks import first_due
from umbel.engines.state import ScheduleChange, ScheduleRecord
from umbel.exceptions import DecodeError, ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app import App

logger: logging.Logger = logging.getLogger("umbel.beat")

ATTEMPTS: Final = 20
"""How often to look again when other schedulers change the same records."""
OF_CELERY: Final = frozenset({"celery.backend_cleanup"})
"""Tasks that nobody has to run here: results expire by themselves."""


def owner_of(app: App) -> str:
    """Who declares the entries of an app's code."""
    return app.main or app.module


def read_declared(app: App) -> dict[str, Entry]:
    """The entries of `beat_schedule` and `add_periodic_task`; `ImproperlyConfigured` if wrong."""
    app.finalize()  # and with it `on_after_finalize`, whose receivers may add some
    given: Mapping[str, object] = app.conf.beat_schedule or {}
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(
            f"beat_schedule must be a dict of entries by name; got {given!r}."
        )
    entries = {str(name): read_entry(str(name), value, app) for name, value in given.items()}
    return {name: entry for name, entry in entries.items() if entry.task not in OF_CELERY}


def follow(app: App, store: ScheduleStore, entries: Mapping[str, Entry]) -> None:
    """Let the records be as the code says: add, change, and remove what it declares no more.

    Whose times have not changed keeps its due time, and so does what is due already, so that what
    came due meanwhile is made up for.
    """
    owner = owner_of(app)
    for _ in range(ATTEMPTS):
        there = {record.name: record for record in store.schedules()}
        changes = [
            change
            for name, entry in entries.items()
            if (change := _follow_one(app, there.get(name), entry, owner)) is not None
        ]
        changes += [
            records.remove(record)
            for name, record in there.items()
            if name not in entries and _owner(record) == owner
        ]
        if not store.change_schedules(changes):
            return
    logger.error("The schedule could not be brought up to date: others go on changing it")


def _follow_one(
    app: App, record: ScheduleRecord | None, entry: Entry, owner: str
) -> ScheduleChange | None:
    definition = encode(entry, owner)
    now = clock.time()
    if record is None:
        due = _start(entry, now, entry.last_run_at)
        if due is None:
            logger.warning("The time of %s has passed (%r); it is not run", entry.name,
                           entry.schedule)  # fmt: skip
        return records.add(entry.name, Body(msgspec.Raw(definition), added=now), due)
    try:
        body = read_body(record)
        old = decode(bytes(body.definition))
    except DecodeError as error:
        logger.error("The entry %s is left as it is: %s", entry.name, error)  # noqa: TRY400
        return None
    if bytes(body.definition) == definition:
        return None
    if old.owner != owner and encode(entry, old.owner) != bytes(body.definition):
        logger.error(
            "The entry %s of %s is not in force: one of that name %s. Give this one another name, "
            "or remove that one (umbel schedule remove)",
            entry.name,
            owner,
            "was added at run time" if old.owner is None else f"is declared by {old.owner}",
        )
        return None
    changed = msgspec.structs.replace(body, definition=msgspec.Raw(definition), error=None)
    overdue = record.due is not None and record.due <= now
    if overdue or _keeps_times(app, entry, old):
        return records.change(record, changed, record.due)
    coming = _start(entry, max(now, body.last or 0.0))
    if body.paused:
        return records.change(record, msgspec.structs.replace(changed, held=coming), None)
    return records.change(record, changed, coming)


def _start(entry: Entry, now: float, after: float | None = None) -> float | None:
    """When a new or changed entry is due first; at once if its schedule fails, to be told then."""
    try:
        return first_due(entry, now, after)
    except (Exception, SystemExit):  # noqa: BLE001  (it is a user's own)
        return now


def _keeps_times(app: App, entry: Entry, old: Definition) -> bool:
    """Whether an entry's ticks come when they came by its old definition."""
    try:
        return same_times(entry, restore(entry.name, old, app))
    except DecodeError:
        return False


def _owner(record: ScheduleRecord) -> str | None:
    try:
        return decode(bytes(read_body(record).definition)).owner
    except DecodeError:
        return None
