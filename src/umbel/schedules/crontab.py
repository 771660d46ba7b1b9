"""At the times of day that fields name, in Celery's grammar."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime, tzinfo
from typing import TYPE_CHECKING, Any, Final

from umbel.schedules.base import BaseSchedule
from umbel.schedules.zones import first_due

if TYPE_CHECKING:
    from umbel.app import App

Cronspec = int | str | Iterable[int]
"""A field of a crontab: a number, text in its grammar, or numbers."""

DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS: Final = (
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
)  # fmt: skip
LONGEST: Final = dict(
    zip(range(1, 13), (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True)
)
"""Days of the months in their longest year."""
YEARS: Final = 41
"""A 29 February on one day of the week comes within 40 years, also around a year like 2100."""
EPOCH: Final = date(1970, 1, 1).toordinal()
DAY: Final = 1440
"""Minutes."""


class ParseException(ValueError):  # noqa: N818  (Celery's name)
    """A field of a crontab is not in its grammar; the message names field and part."""


class crontab(BaseSchedule):  # noqa: N801  (Celery's name)
    """At the minutes that all of its fields name: `crontab(minute=0, hour="8-18/2")`.

    A field is a number, numbers, or text: `*`, `5`, `1-5`, `*/15`, `8-18/2`, lists of these with
    commas; days of the week are 0 (Sunday) to 6, days and months have English names too. Ranges
    wrap: `fri-mon`. `day_of_month` and `day_of_week` must both agree (unlike cron). What a field
    has is in the set of its name. `ValueError` for what is not in the grammar, and for a date
    that never comes.

    Where the clocks change: a time that is left out is made up for at the end of the gap, once; a
    time that comes twice counts the first time. But where the hours before, in and after the change
    are all named, the schedule is hourly there: each minute that there is and that fits is due, so
    nothing is made up for, and both of two like times count.
    """

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        *,
        nowfun: Callable[[], datetime] | None = None,
        app: App | None = None,
    ) -> None:
        self._given = (minute, hour, day_of_week, day_of_month, month_of_year)
        self.minute: frozenset[int] = _expand("minute", minute, 0, 59)
        self.hour: frozenset[int] = _expand("hour", hour, 0, 23)
        self.day_of_week: frozenset[int] = _expand("day_of_week", day_of_week, 0, 6, DAYS)
        self.day_of_month: frozenset[int] = _expand("day_of_month", day_of_month, 1, 31)
        self.month_of_year: frozenset[int] = _expand("month_of_year", month_of_year, 1, 12, MONTHS)
        super().__init__(nowfun, app)
        self._hours = sorted(self.hour)
        self._minutes = sorted(self.minute)
        longest = max(LONGEST[month] for month in self.month_of_year)
        if min(self.day_of_month) > longest:
            raise ValueError(
                f"day_of_month {day_of_month!r} never comes in month_of_year {month_of_year!r}"
            )

    @classmethod
    def from_string(cls, text: str) -> crontab:
        """A crontab of cron's line: `minute hour day_of_month month_of_year day_of_week`."""
        fields = text.split()
        if len(fields) != 5:
            raise ParseException(
                f"{text!r} has {len(fields)} fields; a crontab has 5: minute hour day_of_month "
                "month_of_year day_of_week"
            )
        minute, hour, day_of_month, month_of_year, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    def next_tick(self, after: float, zone: tzinfo | None = None) -> float | None:
        """The first due time after a Unix time."""
        return first_due(zone or self.tz, after, YEARS, self._match, self._is_hourly)

    def _match(self, first: int, last: int) -> int | None:
        """The first wall second since 1970 from `first` on, and before `last`, that fits."""
        found = self._first_match(-(-first // 60), -(-last // 60))
        return None if found is None else found * 60

    def _is_hourly(self, first: int, last: int) -> bool:
        """Whether each hour is named from the one before `first` to the one that follows `last`."""
        hours = range(first // 3600 - 1, -(-last // 3600) + 1)
        return all(hour % 24 in self.hour for hour in hours)

    def _first_match(self, first: int, last: int) -> int | None:
        """The first local minute since 1970 from `first` on, and before `last`, that fits."""
        day, minute = divmod(first, DAY)
        while day * DAY < last:
            today = date.fromordinal(EPOCH + day)
            if today.month not in self.month_of_year:
                year, month = divmod(today.year * 12 + today.month, 12)
                day, minute = date(year, month + 1, 1).toordinal() - EPOCH, 0
                continue
            if today.day in self.day_of_month and today.isoweekday() % 7 in self.day_of_week:
                fits = self._first_of_day(minute)
                if fits is not None:
                    found = day * DAY + fits
                    return found if found < last else None
            day, minute = day + 1, 0
        return None

    def _first_of_day(self, start: int) -> int | None:
        """The first minute of a day from `start` on whose hour and minute are named."""
        now, past = divmod(start, 60)
        for hour in self._hours:
            if hour < now:
                continue
            if hour > now:
                return hour * 60 + self._minutes[0]
            for minute in self._minutes:
                if minute >= past:
                    return hour * 60 + minute
        return None

    def _is_stale(self, now: float) -> bool:
        """Whether nothing was due in the last `beat_cron_starting_deadline` seconds."""
        deadline = None if self.app is None else self.app.conf.beat_cron_starting_deadline
        if deadline is None:
            return False
        latest = self.next_tick(now - deadline - 1e-6)
        return latest is None or latest > now

    def __repr__(self) -> str:
        minute, hour, day_of_week, day_of_month, month_of_year = self._given
        return (
            f"<crontab: {minute} {hour} {day_of_month} {month_of_year} {day_of_week} (m/h/dM/MY/d)>"
        )

    def _fields(self) -> tuple[frozenset[int], ...]:
        return (
            self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year,
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, crontab) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __reduce__(self) -> tuple[type[crontab], tuple[Any, ...]]:
        return type(self), self._given


def _expand(
    field: str, given: Cronspec, low: int, high: int, names: tuple[str, ...] = ()
) -> frozenset[int]:
    """The numbers that a field names."""
    if isinstance(given, bool):
        raise _wrong_type(field, given)
    if isinstance(given, str):
        numbers = {
            number
            for part in given.split(",")
            for number in _expand_part(field, part.strip(), low, high, names)
        }
    elif isinstance(given, int):
        numbers = {given}
    else:
        try:
            numbers = set(given)
        except TypeError:
            raise _wrong_type(field, given) from None
        if any(type(number) is not int for number in numbers):
            raise _wrong_type(field, given)
    wrong = sorted(number for number in numbers if not low <= number <= high)
    if wrong or not numbers:
        found = f"{wrong[0]} is not" if wrong else "there is none"
        raise ParseException(f"{field} must be from {low} to {high}; {found} (in {given!r})")
    return frozenset(numbers)


def _expand_part(
    field: str, part: str, low: int, high: int, names: tuple[str, ...]
) -> Iterable[int]:
    span, slash, step = part.partition("/")
    if slash and (not step.isdigit() or int(step) == 0):
        raise ParseException(f"{field}: a step is a whole number above 0; got {part!r}")
    first, dash, last = span.partition("-")
    if span == "*":
        numbers = list(range(low, high + 1))
    elif dash:
        start, end = (_number(field, text, part, low, names) for text in (first, last))
        if low <= start <= high and low <= end <= high and start > end:  # 22-2 goes over midnight
            numbers = [*range(start, high + 1), *range(low, end + 1)]
        else:
            numbers = list(range(start, end + 1))
    elif slash:
        raise ParseException(f"{field}: a step follows * or a range; got {part!r}")
    else:
        return [_number(field, span, part, low, names)]
    return numbers[:: int(step)] if slash else numbers


def _number(field: str, text: str, part: str, low: int, names: tuple[str, ...]) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    abbreviation = text[:3].lower()
    if abbreviation in names and text.isalpha():
        return names.index(abbreviation) + low
    known = f" or a name such as {names[1]}" if names else ""
    raise ParseException(f"{field}: {text!r} is no number{known} (in {part!r})")


def _wrong_type(field: str, given: object) -> TypeError:
    return TypeError(f"{field} must be a whole number, text, or whole numbers; got {given!r}")


class crontab_parser:  # noqa: N801  (Celery's name)
    """Reads one field of a crontab: `crontab_parser(24).parse("8-18/2")` is `{8, 10, …}`.

    Its numbers are those from `min_` on, `max_` of them; names of days and months are known.
    """

    ParseException = ParseException

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_

    def parse(self, spec: str) -> set[int]:
        """The numbers that a text names; `ParseException` if it is not in the grammar."""
        names = {(7, 0): DAYS, (12, 1): MONTHS}.get((self.max_, self.min_), ())
        return set(_expand("field", spec, self.min_, self.max_ + self.min_ - 1, names))
