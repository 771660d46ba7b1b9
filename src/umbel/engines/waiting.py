"""Waiting for results: in the calling thread, or for others by one background thread."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable
from selectors import DefaultSelector
from typing import TYPE_CHECKING, Any, Final, Protocol

from umbel.engines.broker import StoredResult, Waker
from umbel.engines.results import ResultStore
from umbel.exceptions import OperationalError
from umbel.states import READY_STATES

if TYPE_CHECKING:
    import asyncio

logger: logging.Logger = logging.getLogger(__name__)
SLOW_LOOK: Final = 0.5
"""Seconds after which a waiter looks even if nobody woke it."""
NEVER: Final = float("inf")
# Of before any patch, as the pools of greenlets import this module before they patch:
Bundle = DefaultSelector
"""A selector that others can wait for by its descriptor."""
read_now, write_now = os.read, os.write
"""They raise `BlockingIOError` where a descriptor that is not to block has no data or no room;
those of eventlet wait for it even then."""
CHEAP_LOOK: Final = 0.005
"""A look that took more seconds than this is followed by a pause of its own length: news about
one of ten thousand results must not keep a processor busy."""


def check_timeout(timeout: float | None) -> None:
    """`ValueError` for nan, which no time would ever reach."""
    if timeout is not None and timeout != timeout:  # noqa: PLR0124  (nan)
        raise ValueError(f"timeout must be a number of seconds; got {timeout!r}.")


def wait_for_results(
    results: ResultStore,
    ids: Iterable[str],
    timeout: float | None,
    *,
    quiet: Callable[[], object] | None = None,
    after: float = 0.0,
    on_interval: Callable[[], object] | None = None,
    interval: float = SLOW_LOOK,
    on_change: Callable[[StoredResult], object] | None = None,
) -> Generator[list[StoredResult]]:
    """The ends of tasks, in lists as they come; it stops after `timeout` seconds (None: never).

    One wait, and one look at each piece of news, however many the ids are. A timeout of 0 looks
    once. `quiet` is called once if anything is missing after `after` seconds, `on_interval` every
    `interval` seconds, `on_change` for every state that is seen. Close it when you break off.
    """
    lookout = _Lookout(results, ids, on_change)
    start = time.monotonic()
    if ended := lookout.look():
        yield ended
    if not lookout.pending or (timeout is not None and timeout <= 0):
        return
    end = NEVER if timeout is None else start + timeout
    calls = []
    if quiet is not None:
        calls.append(_Call(start + after, NEVER, quiet))
    if on_interval is not None:
        calls.append(_Call(start + interval, interval, on_interval))
    waker = lookout.waker = results.listen()
    # Of all ways to wait, the one that works in a process that gevent or eventlet has patched.
    selector = selectors.DefaultSelector()
    selector.register(waker, selectors.EVENT_READ)
    try:
        while True:
            waker.drain()
            if ended := lookout.look():
                yield ended
            now = time.monotonic()
            if not lookout.pending or now >= end:
                return
            for call in calls:
                call.make(now)
            lookout.rest()
            until = min(now + SLOW_LOOK, end, *(call.at for call in calls))
            selector.select(max(until - time.monotonic(), 0.0))
    finally:
        selector.close()
        waker.close()


class _Lookout:
    """Looks into the store for what is still pending."""

    def __init__(
        self,
        results: ResultStore,
        ids: Iterable[str],
        on_change: Callable[[StoredResult], object] | None,
    ) -> None:
        self.pending = dict.fromkeys(ids)
        self._results = results
        self._on_change = on_change
        self._seen: dict[str, bytes] = {}
        self.waker: Waker | None = None
        self._cost = 0.0

    def look(self) -> list[StoredResult]:
        """Those that have ended since."""
        start = time.monotonic()
        found = self._results.get(list(self.pending), self.waker) if self.pending else {}
        for stored in found.values() if self._on_change else ():
            if self._on_change and self._seen.get(stored.id) != stored.meta:
                self._seen[stored.id] = stored.meta
                self._on_change(stored)
        ended = [stored for stored in found.values() if stored.status in READY_STATES]
        for stored in ended:
            del self.pending[stored.id]
        self._cost = time.monotonic() - start
        return ended

    def rest(self) -> None:
        """Pause after a look that was dear."""
        if self._cost > CHEAP_LOOK:
            time.sleep(min(self._cost, SLOW_LOOK))


class _Call:
    """Something to call at a time, and then again and again."""

    def __init__(self, at: float, every: float, function: Callable[[], object]) -> None:
        self.at = at
        self._every = every
        self._function = function

    def make(self, now: float) -> None:
        if now >= self.at:
            self.at = now + self._every
            self._function()


Call = tuple["asyncio.AbstractEventLoop", "asyncio.Future[Any]"]
"""A coroutine that waits for a background thread: its loop, and what it awaits."""


def answer(call: Call, error: BaseException | None = None, value: object = None) -> None:
    """From a background thread: let a coroutine go on, with a value or an error."""
    loop, done = call
    with contextlib.suppress(RuntimeError):  # its loop has been closed; nobody waits any more
        loop.call_soon_threadsafe(_finish, done, error, value)


def _finish(done: asyncio.Future[Any], error: BaseException | None, value: object) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(value)
    else:
        done.set_exception(error)


class Afresh(Protocol):
    """Something with a thread, which a forked process does not have."""

    def start_afresh(self) -> None:
        """In the child of a fork, before anything else runs there: no lock can be held yet."""
        ...


_of_this_process: Final[weakref.WeakSet[Afresh]] = weakref.WeakSet()


def renew_in_children(part: Afresh) -> None:
    """Have a part start afresh in each child, as long as it lives."""
    _of_this_process.add(part)


def _renew() -> None:
    for part in list(_of_this_process):
        part.start_afresh()


os.register_at_fork(after_in_child=_renew)

Watch = Callable[[StoredResult | None, BaseException | None], None]
"""Called in the background thread: with a task's end, or with why there will be none."""


