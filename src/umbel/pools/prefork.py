"""The slot of the `prefork` pool: one at a time in the process's main thread."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from types import CoroutineType, FrameType
from typing import TYPE_CHECKING, Any, Final

from umbel.app import Task
from umbel.app.outcome import Outcome
from umbel.app.pipeline import Pipeline
from umbel.engines.run_file import RECORD, SlotTable
from umbel.exceptions import SoftTimeLimitExceeded
from umbel.pools.link import RETIRE, ChildEnd

if TYPE_CHECKING:
    import asyncio


POSTPONE: Final = 0.002
"""Seconds until a soft limit that met a call of the store tries again."""


class MainThreadSlot:
    """Runs deliveries one after the other; an `async def` task on an event loop kept for it."""

    def __init__(
        self, link: ChildEnd, table: SlotTable, slot: int, pipeline: Pipeline, stacks: int
    ) -> None:
        self._link = link
        self._stacks = stacks
        self._words = table.words
        self._base = slot * RECORD
        self._pipeline = pipeline
        self._inside = 0
        """The number of the delivery that is inside the user's function, else 0."""
        self._runner: asyncio.Runner | None = None
        self._coroutine: Interruptible | None = None
        signal.signal(signal.SIGUSR1, self._on_soft_limit)
        signal.signal(signal.SIGUSR2, self._tell_where_it_waits)
        # Answered in C even while an extension holds the GIL: the last words at a hard limit.
        faulthandler.register(signal.SIGUSR2, file=stacks, all_threads=True, chain=True)

    def run(self) -> None:
        """Work until the retire token, or until the supervisor is gone."""
        link, words, base, execute = self._link, self._words, self._base, self._pipeline.execute
        own = os.getpid()
        while (number := link.next_token()) != RETIRE:
            payload, deliveries = link.payload(number)
            words[base + 1] = time.monotonic_ns()
            words[base + 3] = number
            words[base] = number
            outcome, rest = execute(number, payload, deliveries, self._call)
            if os.getpid() != own:
                os._exit(0)  # a process that the task forked has come out of its function
            # The outcome leaves before the next token is read, so a crash in the next task
            # cannot take it along.
            if rest is None:
                link.send(outcome)
            else:
                outcome.busy = True
                link.send(outcome)
                rest()
                if os.getpid() != own:
                    os._exit(0)
                link.send(Outcome(number, "finished"))
            words[base] = 0
        if self._runner is not None:
            self._runner.close()

    def _call(
        self, number: int, task: Task[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        try:
            self._inside = number
            value = (task if task.overrides_call else task.run)(*args, **kwargs)
            if isinstance(value, CoroutineType):
                self._coroutine = Interruptible(value)
                # Without it, the runner would run all in the context of its first coroutine.
                value = self._loop_runner().run(self._coroutine, context=copy_context())
        finally:
            self._inside = 0
            self._coroutine = None
        return value

    def _loop_runner(self) -> asyncio.Runner:
        if self._runner is None:
            import asyncio

            self._runner = asyncio.Runner()
        return self._runner

    def _on_soft_limit(self, _: int, frame: FrameType | None) -> None:
        """SIGUSR1: raise `SoftTimeLimitExceeded`, but only inside the delivery it is meant for."""
        if self._inside != self._words[self._base + 2] or not self._inside:
            return
        if frame is not None and frame.f_code is MainThreadSlot._call.__code__:
            return  # the user's function has just returned, or has not begun
        if _is_in_store(frame):
            # Raised there, it could not be told whether what is being sent was sent.
            threading.Timer(POSTPONE, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            return
        coroutine = self._coroutine
        if coroutine is None or coroutine.is_running():
            raise SoftTimeLimitExceeded
        if self._runner is not None:
            self._runner.get_loop().call_soon_threadsafe(coroutine.interrupt)

    def _tell_where_it_waits(self, _: int, __: FrameType | None) -> None:
        """SIGUSR2, after faulthandler: a coroutine that waits is on no thread's stack."""
        if self._coroutine is not None and not self._coroutine.is_running():
            lines = ["Coroutine (most recent call last):", *self._coroutine.frames()]
            os.write(self._stacks, "\n".join(lines).encode("utf-8", "replace") + b"\n")


def _is_in_store(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("umbel.engines."):
            return True
        frame = frame.f_back
    return False


class Interruptible(Coroutine[Any, Any, Any]):
    """A task's coroutine, into which its soft limit can be raised while it waits."""

    def __init__(self, coroutine: CoroutineType[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[Any] | None = None
        self._interrupted = False

    def is_running(self) -> bool:
        """Whether its code is being executed at this moment."""
        return self._coroutine.cr_running

    def frames(self) -> list[str]:
        """Where it waits, outermost first, as faulthandler writes frames."""
        lines: list[str] = []
        waiting: Any = self._coroutine
        while waiting is not None:
            frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
            if frame is not None:
                name = frame.f_code.co_name
                lines.append(
                    f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {name}'
                )
            waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
        return lines

    def interrupt(self) -> None:
        """Cancel what it waits for; it sees `SoftTimeLimitExceeded` instead. Runs in the loop."""
        if self._task is not None and not self._task.done():
            self._interrupted = True
            self._task.cancel()

    def send(self, value: Any) -> Any:
        """Run to the next wait."""
        if self._task is None:
            import asyncio

            self._task = asyncio.current_task()
        return self._coroutine.send(value)

    def throw(self, *raised: Any) -> Any:
        """Raise inside; the soft limit takes the place of the cancellation that it caused."""
        if self._interrupted and self._task is not None:
            self._interrupted = False
            self._task.uncancel()
            return self._coroutine.throw(SoftTimeLimitExceeded())
        return self._coroutine.throw(*raised)

    def close(self) -> None:
        """End it."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()
