"""Who keeps the scheduler waiting: a user's schedule, or a lazy argument, that does not return."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator

logger: logging.Logger = logging.getLogger("umbel.beat")

HANGING = 10.0
"""Seconds after which it is told that an entry keeps the scheduler."""


class Watch:
    """Looks at what the scheduler does, from a thread of its own."""

    def __init__(self) -> None:
        self._busy: tuple[str, float, int] | None = None
        """Name, since when, and the thread that is busy."""
        self._ended = threading.Event()

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Look on while this lasts."""
        self._ended.clear()
        thread = threading.Thread(target=self._look, name="umbel-beat-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def begin(self, name: str) -> None:
        """The scheduler turns to an entry."""
        self._busy = (name, time.monotonic(), threading.get_ident())

    def end(self) -> None:
        """It is done with it."""
        self._busy = None

    def _look(self) -> None:
        told = None
        while not self._ended.wait(HANGING / 2):
            busy = self._busy
            if busy is None or busy is told or time.monotonic() - busy[1] < HANGING:
                continue
            told = busy
            name, since, thread = busy
            frame = sys._current_frames().get(thread)  # noqa: SLF001  (there is no other way)
            logger.error(
                "The scheduler has been busy with %s for %.0f s: its schedule, or a lazy argument, "
                "does not return. Until it does, this scheduler sends nothing.\n%s",
                name, time.monotonic() - since, "".join(traceback.format_stack(frame)),
            )  # fmt: skip
