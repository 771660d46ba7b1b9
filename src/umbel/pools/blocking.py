"""Who blocks a loop that others need: seen from outside, at no cost to the tasks.

A thread looks a few times a second at where the loop's thread stands. A step of asyncio's loop is
one call of `Handle._run`: if the same call is found again and again, it is what blocks the loop,
and its context says whose it is, be it a step of the task's own coroutine, of one that it has
started, or a callback. In a loop of greenlets it is the run that the thread has not left since.
"""

from __future__ import annotations

import logging
import sys
from _thread import get_ident, start_new_thread  # of before any patch, as are time's
from collections import deque
from collections.abc import Callable
from time import monotonic, process_time, sleep
from types import FrameType
from typing import Final

from umbel.app.execution.pipeline import OURS, Pipeline
from umbel.app.request import Request, current
from umbel.pools.slots import frames_of

logger: logging.Logger = logging.getLogger("umbel.worker")

BAR: Final = 0.5
"""Seconds for which a task may block the loop before the log names it."""
LOOK_EACH: Final = 0.125
"""Seconds between two looks."""
TOLD: Final = 1000
"""Ids that are remembered, as each task is told of once."""
FRAMES: Final = 20
"""Innermost frames that are shown at most."""


class Watch:
    """Watches the loop of the thread that makes it, from a thread of its own, until it is `over`.

    `turns` counts how often that thread has gone from one greenlet to another. `tell` is called
    from the other one, with a level and a text.
    """

    def __init__(
        self,
        *,
        turns: Callable[[], int] = lambda: 0,
        tell: Callable[[int, str], None] = logger.log,
    ) -> None:
        self.over: bool = False
        self._thread = get_ident()
        self._turns = turns
        self._tell = tell
        self._step: tuple[FrameType, int] | None = None
        """What was found at the last look: its outermost frame, and the turn."""
        self._since = self._looked = self._used = 0.0
        self._blocker = ""
        """Who was told of and still blocks it."""
        self._told: deque[str | None] = deque(maxlen=TOLD)
        start_new_thread(self._run, ())

    def _run(self) -> None:
        while not self.over:
            self._look()
            sleep(LOOK_EACH)
        self._step = None

    def _look(self) -> None:
        now, used = monotonic(), process_time()
        # Time for which the whole process stood still is nobody's fault. But a look comes late
        # too if code in C keeps Python from running, and that shows in the time it uses.
        lost = now - self._looked - (used - self._used) - 2 * LOOK_EACH
        self._since += max(lost, 0.0)
        self._looked, self._used = now, used
        innermost = sys._current_frames().get(self._thread)  # noqa: SLF001  (the only way)
        found = find_step(innermost)
        step = None if found is None else (found[0], self._turns())
        if found is None or step != self._step:
            if self._blocker:
                text = f"{self._blocker} blocked the event loop for {now - self._since:.1f} s"
                self._tell(logging.INFO, text)
            self._step, self._since, self._blocker = step, now, ""
            return
        root, request = found
        if now - self._since >= BAR and request.id not in self._told:
            self._told.append(request.id)
            self._blocker = f"{request.task}[{request.id}]"
            lines = frames_inside(root, innermost)[-FRAMES:]
            self._tell(
                logging.WARNING,
                f"{self._blocker} blocks the event loop: nothing else on it could go on for over "
                f"{BAR:g} s. It stood at (most recent call last)\n" + "\n".join(lines),
            )


def find_step(frame: FrameType | None) -> tuple[FrameType, Request] | None:
    """The outermost frame of what a loop's thread executes for a task, and the task's request.

    None if it executes nothing of a task's.
    """
    request: Request | None
    while frame is not None:
        if frame.f_code is Pipeline.perform.__code__:
            request = frame.f_locals["run"].request
        elif frame.f_code.co_name == "_run" and frame.f_globals.get("__name__") == "asyncio.events":
            request = frame.f_locals["self"]._context.get(current)  # noqa: SLF001
        else:
            frame = frame.f_back
            continue
        return None if request is None else (frame, request)
    return None


def frames_inside(root: FrameType, innermost: FrameType | None) -> list[str]:
    """The frames that a frame has called, without those of ours that led to the user's."""
    frames = []
    frame = innermost
    while frame is not None and frame is not root:
        frames.append(frame)
        frame = frame.f_back
    while len(frames) > 1 and frames[-1].f_globals.get("__package__") in OURS:
        frames.pop()
    return [frames_of(frame)[-1] for frame in reversed(frames)]
