"""Which ticks of an entry to fire now, and when to look at it again. Pure."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from math import isnan
from typing import Final, NamedTuple

from umbel.beat.entries import END_OF_TIME, Entry
from umbel.schedules import BaseSchedule, crontab, schedule
from umbel.schedules.base import NEVER, tells_ticks

ON_TIME: Final = 10.0
"""Seconds after which a tick that was not fired counts as missed."""
MOST_COUNTED: Final = 5_000
"""Ticks of a crontab that are counted after a long silence; of more only the latest are looked at.
"""
AT_ONCE: Final = 500
"""Ticks of an entry that are fired in one step; what is left of them comes in the next ones."""
SHORTEST_WAIT: Final = 0.01
"""Seconds before a schedule of a user's own is asked again, at least."""
LONGEST_WAIT: Final = 10 * 366 * 86400.0
"""Seconds before it is asked again, at most."""


class Turn(NamedTuple):
    """What is to happen with an entry that is due."""

    fire: list[float]
    """The due times of the ticks to fire, oldest first."""
    missed: int
    """How many ticks are passed over."""
    due: float | None
    """When it is due next."""
    last: float | None
    """The last tick from now on; None: as before."""
    left: int = 0
    """How many ticks are to be fired by the turns that follow at once."""


def first_due(entry: Entry, now: float, after: float | None = None) -> float | None:
    """When an entry is due first, of the ticks after a Unix time; None if its time has passed."""
    after = now if after is None else after
    if tells_ticks(entry.schedule):
        return _next_tick(entry, after)
    turn = _ask(entry, now, after)
    return now if turn.fire else turn.due


def take_turn(entry: Entry, due: float, last: float, now: float) -> Turn:
    """What to do with an entry whose tick `due` has come; `last` is when it ran before that."""
    if not tells_ticks(entry.schedule):
        return _ask(entry, now, last, due)
    ticks, count, coming = _due_ticks(entry, due, now)
    if entry.misfire == "all":
        fire = ticks
    else:
        oldest = now - ON_TIME if entry.misfire == "skip" else float("-inf")
        fire = [tick for tick in ticks[-1:] if tick >= oldest]
    oldest = now - _deadline(entry)
    fire = [tick for tick in fire if tick >= oldest]
    missed = count - len(fire)
    if len(fire) > AT_ONCE:
        fire, left = fire[:AT_ONCE], fire[AT_ONCE:]
        return Turn(fire, missed, left[0], fire[-1], len(left))
    return Turn(fire, missed, coming, ticks[-1])


def _deadline(entry: Entry) -> float:
    """Seconds after which a crontab's tick is not made up for (`beat_cron_starting_deadline`)."""
    when = entry.schedule
    if isinstance(when, crontab) and when.app is not None:
        deadline = when.app.conf.beat_cron_starting_deadline
        return float("inf") if deadline is None else deadline
    return float("inf")


def _due_ticks(entry: Entry, due: float, now: float) -> tuple[list[float], int, float | None]:
    """The latest ticks from `due` to now, how many there were in all, and the one that follows."""
    when, most = entry.schedule, entry.misfire_limit if entry.misfire == "all" else 1
    count = 1
    if type(when) is schedule and not when.relative:
        # By arithmetic: a silent week has more ticks of a second than anybody can count.
        passed = max(0, int((now - due) / when.seconds) - most)
        due = round(due + passed * when.seconds, 6)
        count += passed
    latest = deque([due], maxlen=most)
    coming = _next_tick(entry, due)
    counted = type(when) is schedule and not when.relative  # by arithmetic, above
    while coming is not None and coming <= now:
        if count >= MOST_COUNTED and not counted:
            counted = True
            usual = (coming - due) / count
            coming = max(coming, _next_tick(entry, now - 2 * most * usual) or coming)
            continue
        latest.append(coming)
        count += 1
        coming = _next_tick(entry, coming)
    return list(latest), count, coming


def _next_tick(entry: Entry, after: float) -> float | None:
    when: BaseSchedule = entry.schedule
    due = when.next_tick(after, entry.zone)
    if due is None or due > END_OF_TIME:
        return None
    if not due > after:
        raise ValueError(f"next_tick({after!r}) answered {due!r}, which is not later")
    return due


def _ask(entry: Entry, now: float, last: float, due: float | None = None) -> Turn:
    """The turn of a schedule that only answers `is_due`, as Celery's scheduler asks it."""
    is_due, wait = entry.schedule.is_due(datetime.fromtimestamp(last, entry.zone))
    seconds = NEVER if wait is None else float(wait)
    if isnan(seconds):
        raise ValueError("is_due() answered nan, which is no number of seconds")
    coming = now + min(max(SHORTEST_WAIT, seconds), LONGEST_WAIT)
    if not is_due:
        return Turn([], 0, coming, None)
    return Turn([now if due is None else due], 0, coming, now)
