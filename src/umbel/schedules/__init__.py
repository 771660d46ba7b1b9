"""When something is due, as values (`celery.schedules`): pure, and each tells its next tick."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, overload

from umbel.schedules.base import BaseSchedule, schedstate
from umbel.schedules.clocked import clocked
from umbel.schedules.cron import cron
from umbel.schedules.crontab import Cronspec, ParseException, crontab, crontab_parser
from umbel.schedules.interval import schedule
from umbel.schedules.solar import solar

if TYPE_CHECKING:
    from umbel.app import App

__all__ = [
    "BaseSchedule",
    "Cronspec",
    "ParseException",
    "clocked",
    "cron",
    "crontab",
    "crontab_parser",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
]


@overload
def maybe_schedule(s: None, relative: bool = False, app: App | None = None) -> None: ...
@overload
def maybe_schedule(
    s: float | timedelta | str | BaseSchedule, relative: bool = False, app: App | None = None
) -> BaseSchedule: ...


def maybe_schedule(
    s: float | timedelta | str | BaseSchedule | None,
    relative: bool = False,
    app: App | None = None,
) -> BaseSchedule | None:
    """The schedule that is meant: seconds and timedeltas are intervals, text is a line of cron.

    `relative` is for intervals. A schedule stays itself, then of `app`; None stays None.
    """
    if isinstance(s, (int, float, timedelta)):
        return schedule(s, relative, app=app)
    if isinstance(s, str):
        return cron(s, app=app)
    if s is not None and app is not None:
        s.app = app
    return s
