"""Periodic tasks that somebody means ill with: nothing may stop the scheduler, or be lost."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.unit import beat_scene
from tests.unit.beat_scene import START, on_file, sent, set_clock, start, ticks, turn_at
from umbel import App
from umbel.beat import BeatLazyFunc, ScheduleError, embedded, open_store, watch
from umbel.beat.ticks import AT_ONCE
from umbel.engines.state import ScheduleChange, ScheduleRecord
from umbel.exceptions import ImproperlyConfigured, OperationalError
from umbel.schedules import BaseSchedule, clocked, crontab, schedule

make = beat_scene.make
_clock = beat_scene._clock

GOOD = {"task": "t", "schedule": 2}


# ------------------------------------------------------------------------------ wrong schedules


class Stuck(BaseSchedule):
    """One whose next tick is not later."""

    def next_tick(self, after: float, zone: Any = None) -> float | None:
        return after


class Answers:
    """Answers as it is told."""

    def __init__(self, *answers: Any) -> None:
        self._answers = iter(answers)

    def is_due(self, last_run_at: datetime) -> Any:
        answer = next(self._answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Unspeakable(Exception):  # noqa: N818
    """An error that cannot be told."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


@pytest.mark.parametrize(
    "when",
    [
        Stuck(),
        Answers(True, True),
        Answers((True, float("nan")), (True, float("nan"))),
        Answers((False, "soon"), (False, "soon")),
        Answers(RuntimeError("\ud800"), RuntimeError("\ud800")),
        Answers(RuntimeError("x" * 1_000_000), RuntimeError("x" * 1_000_000)),
        Answers(Unspeakable(), Unspeakable()),
        Answers(SystemExit(1), SystemExit(1)),
    ],
    ids=["stuck", "no pair", "nan", "text", "surrogate", "long", "unspeakable", "exit"],
)
def test_a_schedule_that_is_wrong_stops_nothing(make: Callable[..., App], when: Any) -> None:
    app = make(beat_schedule={"bad": {"task": "t", "schedule": when}, "good": GOOD})
    scheduler = start(app)
    turn_at(scheduler, 2)
    turn_at(scheduler, 4)
    assert ticks(app) == [("good", 2), ("good", 4)]
    found = app.schedules.get("bad")
    assert found.error is not None
    assert found.error.startswith("schedule: ")
    assert len(found.error) < 1000
    assert found.due == datetime.fromtimestamp(START + 62, UTC)


@pytest.mark.parametrize("wait", [float("inf"), 1e300, 1e12])
def test_a_schedule_may_be_due_in_an_eternity(make: Callable[..., App], wait: float) -> None:
    app = make(beat_schedule={"late": {"task": "t", "schedule": Answers((False, wait))}})
    start(app)
    assert [task.name for task in app.schedules.list()] == ["late"]
    assert app.schedules.get("late").overdue == 0


def test_parts_of_a_second_may_be_relative(make: Callable[..., App]) -> None:
    app = make(beat_schedule={"a": {"task": "t", "schedule": 0.4, "relative": True}})
    scheduler = start(app)
    for second in (1, 2):
        turn_at(scheduler, second)
    assert ticks(app) == [("a", 1), ("a", 2)]
    assert schedule(0.4, relative=True).next_tick(10.7) == 11.0


@pytest.mark.parametrize(
    "when", [float("inf"), 1e12, timedelta(days=999_999), clocked(datetime(9999, 12, 31, 23))]
)
def test_what_lies_beyond_the_calendar_is_refused(make: Callable[..., App], when: Any) -> None:
    app = make()
    with pytest.raises(ValueError, match="schedule must be"):
        app.schedules.add("a", when, "t", timezone="Asia/Shanghai")
    assert app.schedules.list() == []


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"last_run_at": 5}, "last_run_at must be a datetime; got 5"),
        ({"misfire_limit": 1_000_000}, "from 1 to 100000"),
        ({"options": {"quue": "x"}}, "no option 'quue'"),
    ],
)
def test_more_wrong_entries(entry: Any, why: str) -> None:
    app = App("wrong", broker="memory://", beat_schedule={"e": GOOD | entry}, set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match=why):
        start(app)


