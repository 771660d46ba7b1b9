"""Tasks in tests: see what was sent, run it here, let time pass.

While a `Harness` is open, every app of the process works on a store in memory, one for each broker
URL, and by a clock that `advance` moves. What runs, runs in the test's own thread through the road
of any worker: encode, claim, decide, execute, settle.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
import time as system
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final, Self, overload

import msgspec

from umbel import clock, states
from umbel.app import App, Task
from umbel.app.current import State, apps
from umbel.engines.broker import Waiting
from umbel.engines.memory import MemoryEngine
from umbel.engines.memory.results import MemoryResults
from umbel.engines.memory.store import PipeWaker
from umbel.engines.state import DeadLetter, Engine
from umbel.engines.urls import Options, mask, replaced_engines
from umbel.exceptions import (
    ContentDisallowed,
    DecodeError,
    ImproperlyConfigured,
    NotRegistered,
    RemoteError,
    Retry,
    TimeoutError,  # noqa: A004  (Celery's name)
    UmbelError,
)
from umbel.message import result as result_message
from umbel.message import task as task_message
from umbel.message.content import content_types
from umbel.result import EagerResult
from umbel.testing.periodic import Periodic
from umbel.testing.stepper import Ended, Stepper

EVERYTHING: Final = 1 << 40
"""A limit that no test's queue reaches."""
NODE: Final = "umbel@test"
RUNAWAY: Final = 10_000
"""Deliveries after which `run` takes it that the tasks send each other for ever."""


class QueuedTask(msgspec.Struct, frozen=True):
    """One task that waits."""

    name: str
    args: tuple[Any, ...]
    """As the task will get them: after serialization, so a tuple inside has become a list."""
    kwargs: dict[str, Any]
    queue: str
    id: str
    eta: datetime | None = None
    """When it may run at the earliest, in UTC; None: at once."""
    priority: int = 0
    retries: int = 0
    """Retries made so far."""
    expires: datetime | None = None


class QueuedTasks(list[QueuedTask]):
    """What waits, in the order in which it was sent."""

    def of(
        self, task: Task[..., Any] | str | None = None, *, queue: str | None = None
    ) -> QueuedTasks:
        """Only those of a task (or of a task's name), or of a queue."""
        name = task.name if isinstance(task, Task) else task
        return QueuedTasks(
            one for one in self if name in {None, one.name} and queue in {None, one.queue}
        )


