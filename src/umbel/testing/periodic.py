"""Periodic tasks in tests: as time passes, their ticks are sent by the scheduler itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from umbel import clock
from umbel.beat.scheduler import Scheduler
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app import App


class Periodic:
    """One scheduler for each app that a test uses; it keeps its entries in the app's store."""

    def __init__(self) -> None:
        self._schedulers: dict[int, tuple[App, Scheduler]] = {}
        self._sent = 0.0
        """Up to when everything that was due has been sent."""

    def follow(self, apps: Iterable[App]) -> None:
        """Bring the entries up to date with the code, as at a start of the scheduler."""
        for app in apps:
            try:
                _, scheduler = self._schedulers.get(id(app)) or (app, _make(app))
            except ImproperlyConfigured:
                if app.opened is not None:
                    raise
                continue  # another test's, which nobody can use
            self._schedulers[id(app)] = app, scheduler
            scheduler.declare()

    def next_due(self) -> float | None:
        """When the next tick comes that has not been sent, in Unix time."""
        sent = self._sent
        coming = [
            app.engine.state.due_schedules(sent, 1)[1] for app, _ in self._schedulers.values()
        ]
        return min((due for due in coming if due is not None), default=None)

    def fire(self) -> None:
        """Send what is due."""
        self._sent = clock.time()
        for _, scheduler in self._schedulers.values():
            while scheduler.turn() == 0.0:
                pass


def _make(app: App) -> Scheduler:
    return Scheduler(app, app.engine.state)
