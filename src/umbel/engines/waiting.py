"""Waiting for results: in the calling thread, or for coroutines by one background thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

from umbel.engines.broker import StoredResult
from umbel.engines.results import ResultStore
from umbel.states import READY_STATES

SLOW_LOOK: Final = 0.5
"""Seconds after which a waiter looks even if nobody woke it."""


def wait_for_result(
    results: ResultStore, id: str, timeout: float | None, quiet: Callable[[], None], after: float
) -> StoredResult | None:
    """The task's end, or None after `timeout` seconds (None: no limit).

    `quiet` is called once if there is none after `after` seconds.
    """
    stored = results.get([id]).get(id)
    if stored is not None and stored.status in READY_STATES:
        return stored
    start = time.monotonic()
    waker = results.listen()
    poll = select.poll()  # select() cannot take a descriptor above 1023
    poll.register(waker, select.POLLIN)
    try:
        while True:
            waker.drain()
            stored = results.get([id]).get(id)
            if stored is not None and stored.status in READY_STATES:
                return stored
            waited = time.monotonic() - start
            if timeout is not None and waited >= timeout:
                return None
            if waited >= after:
                quiet()
                after = float("inf")
            rest = min(SLOW_LOOK, after - waited)
            if timeout is not None:
                rest = min(rest, timeout - waited)
            poll.poll(rest * 1000 + 0.5)
    finally:
        waker.close()


Call = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]
"""A coroutine that waits for a background thread: its loop, and what it awaits."""


def answer(call: Call, error: BaseException | None = None) -> None:
    """From a background thread: let a coroutine go on, with an error if there is one."""
    loop, done = call
    with contextlib.suppress(RuntimeError):  # its loop has been closed; nobody waits any more
        loop.call_soon_threadsafe(_finish, done, error)


def _finish(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


class ResultWaiter:
    """Waits for any number of results in one thread, on behalf of event loops."""

    def __init__(self, results: Callable[[], ResultStore]) -> None:
        self._results = results
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Call]] = {}
        self._nudge = -1

    async def wait(self, id: str) -> None:
        """Return once the task has ended. Cancelling the wait leaves nothing behind."""
        if self._pid != os.getpid():
            self._start_afresh()  # the parent's thread is not in a forked process
        loop = asyncio.get_running_loop()
        call = (loop, loop.create_future())
        with self._lock:
            self._waiting.setdefault(id, []).append(call)
            if self._nudge < 0:
                self._start()
            os.write(self._nudge, b"!")
        try:
            await call[1]
        finally:
            with self._lock:
                calls = self._waiting.get(id, [])
                if call in calls:
                    calls.remove(call)
                if not calls:
                    self._waiting.pop(id, None)

    def _start(self) -> None:
        nudged, self._nudge = os.pipe()
        threading.Thread(target=self._run, args=(nudged,), name="umbel-waiter", daemon=True).start()

    def _run(self, nudged: int) -> None:
        try:
            self._serve(nudged)
        except Exception as error:  # noqa: BLE001  (handed to each caller; the next starts anew)
            with self._lock:
                nudge, self._nudge = self._nudge, -1
                calls = [call for calls in self._waiting.values() for call in calls]
                self._waiting.clear()
            os.close(nudge)
            os.close(nudged)
            for call in calls:
                answer(call, error)

    def _serve(self, nudged: int) -> None:
        results = self._results()
        waker = results.listen()
        poll = select.poll()
        for source in (nudged, waker.fileno()):
            poll.register(source, select.POLLIN)
        try:
            while True:
                ready = poll.poll(SLOW_LOOK * 1000 if self._waiting else None)
                if any(source == nudged for source, _ in ready):
                    os.read(nudged, 65536)
                waker.drain()
                with self._lock:
                    ids = list(self._waiting)
                for id, stored in (results.get(ids) if ids else {}).items():
                    if stored.status in READY_STATES:
                        with self._lock:
                            calls = self._waiting.pop(id, [])
                        for call in calls:
                            answer(call)
        finally:
            waker.close()
