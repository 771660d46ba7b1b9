"""A worker inside another process: in a test, a notebook, a web process.

It is the supervisor of any worker, in a thread, and its children are threads (`pools/hosted.py`):
so what it runs sees the host's objects, and an app needs no name by which others could import it.
It installs no signal handlers and starts no processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final

from umbel import signals
from umbel.app import App
from umbel.app.execution.pipeline import Pipeline
from umbel.pools.hosted import ChildThread, HostedBench
from umbel.pools.link import ChildEnd, Setup
from umbel.pools.slots import Slot
from umbel.worker.children import Child, Children
from umbel.worker.leases import Incarnation
from umbel.worker.shutdown import OnRequest
from umbel.worker.supervisor import Options, Supervisor

POOLS: Final = ("solo", "threads", "asyncio")
"""Pools that can run inside a process."""
PATIENCE: Final = 0.2
"""Seconds that the threads of a worker that failed get to end."""


class ChildThreads(Children):
    """Children in threads of this process."""

    kills = False

    def __init__(self, app: App) -> None:
        near, self._bell = socket.socketpair()
        near.setblocking(False)
        super().__init__(near)
        self._app = app
        self._threads: dict[int, ChildThread] = {}
        self._ended: SimpleQueue[Child] = SimpleQueue()
        self._is_set_up = False

    def start(self, child: Child, setup: Setup) -> None:
        """Start its main thread."""
        link = ChildEnd(child.link.child_stream.dup(), child.link.child_tokens.dup())
        slots = [Slot(self.table.words, child.first + index) for index in range(child.records)]
        bench = HostedBench(link, slots, Pipeline(self._app, setup.node), child.stacks)
        thread = self._threads[child.seat] = ChildThread(
            f"umbel-child-{child.seat + 1}",
            bench,
            link,
            setup.pool,
            partial(self._set_up, setup.node),
            partial(self._note_end, child),
        )
        thread.start()

    def _set_up(self, node: str) -> None:
        # It is one process, however many children there will have been.
        if not self._is_set_up:
            self._is_set_up = True
            signals.worker_process_init.send(node)

    def signal(self, child: Child, number: int) -> None:
        """Do what a child process does on this signal."""
        thread = self._threads[child.seat]
        if number == signal.SIGUSR1:
            thread.interrupt()
        else:
            thread.tell_stacks()

    def kill(self, child: Child) -> None:
        """Hear nothing of it any more; its threads end when their tasks do."""
        child.killed = True
        self._note_end(child)

    def _note_end(self, child: Child) -> None:
        self._ended.put(child)
        with contextlib.suppress(OSError):  # the worker has ended
            self._bell.send(b"!")

    def reports(self) -> list[tuple[Child, dict[str, int]]]:
        """The children that have ended or were abandoned."""
        with contextlib.suppress(BlockingIOError):
            self.control.recv(4096)
        ended: list[Child] = []
        with contextlib.suppress(Empty):
            while True:
                child = self._ended.get_nowait()
                if self.by_seat.get(child.seat) is child and child not in ended:
                    ended.append(child)
        return [(child, {"status": 0, "memory": 0}) for child in ended]

    def forget(self, child: Child) -> None:
        """Drop a child; wait for its threads unless a task keeps them."""
        thread = self._threads.pop(child.seat)
        thread.leave()
        super().forget(child)

    def abandon(self) -> None:
        """Never needed: there is nothing between these children and the supervisor."""

    def close(self) -> None:
        """Abandon whatever is left, after a failure of the worker."""
        threads = list(self._threads.values())
        for child in list(self):
            self.forget(child)
        for thread in threads:
            thread.join(PATIENCE)
        if self._bell.fileno() < 0:
            return
        if hasattr(self, "table"):
            self.table.close()
        self._bell.close()
        self.control.close()
        if self._is_set_up:
            signals.worker_process_shutdown.send(None, pid=os.getpid(), exitcode=0)


class EmbeddedWorker:
    """A worker in threads of this process, from `start` until `stop`.

    `pool` is one of `POOLS`; `queues` are those to serve, by default the app's.
    """

    def __init__(
        self,
        app: App,
        *,
        pool: str = "solo",
        concurrency: int | None = None,
        node: str | None = None,
        queues: Sequence[str] = (),
    ) -> None:
        self.app = app
        self.error: BaseException | None = None
        """What ended it before its time."""
        self._shutdown = OnRequest()
        options = Options(
            "", node=node, queues=queues, concurrency=concurrency, pool=pool, processes=1
        )
        # The app's own store, for the lease too: one in memory has no second connection.
        self._supervisor = Supervisor(app, options, ChildThreads(app), self._shutdown, app.engine)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="umbel-embedded", daemon=True)

    @property
    def hostname(self) -> str:
        """Its node name (Celery's word)."""
        return self._supervisor.hostname

    @property
    def queues(self) -> Sequence[str]:
        """The queues that it serves."""
        return self._supervisor.queues

    @property
    def incarnation(self) -> Incarnation:
        """Its place among the workers of the store."""
        return self._supervisor.incarnation

    def start(self) -> None:
        """Return once it takes work; raises what keeps it from that."""
        self._thread.start()
        self._ready.wait()
        if self.error is not None:
            raise self.error

    def stop(self, timeout: float) -> None:
        """Let the running tasks end, and stop; raises what the worker failed with.

        `RuntimeError` if it has not ended after `timeout` seconds; it ends when its tasks do.
        """
        self._shutdown.ask()
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise RuntimeError(
                f"The worker has not ended after {timeout:g} s: a task goes on. Give it longer "
                "with shutdown_timeout=…, or let the task end."
            )
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            self._supervisor.run(self._ready.set)
        except BaseException as error:  # noqa: BLE001  (raised where the worker was started)
            self.error = error
        finally:
            self._ready.set()
