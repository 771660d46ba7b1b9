"""Every so often."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final

from umbel.schedules.base import BaseSchedule

if TYPE_CHECKING:
    from umbel.app import App

DAY: Final = 86400
UNITS: Final = (DAY, 3600, 60)
"""What times are rounded to, in seconds; the first that the interval has one of."""


class schedule(BaseSchedule):  # noqa: N801  (Celery's name)
    """Every so often: `schedule(30)`, `schedule(timedelta(hours=1))`.

    `run_every` is a timedelta or seconds, and means elapsed time, also over a change of the clocks.
    With `relative`, due times are rounded down to its unit (day, hour or minute) in the schedule's
    zone: every hour is then at the full hour, every day at midnight.
    """

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: App | None = None,
    ) -> None:
        super().__init__(nowfun, app)
        if run_every is None:
            run_every = 0
        if not isinstance(run_every, timedelta):
            run_every = _as_timedelta(run_every)
        if run_every < timedelta():
            raise ValueError(f"run_every must not be negative; got {run_every.total_seconds():g} s")
        self.run_every = run_every
        self.relative = relative

    @property
    def seconds(self) -> float:
        """`run_every` in seconds."""
        return max(self.run_every.total_seconds(), 0.0)

    @property
    def human_seconds(self) -> str:
        """`run_every` for people: "1.00 hour"."""
        rest = self.seconds
        for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
            if rest >= size:
                return f"{rest / size:.2f} {unit}{'' if rest == size else 's'}"
        return f"{rest:.2f} second{'' if rest == 1 else 's'}"

    def next_tick(self, after: float, zone: tzinfo | None = None) -> float | None:
        """`run_every` after that time, rounded if `relative`."""
        # To the microsecond: sums of 0.02 would wander off.
        due = round(after + self.seconds, 6)
        if not self.relative:
            return due
        zone = zone or self.tz
        for size in UNITS:
            if self.seconds >= size:
                if size == DAY:
                    return _midnight(after, self.run_every, zone)
                local = datetime.fromtimestamp(due, zone)
                past = local.minute * 60 + local.second if size == 3600 else local.second
                due = math.floor(due) - past
                return due if due > after else due + size
        due = math.floor(due)
        return due if due > after else due + 1

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, schedule):
            return self.run_every == other.run_every and self.relative == other.relative
        return isinstance(other, (int, float, timedelta)) and self == schedule(other)

    def __hash__(self) -> int:
        return hash(self.run_every)

    def __reduce__(self) -> tuple[type[schedule], tuple[Any, ...]]:
        return type(self), (self.run_every, self.relative, self.nowfun)


def _as_timedelta(seconds: float) -> timedelta:
    try:
        return timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise ValueError(f"run_every must be seconds; got {seconds}") from None


def _midnight(after: float, every: timedelta, zone: tzinfo) -> float:
    """The start of the day that is so long after that time by the clock on the wall."""
    wall = datetime.fromtimestamp(after, zone).replace(tzinfo=None) + every
    due = after
    while due <= after:  # a zone may go back over midnight
        due = datetime(wall.year, wall.month, wall.day, tzinfo=zone).timestamp()
        wall += timedelta(days=1)
    return due
