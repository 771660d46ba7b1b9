"""This worker's own lease: its place in the list of workers, and the thread that keeps it.

A lease is a renewal counter, not a time stamp; `recovery.py` says how others judge by it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from umbel import clock
from umbel.app import App
from umbel.engines.run_file import RunFile
from umbel.engines.state import Engine, NameTaken, WorkerRecord
from umbel.exceptions import OperationalError, UmbelError
from umbel.worker.recovery import Judge

logger: logging.Logger = logging.getLogger("umbel.worker")

RENEWALS: Final = 6
"""Renewals in one lease."""
LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the other workers."""
HOUSE_EVERY: Final = 60.0
"""Seconds between two rounds of house-keeping."""
HOUSE_PAUSE: Final = 0.02
"""Seconds between two steps of one round, in which others may write."""
REPLACE_EVERY: Final = 0.2
"""Seconds between two looks at whether the worker that is to be replaced has ended."""


class NodeTaken(UmbelError):  # noqa: N818
    """Another live worker has the same node name."""


class Incarnation:
    """This worker's place among the workers of a store."""

    def __init__(
        self, app: App, node: str | None, queues: Sequence[str], slots: int, lease: float,
        bounds: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        self._engine: Engine = app.engine
        self._judge = Judge(app, app.engine)
        self._wanted = node
        self._queues = tuple(queues)
        self._slots = slots
        self._bounds = bounds
        self._lease = lease
        self.run_file: RunFile | None = None
        self.node: str = node or ""
        self.number: int = 0

    def register(self, *, replace: bool = False, announced: str = "") -> RunFile:
        """Enter the list of workers, under a new number each time.

        A dead worker of the wanted name is recovered first. A live one is an error (`NodeTaken`),
        or with `replace` its end is waited for. Without a wish the name is the `announced` one,
        which nobody may have either; without that `celery@host`, with a number if that is taken.
        The first call makes and locks the run file, which it returns.
        """
        self._judge.look(self.number)  # first of all, this tells whether the store can be used
        self.run_file = self.run_file or RunFile.create(self._engine.run_dir)
        try:
            while not self._try_names(self.run_file, announced, replace=replace):
                time.sleep(REPLACE_EVERY)
        except BaseException:
            if not self.number:
                self.run_file.close(remove=True)
            raise
        return self.run_file

    def _try_names(self, run_file: RunFile, announced: str, *, replace: bool) -> bool:
        wanted = self._wanted or announced
        host = socket.gethostname()
        attempt = 1
        while True:
            name = wanted or f"celery{'' if attempt == 1 else attempt}@{host}"
            record = WorkerRecord(
                name, host, os.getpid(), self._queues, self._slots, self._lease,
                started=clock.time(), autoscale=self._bounds,
            )  # fmt: skip
            try:
                self.number = self._engine.state.register(run_file.sign(record))
            except NameTaken as taken:
                if self._judge.recover_if_dead(taken.record):
                    continue
                if not wanted:
                    attempt += 1
                elif replace and self._wanted:
                    return False
                else:
                    raise NodeTaken(_refusal(taken.record)) from None
            else:
                self.node = name
                return True

    def note_renewal(self) -> None:
        """Keep in the run file that the lease has been renewed."""
        if self.run_file is not None:
            self.run_file.note_renewal()

    def note_slots(self, slots: int) -> None:
        """Keep in the run file how many slots it has now."""
        self._slots = slots
        if self.run_file is not None:
            self.run_file.note_slots(slots)

    def leave(self) -> None:
        """Strike this worker off the list; while it holds claims, leave it to be recovered."""
        struck = False
        try:
            struck = self._engine.state.unregister(self.number)
        finally:
            if self.run_file is not None:
                self.run_file.close(remove=struck)


def _refusal(record: WorkerRecord) -> str:
    return (
        f"A live worker is already named {record.node} (pid {record.pid} on {record.host}). "
        "Give this one another name with -n, stop the other one, or wait for its end with "
        "--replace."
    )


class LeaseKeeper(threading.Thread):
    """Renews the lease, judges the others and keeps house, on a connection of its own."""

    def __init__(
        self,
        app: App,
        incarnation: Incarnation,
        engine: Engine,
        lease: float,
        on_lost: Callable[[], None],
    ) -> None:
        super().__init__(name="umbel-lease", daemon=True)
        self._incarnation = incarnation
        self._engine = engine
        self._conf = app.conf
        self._judge = Judge(app, engine)
        self._every = lease / RENEWALS
        self._on_lost = on_lost
        self._stopping = threading.Event()
        self._next_renewal = self._next_look = self._next_house = time.monotonic()

    def run(self) -> None:
        """Work until `stop`."""
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                pause = self._turn(time.monotonic())
            except OperationalError as error:
                self._judge.lose_sight()
                logger.warning("Could not renew the lease: %s", error)
                pause = min(LOOK_EVERY, self._every)
            except Exception:
                # Without this thread the lease runs out and everything here runs twice.
                logger.exception("The lease's thread goes on after an error")
                pause = min(LOOK_EVERY, self._every)

    def _turn(self, now: float) -> float:
        """Do what is due; seconds until the next turn."""
        if now >= self._next_renewal:
            if self._engine.state.renew(self._incarnation.number):
                self._incarnation.note_renewal()
            else:
                self._on_lost()
            self._next_renewal = now + self._every
        if now >= self._next_look:
            self._judge.look(self._incarnation.number)
            self._engine.broker.promote()
            self._next_look = now + min(LOOK_EVERY, self._every)
        if now >= self._next_house:
            conf = self._conf
            more = self._engine.state.keep_house(
                history_age=conf.history_expires, history_rows=conf.history_limit
            )
            self._next_house = now + (HOUSE_PAUSE if more else HOUSE_EVERY)
        next_turn = min(self._next_renewal, self._next_look, self._next_house)
        return max(0.0, next_turn - time.monotonic())

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping.set()
        self.join()
