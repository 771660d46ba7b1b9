"""Ticks over every change of the clocks from 2000 to 2037, against an oracle that walks through it.

The oracle knows no spans and no search: it goes from minute to minute of elapsed time, looks at the
clock on the wall, and applies the rules as they are stated in `crontab`.
"""

from __future__ import annotations

import random
import zoneinfo
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from tests.conftest import RecordProof, Rounds
from umbel.schedules import BaseSchedule, cron, crontab, schedule
from umbel.schedules.crontab import crontab as Crontab  # noqa: N812

AROUND = 8 * 3600
"""Seconds before and after a change that are looked at: more than the change is long, but for those
that leave out a day."""
DAY = 30 * 3600
"""The same for those."""
NAIVE = datetime(2000, 1, 1)
MINUTE = timedelta(minutes=1)
ODD = (
    "America/New_York", "Europe/Berlin", "Asia/Shanghai", "Australia/Lord_Howe", "Pacific/Apia",
    "Africa/Casablanca", "America/Caracas", "Antarctica/Troll", "Antarctica/Casey", "Asia/Beirut",
    "Africa/Sao_Tome", "America/Havana", "Asia/Pyongyang",
)  # fmt: skip
"""Half-hour changes, changes of a day or three hours, over midnight, over a new year."""
REGIONS = ("Africa", "America", "Asia", "Australia", "Europe", "Pacific", "")
CRONTABS = (
    crontab(),
    crontab(minute=0),
    crontab(minute=45),
    crontab(minute="*/30"),
    crontab(minute=30, hour=2),
    crontab(minute=30, hour=1),
    crontab(minute=0, hour=0),
    crontab(minute="*/20", hour="1-3"),
    crontab(minute="*/20", hour="22-5"),
    crontab(minute=30, hour="*/2"),
    crontab(minute="15,45", hour="0,2,3", day_of_week="sun"),
    crontab(minute=59, hour=23, day_of_month="1-15"),
)
LINES = (
    "* * * * *", "0 * * * *", "*/30 * * * *", "30 2 * * *", "30 1 * * *", "0 0 * * *",
    "15,45 0-3 * * *", "10 1,2 1-7 * sun", "*/20 1-3 * * *",
)  # fmt: skip


def changes(zone: ZoneInfo, years: range) -> Iterator[int]:
    """The hours in which a zone's offset changes, by looking at each."""
    for year in years:
        start = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
        end = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp())
        before = datetime.fromtimestamp(start, zone).utcoffset()
        for hour in range(start, end, 3600):
            now = datetime.fromtimestamp(hour + 3600, zone).utcoffset()
            if now != before:
                yield hour
            before = now


def fits(fields: Crontab, wall: datetime) -> bool:
    return (
        wall.minute in fields.minute
        and wall.hour in fields.hour
        and wall.day in fields.day_of_month
        and wall.month in fields.month_of_year
        and wall.isoweekday() % 7 in fields.day_of_week
    )


def fits_line(line: CronSim, wall: datetime) -> bool:
    """Whether the fields fit, as cronsim reads them."""
    return (
        wall.minute in line.minutes
        and wall.hour in line.hours
        and wall.month in line.months
        and line.match_day(wall.date())
    )


def is_hourly(fields: Crontab, first: datetime, last: datetime) -> bool:
    """Whether the hour before `first`, those up to `last`, and the one that follows are named."""
    hours = {(first - timedelta(hours=1)).hour}
    wall = first
    while wall < last:
        hours.add(wall.hour)
        wall += MINUTE
    while wall.minute:
        wall += MINUTE
    hours.add(wall.hour)
    return hours <= fields.hour


Fits = Callable[[datetime], bool]
GoesOn = Callable[[datetime, datetime], bool]


def walk(fits: Fits, goes_on: GoesOn, walls: list[tuple[int, datetime]]) -> list[int]:
    """The due times, by the stated rules."""
    due: list[int] = []
    twice: tuple[datetime, datetime] | None = None  # the wall's times that are just repeated
    for (_, last), (at, wall) in pairwise(walls):
        if wall > last + MINUTE:
            missing, one = [], last + MINUTE
            while one < wall:
                missing.append(one)
                one += MINUTE
            made_up = any(fits(one) for one in missing)
            if made_up and not goes_on(missing[0], wall):
                due.append(at)
                continue
        elif wall < last + MINUTE:
            twice = (wall, last + MINUTE)
        if twice is not None and wall >= twice[1]:
            twice = None
        if fits(wall) and (twice is None or goes_on(*twice)):
            due.append(at)
    return due


def told(one: BaseSchedule, zone: ZoneInfo, start: int, end: int) -> list[float]:
    """The due times as a schedule tells them, one after the other."""
    found = []
    at = one.next_tick(start, zone)
    while at is not None and at <= end:
        found.append(at)
        at = one.next_tick(at, zone)
    return found


def some_crontabs(chance: random.Random, count: int) -> list[Crontab]:
    def some(low: int, high: int, most: int) -> list[int]:
        return chance.sample(range(low, high + 1), chance.randint(1, most))

    return [
        crontab(minute=some(0, 59, 4), hour=some(0, 23, chance.choice((2, 12, 24))))
        for _ in range(count)
    ]


