"""Schedules are values that know Celery's grammar."""

import importlib
import pickle
from datetime import timedelta
from typing import Any

import pytest

from umbel import App
from umbel.schedules import ParseException, crontab, crontab_parser, maybe_schedule, schedule


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
