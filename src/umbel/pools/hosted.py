"""A child that is no process: the threads of its slots live in a host's, beside the worker's own.

It has the same link, bench and pool as a child process. What a signal does there, a call from the
supervisor's thread does here; and as no thread can be ended from outside, a child that is to end in
the middle of a task is abandoned: nobody hears of it any more, and its threads end when its task
does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType

from umbel.app.execution.outcome import Outcome
from umbel.app.execution.pipeline import Pipeline
from umbel.engines.run_file import RECORD, RECORDS
from umbel.pools.kinds import load_pool
from umbel.pools.link import READY, ChildEnd
from umbel.pools.slots import POSTPONE, Bench, Pool, Slot, frames_of

logger: logging.Logger = logging.getLogger("umbel.worker")


class HostedBench(Bench):
    """The bench of a child that must not end the process it is in."""

    def __init__(self, link: ChildEnd, slots: list[Slot], pipeline: Pipeline, stacks: int) -> None:
        super().__init__(link, slots, pipeline, os.getpid(), stacks)
        self.abandoned = False
        self._striking = threading.Lock()

    def _send(self, outcome: Outcome) -> None:
        with contextlib.suppress(OSError):  # the child is abandoned
            super()._send(outcome)

    def give_up(self) -> None:
        """Tell of what broke a slot's loop, and end the child as far as it can be ended."""
        error = sys.exception()
        if not (self.abandoned or isinstance(error, SystemExit)):
            logger.error("A slot of this worker has broken", exc_info=error)
        self.over = True
        self._link.hang_up()

    def on_soft_limit(self, pool: Pool, frame: FrameType | None) -> None:
        """The soft limit of something here has passed; from any thread, one at a time."""
        with self._striking:
            super().on_soft_limit(pool, frame)

    def come_again(self, pool: Pool) -> None:
        """Have `on_soft_limit` called again in a moment."""
        if not self.abandoned:
            timer = threading.Timer(POSTPONE, self.on_soft_limit, (pool, None))
            timer.daemon = True
            timer.start()

    def stack(self, pool: Pool, slot: Slot) -> list[str]:
        """Where a slot's code stands: no faulthandler tells of its thread here."""
        return pool.stack(slot) or frames_of(sys._current_frames().get(slot.thread))  # noqa: SLF001


class ChildThread(threading.Thread):
    """The main thread of a hosted child.

    `set_up` is called in it first of all, `on_end` last of all, once everything is closed.
    """

    def __init__(
        self,
        name: str,
        bench: HostedBench,
        link: ChildEnd,
        pool: str,
        set_up: Callable[[], object],
        on_end: Callable[[], object],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._bench = bench
        self._link = link
        self._kind = pool
        self._pool: Pool | None = None
        self._set_up = set_up
        self._on_end = on_end
        self._idle = False

    def run(self) -> None:
        """Run what comes until nothing more will."""
        try:
            self._set_up()
            # A slot in the main thread needs a main thread's signals, so `solo` has one of threads.
            kind = "threads" if self._kind == "solo" else self._kind
            pool = self._pool = load_pool(kind)(self._bench)
            try:
                self._link.send(READY)
                pool.run()
                self._idle = True
            finally:
                pool.close()
        except BaseException:  # noqa: BLE001  (a host sees what breaks here in the log)
            self._bench.give_up()
        finally:
            self._idle = True
            self._link.close()
            self._on_end()

    def interrupt(self) -> None:
        """The soft limit of something here has passed."""
        if self._pool is not None:
            self._bench.on_soft_limit(self._pool, None)

    def tell_stacks(self) -> None:
        """Write where the slots stand that the supervisor asks for."""
        if self._pool is not None:
            self._bench.tell_stacks(self._pool)

    def leave(self) -> None:
        """Nobody will hear of it any more: wait for its end, unless that is a task's to come."""
        if self._idle:
            self.join()
        else:
            # Its records go to a successor, which is none of its business.
            self._bench.abandoned = True
            words = memoryview(bytearray(RECORDS * RECORD * 8)).cast("Q")
            for slot in self._bench.slots:
                slot.detach(words)
