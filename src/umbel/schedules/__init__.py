"""When something is due, as values (`celery.schedules`): pure, and each tells its next tick."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

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


def maybe_schedule(
    s: float | timedelta | str | BaseSchedule, relative: bool = False, app: App | None = None
) -> BaseSchedule:
    """The schedule that is meant: seconds and timedeltas are intervals, text is a line of cron.

    `relative` is for intervals. What is a schedule already stays so.
    """
    if isinstance(s, (int, float, timedelta)):
        return schedule(s, relative, app=app)
    if isinstance(s, str):
        return cron(s, app=app)
    if getattr(s, "app", None) is None:
        s.app = app
    return s
