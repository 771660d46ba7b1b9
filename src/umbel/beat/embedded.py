"""A scheduler inside a worker (`umbel worker -B`)."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from umbel import signals
from umbel.beat.places import open_store
from umbel.beat.scheduler import Scheduler

if TYPE_CHECKING:
    from umbel.app import App


logger: logging.Logger = logging.getLogger("umbel.beat")

PATIENCE: Final = 5.0
"""Seconds in which a scheduler is to end."""


class BeatThread(threading.Thread):
    """Runs the schedule beside a worker, on a connection of its own. Any number of workers may."""

    def __init__(self, app: App, file: str | None = None) -> None:
        """`ImproperlyConfigured` if an entry of the code is wrong."""
        super().__init__(name="umbel-beat", daemon=True)
        self._engine = app.connect()
        self.scheduler = Scheduler(app, open_store(app, file, self._engine))
        self.entries = self.scheduler.read()
        """How many the code declares."""

    def run(self) -> None:
        """Fire what is due until `stop`."""
        signals.beat_embedded_init.send(sender=self.scheduler)
        self.scheduler.run()

    def stop(self) -> None:
        """End the thread and wait for it, but not for ever for a schedule that does not return."""
        self.scheduler.stop()
        if self.is_alive():
            self.join(PATIENCE)
            if self.is_alive():
                logger.error("The scheduler does not end; it is abandoned")
                return
        self._engine.close()