class Harness:
    """What tests do with tasks; a context manager, and the pytest fixture `umbel`."""

    def __init__(self) -> None:
        self._ends = contextlib.ExitStack()
        self._engines: dict[str, _Engine] = {}
        self._ahead = 0.0
        self._periodic = Periodic()

    def __enter__(self) -> Self:
        for app in list(apps):
            self._ends.callback(app.let_go())
        self._ends.callback(self._close_engines)
        self._ends.enter_context(replaced_engines(self._open))
        self._ends.callback(clock.shift, 0.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()
        for app in list(apps):  # those that were made meanwhile
            if isinstance(app.opened, _Engine):
                app.end_threads()
                app.let_go()

    def _open(self, url: str, _options: Options) -> Engine:
        engine = self._engines[url] = _Engine(url)
        return engine

    def _close_engines(self) -> None:
        for engine in self._engines.values():
            engine.close()

    # ------------------------------------------------------------------ what waits

    @property
    def queued(self) -> QueuedTasks:
        """What waits, due or not, in the order in which it was sent."""
        return QueuedTasks(
            _describe(waiting, _accepted_by(engine))
            for engine in self._engines.values()
            for waiting in engine.broker.browse(limit=EVERYTHING)
            if waiting.worker is None
        )

    @property
    def dead(self) -> list[DeadLetter]:
        """The dead letters, newest first: `task`, `id`, `reason`, `detail`."""
        return [
            letter
            for engine in self._engines.values()
            for letter in engine.state.dead_letters(limit=EVERYTHING)
        ]

    # ------------------------------------------------------------------ time

    @property
    def now(self) -> datetime:
        """The time by which tasks are due, in UTC."""
        return datetime.fromtimestamp(clock.time(), UTC)

    @overload
    def advance(self, by: float | timedelta, /) -> None: ...
    @overload
    def advance(
        self,
        /,
        *,
        weeks: float = 0,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None: ...

    def advance(self, by: float | timedelta = 0.0, /, **parts: float) -> None:
        """Let time pass: `advance(90)`, `advance(hours=1)`, `advance(timedelta(days=2))`.

        It moves the clock by which tasks become due and expire, and results are dropped; not
        `time.time()` and not `datetime.now()`. Periodic tasks are sent on the way, each when it is
        due: those of the apps that the test uses, and of the current one. Nothing runs by it: call
        `run` then.
        """
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        seconds = (step + timedelta(**parts)).total_seconds()
        if seconds < 0:
            raise ValueError(f"Time goes forward only; advance() was given {seconds:g} seconds.")
        users = [app for app in apps if isinstance(app.opened, _Engine)]
        current = State.current or State.default
        if current is not None and current not in users:
            users.append(current)
        self._periodic.follow(users)
        self._periodic.fire()
        until = clock.time() + seconds  # not before: an entry that is new counts from here
        while (due := self._periodic.next_due()) is not None and due <= until:
            self._set_clock(due)
            self._periodic.fire()
        self._set_clock(until)

    def _set_clock(self, at: float) -> None:
        self._ahead = max(self._ahead, at - system.time())
        clock.shift(self._ahead)

    # ------------------------------------------------------------------ work

    def run(self, *, limit: int | None = None, propagate: bool = True) -> list[EagerResult[Any]]:
        """Work off what is due, and what that causes, until nothing is due any more.

        Returns how each attempt ended, in order: `.name`, `.state`, `.get()`. With `limit`, at
        most so many attempts. What a task raises is raised here once it is settled, with the
        task's own traceback, and the rest waits on; with `propagate=False` it is in the results.
        An attempt that retries raises nothing: its next one waits in `queued`.

        `NotRegistered` if a message's task is in no app.
        """
        __tracebackhide__ = True
        ended: list[EagerResult[Any]] = []
        with contextlib.ExitStack() as workers:
            crew = _Crew(self._engines, workers)
            for done in count():
                if done == limit:
                    break
                if done == RUNAWAY:
                    raise UmbelError(
                        f"{RUNAWAY} tasks have run and there is still one due: they send each "
                        "other for ever. Give run(limit=…) how many you want."
                    )
                one = crew.work_one()
                if one is None:
                    break
                result = _result_of(one)
                if result is not None:
                    ended.append(result)
                self._raise_if_failed(one, result, propagate)
        return ended

    def _raise_if_failed(
        self, one: Ended, result: EagerResult[Any] | None, propagate: bool
    ) -> None:
        __tracebackhide__ = True
        error = one.error
        if error is not None and not isinstance(error, Exception):
            raise error  # Ctrl-C, or pytest.fail() and skip() inside a task
        if not propagate:
            return
        if result is not None:
            if result.state == states.FAILURE and isinstance(result.result, BaseException):
                raise result.result
        elif one.letter is not None:
            raise DecodeError(f"A message is unreadable and now a dead letter: {one.letter.detail}")
        elif not one.ran and one.headers is not None:
            raise NotRegistered(
                f"No app here has a task {one.headers.task!r}. In production its messages wait for "
                "a worker that knows it, and become dead letters after task_unknown_timeout. "
                "Import the module that defines it."
            )


class _Crew:
    """A worker for each store, asked for work by turns."""

    def __init__(self, engines: dict[str, _Engine], ends: contextlib.ExitStack) -> None:
        self._engines = engines
        self._ends = ends
        self._workers: dict[str, Stepper] = {}

    def work_one(self) -> Ended | None:
        for url, engine in list(self._engines.items()):  # a task may open another
            queues = [held.queue for held in engine.broker.counts() if held.ready or held.delayed]
            if not queues:
                continue
            worker = self._workers.get(url) or self._hire(url, engine)
            worker.queues = queues
            ended = worker.work_one()
            if ended is not None:
                return ended
        return None

    def _hire(self, url: str, engine: _Engine) -> Stepper:
        users = [app for app in apps if app.opened is engine]

        def home_of(name: str) -> App:
            # Before others of the same URL, which other tests may have made, those in use here.
            candidates = [app for app in apps if app.opened is engine or _url_of(app) == url]
            candidates.sort(key=lambda app: app.opened is not engine)
            return next((app for app in candidates if name in app.tasks), users[0])

        worker = Stepper(users[0], node=NODE, home_of=home_of)
        self._workers[url] = self._ends.enter_context(worker)
        return worker


class _Engine(MemoryEngine):
    """The store of one broker URL during one test."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.name = f"{mask(url)}, in memory for a test"
        self.results = _Results(self)

    @property
    def run_dir(self) -> Path:
        """One for all tests of the process: to make and remove a folder each time costs more."""
        return _run_dir()


@cache
def _run_dir() -> Path:
    folder = tempfile.mkdtemp(prefix="umbel-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


class _Results(MemoryResults):
    """Results for which nobody waits in vain."""

    def __init__(self, engine: MemoryEngine) -> None:
        super().__init__(engine.store)
        self._state = engine.state

    def listen(self) -> PipeWaker:
        """A waker, unless nobody could ever store the result that is waited for."""
        if all(worker.node == NODE for worker in self._state.workers()):
            raise TimeoutError(
                "The task has not run, and nobody works while this waits: call umbel.run() first."
            )
        return super().listen()


def _url_of(app: App) -> str | None:
    """Where an app sends; None for one of another test whose configuration cannot be read."""
    try:
        return app.broker_url
    except ImproperlyConfigured:
        return None


def _accepted_by(engine: _Engine) -> frozenset[str]:
    """The content types that the users of a store read."""
    users = [app for app in apps if app.opened is engine]
    return content_types({name for app in users for name in app.conf.accept_content})


def _describe(waiting: Waiting, accept: frozenset[str]) -> QueuedTask:
    try:
        message = task_message.decode(waiting.payload, accept)
    except (DecodeError, ContentDisallowed) as error:
        return QueuedTask(f"<unreadable: {error}>", (), {}, waiting.queue, "")
    headers = message.headers
    return QueuedTask(
        headers.task,
        tuple(message.args),
        message.kwargs,
        waiting.queue,
        headers.id,
        None if waiting.due is None else datetime.fromtimestamp(waiting.due, UTC),
        waiting.priority,
        headers.retries or 0,
        datetime.fromisoformat(headers.expires) if headers.expires else None,
    )


def _result_of(one: Ended) -> EagerResult[Any] | None:
    """How an attempt ended; None for a message that went back, or that nobody can read."""
    headers = one.headers
    if headers is None or not one.state:
        return None
    error = one.error
    if one.state == states.FAILURE and isinstance(error, Retry):
        error = None  # the attempt failed because its retry could not be written
    value: Any = one.value if one.state not in states.EXCEPTION_STATES else error
    traceback = None
    stored = one.settlement.result
    if stored is not None:
        meta = result_message.decode(stored.meta, one.app.result_format)
        traceback = meta.traceback
        if one.state not in states.EXCEPTION_STATES:
            value = meta.result
        elif value is None:
            value = result_message.restore_exception(meta.result, {})
    elif value is None and one.state in states.EXCEPTION_STATES:
        history = one.settlement.history
        value = RemoteError(history.error if history is not None else one.state)
    return EagerResult(headers.id, value, one.state, traceback, headers.task, app=one.app)
