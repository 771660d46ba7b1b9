"""Periodic tasks: entries, their records, the scheduler, and what can be done at run time."""

from __future__ import annotations

import logging
import random
import sqlite3
import sys
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.unit import beat_scene
from tests.unit.beat_scene import START, on_file, sent, set_clock, start, ticks, turn_at
from umbel import App, clock, signals
from umbel.beat import BeatLazyFunc, ScheduleError, open_store
from umbel.beat import places as beat_places
from umbel.beat.scheduler import Scheduler
from umbel.engines.state import ScheduleChange, ScheduleRecord
from umbel.exceptions import ImproperlyConfigured, OperationalError
from umbel.message import task as task_message
from umbel.schedules import BaseSchedule, clocked, crontab, schedstate, schedule, solar

make = beat_scene.make
_clock = beat_scene._clock


# --------------------------------------------------------------------------------- declared


def test_a_declared_entry_is_fired_when_it_is_due(make: Callable[..., App]) -> None:
    app = make(
        beat_schedule={
            "often": {
                "task": "shop.sum", "schedule": timedelta(seconds=10), "args": (1, [2]),
                "kwargs": {"at": date(2026, 1, 2)}, "options": {"queue": "sums", "priority": 7},
            },
            "rarely": {"task": "shop.clean", "schedule": crontab(minute=5, hour=10)},
        }
    )  # fmt: skip
    scheduler = start(app)
    for seconds in range(25):
        turn_at(scheduler, seconds)
    first, second = sent(app)
    assert [first.tick, second.tick] == [("often", 10), ("often", 20)]
    assert (first.headers["task"], first.args, first.queue) == ("shop.sum", [1, [2]], "sums")
    assert first.kwargs == {"at": datetime(2026, 1, 2)} or first.kwargs == {"at": date(2026, 1, 2)}
    assert first.task.properties.priority == 7
    assert first.headers["celery_beat_task"] is True
    assert first.headers["id"] != second.headers["id"]
    turn_at(scheduler, 300)
    assert ("rarely", 300) in ticks(app)
    assert scheduler.fired == 4


def test_a_known_tasks_options_are_the_defaults(make: Callable[..., App]) -> None:
    app = make(
        beat_schedule={"a": {"task": "shop.known", "schedule": 1, "options": {"priority": 3}}}
    )

    @app.task(name="shop.known", queue="own", priority=9, time_limit=7)
    def known() -> None: ...

    turn_at(start(app), 1)
    (one,) = sent(app)
    assert (one.queue, one.task.properties.priority) == ("own", 3)
    assert one.headers["timelimit"] == [7, None]


def test_lazy_arguments_are_made_at_each_tick(make: Callable[..., App]) -> None:
    counter = iter(range(100))
    lazy = BeatLazyFunc(lambda base, step=1: base + step * next(counter), 10, step=2)
    app = make(
        beat_schedule={"a": {"task": "t", "schedule": 1, "args": [lazy], "kwargs": {"k": lazy}}}
    )
    scheduler = start(app)
    turn_at(scheduler, 1)
    turn_at(scheduler, 2)
    assert [(one.args, one.kwargs) for one in sent(app)] == [
        ([10], {"k": 12}), ([14], {"k": 16}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("t", "must be a dict"),
        ({"task": "t"}, "has no 'schedule'"),
        ({"schedule": 3}, "has no 'task'"),
        ({"task": "t", "schedule": 3, "arg": ()}, "unknown key 'arg'. Did you mean 'args'"),
        ({"task": "t", "schedule": 0}, "at least 0.001 s"),
        ({"task": "t", "schedule": -1}, "must not be negative"),
        ({"task": "t", "schedule": object()}, r"has no is_due\(\)"),
        ({"task": "t", "schedule": "61 * * * *"}, "no line of cron"),
        ({"task": "t", "schedule": 3, "args": "abc"}, "args must be a list"),
        ({"task": "t", "schedule": 3, "kwargs": [1]}, "kwargs must be a dict"),
        ({"task": "t", "schedule": 3, "timezone": "Mars/Olympus"}, "no time zone 'Mars/Olympus'"),
        ({"task": "t", "schedule": 3, "misfire": "twice"}, "'skip', 'once' or 'all'"),
        ({"task": "t", "schedule": 3, "misfire_limit": 0}, "from 1 to"),
        ({"task": "t", "schedule": 3, "jitter": -1}, "0 or more"),
        ({"task": 3, "schedule": 3}, "task must be"),
        ({"task": "t", "schedule": True}, "must be seconds"),
    ],
)
def test_a_wrong_entry_is_refused(entry: Any, why: str) -> None:
    app = App("wrong", broker="memory://", beat_schedule={"e": entry}, set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match=why) as error:
        start(app)
    assert "beat_schedule['e']" in str(error.value)


