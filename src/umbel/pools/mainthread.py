"""The slot of the pools `prefork` and `solo`: the process's main thread."""

from __future__ import annotations

import threading
from contextvars import copy_context
from functools import partial
from types import CoroutineType, FrameType
from typing import TYPE_CHECKING, Any

from umbel.app import Task
from umbel.pools.coroutine import Interruptible
from umbel.pools.slots import Bench, Slot, is_in_store

if TYPE_CHECKING:
    import asyncio


class MainThread:
    """Runs one delivery after the other; an `async def` task on an event loop kept for it."""

    def __init__(self, bench: Bench) -> None:
        (self._slot,) = bench.slots
        self._slot.name_thread(threading.get_ident())
        self._runner: asyncio.Runner | None = None
        # No method: that would be one more frame above the user's function.
        self.run = partial(bench.work, self._slot, self._call)

    def _call(
        self, number: int, task: Task[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        slot = self._slot
        try:
            slot.inside = number
            value = (task if task.overrides_call else task.run)(*args, **kwargs)
            if isinstance(value, CoroutineType):
                slot.inside = 0
                runner = self._loop_runner()
                slot.coroutine = Interruptible(value)
                slot.begin(number)  # making the loop is not the task's time
                slot.inside = number
                # Without it, the runner would run all in the context of its first coroutine.
                try:
                    value = runner.run(slot.coroutine, context=copy_context())
                finally:
                    if not slot.coroutine.has_ended():  # loop.stop(): it must not go on later
                        self.close()
        finally:
            slot.inside = 0
            slot.coroutine = None
        return value

    def _loop_runner(self) -> asyncio.Runner:
        # A task may have closed it, as code for older Pythons does with "its" loop.
        if self._runner is None or self._runner.get_loop().is_closed():
            import asyncio

            self._runner = asyncio.Runner()
        return self._runner

    def interrupt(self, slot: Slot, frame: FrameType | None) -> bool:
        """Raise the soft limit where the main thread is, or where its coroutine waits."""
        if frame is not None and frame.f_code is MainThread._call.__code__:
            return False  # the user's function has just returned, or has not begun
        if is_in_store(frame):
            return False
        slot.struck = slot.inside
        coroutine = slot.coroutine
        if coroutine is None or coroutine.is_running():
            return True
        coroutine.interrupt(self._loop_runner().get_loop())
        return False

    def stack(self, slot: Slot) -> list[str]:
        """Where its coroutine waits."""
        coroutine = slot.coroutine
        return [] if coroutine is None or coroutine.is_running() else coroutine.frames()

    def close(self) -> None:
        """Close the event loop."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()
