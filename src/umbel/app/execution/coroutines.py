"""Running an `async def` task's coroutine from plain code, wherever that runs itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

R = TypeVar("R")


class Loop:
    """An event loop that is made at its first use and kept until `close`."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run it to its end, in a copy of the caller's context."""
        import asyncio

        runner = self._runner = self._runner or asyncio.Runner()
        context = copy_context()
        return _outside_loops(lambda: runner.run(coroutine, context=context))

    def close(self) -> None:
        """End the loop with what still runs on it."""
        runner, self._runner = self._runner, None
        if runner is not None:
            _outside_loops(runner.close)


def _outside_loops(call: Callable[[], R]) -> R:
    """Make a call that needs a thread without a running event loop.

    If this thread runs one, which waits meanwhile, another thread makes the call.
    """
    if not _loop_runs_here():
        return call()
    from concurrent.futures import Future

    future: Future[R] = Future()

    def make() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  (raised in the calling thread)
            future.set_exception(error)

    thread = threading.Thread(target=make, name="umbel-coroutine")
    thread.start()
    thread.join()
    return future.result()


def _loop_runs_here() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
