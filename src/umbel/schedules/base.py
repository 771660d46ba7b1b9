"""What every schedule is: a value that tells its next tick, and Celery's questions to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from umbel import _state, clock
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app import App

NEVER: Final = 86400.0
"""Seconds after which to ask again of a schedule that has nothing more to come."""


class schedstate(NamedTuple):  # noqa: N801  (Celery's name)
    """What `is_due` answers."""

    is_due: bool
    """Whether it is time to run."""
    next: float
    """Seconds until it is worth asking again."""


class BaseSchedule:
    """When something is due. A schedule of your own overrides `is_due` or, better, `next_tick`.

    `nowfun` tells the time instead of the app; if what it returns has a time zone, that zone is
    the schedule's.
    """

    def __init__(
        self, nowfun: Callable[[], datetime] | None = None, app: App | None = None
    ) -> None:
        self.nowfun = nowfun
        self.app = app

    def next_tick(self, after: float, zone: tzinfo | None = None) -> float | None:
        """The first due time after a Unix time; None if there is none.

        `zone` is the time zone that it goes by; None: its own (`tz`).
        """
        raise NotImplementedError(f"{type(self).__name__} has neither next_tick() nor is_due().")

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether it is due if it last ran then, and in how many seconds to ask again."""
        now = self.now().timestamp()
        due = self.next_tick(self.maybe_make_aware(last_run_at).timestamp())
        if due is not None and due > now:
            return schedstate(False, due - now)
        coming = None if due is None else self.next_tick(now)
        return schedstate(
            due is not None and not self._is_stale(now),
            NEVER if coming is None else coming - now,
        )

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Time from now to the due time that follows `last_run_at`; negative if that has passed."""
        due = self.next_tick(self.maybe_make_aware(last_run_at).timestamp())
        return timedelta(seconds=NEVER if due is None else due - self.now().timestamp())

    def _is_stale(self, now: float) -> bool:  # noqa: ARG002  (for crontab)
        """Whether what is due has been so for too long to be made up for."""
        return False

    def now(self) -> datetime:
        """The time, with a zone."""
        if self.nowfun is not None:
            return self.maybe_make_aware(self.nowfun())
        return datetime.fromtimestamp(clock.time(), self._app_zone())

    @property
    def tz(self) -> tzinfo:
        """The time zone: that of `nowfun`, else the app's, else UTC."""
        own = None if self.nowfun is None else self.nowfun().tzinfo
        return own or self._app_zone()

    def _app_zone(self) -> tzinfo:
        app = self.app
        if app is None and _state.find_app is not None:
            with contextlib.suppress(ImproperlyConfigured):  # there is no current app either
                app = _state.find_app(type(self).__name__)
        return UTC if app is None else app.timezone

    def maybe_make_aware(self, dt: datetime) -> datetime:
        """A naive datetime is taken for UTC."""
        return dt.replace(tzinfo=UTC) if dt.tzinfo is None else dt


def tells_ticks(schedule: object) -> bool:
    """Whether a schedule tells its due times by `next_tick`, not by an `is_due` of its own."""
    kind: Any = type(schedule)
    return bool(
        isinstance(schedule, BaseSchedule)
        and kind.next_tick is not BaseSchedule.next_tick
        and kind.is_due is BaseSchedule.is_due
        and kind.remaining_estimate is BaseSchedule.remaining_estimate
    )
