"""As a line of cron says, by cronsim."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final

from umbel.schedules.base import BaseSchedule
from umbel.schedules.zones import first_due

if TYPE_CHECKING:
    from umbel.app import App

NICKNAMES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  (times on the wall)
YEARS: Final = 51
"""cronsim looks 50 years ahead."""


class cron(BaseSchedule):  # noqa: N801  (beside crontab)
    """As a line of cron says: `cron("30 4 1,15 * fri")`, `cron("@daily")`; also with seconds first.

    Unlike `crontab`, a day fits if the day of the month *or* the day of the week does, when both
    are given. Where the clocks change it follows Debian's cron: a job with `*` in its minute or
    hour goes on as time passes; of any other, a time that is left out is made up for at the end of
    the gap, and one that comes twice counts the first time. `ValueError` for what is no such line.
    """

    def __init__(
        self,
        line: str,
        *,
        nowfun: Callable[[], datetime] | None = None,
        app: App | None = None,
    ) -> None:
        from cronsim import CronSim, CronSimError

        super().__init__(nowfun, app)
        self.line = " ".join(line.split())
        self._fields = NICKNAMES.get(self.line.lower(), self.line)
        try:
            next(CronSim(self._fields, datetime(2000, 1, 1, tzinfo=UTC)))
        except (CronSimError, StopIteration) as error:
            why = str(error) or "it never comes"
            raise ValueError(
                f"{line!r} is no line of cron: {why}. It has five fields: minute, hour, day of the "
                "month, month, day of the week (before them perhaps a second); or it is one of "
                f"{', '.join(NICKNAMES)}."
            ) from None
        minute, hour, *rest = self._fields.split()
        # Debian's rule; with seconds there is none.
        self._goes_on = minute.startswith("*") or hour.startswith("*") or len(rest) == 4

    def next_tick(self, after: float, zone: tzinfo | None = None) -> float | None:
        """The first due time after a Unix time."""
        return first_due(zone or self.tz, after, YEARS, self._match, lambda *_: self._goes_on)

    def _match(self, first: int, last: int) -> int | None:
        """The first wall second since 1970 from `first` on, and before `last`, that fits.

        Told without a zone: over some changes of half an hour cronsim never comes to an end.
        """
        from cronsim import CronSim

        before = EPOCH + timedelta(seconds=first - 1)
        found = next(CronSim(self._fields, before), None)
        if found is None:
            return None
        second = round((found - EPOCH).total_seconds())
        return second if second < last else None

    def __repr__(self) -> str:
        return f"<cron: {self.line}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, cron) and self._fields == other._fields

    def __hash__(self) -> int:
        return hash(self._fields)

    def __reduce__(self) -> tuple[type[cron], tuple[Any, ...]]:
        return type(self), (self.line,)
