"""A scheduler inside a worker (`umbel worker -B`)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from umbel import signals
from umbel.beat.places import open_store
from umbel.beat.scheduler import Scheduler

if TYPE_CHECKING:
    from umbel.app import App


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
        """End the thread and wait for it."""
        self.scheduler.stop()
        if self.is_alive():
            self.join()
        self._engine.close()
