"""The slots of the pool `asyncio`: tasks of one event loop in the main thread.

A `def` task goes to a thread, and so does what comes before and after a run: handlers and
receivers of signals may block, and the loop must not.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from types import CoroutineType, FrameType
from typing import Any

from umbel.app import Task
from umbel.app.execution.outcome import Outcome
from umbel.app.execution.pipeline import Rest, Run
from umbel.pools.blocking import Watch
from umbel.pools.coroutine import Interruptible
from umbel.pools.slots import Bench, Job, Slot
from umbel.pools.threads import call, interrupt_coroutine, stack_of, strike, wait_for


class EventLoop:
    """Runs deliveries as tasks of an event loop."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._pipeline = bench.pipeline
        self._free = bench.slots[::-1]
        self._threads = Aside(len(bench.slots))
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._source = -1
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = copy_context()
        """That of this process, clean: nothing of a run may be found in another."""
        self._ended: asyncio.Future[None] = self._loop.create_future()

    def run(self) -> None:
        """Run the event loop until nothing more will come."""
        self._runner.run(self._serve())

    async def _serve(self) -> None:
        self._context.run(self._take)
        watch = Watch()
        await self._ended
        watch.over = True

    def _take(self) -> None:
        """Start what has come, as far as there are free slots; then wait for more."""
        bench, free = self._bench, self._free
        while free and (job := bench.take()) is not None:
            self._start(free.pop(), job)
        if bench.over and len(free) == len(bench.slots) and not self._ended.done():
            self._ended.set_result(None)
        self._listen(bench.source if free and not bench.over else -1)

    def _listen(self, source: int) -> None:
        if source == self._source:
            return
        if self._source >= 0:
            self._loop.remove_reader(self._source)
        if source >= 0:
            self._loop.add_reader(source, self._take)
        self._source = source

    def _start(self, slot: Slot, job: Job) -> None:
        run = self._pipeline.open(*job)
        if isinstance(run, Outcome):
            self._bench.conclude(slot, run, None)
            self._free.append(slot)
        elif not run.steps.is_coroutine:
            self._aside(slot, self._perform, slot, run)
        elif run.begins:
            slot.begin(run.number)
            self._threads.submit(partial(self._begin, slot, run))
        else:
            self._work(slot, run, None)

    def _begin(self, slot: Slot, run: Run) -> None:
        failure: BaseException | None = None
        try:
            run.context.run(run.begin)
        except BaseException as raised:  # noqa: BLE001  (it is how the run ends)
            failure = raised
        self._soon(self._work, slot, run, failure)

    def _work(self, slot: Slot, run: Run, failure: BaseException | None) -> None:
        """Run a coroutine, as a task in the run's context; or note that it could not begin."""
        if failure is not None:
            outcome, rest = run.context.run(self._pipeline.close, run, None, failure, 0.0)
            self._conclude(slot, outcome, rest)
            return
        task = asyncio.Task(self._run(slot, run), loop=self._loop, context=run.context)
        self._tasks.add(task)  # the loop itself keeps no hold of it
        task.add_done_callback(self._tasks.discard)

    async def _run(self, slot: Slot, run: Run) -> None:
        value: Any = None
        failure: BaseException | None = None
        task, message = run.steps.task, run.message
        start = time.perf_counter()
        try:
            made: Any = (task if task.overrides_call else task.run)(*message.args, **message.kwargs)
            coroutine = slot.coroutine = Interruptible(made)
            slot.name_thread(threading.get_ident())
            slot.begin(run.number)
            slot.inside = run.number
            try:
                value = await coroutine
            finally:
                slot.inside = 0
                slot.coroutine = None
        except BaseException as raised:  # noqa: BLE001  (SystemExit too ends only the task)
            failure = raised
        outcome, rest = self._pipeline.close(run, value, failure, time.perf_counter() - start)
        if rest is None:
            self._context.run(self._conclude, slot, outcome, None)
        else:  # later, as it needs the context in which this runs
            self._soon(self._conclude, slot, outcome, rest)

    def _conclude(self, slot: Slot, outcome: Outcome, rest: Rest | None) -> None:
        if rest is None:
            self._bench.conclude(slot, outcome, None)
            self._release(slot)
        else:
            self._aside(slot, lambda: (outcome, rest))

    def _release(self, slot: Slot) -> None:
        self._free.append(slot)
        self._take()

    # ------------------------------------------------------------------ what runs in threads

    def _aside(
        self, slot: Slot, perform: Callable[..., tuple[Outcome, Rest | None]], *args: Any
    ) -> None:
        """In a thread: do the rest of a slot's run."""

        def work() -> None:
            try:
                self._bench.conclude(slot, *perform(*args))
            except BaseException:  # noqa: BLE001  (a slot that is lost would run nothing any more)
                self._bench.give_up()
            self._soon(self._release, slot)

        self._threads.submit(work)

    def _soon(self, function: Callable[..., None], *args: Any) -> None:
        self._loop.call_soon_threadsafe(function, *args, context=self._context)

    def _perform(self, slot: Slot, run: Run) -> tuple[Outcome, Rest | None]:
        slot.begin(run.number)
        return self._pipeline.perform(run, partial(self._call, slot))

    def _call(
        self, slot: Slot, number: int, task: Task[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        value = call(slot, number, task if task.overrides_call else task.run, args, kwargs)
        if isinstance(value, CoroutineType):
            value = wait_for(slot, number, value, self._loop)
        return value

    def interrupt(self, slot: Slot, frame: FrameType | None) -> bool:
        """Raise the soft limit in the slot's coroutine, or in the thread of its function."""
        if slot.coroutine is None:
            strike(slot)
            return False
        return interrupt_coroutine(slot, slot.coroutine, self._loop, frame)

    def stack(self, slot: Slot) -> list[str]:
        """Where its coroutine waits, or its thread stands."""
        return stack_of(slot)

    def close(self) -> None:
        """Close the event loop, and end the threads, which have nothing to do."""
        self._runner.close()
        self._threads.close()


class Aside:
    """Threads that are started as they are needed, and that no end of the program waits for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    def submit(self, call: Callable[[], object]) -> None:
        """Make a call, which raises nothing, in one of them. Only one thread may ask."""
        self._calls.put(call)
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._most:
            name = f"umbel-slot-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # it holds a run, and what that has brought
            self._idle.release()

    def close(self) -> None:
        """End them, and wait for that."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()
