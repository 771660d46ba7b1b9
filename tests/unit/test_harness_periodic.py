"""The fixture `umbel`: periodic tasks come as time passes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from umbel import App, Task
from umbel.app.current import State
from umbel.beat import BeatLazyFunc
from umbel.exceptions import ImproperlyConfigured
from umbel.schedules import crontab
from umbel.testing import Harness

app = App("periodic-shop", set_as_current=False, timezone="Asia/Shanghai")


@app.task(bind=True)
def report(self: Task[..., Any], *args: Any) -> tuple[str, str]:
    return self.request.periodic_task_name, self.request.periodic_task_due


@pytest.fixture(autouse=True)
def _current() -> Iterator[None]:
    before, State.current = State.current, app
    yield
    State.current = before
    app.conf.beat_schedule = {}


def run(umbel: Harness) -> list[tuple[str, datetime]]:
    """Run what is due; each tick that was run."""
    return [(name, datetime.fromisoformat(due)) for name, due in (one.get() for one in umbel.run())]


def test_ticks_are_sent_as_time_passes_in_order(umbel: Harness) -> None:
    app.conf.beat_schedule = {
        "ten": {"task": report.name, "schedule": timedelta(minutes=10)},
        "quarter": {"task": report.name, "schedule": 900, "options": {"queue": "rare"}},
    }
    began = umbel.now
    umbel.advance(hours=1)
    assert [one.queue for one in umbel.queued] == [
        "celery", "rare", "celery", "celery", "rare", "celery", "rare", "celery", "celery", "rare",
    ]  # fmt: skip
    ticks = run(umbel)
    minutes = {"ten": [10, 20, 30, 40, 50, 60], "quarter": [15, 30, 45, 60]}
    for name, expected in minutes.items():
        found = [(due - began).total_seconds() for one, due in ticks if one == name]
        assert found == pytest.approx([60 * at for at in expected], abs=5)
    assert umbel.now - began >= timedelta(hours=1)
    umbel.advance(minutes=5)
    assert run(umbel) == []
    umbel.advance(minutes=6)
    assert [name for name, _ in run(umbel)] == ["ten"]


def test_a_crontab_goes_by_the_apps_zone(umbel: Harness) -> None:
    app.conf.beat_schedule = {
        "night": {"task": report.name, "schedule": crontab(hour=3, minute=30)}
    }
    umbel.advance(days=2)
    found = [due.astimezone(app.timezone) for _, due in run(umbel)]
    assert len(found) == 2
    assert {(at.hour, at.minute) for at in found} == {(3, 30)}


def test_entries_that_are_added_changed_and_removed_on_the_way(umbel: Harness) -> None:
    app.schedules.add("added", 60, report)
    umbel.advance(minutes=2)
    assert len(run(umbel)) == 2
    app.schedules.pause("added")
    umbel.advance(hours=1)
    assert run(umbel) == []
    app.conf.beat_schedule = {"declared": {"task": report.name, "schedule": 60}}
    umbel.advance(seconds=150)
    app.conf.beat_schedule = {}
    umbel.advance(hours=1)
    assert [name for name, _ in run(umbel)] == ["declared", "declared"]


def test_a_task_sees_the_time_of_its_tick_and_expires_by_it(umbel: Harness) -> None:
    at: list[float] = []
    app.conf.beat_schedule = {
        "a": {"task": report.name, "schedule": 600, "options": {"expires": 60},
              "args": [BeatLazyFunc(lambda: at.append(umbel.now.timestamp()))]},
    }  # fmt: skip
    began = umbel.now.timestamp()
    umbel.advance(minutes=25)
    assert [moment - began for moment in at] == pytest.approx([600, 1200], abs=5)
    assert [one.state for one in umbel.run()] == ["REVOKED", "REVOKED"]


def test_a_wrong_schedule_is_an_error_of_the_test(umbel: Harness) -> None:
    report.delay()
    app.conf.beat_schedule = {"wrong": {"task": report.name, "schedule": 3, "arg": ()}}
    with pytest.raises(ImproperlyConfigured, match="unknown key 'arg'"):
        umbel.advance(1)


def test_what_this_test_sent_is_not_the_next_ones(umbel: Harness) -> None:
    umbel.advance(hours=1)
    assert umbel.queued == []
    assert app.schedules.list() == []


def test_a_day_of_ticks_is_no_work(umbel: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    app.conf.beat_schedule = {"often": {"task": report.name, "schedule": 30}}
    umbel.advance(days=1)
    assert len(umbel.queued) == 2880
    assert caplog.text == ""