def check(
    zone: ZoneInfo, change: int, crontabs: list[Crontab], lines: Sequence[str] = LINES
) -> int:
    """Compare over one change; how many ticks there were."""
    before, after = (datetime.fromtimestamp(change + at, zone).utcoffset() for at in (0, 3600))
    assert before is not None
    assert after is not None
    around = AROUND if abs(after - before) < timedelta(hours=6) else DAY
    start, end = change - around, change + around
    walls = [
        (at, datetime.fromtimestamp(at, zone).replace(tzinfo=None, fold=0))
        for at in range(start, end + 60, 60)
    ]
    jumps = [(last + MINUTE, wall) for (_, last), (_, wall) in pairwise(walls)]
    at_full_hours = all(a.minute == b.minute == 0 for a, b in jumps if a != b)
    count = 0
    for fields in crontabs:
        expected = walk(partial(fits, fields), partial(is_hourly, fields), walls)
        found = told(fields, zone, start, end)
        assert found == expected, (zone.key, fields, difference(found, expected, zone))
        count += len(found)
    for line in lines:
        goes_on = line.startswith("*") or line.split()[1].startswith("*")
        expected = walk(partial(fits_line, CronSim(line, NAIVE)), lambda *_: goes_on, walls)  # noqa: B023
        found = told(cron(line), zone, start, end)
        assert found == expected, (zone.key, line, difference(found, expected, zone))
        count += len(found)
        if at_full_hours:  # over other changes cronsim loses its way
            theirs = []
            for moment in CronSim(line, datetime.fromtimestamp(start, zone)):
                if moment.timestamp() > end:
                    break
                theirs.append(int(moment.timestamp()))
            assert found == theirs, (zone.key, line, difference(found, theirs, zone))
    return count


def difference(found: list[float], expected: list[int], zone: ZoneInfo) -> str:
    """The first place where two lists part."""
    at = min(set(found) ^ set(expected))
    which = "missing" if at in expected else "not due"
    return f"{datetime.fromtimestamp(at, zone).isoformat()} is {which}"


def zones(region: str) -> list[str]:
    """The zones of a region; "" has those of none of `REGIONS`."""
    every = sorted(zoneinfo.available_timezones() - {"localtime", "Factory"})
    if region:
        return [name for name in every if name.startswith(f"{region}/")]
    return [name for name in every if name.partition("/")[0] not in REGIONS]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("region", REGIONS)
def test_crontabs_and_lines_of_cron_over_changes_of_the_clocks(
    region: str, rounds: Rounds, seed: str, record_proof: RecordProof
) -> None:
    chance = random.Random(seed)
    full = bool(rounds(short=0, full=1))
    names = zones(region)
    if not full:
        names = [*(n for n in ODD if n in names), *chance.sample(names, 2)]
    seen = ticks = 0
    known: set[tuple[int, ...]] = set()
    for name in names:
        zone = ZoneInfo(name)
        years = set(range(2000, 2038) if full else chance.sample(range(2000, 2038), 2))
        if name in ODD:
            years |= {2007, 2011, 2019}
        found = tuple(change for year in years for change in changes(zone, range(year, year + 1)))
        if found in known:  # another name of the same zone, or of one with the same changes
            continue
        known.add(found)
        for change in found if full else chance.sample(found, min(2, len(found))):
            picked = [*CRONTABS, *some_crontabs(chance, 4)]
            ticks += check(zone, change, chance.sample(picked, 6), chance.sample(LINES, 4))
            seen += 1
    record_proof(zones=len(names), changes=seen, ticks=ticks)
    assert seen > 1 or not full


def test_a_rule_that_is_broken_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = ZoneInfo("America/New_York")
    spring, autumn = changes(zone, range(2026, 2027))
    monkeypatch.setattr(Crontab, "_is_hourly", lambda *_: True)
    with pytest.raises(AssertionError, match="is not due"):
        check(zone, autumn, [crontab(minute=30, hour=1)])
    with pytest.raises(AssertionError, match="is missing"):
        check(zone, spring, [crontab(minute=30, hour=2)])
    monkeypatch.setattr(Crontab, "_is_hourly", lambda *_: False)
    with pytest.raises(AssertionError, match="is missing"):
        check(zone, autumn, [crontab(minute="*/30")])


def test_relative_intervals_always_go_on(seed: str, rounds: Rounds) -> None:
    chance = random.Random(seed)
    for name in ODD:
        zone = ZoneInfo(name)
        for change in chance.sample(found := list(changes(zone, range(2005, 2012))),
                                    min(len(found), rounds(short=2, full=99))):  # fmt: skip
            for every in (60, 90, 3600, 5400, 86400, 100_000):
                one = schedule(every, relative=True)
                times = told(one, zone, change - AROUND, change + AROUND)
                gaps = [b - a for a, b in pairwise(times)]
                assert all(0 < gap <= 2 * every + 86400 for gap in gaps), (name, every)
