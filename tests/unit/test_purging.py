"""Purged tasks of workflows: whoever waits for them is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from umbel import App, chain, chord
from umbel.app.purging import purge
from umbel.exceptions import ChordError, TaskRevokedError
from umbel.testing.stepper import Stepper


@pytest.fixture(params=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    url = {"memory": "memory://purge", "sqlite": f"sqlite:///{tmp_path}/queue.db"}[request.param]
    app = App("shop", broker=url, backend="broker", set_as_current=False)

    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    @app.task(name="total")
    def total(numbers: list[Any]) -> list[str]:
        return [str(number) for number in numbers]

    yield app
    app.close()


def work(app: App) -> None:
    with Stepper(app, queues=("celery", "other")) as stepper:
        while stepper.work_one() is not None:
            pass


def sig(app: App, name: str, *args: Any, **options: Any) -> Any:
    return app.signature(name, args=args, options=options)


def test_a_chord_with_purged_members_ends(app: App) -> None:
    members = [sig(app, "add", n) for n in range(5)]
    members += [sig(app, "add", 7, queue="other"), sig(app, "add", 8, countdown=3600)]
    failed = chord(members, sig(app, "total")).apply_async()
    collected = chord(members, sig(app, "total"), on_error="collect").apply_async()
    app.send_task("add", (1, 2))
    assert purge(app, ["celery"]) == 2 * 6 + 1
    assert [(held.queue, held.ready) for held in app.engine.broker.counts()] == [("other", 2)]
    work(app)
    with pytest.raises(ChordError, match=r"TaskRevokedError\('purged'\)"):
        failed.get(timeout=5)
    assert collected.get(timeout=5) == [*["purged"] * 5, "7", "purged"]


def test_the_steps_after_a_purged_one_end(app: App) -> None:
    result: Any = chain(sig(app, "add", 1, 1), sig(app, "add", 2)).apply_async()
    assert purge(app, ["celery"]) == 1
    for one in (result, result.parent):
        with pytest.raises(TaskRevokedError, match="purged"):
            one.get(timeout=5)
    assert purge(app, ["celery", "celery", "nowhere"]) == 0
