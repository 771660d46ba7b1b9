"""A worker in a thread of this process."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from umbel import App, Task, signals
from umbel.contrib.testing import worker as testing_worker
from umbel.contrib.testing.worker import TestWorkController, start_worker
from umbel.engines.broker import Claim
from umbel.engines.memory.broker import MemoryBroker
from umbel.exceptions import ImproperlyConfigured, SoftTimeLimitExceeded, TimeLimitExceeded
from umbel.worker import limits
from umbel.worker.dispatch import STUCK


@pytest.fixture(params=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    url = "memory://embedded" if request.param == "memory" else f"sqlite:///{tmp_path}/queue.db"
    app = App("embedded", broker=url, backend="broker")
    yield app
    app.engine.broker.purge(["celery", "a", "b"])


def test_it_works_until_the_end_of_the_block(app: App) -> None:
    threads = set(threading.enumerate())

    @app.task
    def where() -> str:
        return threading.current_thread().name

    with start_worker(app) as worker:
        assert isinstance(worker, TestWorkController)
        assert where.delay().get(timeout=10) == "umbel-slot-1"
        (record,) = app.engine.state.workers()
        assert (record.node, record.queues) == (worker.hostname, ("celery",))
    assert app.engine.state.workers() == []
    assert set(threading.enumerate()) <= threads
    late = where.delay()
    assert not late.ready()
    with start_worker(app):
        assert late.get(timeout=10) == "umbel-slot-1"


def test_late_news_of_a_lost_lease_end_nothing(app: App) -> None:
    @app.task
    def answer() -> int:
        return 42

    with start_worker(app) as worker:
        number = worker.incarnation.number
        worker._supervisor._note_lost_lease()  # of the one before, as its thread may tell it
        assert answer.delay().get(timeout=10) == 42
        assert worker.incarnation.number == number


def test_a_result_that_the_store_cannot_take_ends_as_a_dead_letter(tmp_path: Path) -> None:
    app = App("large", broker=f"sqlite:///{tmp_path}/queue.db", task_max_message_bytes=2 << 30)

    @app.task
    def fill(size: int) -> str:
        return "x" * size

    app.engine.broker.counts()
    database = app.engine._database  # type: ignore[attr-defined]
    assert database._connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) == 1_000_000_000
    database._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
    app.conf.result_backend = "broker"
    with start_worker(app):
        large = fill.delay(200_000)
        with pytest.raises(ValueError, match=r"its end cannot be stored.*too big"):
            large.get(timeout=10)
        assert len(fill.delay(10).get(timeout=10)) == 10
    (letter,) = app.engine.state.dead_letters()
    assert (letter.id, letter.reason) == (large.id, "unstorable")
    assert "too big" in letter.detail
    app.close()


def test_tasks_defined_later_are_known(app: App) -> None:
    with start_worker(app) as worker:

        @app.task
        def multiply(x: int, y: int) -> int:
            return x * y

        worker.reload()
        assert multiply.delay(4, 4).get(timeout=10) == 16


def test_it_serves_the_queues_it_is_given(app: App) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    elsewhere = add.delay(1, 1)
    with start_worker(app, queues="a, b", hostname="one@here", pool="threads") as worker:
        assert worker.hostname == "one@here"
        assert add.apply_async((1, 2), queue="b").get(timeout=10) == 3
        assert not elsewhere.ready()


def test_a_failing_task_does_not_end_it(app: App) -> None:
    @app.task(bind=True, max_retries=1)
    def fails(self: Task[..., Any]) -> None:
        raise self.retry(exc=ValueError("no"), countdown=0.01)

    with start_worker(app):
        with pytest.raises(ValueError, match="no"):
            fails.delay().get(timeout=10)
        result = fails.delay()
        with pytest.raises(ValueError, match="no"):
            result.get(timeout=10)


def test_what_breaks_in_the_worker_is_raised_in_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App("broken", broker="memory://broken", backend="broker")

    broken = threading.Event()

    def claim(*_: object) -> Claim:
        broken.set()
        raise ZeroDivisionError("a bug of ours")

    def work() -> None:
        with start_worker(app, perform_ping_check=False):
            monkeypatch.setattr(MemoryBroker, "claim", claim)
            app.send_task("anything")
            assert broken.wait(10)

    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        work()
    assert app.engine.state.workers() == []


def test_a_task_that_does_not_end_is_told() -> None:
    app = App("slow", broker="memory://slow", backend="broker")
    begun, go_on = threading.Event(), threading.Event()

    @app.task
    def slow() -> None:
        begun.set()
        go_on.wait(30)

    result, waiting = slow.delay(), slow.delay()

    def work() -> None:
        with start_worker(app, shutdown_timeout=0.05, perform_ping_check=False):
            assert begun.wait(10)

    with pytest.raises(RuntimeError, match=r"has not ended after 0\.05 s"):
        work()
    go_on.set()
    assert result.get(timeout=10) is None
    (thread,) = (t for t in threading.enumerate() if t.name == "umbel-embedded")
    thread.join(10)
    assert not waiting.ready()
    assert [held.worker for held in app.engine.broker.browse(id=waiting.id)] == [None]


def test_two_share_the_work_and_one_dead_lease_is_taken_over() -> None:
    app = App("two", broker="memory://two", backend="broker")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with start_worker(app) as first, start_worker(app) as second:
        assert first.hostname != second.hostname
        # Declared dead by a judge, it registers anew and goes on.
        number = first.incarnation.number
        assert app.engine.state.declare_dead(number)
        results = [add.delay(n, 1) for n in range(20)]
        assert [result.get(timeout=10) for result in results] == list(range(1, 21))
        deadline = time.monotonic() + 10
        while first.incarnation.number == number and time.monotonic() < deadline:
            add.delay(0, 0).get(timeout=10)
        assert first.incarnation.number != number


def test_another_pool_or_option_is_refused_with_a_reason() -> None:
    app = App("pools", broker="memory://pools", backend="broker")
    with (
        pytest.raises(ImproperlyConfigured, match="use pool='solo'"),
        start_worker(app, pool="prefork"),
    ):
        pass
    with pytest.raises(TypeError, match="no option 'beat'"), start_worker(app, beat=True):
        pass
    with start_worker(app, without_heartbeat=True, concurrency=4):
        pass


def test_its_log_goes_where_it_is_told(tmp_path: Path) -> None:
    app = App("logs", broker="memory://logs", backend="broker")
    log = tmp_path / "worker.log"
    with start_worker(app, loglevel="info", logfile=str(log)):
        pass
    assert "celery.ping" in log.read_text()


def test_signals_tell_of_it() -> None:
    app = App("signals", broker="memory://signals", backend="broker")
    heard: list[tuple[str, object]] = []

    def listen(sender: object, signal: Any, **kwargs: object) -> None:
        heard.append((signal.name, sender))

    names = ["test_worker_starting", "test_worker_started", "test_worker_stopped"]
    sources = [getattr(testing_worker, name) for name in names]
    for source in sources:
        source.connect(listen)
    try:
        with start_worker(app):
            pass
    finally:
        for source in sources:
            source.disconnect(listen)
    assert heard == [(name, app) for name in names]


# ------------------------------------------------------------------------------------ every pool

POOLS = ["solo", "threads", "asyncio"]
SEVERAL = ["threads", "asyncio"]


def _wait_until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _open_files() -> int:
    gc.collect()  # what other tests have dropped
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("pool", POOLS)
def test_each_pool_runs_both_kinds_of_tasks_in_this_process(
    app: App, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMBEL_TEST_MOCK", "seen")

    @app.task(bind=True)
    def plain(self: Task[..., Any]) -> list[Any]:
        return [os.getpid(), os.environ["UMBEL_TEST_MOCK"], self.request.hostname]

    @app.task(bind=True)
    async def coroutine(self: Task[..., Any]) -> list[Any]:
        await asyncio.sleep(0)
        return [os.getpid(), os.environ["UMBEL_TEST_MOCK"], self.request.hostname]

    with start_worker(app, pool=pool, concurrency=3) as worker:
        results = [task.delay() for task in (plain, coroutine) * 10]
        values = [result.get(timeout=10) for result in results]
        assert values == [[os.getpid(), "seen", worker.hostname]] * 20
        (record,) = app.engine.state.workers()
        assert record.slots == (1 if pool == "solo" else 3)


@pytest.mark.parametrize("pool", SEVERAL)
def test_as_many_run_at_once_as_there_are_slots(app: App, pool: str) -> None:
    together, met = threading.Barrier(5), []

    @app.task
    def meet() -> None:
        together.wait(10)

    @app.task
    async def gather() -> int:
        met.append(1)
        while len(met) < 5:  # noqa: ASYNC110  (each waits for the others, on one loop)
            await asyncio.sleep(0.001)
        return len(met)

    with start_worker(app, pool=pool, concurrency=5):
        for result in [meet.delay() for _ in range(5)]:
            result.get(timeout=10)
        assert [r.get(timeout=10) for r in [gather.delay() for _ in range(5)]] == [5] * 5


@pytest.mark.parametrize("pool", POOLS)
def test_a_soft_limit_is_raised_in_the_task(app: App, pool: str) -> None:
    @app.task(soft_time_limit=0.1)
    def plain() -> str:
        try:
            while True:
                time.sleep(0.001)
        except SoftTimeLimitExceeded:
            return "cleaned up"

    @app.task(soft_time_limit=0.1)
    async def coroutine() -> str:
        try:
            await asyncio.sleep(60)
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "slept"

    with start_worker(app, pool=pool, concurrency=2):
        results = [task.delay() for task in (plain, coroutine) * 3]
        assert [result.get(timeout=10) for result in results] == ["cleaned up"] * 6


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_a_hard_limit_that_cannot_be_enforced_abandons_the_thread(
    app: App, pool: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    go_on, ended = threading.Event(), threading.Event()

    def hang() -> None:
        go_on.wait(30)
        ended.set()

    @app.task(time_limit=0.1)
    def plain() -> None:
        hang()

    @app.task(time_limit=0.1)
    async def coroutine() -> None:
        hang()

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    threads = set(threading.enumerate())
    with caplog.at_level(logging.ERROR, "umbel"):
        with start_worker(app, pool=pool, concurrency=2, shutdown_timeout=5):
            result = {"plain": plain, "coroutine": coroutine}[kind].delay()
            with pytest.raises(TimeLimitExceeded):
                result.get(timeout=10)
            assert "in hang" in str(result.traceback)
            assert [r.get(timeout=10) for r in [add.delay(n, 1) for n in range(5)]] == [
                1, 2, 3, 4, 5,
            ]  # fmt: skip
            assert not ended.is_set()
        assert not ended.is_set()  # the end of the block does not wait for it
    assert "cannot be ended and is abandoned" in caplog.text
    assert "in hang" in caplog.text
    assert app.engine.state.workers() == []
    go_on.set()
    assert ended.wait(10)
    _wait_until(lambda: set(threading.enumerate()) <= threads)
    assert result.state == "FAILURE"  # that it has returned after all is nobody's news


@pytest.mark.parametrize("pool", SEVERAL)
def test_the_neighbours_of_an_abandoned_thread_finish(
    app: App, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NEIGHBOURS", 0.0)  # they get no moment, but all the time they need
    go_on = threading.Event()
    runs: list[int] = []

    @app.task(time_limit=0.1)
    def hang() -> None:
        go_on.wait(30)

    @app.task
    def neighbour() -> str:
        runs.append(1)
        go_on.wait(30)
        return "done"

    with start_worker(app, pool=pool, concurrency=2):
        beside = neighbour.delay()
        _wait_until(lambda: bool(runs))
        for _ in range(2):
            with pytest.raises(TimeLimitExceeded):
                hang.delay().get(timeout=10)
        go_on.set()
        assert beside.get(timeout=10) == "done"
    assert runs == [1]


@pytest.mark.parametrize("pool", SEVERAL)
def test_its_end_waits_for_what_runs_and_leaves_what_waits(app: App, pool: str) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    @app.task
    def slow() -> str:
        begun.release()
        go_on.wait(30)
        return "ended"

    @app.task
    async def slow_too() -> str:
        begun.release()
        while not go_on.is_set():  # noqa: ASYNC110  (an event of another thread)
            await asyncio.sleep(0.001)
        return "ended"

    with start_worker(app, pool=pool, concurrency=2):
        running = [slow.delay(), slow_too.delay()]
        assert begun.acquire(timeout=10)
        assert begun.acquire(timeout=10)
        waiting = slow.delay()
        threading.Timer(0.05, go_on.set).start()
    assert [result.state for result in running] == ["SUCCESS", "SUCCESS"]
    if not waiting.ready():  # it may have been claimed while a slot was about to be free
        assert [held.worker for held in app.engine.broker.browse(id=waiting.id)] == [None]


@pytest.mark.parametrize("pool", POOLS)
def test_nothing_is_left_behind(app: App, pool: str) -> None:
    @app.task
    def plain() -> None: ...

    @app.task
    async def coroutine() -> None:
        await asyncio.sleep(0)

    def work() -> None:
        with start_worker(app, pool=pool, concurrency=4):
            for result in [task.delay() for task in (plain, coroutine) * 5]:
                result.get(timeout=10)

    work()  # the store's own connections are kept
    files, threads = _open_files(), set(threading.enumerate())
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    for _ in range(10):
        work()
    _wait_until(lambda: set(threading.enumerate()) <= threads)  # a checkpoint may be under way
    # Each of the store's two bells keeps the last FIFO open until it rings again.
    _wait_until(lambda: _open_files() <= files + 2)
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == handlers
    assert app.engine.state.workers() == []
    assert list(app.engine.run_dir.iterdir()) == []


@pytest.mark.parametrize("pool", POOLS)
def test_in_a_program_with_an_event_loop_of_its_own(app: App, pool: str) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    @app.task
    async def double(x: int) -> int:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0.001)
        return 2 * x

    async def program() -> list[int]:
        with start_worker(app, pool=pool, concurrency=4):
            sent = [await double.adelay(n) for n in range(10)]
            values = [await result.aget(timeout=10) for result in sent]
        loops.append(asyncio.get_running_loop())
        return values

    assert asyncio.run(program()) == [2 * n for n in range(10)]
    assert len(set(loops)) == 2  # that of the tasks, and the program's


def test_one_that_takes_longer_than_expected_delays_nobody(app: App) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @app.task
    def slow() -> float:
        begun.set()
        go_on.wait(10)
        return time.monotonic()

    @app.task
    def quick() -> float:
        return time.monotonic()

    with start_worker(app, perform_ping_check=False):
        first = slow.delay()
        assert begun.wait(10)
        time.sleep(2 * STUCK)  # so long that nothing is to wait for its slot
        second = quick.delay()
        threading.Timer(0.2, go_on.set).start()
        assert second.get(timeout=10) - first.get(timeout=10) < 0.3


@pytest.mark.parametrize("pool", POOLS)
def test_signals_of_a_worker_are_sent_once(app: App, pool: str) -> None:
    names = ["worker_init", "worker_process_init", "worker_ready", "worker_shutting_down"]
    names += ["worker_process_shutdown", "worker_shutdown"]
    heard: list[str] = []

    def hear(signal: Any, **_: object) -> None:
        heard.append(signal.name)

    with contextlib.ExitStack() as ends:
        for name in names:
            found = getattr(signals, name)
            found.connect(hear)
            ends.callback(found.disconnect, hear)
        with start_worker(app, pool=pool, concurrency=2):
            pass
    assert heard == names
