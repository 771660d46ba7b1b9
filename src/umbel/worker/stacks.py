"""SIGUSR1: what every thread of the supervisor and of its children is doing, into the log."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import traceback
from typing import Final

from umbel.worker.children import Children

logger: logging.Logger = logging.getLogger("umbel.worker")

PATIENCE: Final = 0.2
"""Seconds that children get to write their stacks."""


class StackReport:
    """Asks the children for their stacks, and tells them when they have had time to write."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self.due: float | None = None
        """Monotonic time at which to tell."""

    def ask(self) -> None:
        """Log this process's own stacks, and ask for the others."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        lines = ["Stacks of the supervisor:"]
        for ident, frame in sys._current_frames().items():  # noqa: SLF001  (there is no other way)
            lines.append(f"Thread {names.get(ident, ident)} (most recent call last):")
            lines += [line.rstrip("\n") for line in traceback.format_stack(frame)]
        logger.warning("%s", "\n".join(lines))
        for child in self._children:
            if child.ready and child.verdict is None:
                self._children.signal(child, signal.SIGUSR2)
        self.due = time.monotonic() + PATIENCE

    def tell(self) -> None:
        """Log what the children have written, if it is time."""
        if self.due is None or time.monotonic() < self.due:
            return
        self.due = None
        for child in self._children:
            if child.verdict is None and (text := child.last_stacks()):
                logger.warning("Stacks of child %d (slot %d):\n%s", child.pid, child.seat, text)
                child.forget_stacks()
