"""When something is due, as values: `crontab` and `schedule` (`celery.schedules`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from umbel.app import App

__all__ = [
    "Cronspec",
    "ParseException",
    "crontab",
    "crontab_parser",
    "maybe_schedule",
    "schedule",
]

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


class ParseException(ValueError):  # noqa: N818  (Celery's name)
    """A field of a crontab is not in its grammar; the message names field and part."""


class schedule:  # noqa: N801  (Celery's name)
    """Every so often: `schedule(30)`, `schedule(timedelta(hours=1))`.

    `run_every` is a timedelta or seconds. With `relative`, the times are rounded to its unit:
    every hour is then at the full hour.
    """

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: App | None = None,
    ) -> None:
        if run_every is None:
            run_every = 0
        if not isinstance(run_every, timedelta):
            run_every = timedelta(seconds=run_every)
        if run_every < timedelta():
            raise ValueError(f"run_every must not be negative; got {run_every.total_seconds():g} s")
        self.run_every = run_every
        self.relative = relative
        self.nowfun = nowfun
        self.app = app

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


class crontab:  # noqa: N801  (Celery's name)
    """At the minutes that all of its fields name: `crontab(minute=0, hour="8-18/2")`.

    A field is a number, numbers, or text: `*`, `5`, `1-5`, `*/15`, `8-18/2`, lists of these with
    commas; days of the week are 0 (Sunday) to 6, days and months have English names too. Ranges
    wrap: `fri-mon`. `day_of_month` and `day_of_week` must both agree (unlike cron). What a field
    has is in the set of its name. `ValueError` for what is not in the grammar, and for a date
    that never comes.
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
        self.nowfun = nowfun
        self.app = app
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


class crontab_parser:  # noqa: N801  (Celery's name)
    """What a field's text names: `crontab_parser(24).parse("8-18/2")` (for validators).

    The field goes from `min_` on and has `max_` values. Names of months and days are taken.
    """

    ParseException: ClassVar = ParseException
    """What `parse` raises."""

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_

    def parse(self, spec: str) -> set[int]:
        """The numbers; `ParseException` (a `ValueError`) for what is not in the grammar."""
        names = {len(DAYS): DAYS, len(MONTHS): MONTHS}.get(self.max_, ())
        return set(_expand("field", spec, self.min_, self.min_ + self.max_ - 1, names))


def maybe_schedule(
    s: float | timedelta | schedule | crontab | None,
    relative: bool = False,
    app: App | None = None,
) -> schedule | crontab | None:
    """A schedule of seconds or a timedelta; a schedule, then of `app`, and None as they are."""
    if isinstance(s, (int, float, timedelta)):
        return schedule(s, relative, app=app)
    if s is not None:
        s.app = app
    return s


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
