"""Where tests of periodic tasks play: apps on one store, a clock that they set, what was sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from umbel import App, clock
from umbel.beat import Schedules, open_store
from umbel.beat.scheduler import Scheduler
from umbel.engines.memory import MemoryEngine
from umbel.message import task as task_message

START = datetime(2026, 6, 10, 10, 0, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    now = clock.time
    yield
    clock.time = now


def set_clock(at: float) -> None:
    clock.time = lambda: at


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., App]]:
    """Makes apps on one store, at ten o'clock."""
    set_clock(START)
    url = {"memory": "memory://beat", "sqlite": f"sqlite:///{tmp_path}/queue.db"}[request.param]
    apps: list[App] = []
    shared = MemoryEngine("beat")

    def make(**settings: Any) -> App:
        app = App("shop", broker=url, backend="broker", set_as_current=False, **settings)
        if request.param == "memory":
            app._engine = shared
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


class Ran:
    """A message that was sent."""

    def __init__(self, payload: bytes, queue: str, due: float | None) -> None:
        self.task = task_message.decode(payload)
        self.headers = json.loads(payload)["headers"]
        self.args, self.kwargs = self.task.args, self.task.kwargs
        self.queue, self.due = queue, due

    @property
    def tick(self) -> tuple[str, float]:
        at = datetime.fromisoformat(self.headers["periodic_task_due"]).timestamp()
        return self.headers["periodic_task_name"], round(at - START, 6)


def sent(app: App) -> list[Ran]:
    """The messages that were sent since the last look."""
    found = app.engine.broker.browse(limit=10_000)
    app.engine.broker.purge(sorted({one.queue for one in found}))
    return [Ran(one.payload, one.queue, one.due) for one in found]


def ticks(app: App) -> list[tuple[str, float]]:
    """Names and due times of the ticks that were fired since the last look, since ten o'clock."""
    return sorted(one.tick for one in sent(app))


def start(app: App) -> Scheduler:
    scheduler = Scheduler(app, open_store(app))
    scheduler.declare()
    return scheduler


def turn_at(scheduler: Scheduler, seconds: float) -> None:
    """Let it be so many seconds after ten."""
    set_clock(START + seconds)
    while scheduler.turn() == 0.0:
        pass


def on_file(app: App, file: Path) -> tuple[Scheduler, Schedules]:
    store = open_store(app, str(file))
    scheduler = Scheduler(app, store)
    scheduler.declare()
    return scheduler, Schedules(app, lambda: store)
