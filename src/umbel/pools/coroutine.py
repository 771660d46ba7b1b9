"""A task's coroutine, as the slots hold it: it can be interrupted, and tells where it waits."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from umbel.exceptions import SoftTimeLimitExceeded

if TYPE_CHECKING:
    import asyncio


class Interruptible(Coroutine[Any, Any, Any]):
    """A task's coroutine, into which its soft limit can be raised while it waits.

    asyncio may drive it as a task of its own, or a coroutine of ours may await it.
    """

    def __init__(self, coroutine: CoroutineType[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[Any] | None = None
        self._due = False
        """Its soft limit has passed and is still to be raised."""

    def is_running(self) -> bool:
        """Whether its code is being executed at this moment."""
        return self._coroutine.cr_running

    def has_ended(self) -> bool:
        """Whether it has returned or raised."""
        return self._coroutine.cr_frame is None

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

    def interrupt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raise `SoftTimeLimitExceeded` where it waits. From a signal handler, in loop's thread."""
        self._due = True  # so that it does not go on before the loop comes to the next line
        loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        # Once it has ended, its asyncio task may go on with our code.
        if self._due and self._task is not None and self._coroutine.cr_frame is not None:
            self._task.cancel()

    def __next__(self) -> Any:
        # Run to the next wait. asyncio drives an iterator by this and not by `send`.
        if self._task is None:
            import asyncio

            self._task = asyncio.current_task()
        if self._due:
            self._due = False
            return self._coroutine.throw(SoftTimeLimitExceeded())
        return self._coroutine.send(None)

    def send(self, value: Any) -> Any:
        """Run to the next wait; asyncio sends no values."""
        return self._coroutine.send(value)

    def throw(self, *raised: Any) -> Any:
        """Raise inside; the soft limit takes the place of the cancellation that it caused."""
        if self._due:
            self._due = False
            if self._task is not None:
                self._task.uncancel()
            return self._coroutine.throw(SoftTimeLimitExceeded())
        return self._coroutine.throw(*raised)

    def close(self) -> None:
        """End it."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # type: ignore[return-value]  # whoever awaits it drives it by these methods