def test_a_last_run_without_a_zone_is_utc(
    make: Callable[..., App], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = datetime.fromtimestamp(START - 50, UTC).replace(tzinfo=None)
    app = make(beat_schedule={"a": {"task": "t", "schedule": 60, "last_run_at": before}})
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        start(app)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert app.schedules.get("a").due == datetime.fromtimestamp(START + 10, UTC)


# ------------------------------------------------------------------------- records nobody wrote


DEFINITION = b'{"task":"t","schedule":%b,"call":%b%b}'


@pytest.mark.parametrize(
    "definition",
    [
        DEFINITION % (b'{"every":[1],"cron":["* * * * *"]}', b"[[],{},{}]", b""),
        DEFINITION % (b"{}", b"[[],{},{}]", b""),
        DEFINITION % (b'{"every":[1e300]}', b"[[],{},{}]", b""),
        DEFINITION % (b'{"clocked":[]}', b"[[],{},{}]", b""),
        DEFINITION % (b'{"clocked":[5]}', b"[[],{},{}]", b""),
        DEFINITION % (b'{"every":[1]}', b"[[],{}]", b""),
        DEFINITION % (b'{"every":[1]}', b"5", b""),
        DEFINITION % (b'{"every":[1]}', b"[5,{},{}]", b""),
        DEFINITION % (b'{"every":[1]}', b"[[],{},{}]", b',"timezone":"Mars/Olympus"'),
    ],
)
def test_a_record_that_makes_no_sense_stops_nothing(
    make: Callable[..., App], definition: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(beat_schedule={"good": GOOD})
    scheduler = start(app)
    body = b'{"definition":%b,"added":1}' % definition
    open_store(app).change_schedules(
        [ScheduleChange("bad", 0, ScheduleRecord("bad", 5, START + 1, body))]
    )
    for second in (2, 4):
        turn_at(scheduler, second)
    assert ticks(app) == [("good", 2), ("good", 4)]
    assert caplog.text.count("The entry bad is left to other schedulers") == 1
    assert [task.name for task in app.schedules.list()] == ["bad", "good"]
    app.schedules.remove("bad")
    start(app)


def test_a_due_time_beyond_the_calendar_is_listed(make: Callable[..., App]) -> None:
    app = make()
    app.schedules.add("far", 5, "t")
    store = open_store(app)
    (record,) = store.schedules()
    far = ScheduleRecord("far", 5, 1e15, record.body)
    store.change_schedules([ScheduleChange("far", record.version, far)])
    (found,) = app.schedules.list()
    assert (found.due, found.overdue) == (None, 0)
    app.schedules.remove("far")


# ------------------------------------------------------------------------------ lazy arguments


@pytest.mark.parametrize("error", [SystemExit(3), Unspeakable(), ValueError("\ud800" * 5000)])
def test_a_lazy_argument_that_fails_is_one_tick(
    make: Callable[..., App], error: BaseException
) -> None:
    def fail() -> None:
        raise error

    bad = {"task": "t", "schedule": 2, "args": [BeatLazyFunc(fail)]}
    app = make(beat_schedule={"bad": bad, "good": GOOD})
    scheduler = start(app)
    for second in (2, 4):
        turn_at(scheduler, second)
    assert ticks(app) == [("good", 2), ("good", 4)]
    found = app.schedules.get("bad")
    assert found.missed == 2
    assert found.error is not None
    assert len(found.error) < 1000


def test_who_hangs_is_named(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, asked = threading.Event(), threading.Event()

    def hang() -> int:
        asked.set()
        go_on.wait(30)
        return 1

    monkeypatch.setattr(watch, "HANGING", 0.05)
    app = make(beat_schedule={"slow": {"task": "t", "schedule": 1, "args": [BeatLazyFunc(hang)]}})
    scheduler = start(app)
    set_clock(START + 1)
    told = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "has been busy with slow" in record.getMessage():
                told.set()

    listener = Listener()
    logging.getLogger("umbel.beat").addHandler(listener)
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    try:
        assert asked.wait(10)
        assert told.wait(10)
    finally:
        go_on.set()
        scheduler.stop()
        thread.join(10)
        logging.getLogger("umbel.beat").removeHandler(listener)
    assert caplog.text.count("has been busy with slow") == 1
    assert "in hang" in caplog.text
    assert ticks(app) == [("slow", 1)]


def test_a_worker_does_not_wait_for_a_scheduler_that_hangs(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, asked = threading.Event(), threading.Event()

    def hang() -> int:
        asked.set()
        go_on.wait(30)
        return 1

    monkeypatch.setattr(embedded, "PATIENCE", 0.1)
    app = make(beat_schedule={"slow": {"task": "t", "schedule": 1, "args": [BeatLazyFunc(hang)]}})
    beat = embedded.BeatThread(app)
    set_clock(START)
    beat.scheduler.turn()
    set_clock(START + 1)
    beat.start()
    try:
        assert asked.wait(10)
        beat.stop()
    finally:
        go_on.set()
        beat.join(10)
    assert "The scheduler does not end" in caplog.text


# ------------------------------------------------------------------------------- long silences


def test_a_million_overdue_ticks_are_run_in_bounded_steps(make: Callable[..., App]) -> None:
    entry = {"task": "t", "schedule": 0.01, "misfire": "all", "misfire_limit": 100_000}
    app = make(beat_schedule={"many": entry, "good": {"task": "t", "schedule": 10_000}})
    scheduler = start(app)
    set_clock(START + 10_000)
    sizes: list[int] = []
    whole = scheduler._store

    def change(changes: Any) -> list[str]:
        sizes.append(sum(len(one.messages) for one in changes))
        return whole.change_schedules(changes)

    scheduler._store = SimpleNamespace(
        schedules=whole.schedules, due_schedules=whole.due_schedules, change_schedules=change
    )
    for _ in range(3):
        scheduler.turn()
    found = sent(app)
    assert max(sizes) <= AT_ONCE + 1
    mine = [one.tick[1] for one in found if one.tick[0] == "many"]
    # Of a million the latest hundred thousand, the oldest of them first.
    assert mine == [round(9000.01 + 0.01 * n, 6) for n in range(3 * AT_ONCE)]
    assert [one.tick for one in found if one.tick[0] == "good"] == [("good", 10_000)]
    task = app.schedules.get("many")
    assert (task.missed, task.runs) == (900_000, 3 * AT_ONCE)
    assert task.overdue > 900


def test_run_all_runs_all_in_steps(make: Callable[..., App]) -> None:
    count = 2 * AT_ONCE + 50
    entry = {"task": "t", "schedule": crontab(), "misfire": "all", "misfire_limit": 10_000}
    app = make(beat_schedule={"a": entry})
    scheduler = start(app)
    set_clock(START + 60 * count)
    for _ in range(3):
        scheduler.turn()
    assert ticks(app) == [("a", 60.0 * n) for n in range(1, count + 1)]
    task = app.schedules.get("a")
    assert (task.missed, task.runs, task.overdue) == (0, count, 0)


def test_what_is_made_up_for_is_told_when_it_is_stored(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    app = make(beat_schedule={"a": {"task": "t", "schedule": 10}})
    scheduler = start(app)
    whole = scheduler._store

    def full(*_: object) -> Any:
        raise OperationalError("The disk is full.")

    scheduler._store = SimpleNamespace(due_schedules=whole.due_schedules, change_schedules=full)
    for second in (100, 101):
        turn_at(scheduler, second)
    assert "are run" not in caplog.text
    scheduler._store = whole
    turn_at(scheduler, 102)
    assert caplog.text.count("of 10 ticks since then 1 are run") == 1


# ---------------------------------------------------------------------------- apps and zones


def test_an_apps_entries_are_fired_by_its_own_schedulers(make: Callable[..., App]) -> None:
    """The other one's routes, time zone and options of tasks would be wrong for them."""
    entry = {"task": "t", "schedule": 10}
    mine = make(beat_schedule={"mine": entry}, task_default_queue="mine")
    yours = make(beat_schedule={"yours": entry}, task_default_queue="yours")
    yours.main = "other"
    first, second = start(mine), start(yours)
    turn_at(second, 11)
    assert [(one.tick[0], one.queue) for one in sent(mine)] == [("yours", "yours")]
    turn_at(first, 12)
    assert [(one.tick[0], one.queue) for one in sent(mine)] == [("mine", "mine")]
    with pytest.raises(ScheduleError, match="declared by the code of shop"):
        yours.schedules.run("mine")
    mine.schedules.add("added", 10, "t")
    turn_at(second, 25)  # what was added is anybody's
    assert {one.tick[0] for one in sent(mine)} == {"added", "yours"}


def test_what_is_added_keeps_the_zone_of_its_app(make: Callable[..., App]) -> None:
    mine, yours = make(timezone="Asia/Shanghai"), make(timezone="America/New_York")
    mine.schedules.add("night", "30 3 * * *", "t")
    mine.schedules.add("often", 30, "t")
    shanghai = ZoneInfo("Asia/Shanghai")
    for app in (mine, yours):
        assert [str(at) for at in app.schedules.next("night", 2)] == [
            "2026-06-11 03:30:00+08:00", "2026-06-12 03:30:00+08:00",
        ]  # fmt: skip
    assert mine.schedules.get("night").timezone == "Asia/Shanghai"
    assert mine.schedules.get("often").timezone is None
    night = datetime(2026, 6, 11, 3, 30, tzinfo=shanghai).timestamp() - START
    scheduler = start(yours)
    turn_at(scheduler, night)
    assert ("night", night) in ticks(mine)
    assert yours.schedules.get("night").due == datetime(2026, 6, 12, 3, 30, tzinfo=shanghai)


def test_declared_times_follow_the_apps_zone(make: Callable[..., App]) -> None:
    entries = {"night": {"task": "t", "schedule": "30 3 * * *"}}
    start(make(beat_schedule=entries))
    new = make(beat_schedule=entries, timezone="Asia/Shanghai")
    start(new)
    due = new.schedules.get("night").due
    assert due == datetime(2026, 6, 11, 3, 30, tzinfo=ZoneInfo("Asia/Shanghai"))


# ------------------------------------------------------------------------------------- files


def test_messages_that_are_not_the_schedules_stay_in_the_file(
    make: Callable[..., App], tmp_path: Path
) -> None:
    """Somebody may name a store that has a life of its own."""
    other = App("other", broker=f"sqlite:///{tmp_path}/other.db", set_as_current=False)
    other.send_task("theirs", queue="celery")
    app = make(beat_schedule={"a": {"task": "t", "schedule": 10}})
    scheduler, _ = on_file(app, tmp_path / "other.db")
    turn_at(scheduler, 10)
    assert ticks(app) == [("a", 10)]
    assert [one.queue for one in other.engine.broker.browse()] == ["celery"]
    other.close()


@pytest.mark.timeout(20)
def test_a_file_of_schedules_is_a_file(make: Callable[..., App], tmp_path: Path) -> None:
    app = make()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(ImproperlyConfigured, match="no regular file"):
            open_store(app, str(tmp_path / name))
    with pytest.raises(ImproperlyConfigured, match="no regular file"):
        open_store(app, "")
    with pytest.raises(ImproperlyConfigured, match=r"schedule .*cannot be used") as error:
        open_store(app, "/proc/schedule")
    assert "UMBEL_HOME" not in str(error.value)


# -------------------------------------------------------------------------- a clock that jumps


def test_a_clock_that_goes_back_doubles_nothing(make: Callable[..., App]) -> None:
    entries = {"often": {"task": "t", "schedule": 10}, "hourly": {"task": "t",
               "schedule": crontab(minute=0), "timezone": "UTC"}}  # fmt: skip
    app = make(beat_schedule=entries)
    scheduler, other = start(app), start(app)
    for second in (10, 20, 3600, 3590, 20, -3600, 10, 3600, 3610):
        turn_at(scheduler, second)
        scheduler._patience = other._patience = 0.0
        turn_at(other, second)
    found = ticks(app)
    assert len(found) == len(set(found))
    assert {at for name, at in found if name == "hourly"} == {3600}
