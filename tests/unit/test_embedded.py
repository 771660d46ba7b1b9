"""A worker in a thread of this process."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from umbel import App, Task
from umbel.contrib.testing import worker as testing_worker
from umbel.contrib.testing.worker import TestWorkController, start_worker
from umbel.engines.broker import Claim
from umbel.engines.memory.broker import MemoryBroker
from umbel.exceptions import ImproperlyConfigured


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
        assert where.delay().get(timeout=10) == "umbel-embedded"
        (record,) = app.engine.state.workers()
        assert (record.node, record.queues) == (worker.hostname, ("celery",))
    assert app.engine.state.workers() == []
    assert set(threading.enumerate()) == threads
    late = where.delay()
    assert not late.ready()
    with start_worker(app):
        assert late.get(timeout=10) == "umbel-embedded"


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
    signals = [getattr(testing_worker, name) for name in names]
    for signal in signals:
        signal.connect(listen)
    try:
        with start_worker(app):
            pass
    finally:
        for signal in signals:
            signal.disconnect(listen)
    assert heard == [(name, app) for name in names]