class ResultWaiter:
    """Waits for any number of results in one thread, on behalf of callbacks and event loops."""

    def __init__(self, results: Callable[[], ResultStore]) -> None:
        self._results = results
        self.start_afresh()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """Nobody waits, and no thread runs."""
        self._lock = threading.RLock()  # a signal handler may interrupt who holds it
        self._waiting: dict[str, list[Watch]] = {}
        self._nudge = -1
        self._closing = False

    def close(self) -> None:
        """Let the thread end; whoever still waits gets an `OperationalError`."""
        with self._lock:
            if self._nudge >= 0:
                self._closing = True
                write_now(self._nudge, b"!")

    def watch(self, id: str, watch: Watch) -> None:
        """Call `watch`, once, when the task has ended."""
        with self._lock:
            if self._nudge < 0:
                self._start()
            self._waiting.setdefault(id, []).append(watch)
            write_now(self._nudge, b"!")

    def unwatch(self, id: str, watch: Watch) -> None:
        """Call it no more."""
        with self._lock:
            watches = self._waiting.get(id, [])
            if watch in watches:
                watches.remove(watch)
            if not watches:
                self._waiting.pop(id, None)

    async def wait(self, id: str) -> StoredResult:
        """A task's end. Cancelling the wait leaves nothing behind."""
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[StoredResult] = loop.create_future()

        def watch(stored: StoredResult | None, error: BaseException | None) -> None:
            answer((loop, future), error, stored)

        self.watch(id, watch)
        try:
            return await future
        finally:
            self.unwatch(id, watch)

    def _start(self) -> None:
        nudged, nudge = os.pipe()
        thread = threading.Thread(
            target=self._run, args=(nudged,), name="umbel-waiter", daemon=True
        )
        try:
            thread.start()
        except BaseException:
            os.close(nudge)
            os.close(nudged)
            raise
        self._nudge = nudge

    def _run(self, nudged: int) -> None:
        try:
            self._serve(nudged)
        except Exception as error:  # noqa: BLE001  (handed to each caller; the next starts anew)
            with self._lock:
                nudge, self._nudge = self._nudge, -1
                self._closing = False
                watches = [watch for watches in self._waiting.values() for watch in watches]
                self._waiting.clear()
            os.close(nudge)
            os.close(nudged)
            for watch in watches:
                _tell(watch, None, error)

    def _serve(self, nudged: int) -> None:
        results = self._results()
        self._look(results)  # what has ended already needs no listening
        waker = results.listen()
        selector = selectors.DefaultSelector()
        for source in (nudged, waker.fileno()):
            selector.register(source, selectors.EVENT_READ)
        try:
            while not self._closing:
                waker.drain()
                before = time.monotonic()
                self._look(results, waker)
                spent = time.monotonic() - before
                if spent > CHEAP_LOOK:
                    time.sleep(min(spent, SLOW_LOOK))
                ready = selector.select(SLOW_LOOK if self._waiting else None)
                if any(key.fd == nudged for key, _ in ready):
                    read_now(nudged, 65536)
            raise OperationalError("The app was closed while this waited for a result.")
        finally:
            selector.close()
            waker.close()

    def _look(self, results: ResultStore, waker: Waker | None = None) -> None:
        with self._lock:
            ids = list(self._waiting)
        for id, stored in (results.get(ids, waker) if ids else {}).items():
            if stored.status in READY_STATES:
                with self._lock:
                    watches = self._waiting.pop(id, [])
                for watch in watches:
                    _tell(watch, stored, None)


def _tell(watch: Watch, stored: StoredResult | None, error: BaseException | None) -> None:
    try:
        watch(stored, error)
    except BaseException:  # SystemExit too: this thread is there for others as well
        logger.exception(
            "What was to be called at the end of task %s raised; other waits go on",
            "?" if stored is None else stored.id,
        )
