"""Schedules are values that know Celery's grammar."""

import importlib
import pickle
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from umbel import App
from umbel.schedules import (
    BaseSchedule,
    ParseException,
    clocked,
    cron,
    crontab,
    crontab_parser,
    maybe_schedule,
    schedule,
    solar,
)


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({}, "minute", set(range(60))),
        ({"minute": 5}, "minute", {5}),
        ({"minute": "*/15"}, "minute", {0, 15, 30, 45}),
        ({"minute": [1, 2]}, "minute", {1, 2}),
        ({"minute": range(3)}, "minute", {0, 1, 2}),
        ({"minute": "1-10/3, 20"}, "minute", {1, 4, 7, 10, 20}),
        ({"minute": "*/61"}, "minute", {0}),
        ({"hour": "22-2"}, "hour", {22, 23, 0, 1, 2}),
        ({"hour": "*/5,8"}, "hour", {0, 5, 8, 10, 15, 20}),
        ({"hour": "20-4/3"}, "hour", {20, 23, 2}),
        ({"day_of_week": "fri-mon"}, "day_of_week", {5, 6, 0, 1}),
        ({"day_of_week": "Monday,sun"}, "day_of_week", {0, 1}),
        ({"day_of_week": "0-6/2"}, "day_of_week", {0, 2, 4, 6}),
        ({"day_of_month": "*/2"}, "day_of_month", set(range(1, 32, 2))),
        ({"month_of_year": "jan,february"}, "month_of_year", {1, 2}),
        ({"day_of_month": "30", "month_of_year": "2,4"}, "month_of_year", {2, 4}),
        ({"day_of_month": "29", "month_of_year": "2"}, "day_of_month", {29}),
    ],
)
def test_what_a_field_names(fields: dict[str, Any], name: str, expected: set[int]) -> None:
    assert getattr(crontab(**fields), name) == expected


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"day_of_week": 7}, "day_of_week must be from 0 to 6; 7 is not"),
        ({"minute": 60}, "from 0 to 59"),
        ({"minute": "61"}, "61 is not"),
        ({"minute": "50-70"}, "60 is not"),
        ({"minute": "5/15"}, "a step follows"),
        ({"minute": "*/0"}, "above 0"),
        ({"minute": "*/x"}, "above 0"),
        ({"minute": "a"}, "'a' is no number"),
        ({"minute": "mon"}, "'mon' is no number"),
        ({"minute": "1.5"}, "no number"),
        ({"minute": ""}, "no number"),
        ({"minute": []}, "there is none"),
        ({"hour": "1,"}, "no number"),
        ({"minute": "-5"}, "no number"),
        ({"day_of_month": 0}, "from 1 to 31"),
        ({"month_of_year": "0"}, "from 1 to 12"),
        ({"day_of_week": "moon-fri/2/3"}, "above 0"),
        ({"day_of_month": 31, "month_of_year": 2}, "never comes"),
        ({"day_of_month": "30-31", "month_of_year": "feb"}, "never comes"),
    ],
)
def test_what_is_not_in_the_grammar(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        crontab(**fields)


@pytest.mark.parametrize("given", [1.5, None, True, ["*/5"], [True], {"1"}])
def test_what_is_no_field(given: Any) -> None:
    with pytest.raises(TypeError, match="minute must be"):
        crontab(minute=given)


def test_a_line_of_cron() -> None:
    assert crontab.from_string("0 4  1 jan mon") == crontab(
        minute=0, hour=4, day_of_month=1, month_of_year=1, day_of_week=1
    )
    for line in ("@daily", "* * * *", "* * * * * *"):
        with pytest.raises(ParseException, match="has 5"):
            crontab.from_string(line)


def test_crontabs_are_values() -> None:
    half = crontab(minute="*/30")
    assert half == crontab(minute="0,30") == pickle.loads(pickle.dumps(half))
    assert hash(half) == hash(crontab(minute=[0, 30]))
    assert half != crontab(minute=30)
    assert half != "*/30"
    assert repr(crontab(minute=0, day_of_week="fri-mon")) == (
        "<crontab: 0 * * * fri-mon (m/h/dM/MY/d)>"
    )


def test_intervals_are_values() -> None:
    assert schedule(3600) == schedule(timedelta(hours=1)) == 3600
    assert schedule(3600) == timedelta(hours=1)
    assert schedule(3600, relative=True) != schedule(3600)
    assert schedule(30) == pickle.loads(pickle.dumps(schedule(30)))
    assert hash(schedule(30)) == hash(schedule(timedelta(seconds=30)))
    assert schedule(2.5).seconds == 2.5
    assert [repr(schedule(s)) for s in (30, 1, 3600, 90000)] == [
        "<freq: 30.00 seconds>", "<freq: 1.00 second>", "<freq: 1.00 hour>", "<freq: 1.04 days>",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="negative"):
        schedule(-5)


celery: Any = importlib.import_module("celery.schedules")


@pytest.mark.parametrize(
    ("span", "spec"),
    [
        ((60,), "*/15"),
        ((60,), "0,5-9,50-58/4"),
        ((24,), "22-2"),
        ((7,), "mon-friday"),
        ((7,), "fri-mon"),
        ((31, 1), "*/3"),
        ((12, 1), "jan,2-12/5"),
        ((12, 1), "nov-feb"),
    ],
)
def test_text_of_a_field_names_what_it_does_in_celery(span: tuple[int, ...], spec: str) -> None:
    assert crontab_parser(*span).parse(spec) == celery.crontab_parser(*span).parse(spec)


@pytest.mark.parametrize("spec", ["60", "-1", "*/0", "1,,2", "mon", "5/2", ""])
def test_text_that_is_no_field_is_refused(spec: str) -> None:
    with pytest.raises(crontab_parser.ParseException, match="field"):
        crontab_parser(60).parse(spec)


def test_a_schedule_of_whatever_may_be_one() -> None:
    app = App("schedules", set_as_current=False)
    for every in (30, 30.0, timedelta(seconds=30)):
        made = maybe_schedule(every, relative=True, app=app)
        assert made == schedule(30, relative=True)
        assert made is not None
        assert made.app is app
    nightly = crontab(hour=3)
    assert maybe_schedule(nightly, app=app) is nightly
    assert nightly.app is app
    assert maybe_schedule(None) is None


# ------------------------------------------------------------------------------------- ticks

NEW_YORK = ZoneInfo("America/New_York")
SHANGHAI = ZoneInfo("Asia/Shanghai")


def ticks(
    schedule: BaseSchedule,
    start: str,
    count: int,
    zone: tzinfo = NEW_YORK,
    form: str = "%d %H:%M %Z",
) -> list[str]:
    """The first ticks after a local time, as the clocks there show them."""
    at: float | None = datetime.fromisoformat(start).replace(tzinfo=zone).timestamp()
    found = []
    for _ in range(count):
        assert at is not None
        at = schedule.next_tick(at, zone)
        if at is None:
            break
        found.append(datetime.fromtimestamp(at, zone).strftime(form))
    return found


def test_a_daily_time_in_the_gap_runs_once_at_its_end() -> None:
    assert ticks(crontab(hour=2, minute=30), "2026-03-07T00:00", 3) == [
        "07 02:30 EST", "08 03:00 EDT", "09 02:30 EDT",
    ]  # fmt: skip
    # Several of them are made up for together, also with one that comes just then.
    assert ticks(crontab(hour="2,3", minute="0,15,30"), "2026-03-08T01:00", 4) == [
        "08 03:00 EDT", "08 03:15 EDT", "08 03:30 EDT", "09 02:00 EDT",
    ]  # fmt: skip


def test_a_daily_time_in_the_overlap_runs_the_first_time() -> None:
    assert ticks(crontab(hour=1, minute=30), "2026-10-31T12:00", 2) == [
        "01 01:30 EDT", "02 01:30 EST",
    ]  # fmt: skip
    assert ticks(crontab(hour="*/2", minute=30), "2026-10-31T23:00", 2) == [
        "01 00:30 EDT", "01 02:30 EST",
    ]  # fmt: skip


def test_hourly_and_more_often_goes_on_as_time_passes() -> None:
    assert ticks(crontab(minute=0), "2026-10-31T23:30", 4) == [
        "01 00:00 EDT", "01 01:00 EDT", "01 01:00 EST", "01 02:00 EST",
    ]  # fmt: skip
    assert ticks(crontab(minute="*/30"), "2026-11-01T01:10", 4) == [
        "01 01:30 EDT", "01 01:00 EST", "01 01:30 EST", "01 02:00 EST",
    ]  # fmt: skip
    assert ticks(crontab(minute=15), "2026-03-08T00:30", 2) == ["08 01:15 EST", "08 03:15 EDT"]
    # Within hours of the day too, if they hold the change and its neighbours.
    assert ticks(crontab(minute="*/30", hour="0-5"), "2026-11-01T01:10", 4) == [
        "01 01:30 EDT", "01 01:00 EST", "01 01:30 EST", "01 02:00 EST",
    ]  # fmt: skip
    assert ticks(crontab(minute=30, hour="0-5"), "2026-03-08T01:00", 2) == [
        "08 01:30 EST", "08 03:30 EDT",
    ]  # fmt: skip


def test_a_day_that_a_zone_has_left_out() -> None:
    apia = ZoneInfo("Pacific/Apia")  # had no 30 December 2011
    assert ticks(crontab(hour=14, minute=0), "2011-12-29T12:00", 3, apia, "%d %H:%M") == [
        "29 14:00", "31 00:00", "31 14:00",
    ]  # fmt: skip
    assert ticks(crontab(hour=14, minute=0, day_of_month=30), "2011-12-01T00:00", 2, apia,
                 "%m-%d %H:%M") == ["12-31 00:00", "01-30 14:00"]  # fmt: skip


def test_day_fields_must_both_agree() -> None:
    friday_the_13th = crontab(minute=0, hour=0, day_of_month=13, day_of_week="fri")
    assert ticks(friday_the_13th, "2026-01-01T00:00", 3, UTC, "%Y-%m-%d %a") == [
        "2026-02-13 Fri", "2026-03-13 Fri", "2026-11-13 Fri",
    ]  # fmt: skip
    assert ticks(cron("0 0 13 * fri"), "2026-02-01T00:00", 3, UTC, "%m-%d %a") == [
        "02-06 Fri",
        "02-13 Fri",
        "02-20 Fri",
    ]  # fmt: skip  (cron's or)


def test_a_rare_day_is_found_and_an_interval_of_its_span_ends() -> None:
    leap_monday = crontab(0, 0, day_of_week="mon", day_of_month=29, month_of_year=2)
    assert ticks(leap_monday, "2026-01-01T00:00", 2, SHANGHAI, "%Y-%m-%d %a") == [
        "2044-02-29 Mon", "2072-02-29 Mon",
    ]  # fmt: skip


def test_intervals_are_elapsed_time_without_drift() -> None:
    assert ticks(schedule(3600), "2026-11-01T00:30", 3) == [
        "01 01:30 EDT", "01 01:30 EST", "01 02:30 EST",
    ]  # fmt: skip
    start = at = 1_700_000_000.0
    for _ in range(10_000):
        at = schedule(0.02).next_tick(at) or 0.0
    assert at == start + 200


def test_relative_intervals_are_at_the_full_unit() -> None:
    def relative(start: str, **every: float) -> list[str]:
        return ticks(schedule(timedelta(**every), relative=True), start, 3)

    assert relative("2026-06-10T10:17:40", hours=1) == [
        "10 11:00 EDT", "10 12:00 EDT", "10 13:00 EDT",
    ]  # fmt: skip
    assert relative("2026-06-10T10:17:40", minutes=5)[:2] == ["10 10:22 EDT", "10 10:27 EDT"]
    assert relative("2026-10-30T10:17:40", days=1) == [
        "31 00:00 EDT", "01 00:00 EDT", "02 00:00 EST",
    ]  # fmt: skip
    assert relative("2026-11-01T00:10", hours=1) == [
        "01 01:00 EDT", "01 01:00 EST", "01 02:00 EST",
    ]  # fmt: skip
    beirut = ZoneInfo("Asia/Beirut")  # goes back over midnight
    assert ticks(schedule(86400, relative=True), "2026-10-24T10:00", 3, beirut, "%d %H:%M") == [
        "25 00:00", "26 00:00", "27 00:00",
    ]  # fmt: skip


def test_once() -> None:
    when = datetime(2026, 3, 1, 12, 0, tzinfo=SHANGHAI)
    assert ticks(clocked(when), "2026-01-01T00:00", 2, UTC) == ["01 04:00 UTC"]
    assert clocked(when).next_tick(when.timestamp()) is None
    assert clocked(datetime(2026, 3, 1, 4)) == clocked(when) == clocked(when.timestamp())
    assert pickle.loads(pickle.dumps(clocked(when))) == clocked(when)


@pytest.mark.parametrize("line", ["* * * *", "61 * * * *", "0 0 31 2 *", "@often", "", "a b c d e"])
def test_what_is_no_line_of_cron(line: str) -> None:
    with pytest.raises(ValueError, match="is no line of cron"):
        cron(line)


def test_lines_of_cron() -> None:
    assert ticks(cron("@daily"), "2026-03-07T12:00", 2) == ["08 00:00 EST", "09 00:00 EDT"]
    assert ticks(cron("*/20 0 L * *"), "2026-02-10T00:00", 3, UTC, "%d %H:%M") == [
        "28 00:00", "28 00:20", "28 00:40",
    ]  # fmt: skip
    assert ticks(cron("*/20 * * * * *"), "2026-02-10T00:00", 2, UTC, "%M:%S") == ["00:20", "00:40"]
    assert cron("0  4 * * *") == cron("0 4 * * *") == pickle.loads(pickle.dumps(cron("0 4 * * *")))
    assert repr(cron("0  4 * * *")) == "<cron: 0 4 * * *>"


def test_the_sun() -> None:
    vienna = solar("sunset", 48.2, 16.4)
    assert ticks(vienna, "2026-06-20T00:00", 2, UTC) == ["20 18:58 UTC", "21 18:58 UTC"]
    # At 78 degrees north the sun sets in August again.
    assert ticks(solar("sunset", 78.2, 15.6), "2026-06-20T00:00", 1, UTC, "%b") == ["Aug"]
    for wrong in (("noon", 1, 1), ("sunset", 91, 0), ("sunset", 0, -181)):
        with pytest.raises(ValueError, match=r"must be from|no event"):
            solar(*wrong)
    assert pickle.loads(pickle.dumps(vienna)) == vienna


def test_the_answers_to_celerys_questions() -> None:
    now = datetime(2026, 6, 10, 10, 17, 30, tzinfo=UTC)

    def tell() -> datetime:
        return now

    quarter = crontab(minute="*/15", nowfun=tell)
    assert quarter.is_due(now - timedelta(minutes=2)) == (False, 750)
    assert quarter.is_due(now - timedelta(minutes=3)) == (True, 750)
    assert quarter.remaining_estimate(now - timedelta(minutes=3)) == timedelta(seconds=-150)
    assert quarter.is_due((now - timedelta(minutes=3)).replace(tzinfo=None)).is_due
    half_minute = schedule(30, nowfun=tell)
    assert half_minute.is_due(now - timedelta(seconds=10)) == (False, 20)
    assert half_minute.is_due(now - timedelta(seconds=31)) == (True, 30)
    once = clocked(now - timedelta(seconds=1), nowfun=tell)
    assert once.is_due(now - timedelta(days=1)).is_due
    assert not once.is_due(now).is_due


def test_a_schedule_goes_by_the_zone_of_its_nowfun_or_its_app() -> None:
    in_shanghai = crontab(hour=9, minute=0, nowfun=lambda: datetime.now(SHANGHAI))
    midnight = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert in_shanghai.next_tick(midnight) == midnight + 3600
    app = App("zoned", timezone="Asia/Shanghai", set_as_current=False)
    assert crontab(hour=9, minute=0, app=app).next_tick(midnight) == midnight + 3600
    assert crontab(hour=9, minute=0, app=app).next_tick(midnight, UTC) == midnight + 9 * 3600


def test_a_stale_crontab_is_not_due() -> None:
    app = App("stale", beat_cron_starting_deadline=60, set_as_current=False)
    now = datetime(2026, 6, 10, 10, 17, 30, tzinfo=UTC)
    daily = crontab(hour=10, minute=0, nowfun=lambda: now, app=app)
    assert daily.is_due(now - timedelta(days=1)) == (False, 85350)
    app.conf.beat_cron_starting_deadline = 1050
    assert daily.is_due(now - timedelta(days=1)).is_due


def test_what_is_meant_by_a_schedule() -> None:
    assert maybe_schedule(30) == schedule(30)
    assert maybe_schedule(timedelta(hours=1), relative=True) == schedule(3600, relative=True)
    assert maybe_schedule("0 4 * * *") == cron("0 4 * * *")
    mine = crontab()
    assert maybe_schedule(mine) is mine


def test_a_parser_of_one_field() -> None:
    assert crontab_parser(24).parse("22-2/2") == {22, 0, 2}
    assert crontab_parser(7).parse("mon,fri") == {1, 5}
    assert crontab_parser(12, 1).parse("*/3") == {1, 4, 7, 10}
    with pytest.raises(crontab_parser.ParseException):
        crontab_parser(60).parse("60")


def test_a_change_of_half_an_hour_ends_no_search() -> None:
    """cronsim, told the zone, never comes to an end here."""
    colombo = ZoneInfo("Asia/Colombo")  # half past midnight was midnight again
    assert ticks(cron("*/20 1-3 * * *"), "2006-04-14T23:50", 2, colombo, "%d %H:%M") == [
        "15 01:00", "15 01:20",
    ]  # fmt: skip
    lord_howe = ZoneInfo("Australia/Lord_Howe")  # two o'clock was half past one again
    assert ticks(cron("*/30 3 * * *"), "2026-04-05T00:00", 2, lord_howe, "%d %H:%M") == [
        "05 03:00", "05 03:30",
    ]  # fmt: skip
