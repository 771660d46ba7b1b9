"""A worker in a thread of the test's process (`celery.contrib.testing.worker`)."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from umbel.app import App
from umbel.app.current import State
from umbel.app.refusals import refuse_names
from umbel.contrib.testing.app import Trap
from umbel.contrib.testing.tasks import PING
from umbel.exceptions import ImproperlyConfigured
from umbel.pools.kinds import find_pool
from umbel.signals import Signal
from umbel.worker.embedded import POOLS, EmbeddedWorker

WORKER_LOGLEVEL: Final = os.environ.get("WORKER_LOGLEVEL")
"""Level that the package's loggers get while a worker runs; unset: the one they have."""
WITHOUT_EFFECT: Final = frozenset({"without_heartbeat", "without_mingle", "without_gossip"})
"""What this worker never does, so it can be asked to do without."""

test_worker_starting: Signal = Signal(name="test_worker_starting", providing_args=set())
test_worker_started: Signal = Signal(
    name="test_worker_started", providing_args={"worker", "consumer"}
)
test_worker_stopped: Signal = Signal(name="test_worker_stopped", providing_args={"worker"})


class TestWorkController(EmbeddedWorker):
    """The worker that `start_worker` yields: `hostname`, `app`, `queues`."""

    __test__ = False  # no class of tests, whatever its name

    def ensure_started(self) -> None:
        """Return once it takes work; it does when `start_worker` yields it."""

    def reload(self) -> None:
        """Take up tasks that were defined since; it knows them already."""


@contextlib.contextmanager
def start_worker(
    app: App,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: str | int | None = WORKER_LOGLEVEL,
    logfile: str | None = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 10.0,
    shutdown_timeout: float = 10.0,
    *,
    hostname: str | None = None,
    queues: str | Sequence[str] | None = None,
    **options: Any,
) -> Iterator[TestWorkController]:
    """Work in threads of this process as long as the block lasts; yields the worker.

    It is any worker but for its processes, so its tasks see what the test has mocked. `pool`:
    "solo" runs one task at a time, "threads" `concurrency` of them, "asyncio" as many coroutines.
    `queues`: a list, or names with commas. It stops once what runs has ended; `RuntimeError` if
    that takes more than `shutdown_timeout` seconds. What breaks in the worker itself is raised
    here. A task that ignores its hard limit fails, and its thread is left alone until it ends.
    """
    pool = _check(pool, options)
    test_worker_starting.send(sender=app)
    worker: TestWorkController | None = None
    try:
        worker = TestWorkController(
            app, pool=pool, concurrency=concurrency, node=hostname, queues=_split(queues)
        )
        with _current(app), _logging(loglevel, logfile), _running(worker, shutdown_timeout):
            test_worker_started.send(sender=app, worker=worker, consumer=worker)
            if perform_ping_check:
                _ping(app, worker.queues[0], ping_task_timeout)
            yield worker
    finally:
        test_worker_stopped.send(sender=app, worker=worker)


def _check(pool: str, options: dict[str, Any]) -> str:
    name = find_pool(pool)
    if name not in POOLS:
        raise ImproperlyConfigured(
            f"There is no pool {pool!r} inside a test's process: use pool='solo', 'threads' or "
            "'asyncio'. For processes, "
            "run the real thing: subprocess.Popen([sys.executable, '-m', 'umbel', '-A', …, "
            "'worker'])."
        )
    unknown = options.keys() - WITHOUT_EFFECT
    if unknown:
        raise TypeError(
            f"start_worker() has no option {min(unknown)!r}; it has concurrency, pool, loglevel, "
            "logfile, perform_ping_check, ping_task_timeout, shutdown_timeout, hostname, queues."
        )
    return name


def _split(queues: str | Sequence[str] | None) -> Sequence[str]:
    if isinstance(queues, str):
        return [name.strip() for name in queues.split(",") if name.strip()]
    return queues or ()


@contextlib.contextmanager
def _current(app: App) -> Iterator[None]:
    """Make it the app that is meant where none is named, unless naming none is to be an error."""
    before = State.current
    if not isinstance(before, Trap):
        app.set_current()
    try:
        yield
    finally:
        if State.current is app:
            State.current = before


@contextlib.contextmanager
def _running(worker: EmbeddedWorker, shutdown_timeout: float) -> Iterator[None]:
    worker.start()
    try:
        yield
    finally:
        worker.stop(shutdown_timeout)


@contextlib.contextmanager
def _logging(level: str | int | None, file: str | None) -> Iterator[None]:
    """Give the package's loggers a level and a file, for as long as the worker runs."""
    logger = logging.getLogger("umbel")
    before = logger.level
    handler = logging.FileHandler(file) if file else None
    if level is not None:
        logger.setLevel(level.upper() if isinstance(level, str) else level)
    if handler is not None:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(before)
        if handler is not None:
            logger.removeHandler(handler)
            handler.close()


def _ping(app: App, queue: str, timeout: float) -> None:
    """Send a task through and wait for its answer."""
    answer = app.send_task(PING, queue=queue).get(timeout=timeout)
    if answer != "pong":
        raise RuntimeError(f"The worker answered a ping with {answer!r}.")


if not TYPE_CHECKING:
    __getattr__ = refuse_names(__name__)
