"""The slots of the pool `threads`: a thread for each.

An `async def` task is handed to an event loop in the main thread, which has nothing else to do, and
the slot's thread waits for it: so all coroutines of a child share one loop, and a soft limit
reaches them from the signal handler, exactly where they are. Inside a host's process the child has
no main thread and no signals, and the soft limit reaches a coroutine where it waits.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from itertools import starmap
from types import CoroutineType, FrameType
from typing import TYPE_CHECKING, Any, Final

from umbel.app import Task
from umbel.exceptions import SoftTimeLimitExceeded
from umbel.pools.blocking import Watch
from umbel.pools.coroutine import Interruptible
from umbel.pools.slots import Bench, Slot, frames_of, is_in_store

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

_raise_in: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc
_raise_in.argtypes = (ctypes.c_ulong, ctypes.py_object)
MAIN_THREAD: Final = threading.main_thread().ident or 0


class CalledOffError(BaseException):
    """Takes the place of what was to be raised in a thread and has not been yet."""


class Threads:
    """Runs each slot's deliveries in a thread of its own."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._left = len(bench.slots)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._news = threading.Event()
        """The event loop is wanted, or all threads have ended."""
        self._loop: Future[asyncio.AbstractEventLoop] = Future()

    def run(self) -> None:
        """Start the threads; then be the event loop, once one is needed."""
        for index, slot in enumerate(self._bench.slots):
            name = f"umbel-slot-{index + 1}"
            thread = threading.Thread(target=self._serve, args=(slot,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._news.wait()
        if self._left:
            import asyncio

            with asyncio.Runner() as runner:
                runner.run(self._serve_coroutines())

    def _serve(self, slot: Slot) -> None:
        slot.name_thread(threading.get_ident())
        try:
            self._bench.work(slot, partial(self._call, slot))
        except BaseException:  # noqa: BLE001  (a slot that is lost in silence would run nothing)
            self._bench.give_up()
        with self._lock:
            self._left = left = self._left - 1
        if left:
            return
        if self._loop.done():
            self._loop.result().call_soon_threadsafe(self._ended.set_result, None)
        self._news.set()

    def _call(
        self, slot: Slot, number: int, task: Task[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        value = call(slot, number, task if task.overrides_call else task.run, args, kwargs)
        if isinstance(value, CoroutineType):
            self._news.set()
            value = wait_for(slot, number, value, self._loop.result())
        return value

    def interrupt(self, slot: Slot, frame: FrameType | None) -> bool:
        """Raise the soft limit in the slot's thread, or in its coroutine."""
        if slot.coroutine is None:
            strike(slot)
            return False
        return interrupt_coroutine(slot, slot.coroutine, self._loop.result(), frame)

    def stack(self, slot: Slot) -> list[str]:
        """Where its coroutine waits, or its thread stands."""
        return stack_of(slot)

    def close(self) -> None:
        """Wait for the threads, which have nothing to do; the event loop ended with `run`."""
        for thread in self._threads:
            thread.join()

    # ------------------------------------------------------------------ the event loop

    async def _serve_coroutines(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self._loop.set_result(loop)
            if not self._left:
                return
        watch = Watch()
        await self._ended
        watch.over = True


def wait_for(
    slot: Slot, number: int, made: CoroutineType[Any, Any, Any], loop: asyncio.AbstractEventLoop
) -> Any:
    """Run a coroutine on another thread's loop, in a copy of this thread's context."""
    future: Future[Any] = Future()
    coroutine = slot.coroutine = Interruptible(made)
    slot.end()  # nothing of it runs until the loop comes to it
    slot.inside = number
    try:
        start = partial(_start, loop, slot, number, coroutine, future)
        loop.call_soon_threadsafe(start, context=copy_context())
        return future.result()
    finally:
        slot.inside = 0
        slot.coroutine = None


def _start(
    loop: asyncio.AbstractEventLoop,
    slot: Slot,
    number: int,
    coroutine: Interruptible,
    future: Future[Any],
) -> None:
    async def watch() -> None:
        try:
            slot.name_thread(threading.get_ident())
            slot.begin(number)
            interrupt_coroutine(
                slot, coroutine, loop, None
            )  # if its limit passed before `wait_for`
            value = await coroutine
        except BaseException as error:  # noqa: BLE001  (raised in the slot's thread)
            future.set_exception(error)
        else:
            future.set_result(value)

    loop.create_task(watch())  # the slot's coroutine keeps hold of it


# ---------------------------------------------------------------------- functions in other threads


def call(
    slot: Slot,
    number: int,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Call a function in this thread such that `strike` can raise its soft limit in it.

    What the limit strikes may be this frame instead, just after the function has come to its end:
    then that end stands.
    """
    got: list[Any] = []
    failure: BaseException | None = None
    slot.name_thread(threading.get_ident())
    own = os.getpid()
    try:
        try:
            slot.inside = number
            # From the function's return into the list it is all C, and nothing can come between.
            got.extend(starmap(partial(function, **kwargs) if kwargs else function, (args,)))
        except BaseException as raised:  # noqa: BLE001  (raised again below)
            failure = raised
        _leave(slot)
    except SoftTimeLimitExceeded as late:
        _leave(slot)  # it is struck once at most
        failure = failure or late.__context__ or late
    if os.getpid() != own:
        os._exit(0)  # a process that the function has forked has come out of it
    if failure is not None and not got:
        raise failure
    return got[0]


def _leave(slot: Slot) -> None:
    """The function has ended: nothing may strike from here on, and what was under way is off."""
    with slot.guard:
        struck = slot.inside and slot.inside == slot.struck
        slot.inside = 0
        if struck:
            _call_off()


def _call_off() -> None:
    """Let nothing that was to be raised in this thread be raised."""
    # Raising nothing (NULL) would do it too, but CPython 3.11 takes back its note that something
    # is to be raised only when something is: every step would be slow from then on, and a profiler
    # would hang in its first call.
    try:
        _raise_in(threading.get_ident(), CalledOffError)
        while True:  # it is raised at the end of a turn, if not before
            pass
    except CalledOffError:
        pass


def strike(slot: Slot) -> None:
    """From another thread: raise the soft limit in the function that a slot's thread runs.

    It is raised when that thread next executes Python code.
    """
    with slot.guard:
        if not slot.is_over_limit() or slot.coroutine is not None:
            return
        if is_in_store(sys._current_frames().get(slot.thread)):  # noqa: SLF001  (the only way)
            return
        slot.struck = slot.inside
        _raise_in(slot.thread, SoftTimeLimitExceeded)


def interrupt_coroutine(
    slot: Slot,
    coroutine: Interruptible,
    loop: asyncio.AbstractEventLoop,
    frame: FrameType | None,
) -> bool:
    """From a signal handler in the loop's thread: raise the soft limit in a coroutine.

    True if it is being executed: it is to be raised where the main thread is. Without a frame, from
    another thread: it is raised where the coroutine waits.
    """
    if frame is None:
        number = slot.inside
        if slot.is_over_limit() and slot.coroutine is coroutine:
            slot.struck = number
            loop.call_soon_threadsafe(coroutine.interrupt, loop)
        return False
    running = coroutine.is_running()
    if running and is_in_store(frame):
        return False
    slot.struck = slot.inside
    if not running:
        coroutine.interrupt(loop)
    return running


def stack_of(slot: Slot) -> list[str]:
    """Where a slot's coroutine waits, or its thread stands."""
    coroutine = slot.coroutine
    if coroutine is not None:
        return [] if coroutine.is_running() else coroutine.frames()
    return frames_of(sys._current_frames().get(slot.thread) if slot.inside else None)  # noqa: SLF001
