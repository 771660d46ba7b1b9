"""The UTC offsets of a time zone, as spans of time between its changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timezone, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

STEP: Final = 6 * 3600
"""Seconds between two looks at a zone's offset; no zone has changed it twice in such a time."""


class Span(NamedTuple):
    """A time in which the offset stays as it is."""

    start: float
    """Unix time; the first span of a search starts somewhere before it."""
    end: float
    offset: int
    """Seconds east of UTC."""
    before: int
    """The offset of the span before."""


Match = Callable[[int, int], int | None]
"""The first time on the wall, in seconds since 1970, from one on and before another, that fits."""


def first_due(
    zone: tzinfo, after: float, years: int, match: Match, goes_on: Callable[[int, int], bool]
) -> float | None:
    """The first due time after a Unix time, of what is told by the clock on the wall.

    Where the clocks change, `goes_on` says, of the wall's times before and after, whether all times
    that there are count, and only those. Else a time that is left out is made up for at the end of
    the gap, and one that comes twice counts the first time.
    """
    for span in spans(zone, after, years):
        due = _first_of(span, after, match, goes_on)
        if due is not None:
            return due
    return None


def _first_of(
    span: Span, after: float, match: Match, goes_on: Callable[[int, int], bool]
) -> float | None:
    start, end, offset, before = span
    first = math.floor(after + offset) + 1
    if offset != before:
        left, came = (math.ceil(start + shown) for shown in (before, offset))
        first = max(first, came)
        if not goes_on(min(left, came), max(left, came)):
            if left < came and start > after and match(left, came) is not None:
                return start
            if came < left:
                first = max(first, left)
    elif start > after:
        first = math.ceil(start + offset)
    found = match(first, math.ceil(end + offset))
    return None if found is None else float(found - offset)


def spans(zone: tzinfo, after: float, years: int) -> Iterator[Span]:
    """The spans of a zone from the one that holds a Unix time on, for so many years."""
    if zone is UTC or isinstance(zone, timezone) or getattr(zone, "key", None) == "UTC":
        offset = _offset(zone, after)
        yield Span(float("-inf"), after + years * 366 * 86400, offset, offset)
        return
    first = datetime.fromtimestamp(after, UTC).year
    start, offset = _year_start(first), _offset(zone, _year_start(first))
    before = offset
    for year in range(first, first + years):
        for change, new in _changes(zone, year):
            if change > after:
                yield Span(start, change, offset, before)
            start, offset, before = change, new, offset
        # A year's end splits a span: the rest of it has no change at its start.
        end = _year_start(year + 1)
        if end > after:
            yield Span(start, end, offset, before)
        start, before = end, offset


def _year_start(year: int) -> float:
    return datetime(year, 1, 1, tzinfo=UTC).timestamp()


@lru_cache(maxsize=8192)
def _changes(zone: tzinfo, year: int) -> tuple[tuple[float, int], ...]:
    """The instants of a year at which the offset changes, with the new offset."""
    found = []
    low, end = int(_year_start(year)) - 1, int(_year_start(year + 1)) - 1
    offset = _offset(zone, low)
    while low < end:
        high = min(low + STEP, end)
        new = _offset(zone, high)
        if new != offset:
            change = high
            while change - low > 1:
                middle = (low + change) // 2
                low, change = (middle, change) if _offset(zone, middle) == offset else (low, middle)
            found.append((float(change), new))
        low, offset = high, new
    return tuple(found)


def _offset(zone: tzinfo, at: float) -> int:
    offset = datetime.fromtimestamp(at, zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def find_zone(name: str) -> tzinfo:
    """The zone of an IANA name; `ValueError` if there is none."""
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"There is no time zone {name!r}; write an IANA name such as Asia/Shanghai."
        ) from None
