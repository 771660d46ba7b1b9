"""What the pools of greenlets share: a greenlet for each delivery, all in the child's main thread.

The child alone is patched, by the pool's module, which `umbel.pools.child` imports before the app.
So a slot that waits, for its next delivery as well as inside a task, lets the others run. What a
task has left behind that is its greenlet's (a timeout that it armed, a `threading.local`) meets no
other task.

An `async def` task runs on one event loop, in a greenlet of its own; the slot's greenlet waits for
it. A `def` task beside it may call `asyncio.run` (`part_loops`).

A soft limit is raised by the signal handler if the slot's function is what the thread executes at
that moment; else the library's loop throws it into the greenlet that waits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from types import CoroutineType, FrameType
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from greenlet import getcurrent, greenlet, settrace

from umbel.app import Task
from umbel.engines.waiting import read_now, write_now  # before the patch: see there
from umbel.exceptions import SoftTimeLimitExceeded
from umbel.pools.blocking import Watch
from umbel.pools.slots import Bench, Job, Pool, Slot, frames_of, is_in_store, postpone
from umbel.pools.threads import MAIN_THREAD, wait_for

if TYPE_CHECKING:
    import asyncio

logger: logging.Logger = logging.getLogger("umbel.worker")


class Greenlets(Pool, ABC):
    """Runs each delivery in a greenlet of its own. A subclass tells whose."""

    library: ClassVar[str]
    """The package that provides the greenlets."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._pid = os.getpid()
        self._homes: dict[Slot, greenlet] = {}
        """Where each slot's function runs, or will."""
        self._parked: list[greenlet] = []
        """Those of free slots, but for the one that watches."""
        self._watched = False
        """Whether one waits until deliveries come."""
        self._driver: greenlet | None = None
        """Where the event loop runs."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event
        self._turns = part_loops()
        self._notes: list[tuple[int, str]] = []
        """What the watch has to say."""
        os.register_at_fork(after_in_child=self._let_go)

    # ------------------------------------------------------------------ what the library does

    @abstractmethod
    def spawn(self, function: Callable[..., None], *args: Any) -> greenlet:
        """Run a function in a greenlet of its own."""

    @abstractmethod
    def join(self, greenlets: list[greenlet]) -> None:
        """Wait, in the main greenlet, for the end of others."""

    @abstractmethod
    def pause(self) -> None:
        """Let the other greenlets run that can."""

    @abstractmethod
    def park(self) -> None:
        """Let the others run until this greenlet is switched to."""

    @abstractmethod
    def soon(self, function: Callable[..., None], *args: Any) -> None:
        """Have the library's loop make a call, which must not wait. From a signal handler too."""

    @abstractmethod
    def wait_readable(self, descriptor: int) -> None:
        """Wait until a descriptor can be read."""

    @abstractmethod
    def abandon(self) -> None:
        """In a forked process: forget what the parent's greenlets wait for."""

    # ------------------------------------------------------------------ the slots

    def run(self) -> None:
        """Run the slots' greenlets until nothing more will come."""
        bell, rung = os.pipe()
        for end in (bell, rung):
            os.set_blocking(end, False)
        # A loop that waits in C does not see that a signal's handler is due; its descriptor does.
        signal.set_wakeup_fd(rung, warn_on_full_buffer=False)
        self.spawn(self._answer, bell)

        def tell(level: int, text: str) -> None:
            # The log's lock is one of greenlets, so no other thread may write there.
            self._notes.append((level, text))
            with contextlib.suppress(BlockingIOError):  # it will be read anyway
                write_now(rung, b"!")

        Watch(turns=self._turns, tell=tell)
        for slot in self._bench.slots:
            slot.name_thread(MAIN_THREAD)
            self._homes[slot] = self.spawn(self._serve, slot)
        while going := [home for home in self._homes.values() if not home.dead]:
            self.join(going)

    def _answer(self, bell: int) -> None:
        while True:
            self.wait_readable(bell)
            try:
                read_now(bell, 4096)  # the handlers run before the next line of Python
            except BlockingIOError:
                continue
            while self._notes:
                logger.log(*self._notes.pop(0))

    def _serve(self, slot: Slot) -> None:
        """Wait for one delivery and run it; a greenlet of its own waits for the next."""
        try:
            jobs = [self._next()]
            if jobs[0] is None:
                self.note_end()
                return
            self._bench.work(slot, partial(self._call, slot), lambda: jobs.pop() if jobs else None)
            self._homes[slot] = self.spawn(self._serve, slot)
        except SystemExit:
            os._exit(0)  # the supervisor is gone
        except BaseException:  # noqa: BLE001  (a slot that is lost in silence would run nothing)
            traceback.print_exc()
            os._exit(1)

    def note_end(self) -> None:
        """Nothing more will come."""

    def _next(self) -> Job | None:
        bench = self._bench
        while True:
            while self._watched:  # what comes is for that one: only it knows what it waits for
                self._parked.append(getcurrent())
                self.park()
            if (job := bench.take()) is not None or bench.over:
                break
            self._watched = True
            self.wait_readable(bench.source)
            self._watched = False
        if self._parked:
            self.soon(self._parked.pop().switch)  # it takes the next one, or watches
        return job

    def _call(
        self, slot: Slot, number: int, task: Task[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        try:
            slot.inside = number
            value = (task if task.overrides_call else task.run)(*args, **kwargs)
        finally:
            slot.inside = 0
            if os.getpid() != self._pid:
                os._exit(0)  # a process that the function has forked has come out of it
        if isinstance(value, CoroutineType):
            value = wait_for(slot, number, value, self._event_loop())
        return value

    def _let_go(self) -> None:
        """In a process that a task has forked: the other slots are the parent's business."""
        signal.set_wakeup_fd(-1)
        self.abandon()

    # ------------------------------------------------------------------ limits

    def interrupt(self, slot: Slot, frame: FrameType | None) -> bool:
        """Raise the soft limit in the function that a slot's greenlet runs, or in its coroutine."""
        coroutine = slot.coroutine
        if coroutine is not None and not coroutine.is_running():
            slot.struck = slot.inside
            coroutine.interrupt(self._event_loop())
        elif getcurrent() is not self._home(slot):
            self.soon(self._throw, slot, slot.inside)
        elif self._is_sacred(frame):
            postpone()
        else:
            slot.struck = slot.inside
            return True
        return False

    def _home(self, slot: Slot) -> greenlet | None:
        return self._homes[slot] if slot.coroutine is None else self._driver

    def _is_sacred(self, frame: FrameType | None) -> bool:
        """Whether what stands there must not be broken off at just any line of it."""
        if frame is None:
            return True
        name = frame.f_globals.get("__name__", "")
        return frame.f_code is Greenlets._call.__code__ or (
            name.partition(".")[0] == self.library or is_in_store(frame) or _is_parting(frame)
        )

    def _throw(self, slot: Slot, number: int) -> None:
        """From the library's loop: raise the soft limit where a greenlet waits."""
        if slot.inside != number or slot.struck == number:
            return  # it has ended meanwhile, or went on and was told
        coroutine = slot.coroutine
        home = self._home(slot)
        if coroutine is not None and not coroutine.is_running():
            self.interrupt(slot, None)
        elif home is None or is_in_store(home.gr_frame):
            postpone()
        else:
            slot.struck = number
            home.throw(SoftTimeLimitExceeded())

    def stack(self, slot: Slot) -> list[str]:
        """Where its greenlet or its coroutine waits."""
        coroutine, home = slot.coroutine, self._home(slot)
        if coroutine is not None and not coroutine.is_running():
            return coroutine.frames()
        return [] if home is None or home is getcurrent() else frames_of(home.gr_frame)

    def close(self) -> None:
        """End the event loop."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
            while self._driver:
                self.pause()

    # ------------------------------------------------------------------ the event loop

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            import asyncio

            self._loop = asyncio.SelectorEventLoop()
            self._ended = asyncio.Event()
            self._driver = self.spawn(self._drive, self._loop)
        return self._loop

    def _drive(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._ended.wait())


def part_loops() -> Callable[[], int]:
    """Let each greenlet have its own event loop, `asyncio.run` in a task included.

    asyncio takes a loop for running in its whole thread. Here it does so in its greenlet. Returned
    is what tells how often this thread has gone from one greenlet to another.
    """
    turns = [0]
    settrace(partial(_follow, WeakKeyDictionary(), turns))
    return lambda: turns[0]


def _follow(
    loops: WeakKeyDictionary[greenlet, Any],
    turns: list[int],
    event: str,
    greenlets: tuple[greenlet, greenlet],
) -> None:
    turns[0] += 1
    events = sys.modules.get("asyncio.events")
    if events is None or event not in {"switch", "throw"}:
        return
    origin, target = greenlets
    running = events._get_running_loop()  # noqa: SLF001  (of this thread; no other way)
    if running is not None:
        loops[origin] = running
    elif origin in loops:
        del loops[origin]
    events._set_running_loop(loops.get(target))  # noqa: SLF001


def _is_parting(frame: FrameType | None) -> bool:
    """Whether a frame belongs to `_follow`: greenlet drops a tracer that raises."""
    while frame is not None:
        if frame.f_code is _follow.__code__:
            return True
        frame = frame.f_back
    return False
