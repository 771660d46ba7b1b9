"""Schedules against Celery's own, where the clocks do not change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import celery
import celery.schedules
import pytest
from hypothesis import given
from hypothesis import strategies as some

from umbel import schedules

APP = celery.Celery("reference", set_as_current=False)
APP.conf.timezone = "UTC"
MOMENTS = some.datetimes(datetime(2000, 1, 1), datetime(2037, 12, 1))


def fields(low: int, high: int, names: tuple[str, ...] = ()) -> some.SearchStrategy[str]:
    number = some.integers(low, high).map(str)
    if names:
        number |= some.sampled_from(names)
    span = some.tuples(number, number).map("-".join) | some.just("*")
    stepped = some.tuples(span, some.integers(1, 40).map(str)).map("/".join)
    return some.lists(number | span | stepped, min_size=1, max_size=3).map(",".join)


LINES = some.tuples(
    fields(0, 59),
    fields(0, 23),
    fields(0, 6, ("mon", "Friday", "sun")),
    some.just("*") | fields(1, 31),
    some.just("*") | fields(1, 12, ("jan", "march")),
)


@given(LINES, MOMENTS)
def test_crontabs_come_when_celerys_come(line: tuple[str, ...], start: datetime) -> None:
    try:
        theirs = celery.schedules.crontab(*line, app=APP)
    except (ValueError, celery.schedules.ParseException):
        with pytest.raises((ValueError, schedules.ParseException)):
            schedules.crontab(*line)
        return
    ours = schedules.crontab(*line)
    for name in ("minute", "hour", "day_of_week", "day_of_month", "month_of_year"):
        assert getattr(ours, name) == set(getattr(theirs, name))
    at = start.replace(tzinfo=UTC)
    for _ in range(3):
        theirs.nowfun = lambda at=at: at
        try:
            expected = at + theirs.remaining_estimate(at)
        except RuntimeError:  # it gives up after 2,000 steps
            return
        found = ours.next_tick(at.timestamp(), UTC)
        assert found is not None
        assert datetime.fromtimestamp(found, UTC) == expected
        at = expected


@given(some.floats(0.5, 1e6), some.booleans(), MOMENTS)
def test_intervals_are_due_when_celerys_are(
    seconds: float, relative: bool, start: datetime
) -> None:
    at = start.replace(tzinfo=UTC)
    every = timedelta(seconds=round(seconds, 3))
    theirs = celery.schedules.schedule(every, relative, nowfun=lambda: at, app=APP)
    ours = schedules.schedule(every, relative)
    found = ours.next_tick(at.timestamp(), UTC)
    expected = (at + theirs.remaining_estimate(at)).timestamp()
    assert found is not None
    if relative and seconds < 60:
        expected = max(expected, found)  # rounded down it may have passed already
    assert abs(found - expected) < 0.001


@given(
    some.sampled_from(sorted(celery.schedules.solar._all_events)),
    some.integers(-60, 60),
    some.integers(-180, 180),
    MOMENTS,
)
def test_the_sun_is_where_celery_sees_it(event: str, lat: int, lon: int, start: datetime) -> None:
    at = start.replace(tzinfo=UTC)
    theirs: Any = celery.schedules.solar(event, lat, lon, nowfun=lambda: at, app=APP)
    expected = (at + theirs.remaining_estimate(at)).timestamp()
    found = schedules.solar(event, lat, lon).next_tick(at.timestamp())
    assert found is not None
    assert abs(found - expected) < 61