def test_add_periodic_task(make: Callable[..., App]) -> None:
    app = make()

    @app.task(name="shop.add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    @app.on_after_configure.connect
    def early(sender: App, **_: Any) -> None:
        assert sender.add_periodic_task(10, add, (1,), {"y": 2}) == "shop.add(1, y=2)"
        signature = {"task": "shop.add", "args": [5], "kwargs": {"y": 6}, "options": {"queue": "q"}}
        sender.add_periodic_task(20.0, signature, name="signed", priority=4, jitter=1)

    @app.on_after_finalize.connect
    def late(sender: App, **_: Any) -> None:
        sender.add_periodic_task(crontab(minute=1), "shop.other", name="by name", expires=5)

    turn_at(start(app), 60)
    found = {one.tick[0]: one for one in sent(app)}
    assert found["shop.add(1, y=2)"].args == [1]
    assert found["shop.add(1, y=2)"].kwargs == {"y": 2}
    signed = found["signed"]
    assert (signed.args, signed.kwargs, signed.queue) == ([5], {"y": 6}, "q")
    assert signed.task.properties.priority == 4
    assert found["by name"].headers["expires"] is not None
    with pytest.warns(UserWarning, match="'by name'; the second one stays"):
        app.add_periodic_task(1, "shop.other", name="by name")


def test_records_follow_the_code(make: Callable[..., App]) -> None:
    stay = {"task": "t.stay", "schedule": 3600}
    change = {"task": "t.change", "schedule": 3600}
    old = make(beat_schedule={"stay": stay, "change": change, "go": {"task": "t", "schedule": 60}})
    start(old)
    old.schedules.add("mine", 30, "t.mine")
    set_clock(START + 1800)
    new = make(
        beat_schedule={
            "stay": stay | {"args": (1,)}, "change": change | {"schedule": 60},
            "come": {"task": "t.come", "schedule": 60},
        }
    )  # fmt: skip
    start(new)
    found = {task.name: task for task in new.schedules.list()}
    assert sorted(found) == ["change", "come", "mine", "stay"]

    def due(name: str) -> float:
        at = found[name].due
        assert at is not None
        return at.timestamp() - START

    assert (due("stay"), found["stay"].args) == (3600, [1])  # its times have not changed
    assert (due("change"), due("come"), due("mine")) == (1860, 1860, 30)


def test_what_came_due_while_nothing_ran_is_made_up_for_after_a_restart(
    make: Callable[..., App],
) -> None:
    settings = {"beat_schedule": {"a": {"task": "t", "schedule": crontab(minute=30)}}}
    start(make(**settings))
    app = make(**settings)
    set_clock(START + 3 * 3600)
    scheduler = start(app)
    turn_at(scheduler, 3 * 3600)
    assert ticks(app) == [("a", 2.5 * 3600)]
    assert app.schedules.get("a").missed == 2


def test_two_apps_do_not_take_each_others_entries(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    entry = {"task": "t", "schedule": 60}
    mine = make(beat_schedule={"same": entry, "mine": entry})
    yours = make(beat_schedule={"same": entry | {"schedule": 5}, "yours": entry})
    yours.main = "other"
    start(mine)
    start(yours)
    assert "'same'" not in caplog.text
    assert "same of other is not in force: one of that name is declared by shop" in caplog.text
    assert {task.name: task.declared_by for task in mine.schedules.list()} == {
        "same": "shop", "mine": "shop", "yours": "other",
    }  # fmt: skip
    assert mine.schedules.get("same").schedule == "every 0:01:00"
    yours.main = "renamed"  # whose entries are as they were: they follow
    yours.conf.beat_schedule = {"yours": entry}
    start(yours)
    assert yours.schedules.get("yours").declared_by == "renamed"


def test_celerys_clean_up_is_not_needed(make: Callable[..., App]) -> None:
    start(app := make(beat_schedule={"x": {"task": "celery.backend_cleanup", "schedule": 3}}))
    assert app.schedules.list() == []


# ------------------------------------------------------------------------ schedules of users


class Thrice:
    """As third parties write them: an object that answers `is_due`."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        self.asked.append(last_run_at.timestamp() - START)
        return (len(self.asked) % 2 == 0, 5)


class Odd(crontab):
    """A subclass with an `is_due` of its own."""

    def is_due(self, last_run_at: datetime) -> schedstate:
        return schedstate(True, 7)


def test_a_schedule_of_the_users_own_is_asked(make: Callable[..., App]) -> None:
    mine = Thrice()
    app = make(beat_schedule={"mine": {"task": "t", "schedule": mine},
                              "odd": {"task": "t", "schedule": Odd()}})  # fmt: skip
    scheduler = start(app)
    for second in range(1, 22):
        turn_at(scheduler, second)
    assert ticks(app) == [("mine", 5), ("mine", 15), ("odd", 0), ("odd", 8), ("odd", 15)]
    assert mine.asked == [0, 0, 5, 5, 15]


def test_code_is_not_needed_only_where_a_definition_says_it_all(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    lazy = BeatLazyFunc(date.today)
    entries = {
        "plain": {"task": "t", "schedule": 1},
        "lazy": {"task": "t", "schedule": 1, "args": (lazy,)},
        "odd": {"task": "t", "schedule": Odd()},
        "zoned": {"task": "t", "schedule": crontab(nowfun=lambda: datetime.now(UTC))},
    }
    app = make(beat_schedule=entries)
    start(app)
    other = Scheduler(make(), open_store(app))  # knows no code
    for second in (1, 60):
        turn_at(other, second)
    assert {name for name, _ in ticks(app)} == {"plain"}
    for name in ("lazy", "odd", "zoned"):
        assert caplog.text.count(f"The entry {name} is left to other schedulers: it needs") == 1
    turn_at(start(app), 61)
    assert {name for name, _ in ticks(app)} == {"plain", "lazy", "odd", "zoned"}


def test_many_that_are_not_to_be_fired_here_do_not_hide_the_others(
    make: Callable[..., App], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umbel.beat.scheduler.BATCH", 3)
    entries = {f"odd{n}": {"task": "t", "schedule": Odd()} for n in range(10)}
    app = make(beat_schedule=entries)
    start(app)
    app.schedules.add("plain", 1, "t")
    other = Scheduler(make(), open_store(app))
    for second in range(1, 20):
        turn_at(other, second)
    assert {name for name, _ in ticks(app)} == {"plain"}


def test_a_schedule_that_fails_stops_nothing(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(BaseSchedule):
        def is_due(self, last_run_at: datetime) -> schedstate:
            if clock.time() > START:
                raise RuntimeError("no idea")
            return schedstate(False, 1)

    app = make(beat_schedule={"broken": {"task": "t", "schedule": Broken()},
                              "good": {"task": "t", "schedule": 2}})  # fmt: skip
    scheduler = start(app)
    for second in range(1, 5):
        turn_at(scheduler, second)
    assert ticks(app) == [("good", 2), ("good", 4)]
    assert caplog.text.count("The schedule of broken has failed") == 1
    assert app.schedules.get("broken").error == "schedule: RuntimeError('no idea')"


def test_a_schedule_that_fails_at_once_stops_nothing(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(BaseSchedule):
        def is_due(self, last_run_at: datetime) -> schedstate:
            raise RuntimeError("no idea")

    app = make(beat_schedule={"broken": {"task": "t", "schedule": Broken()},
                              "good": {"task": "t", "schedule": 2}})  # fmt: skip
    turn_at(start(app), 2)
    assert ticks(app) == [("good", 2)]
    assert caplog.text.count("The schedule of broken has failed") == 1


def test_a_tick_that_no_store_can_take_stops_nothing(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {name: {"task": "t", "schedule": 10} for name in ("bad", "good")}
    app = make(beat_schedule=entries)
    scheduler = start(app)
    change_schedules = type(app.engine.state).change_schedules

    def choosy(state: Any, changes: Any) -> list[str]:
        if any(change.name == "bad" and change.messages for change in changes):
            raise ValueError("too much")
        return change_schedules(state, changes)

    monkeypatch.setattr(type(app.engine.state), "change_schedules", choosy)
    turn_at(scheduler, 10)
    assert ticks(app) == [("good", 10)]
    assert "The tick of bad could not be stored" in caplog.text
    monkeypatch.undo()
    turn_at(scheduler, 21)
    assert ticks(app) == [("bad", 20), ("good", 20)]


def test_what_is_not_installed_here_is_left_to_others(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make(beat_schedule={"plain": {"task": "t", "schedule": 1}})
    scheduler = start(app)
    app.schedules.add("sun", solar("sunset", 48.2, 16.4), "t")
    monkeypatch.setitem(sys.modules, "ephem", None)
    turn_at(scheduler, 86400)
    assert {name for name, _ in ticks(app)} == {"plain"}
    assert "sun is left to other schedulers: solar schedules need ephem" in caplog.text
    assert [task.schedule for task in app.schedules.list()] == [
        "every 1 s",
        "solar sunset 48.2 16.4",
    ]


def test_records_of_a_later_version_are_left_alone(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    app = make(beat_schedule={"plain": {"task": "t", "schedule": 1}})
    scheduler = start(app)
    later = ScheduleRecord("later", 5, START + 1, b'{"definition": {"v": 2}, "added": 1}')
    broken = ScheduleRecord("broken", 6, START + 1, b"\xff")
    store = open_store(app)
    store.change_schedules([ScheduleChange(one.name, 0, one) for one in (later, broken)])
    for second in (1, 2):
        turn_at(scheduler, second)
    assert ticks(app) == [("plain", 1), ("plain", 2)]
    for name in ("later", "broken"):
        assert caplog.text.count(f"The entry {name} is left to other schedulers") == 1
        assert app.schedules.get(name).schedule == "unknown to this version"
    start(app)
    assert store.schedules(["broken", "later"]) == [broken, later]


def test_a_last_run_that_the_entry_tells(make: Callable[..., App]) -> None:
    before = datetime.fromtimestamp(START - 50, UTC)
    entry = {"task": "t", "schedule": 60, "last_run_at": before, "total_run_count": 7}
    app = make(beat_schedule={"a": entry})
    scheduler = start(app)
    turn_at(scheduler, 10)
    assert ticks(app) == [("a", 10)]
    app.conf.beat_schedule = {"a": entry | {"schedule": 90}}
    start(app)
    assert app.schedules.get("a").due == datetime.fromtimestamp(START + 100, UTC)


def test_a_tick_that_cannot_be_sent_is_told_and_the_next_one_comes(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    good: list[int] = []

    def value() -> object:
        return 1 if good else object()

    app = make(beat_schedule={"a": {"task": "t", "schedule": 1, "args": [BeatLazyFunc(value)]}})
    scheduler = start(app)
    turn_at(scheduler, 1)
    assert "The tick of a could not be sent" in caplog.text
    assert "EncodeError" in str(app.schedules.get("a").error)
    good.append(1)
    turn_at(scheduler, 2)
    assert ticks(app) == [("a", 2)]
    task = app.schedules.get("a")
    assert (task.error, task.runs, task.missed) == (None, 1, 1)


def test_a_store_that_is_away_for_a_while(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make(beat_schedule={"a": {"task": "t", "schedule": 10}})
    scheduler = start(app)
    whole = scheduler._store

    def away(*_: object) -> Any:
        raise OperationalError("away.")

    scheduler._store = SimpleNamespace(due_schedules=away)
    turn_at(scheduler, 10)
    turn_at(scheduler, 11)
    assert caplog.text.count("away. Trying again") == 1
    scheduler._store = SimpleNamespace(due_schedules=whole.due_schedules, change_schedules=away)
    turn_at(scheduler, 12)
    scheduler._store = whole
    turn_at(scheduler, 13)
    assert "The schedule goes on" in caplog.text
    assert ticks(app) == [("a", 10)]


def test_a_store_that_is_away_at_the_start(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    app = make(beat_schedule={"a": {"task": "t", "schedule": 10}})
    store = open_store(app)

    def away(*_: object) -> Any:
        raise OperationalError("away.")

    scheduler = Scheduler(app, SimpleNamespace(schedules=away))
    assert scheduler.read() == 1
    turn_at(scheduler, 0)
    assert "away. Trying again" in caplog.text
    scheduler._store = store
    turn_at(scheduler, 1)
    turn_at(scheduler, 11)
    assert ticks(app) == [("a", 11)]


def test_a_scheduler_stops_whenever_it_is_told(make: Callable[..., App]) -> None:
    app = make()
    scheduler = start(app)
    scheduler.stop()
    scheduler.run()  # at once
    scheduler = start(app)
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    scheduler.stop()
    thread.join(10)
    assert not thread.is_alive()
    scheduler.stop()


# --------------------------------------------------------------------------- many schedulers


def test_many_schedulers_fire_each_tick_once(make: Callable[..., App], seed: str) -> None:
    chance = random.Random(seed)
    entries = {f"e{n}": {"task": "t", "schedule": 1 + n % 3, "misfire": "all"} for n in range(20)}
    apps = [make(beat_schedule=entries) for _ in range(5)]
    schedulers = [start(app) for app in apps]
    skews = [chance.uniform(-2, 2) for _ in apps]
    for tenth in range(300):
        for scheduler, skew in chance.sample(list(zip(schedulers, skews, strict=True)), 3):
            turn_at(scheduler, tenth / 10 + skew)
    set_clock(START + 40)
    for scheduler in schedulers:
        scheduler._patience = 0.0
    turn_at(schedulers[0], 40)
    found = ticks(apps[0])
    assert len(found) == len(set(found))
    assert set(found) == {
        (f"e{n}", float(at)) for n in range(20) for at in range(1, 41) if at % (1 + n % 3) == 0
    }


def test_one_whose_entry_was_edited_lets_nobody_wait(make: Callable[..., App]) -> None:
    app = make()
    for name in "ab":
        app.schedules.add(name, 10, "t")
    scheduler, store = start(app), open_store(app)
    stale = store.due_schedules(START + 10, 10)
    app.schedules.edit("a", args=[1])
    scheduler._store = SimpleNamespace(
        due_schedules=lambda *_: stale, change_schedules=store.change_schedules
    )
    set_clock(START + 10)
    scheduler.turn()
    assert (ticks(app), scheduler._patience) == ([("b", 10)], 0.0)
    scheduler._store = store
    turn_at(scheduler, 10.1)
    assert ticks(app) == [("a", 10)]


def test_one_that_was_refused_lets_its_neighbours_go_first(make: Callable[..., App]) -> None:
    app = make(beat_schedule={"a": {"task": "t", "schedule": 10}})
    quick, slow = start(app), start(app)
    store = open_store(app)
    stale = store.due_schedules(START + 10, 10)
    turn_at(quick, 10)
    slow._store = SimpleNamespace(
        due_schedules=lambda *_: stale, change_schedules=store.change_schedules
    )
    slow.turn()
    assert 0.2 <= slow._patience <= 0.5
    assert quick._patience == 0.0
    slow._store = store
    turn_at(slow, 20.1)
    assert ticks(app) == [("a", 10)]
    turn_at(slow, 20.5)  # the quick one is gone
    assert ticks(app) == [("a", 20)]
    assert slow._patience == 0.0


# ---------------------------------------------------------------------------------- misfires


@pytest.mark.parametrize(
    ("policy", "limit", "expected", "missed"),
    [
        ("skip", None, [], 6),
        ("once", None, [3600], 5),
        ("all", None, [600, 1200, 1800, 2400, 3000, 3600], 0),
        ("all", 2, [3000, 3600], 4),
    ],
)
@pytest.mark.parametrize("when", [600, crontab(minute="*/10"), "*/10 * * * *"])
def test_each_misfire_policy_after_an_hour_of_silence(
    make: Callable[..., App],
    when: Any,
    policy: str,
    limit: int | None,
    expected: list[float],
    missed: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    entry = {"task": "t", "schedule": when, "misfire": policy}
    app = make(beat_schedule={"a": entry | ({"misfire_limit": limit} if limit else {})})
    scheduler = start(app)
    turn_at(scheduler, 3615)
    assert ticks(app) == [("a", at) for at in expected]
    task = app.schedules.get("a")
    assert (task.missed, task.runs) == (missed, len(expected))
    if missed:
        assert f"of 6 ticks since then {len(expected)} are run (misfire={policy})" in caplog.text
    turn_at(scheduler, 4199)
    assert ticks(app) == []
    turn_at(scheduler, 4200)
    assert ticks(app) == [("a", 4200)]


def test_skip_runs_what_is_on_time(make: Callable[..., App]) -> None:
    app = make(beat_schedule={"a": {"task": "t", "schedule": 10, "misfire": "skip"}})
    scheduler = start(app)
    turn_at(scheduler, 12)
    turn_at(scheduler, 45)
    assert ticks(app) == [("a", 10), ("a", 40)]
    assert app.schedules.get("a").missed == 2


def test_a_long_silence_is_no_work(make: Callable[..., App]) -> None:
    app = make(
        beat_schedule={
            "quick": {"task": "t", "schedule": 0.01, "misfire": "all", "misfire_limit": 3},
            "minutes": {"task": "t", "schedule": crontab(), "misfire": "all", "misfire_limit": 2},
        }
    )
    scheduler = start(app)
    week = 52 * 7 * 86400.0
    turn_at(scheduler, week)
    assert ticks(app) == [
        ("minutes", week - 60), ("minutes", week),
        ("quick", week - 0.02), ("quick", week - 0.01), ("quick", week),
    ]  # fmt: skip
    assert app.schedules.get("quick").missed == week * 100 - 3
    assert app.schedules.get("minutes").due == datetime.fromtimestamp(START + week + 60, UTC)


def test_a_crontabs_deadline(make: Callable[..., App]) -> None:
    entries = {
        "a": {"task": "t", "schedule": crontab(minute=30)},
        "b": {"task": "t", "schedule": 1800},
    }
    app = make(beat_schedule=entries, beat_cron_starting_deadline=120)
    scheduler = start(app)
    turn_at(scheduler, 1800 + 121)
    assert ticks(app) == [("b", 1800)]
    turn_at(scheduler, 5400 + 119)
    assert ticks(app) == [("a", 5400), ("b", 5400)]


def test_what_is_overdue_is_seen(make: Callable[..., App]) -> None:
    app = make(beat_schedule={"a": {"task": "t", "schedule": 60}})
    start(app)
    set_clock(START + 65)
    assert app.schedules.get("a").overdue == 0
    set_clock(START + 160)
    assert app.schedules.get("a").overdue == 100


def test_jitter_puts_runs_off_and_not_ticks(make: Callable[..., App]) -> None:
    app = make(beat_schedule={"a": {"task": "t", "schedule": 1, "jitter": 8, "misfire": "all"}})
    turn_at(start(app), 60)
    found = sent(app)
    assert sorted(one.tick[1] for one in found) == [float(at) for at in range(1, 61)]
    delays = [one.due - START - 60 for one in found if one.due is not None]
    assert len(delays) == 60
    assert all(0 <= delay < 8 for delay in delays)
    assert min(delays) < 2
    assert max(delays) > 6


# --------------------------------------------------------------------------------- run time


def test_adding_editing_and_removing(make: Callable[..., App]) -> None:
    app = make(timezone="Asia/Shanghai")
    scheduler = start(app)
    added = app.schedules.add(
        "night", "30 3 * * *", "t.clean", [1], {"k": 2}, options={"queue": "q"}, misfire="skip"
    )
    assert added.schedule == "cron 30 3 * * *"
    assert added.due == datetime(2026, 6, 11, 3, 30, tzinfo=ZoneInfo("Asia/Shanghai"))
    with pytest.raises(ScheduleError, match="already"):
        app.schedules.add("night", 5, "t")
    edited = app.schedules.edit("night", args=[3], options={"queue": "p"})
    assert (edited.args, edited.kwargs, edited.options) == ([3], {"k": 2}, {"queue": "p"})
    assert (edited.due, edited.misfire) == (added.due, "skip")
    edited = app.schedules.edit("night", timezone="Europe/Berlin")
    assert edited.due == datetime(2026, 6, 11, 3, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    assert app.schedules.edit("night", schedule=10).due == datetime.fromtimestamp(START + 10, UTC)
    turn_at(scheduler, 10)
    (one,) = sent(app)
    assert (one.tick, one.args, one.queue) == (("night", 10), [3], "p")
    app.schedules.remove("night")
    turn_at(scheduler, 30)
    assert ticks(app) == []
    for act in ("get", "remove", "pause", "resume", "run", "next", "edit"):
        with pytest.raises(ScheduleError, match="no periodic task 'night'"):
            getattr(app.schedules, act)("night")


@pytest.mark.parametrize(
    "when",
    [
        5, timedelta(hours=2), schedule(3600, relative=True), "*/5 * * * *",
        crontab(minute="*/7", hour=[8, 9], day_of_week="mon-fri"), solar("sunrise", 48.2, 16.4),
        clocked(START + 3600),
    ],
)  # fmt: skip
def test_every_schedule_is_the_same_when_it_is_read_back(
    make: Callable[..., App], when: Any
) -> None:
    app = make(beat_schedule={"declared": {"task": "t", "schedule": when}})
    start(app)
    app.schedules.add("added", when, "t")
    first = app.schedules.next("declared", 3)
    assert first == app.schedules.next("added", 3) != []
    assert app.schedules.get("declared").schedule == app.schedules.get("added").schedule


def test_an_edit_loses_no_tick_that_is_due(make: Callable[..., App]) -> None:
    entry = {"task": "t", "schedule": 10}
    app = make(beat_schedule={"declared": entry})
    scheduler = start(app)
    app.schedules.add("added", 10, "t")
    set_clock(START + 13)  # a little late
    assert app.schedules.edit("added", schedule=4).due == datetime.fromtimestamp(START + 10, UTC)
    app.conf.beat_schedule = {"declared": entry | {"schedule": 5}}
    scheduler = start(app)
    for second in range(13, 20):
        turn_at(scheduler, second)
    assert ticks(app) == [
        ("added", 10), ("added", 14), ("added", 18), ("declared", 10), ("declared", 15),
    ]  # fmt: skip


def test_what_the_store_cannot_say_is_refused(make: Callable[..., App]) -> None:
    app = make()
    for part in ({"schedule": Odd()}, {"schedule": 1, "args": [object()]},
                 {"schedule": crontab(nowfun=lambda: datetime.now(UTC))}):  # fmt: skip
        with pytest.raises(TypeError, match="names no code"):
            app.schedules.add("x", task="t", **part)
    with pytest.raises(ScheduleError, match="has passed"):
        app.schedules.add("x", datetime(2020, 1, 1), "t")
    assert app.schedules.list() == []


def test_what_the_code_declares_is_changed_there(make: Callable[..., App]) -> None:
    app = make(beat_schedule={"a": {"task": "t", "schedule": 10}})
    scheduler = start(app)
    with pytest.raises(ScheduleError, match="declared by the code of shop"):
        app.schedules.edit("a", schedule=5)
    app.schedules.pause("a")
    turn_at(scheduler, 100)
    start(app)  # a restart does not end a pause
    assert app.schedules.get("a").paused
    app.schedules.resume("a")
    assert ticks(app) == []
    app.schedules.remove("a")
    assert app.schedules.list() == []
    start(app)
    assert [task.name for task in app.schedules.list()] == ["a"]


def test_pause_and_resume(make: Callable[..., App]) -> None:
    app = make()
    scheduler = start(app)
    app.schedules.add("a", 10, "t")
    app.schedules.add("once", datetime.fromtimestamp(START + 20, UTC), "t")
    turn_at(scheduler, 10)
    for name in ("a", "once", "a"):
        app.schedules.pause(name)
    turn_at(scheduler, 35)
    assert ticks(app) == [("a", 10)]
    assert app.schedules.next("a") == []
    assert app.schedules.get("a").due is None
    for name in ("a", "once", "a"):
        app.schedules.resume(name)
    turn_at(scheduler, 35)
    assert ticks(app) == [("once", 20)]  # it runs late rather than never
    turn_at(scheduler, 45)
    assert ticks(app) == [("a", 45)]
    assert app.schedules.get("a").missed == 0
    app.schedules.pause("a")
    app.schedules.edit("a", schedule=100)
    assert app.schedules.get("a").due is None
    app.schedules.resume("a")
    assert app.schedules.get("a").due == datetime.fromtimestamp(START + 145, UTC)


def test_run_now(make: Callable[..., App]) -> None:
    lazy = BeatLazyFunc(lambda: "now")
    app = make(beat_schedule={"a": {"task": "t", "schedule": 10, "args": (lazy,)}})
    scheduler = start(app)
    set_clock(START + 4)
    id = app.schedules.run("a")
    (one,) = sent(app)
    assert (one.headers["id"], one.tick, one.args) == (id, ("a", 4), ["now"])
    assert app.schedules.get("a").runs == 1
    turn_at(scheduler, 10)
    assert ticks(app) == [("a", 10)]
    other = make()
    with pytest.raises(ScheduleError, match="needs the code of shop"):
        other.schedules.run("a")


def test_once_is_once(make: Callable[..., App]) -> None:
    when = clocked(START + 5)
    app = make(beat_schedule={"declared": {"task": "t", "schedule": when}})
    scheduler = start(app)
    app.schedules.add("added", when, "t")
    turn_at(scheduler, 6)
    assert ticks(app) == [("added", 5), ("declared", 5)]
    (left,) = app.schedules.list()  # what was added is done with; the code still says the other
    assert (left.name, left.due, left.runs) == ("declared", None, 1)
    turn_at(start(app), 100)
    assert ticks(app) == []
    late = make(beat_schedule={"late": {"task": "t", "schedule": when}})
    turn_at(start(late), 200)
    assert ticks(late) == []


def test_coming_times_are_in_the_entrys_zone(make: Callable[..., App]) -> None:
    app = make(timezone="Asia/Shanghai")
    app.schedules.add("here", crontab(hour=9, minute=0), "t")
    app.schedules.add("there", crontab(hour=2, minute=30), "t", timezone="America/New_York")
    assert [str(at) for at in app.schedules.next("here", 2)] == [
        "2026-06-11 09:00:00+08:00", "2026-06-12 09:00:00+08:00",
    ]  # fmt: skip
    set_clock(datetime(2027, 3, 13, 12, tzinfo=UTC).timestamp())
    app.schedules.edit("there", schedule=crontab(hour=2, minute=30), timezone="America/New_York")
    assert [str(at) for at in app.schedules.next("there", 2)] == [
        "2026-06-11 02:30:00-04:00", "2026-06-12 02:30:00-04:00",
    ]  # fmt: skip
    app.schedules.remove("there")
    app.schedules.add("there", "30 2 * * *", "t", timezone="America/New_York")
    assert [str(at) for at in app.schedules.next("there", 2)] == [
        "2027-03-14 03:00:00-04:00", "2027-03-15 02:30:00-04:00",
    ]  # fmt: skip


def test_a_time_without_zone_is_in_the_entrys_or_utc(make: Callable[..., App]) -> None:
    app = make(timezone="Asia/Shanghai")
    noon = datetime(2026, 7, 1, 12, 0)
    vienna = app.schedules.add("vienna", noon, "t", timezone="Europe/Vienna").due
    assert vienna == datetime(2026, 7, 1, 12, 0, tzinfo=ZoneInfo("Europe/Vienna"))
    assert app.schedules.add("utc", noon, "t").due == datetime(2026, 7, 1, 12, 0, tzinfo=UTC)


def test_publishing_signals_are_sent(
    make: Callable[..., App], request: pytest.FixtureRequest
) -> None:
    app = make(beat_schedule={"a": {"task": "t", "schedule": 1}})
    heard: list[str] = []

    @signals.before_task_publish.connect
    def before(headers: dict[str, Any], **_: Any) -> None:
        headers["tenant"] = "t1"
        heard.append("before")

    @signals.after_task_publish.connect
    def after(headers: dict[str, Any], **_: Any) -> None:
        heard.append(f"after {headers['tenant']}")

    request.addfinalizer(lambda: signals.before_task_publish.disconnect(before))
    request.addfinalizer(lambda: signals.after_task_publish.disconnect(after))
    scheduler, slow = start(app), start(app)
    stale = open_store(app).due_schedules(START + 1, 10)
    turn_at(scheduler, 1)
    assert heard == ["before", "after t1"]
    assert sent(app)[0].headers["tenant"] == "t1"
    store = slow._store
    slow._store = SimpleNamespace(
        due_schedules=lambda *_: stale, change_schedules=store.change_schedules
    )
    slow.turn()
    assert heard == ["before", "after t1", "before"]  # refused: nothing was published


# ---------------------------------------------------------------------------- a file of its own


def test_the_state_in_a_file(make: Callable[..., App], tmp_path: Path) -> None:
    file = tmp_path / "beat" / "schedule"
    app = make(beat_schedule={"a": {"task": "t", "schedule": 10, "options": {"countdown": 5}}})
    scheduler, schedules = on_file(app, file)
    turn_at(scheduler, 10)
    (one,) = sent(app)
    assert (one.tick, one.due) == (("a", 10), START + 15)
    assert app.schedules.list() == []
    assert [task.runs for task in schedules.list()] == [1]
    schedules.run("a")
    assert len(sent(app)) == 1
    again, _ = on_file(app, file)
    turn_at(again, 19)
    assert ticks(app) == []
    turn_at(again, 20)
    assert ticks(app) == [("a", 20)]
    assert file.stat().st_mode & 0o777 == 0o600
    set_in_code = make(beat_schedule_filename=str(file))
    assert [task.name for task in set_in_code.schedules.list()] == ["a"]


def test_a_tick_in_the_file_is_sent_on_by_whoever_comes_next(
    make: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make(beat_schedule={"a": {"task": "t", "schedule": 10}})
    scheduler, _ = on_file(app, tmp_path / "schedule")

    def die(_: object, *, left: bool) -> None:
        if not left:
            raise SystemExit

    monkeypatch.setattr(beat_places.FileStore, "_send_on", die)
    with pytest.raises(SystemExit):  # killed between the two steps
        turn_at(scheduler, 10)
    monkeypatch.undo()
    assert ticks(app) == []
    turn_at(on_file(app, tmp_path / "schedule")[0], 11)
    assert ticks(app) == [("a", 10)]


@pytest.mark.parametrize("fate", ["waits", "has a result", "is dead", "is history"])
def test_a_tick_that_was_sent_on_is_not_sent_again(
    make: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    from umbel.engines.broker import Acknowledge, Settlement
    from umbel.testing.contracts.values import bury, entry, record, result

    app = make(beat_schedule={"a": {"task": "t", "schedule": 10}})
    scheduler, _ = on_file(app, tmp_path / "schedule")
    store = scheduler._store
    broker = store._engine.broker  # type: ignore[attr-defined]

    def die(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(broker, "purge", die)
    with pytest.raises(SystemExit):  # killed when it had been sent on
        turn_at(scheduler, 10)
    monkeypatch.undo()
    if fate != "waits":
        worker = app.engine.state.register(record())
        (held,) = app.engine.broker.claim(worker, ["celery"], 9).deliveries
        id = task_message.decode_headers(held.payload).id
        end = bury(id) if fate == "is dead" else Acknowledge()
        settled = Settlement(
            held.number, held.worker, held.attempt, end,
            result(id) if fate == "has a result" else None, (),
            entry(id) if fate == "is history" else None,
        )  # fmt: skip
        assert app.engine.broker.settle([settled]) == []
    turn_at(on_file(app, tmp_path / "schedule")[0], 11)
    assert len(ticks(app)) == (1 if fate == "waits" else 0)


def test_a_broker_that_is_away_loses_no_tick_of_a_file(
    make: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make(beat_schedule={"a": {"task": "t", "schedule": 10, "misfire": "all"}})
    scheduler, _ = on_file(app, tmp_path / "schedule")

    def away(*_: object, **__: object) -> None:
        raise OperationalError("away.")

    monkeypatch.setattr(app.engine.broker, "publish", away)
    for second in (10, 11, 20, 21):
        turn_at(scheduler, second)
    monkeypatch.undo()
    turn_at(scheduler, 22)
    assert ticks(app) == [("a", 10), ("a", 20)]


def test_a_file_of_another_program_is_left_alone(make: Callable[..., App], tmp_path: Path) -> None:
    import dbm
    import shelve

    file = tmp_path / "celerybeat-schedule"
    with shelve.open(str(file)) as shelf:
        shelf["entries"] = {}
    if not file.exists():  # dbm chose an ending of its own
        file.write_bytes(b"\x13\x57\x9a\xce not ours")
    other = tmp_path / "celerybeat-schedule.db"
    foreign = other.exists()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    app = make(beat_schedule={"a": {"task": "t", "schedule": 10}})
    scheduler, _ = on_file(app, file)
    turn_at(scheduler, 10)
    assert ticks(app) == [("a", 10)]
    name = "celerybeat-schedule.umbel.db" if foreign else "celerybeat-schedule.db"
    assert scheduler._store.path == tmp_path / name  # type: ignore[attr-defined]
    for path, content in before.items():
        if not path.startswith("queue.db"):
            assert (tmp_path / path).read_bytes() == content
    assert dbm.whichdb(str(file)) is not None
    for ending in ("x", "x.db", "x.umbel.db"):
        (tmp_path / ending).write_text("mine")
    with pytest.raises(ImproperlyConfigured, match="taken by files of other programs"):
        open_store(app, str(tmp_path / "x"))


def test_a_songs_database_is_no_file_of_schedules(make: Callable[..., App], tmp_path: Path) -> None:
    file = tmp_path / "songs"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE song (title)")
    connection.close()
    store = open_store(make(), str(file))
    assert store.path == tmp_path / "songs.db"  # type: ignore[attr-defined]


def test_the_apps_own_store_may_be_named(tmp_path: Path) -> None:
    app = App(
        "same", broker=f"sqlite:///{tmp_path}/queue.db", backend="broker", set_as_current=False
    )
    assert open_store(app, str(tmp_path / "queue.db")) is app.engine.state
    app.close()


def test_the_log_says_what_celerys_says(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    app = make(beat_schedule={"a": {"task": "shop.t", "schedule": 10}})
    scheduler = start(app)
    with caplog.at_level(logging.DEBUG, "umbel.beat"):
        turn_at(scheduler, 10)
    (one,) = sent(app)
    assert caplog.messages == [
        "Scheduler: Sending due task a (shop.t)", f"shop.t sent. id->{one.headers['id']}",
    ]  # fmt: skip
