"""The threads that send and wait for others: what goes wrong for one is no matter of the rest."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from umbel import App
from umbel.app.sending.sender import Sender
from umbel.engines import urls
from umbel.engines.broker import Message
from umbel.engines.waiting import ResultWaiter
from umbel.result import ResultSet

R = TypeVar("R")
names = itertools.count()


@pytest.fixture
def app() -> Iterator[App]:
    app = App("x", broker=f"memory://background{next(names)}", backend="broker")

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    yield app
    app.close()


def queued(app: App) -> int:
    return sum(count.ready for count in app.engine.broker.counts())


async def in_time(call: Awaitable[R]) -> R:
    return await asyncio.wait_for(call, 10)


def fail_once(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)


def test_after_a_thread_that_did_not_start_a_call_starts_one(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = app.tasks["add"]
    fail_once(monkeypatch)
    with pytest.raises(RuntimeError, match="new thread"):
        asyncio.run(in_time(add.adelay(1, 2)))
    sent = asyncio.run(in_time(add.adelay(1, 2)))
    assert queued(app) == 1  # the call that raised has sent nothing
    fail_once(monkeypatch)
    with pytest.raises(RuntimeError, match="new thread"):
        sent.then(leave)
    done = threading.Event()
    sent.then(lambda _: done.set())
    run_all(app)
    assert done.wait(10)


def run_all(app: App) -> None:
    from umbel.contrib.testing.worker import start_worker

    with start_worker(app, perform_ping_check=False):
        app.tasks["add"].delay(0, 0).get(timeout=10)


def leave(_: object) -> None:
    raise SystemExit(3)


def raise_again(_: object) -> None:
    raise RuntimeError("of the error handler")


@pytest.mark.parametrize(
    ("callback", "on_error"), [(leave, None), (raise_again, raise_again), (raise_again, leave)]
)
def test_a_callback_ends_no_other_wait(
    app: App,
    callback: Callable[[object], None],
    on_error: Callable[[object], None] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    done = [threading.Event(), threading.Event()]
    first, second = (app.tasks["add"].delay(1, 2) for _ in range(2))
    first.then(callback, on_error)
    first.then(lambda _: done[0].set())
    second.then(lambda _: done[1].set())
    run_all(app)
    assert all(event.wait(10) for event in done)
    assert first.id in caplog.text


def test_a_message_that_cannot_be_stored_fails_alone(tmp_path: Path) -> None:
    engine = urls.connect_engine(f"sqlite:///{tmp_path}/queue.db")
    sender = Sender(lambda: engine.broker)
    levels = [0, 0, 0, 2**70, 0, 0, 0]
    sent = [Message(f"t{n}", "i", "q", b"{}", level) for n, level in enumerate(levels)]

    async def send() -> list[BaseException | None]:
        calls = (sender.publish([message], 5.0) for message in sent)
        return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = asyncio.run(in_time(send()))
    assert [type(outcome).__name__ for outcome in outcomes] == (
        ["NoneType"] * 3 + ["OverflowError"] + ["NoneType"] * 3
    )
    assert [count.ready for count in engine.broker.counts()] == [6]
    sender.close()
    engine.close()


def test_a_publish_with_a_timeout_that_is_no_number_ends(app: App) -> None:
    sender = Sender(lambda: app.engine.broker)
    message = Message("t", "i", "q", b"{}")
    asyncio.run(in_time(sender.publish([message], float("nan"))))
    sender.close()


def test_a_wait_with_a_timeout_that_is_no_number_is_refused(app: App) -> None:
    sent = app.tasks["add"].delay(1, 2)
    several = ResultSet([sent])
    nan = float("nan")
    for wait in (
        lambda: sent.get(nan),
        lambda: asyncio.run(in_time(sent.aget(nan))),
        lambda: several.get(nan),
        lambda: asyncio.run(in_time(several.aget(nan))),
    ):
        with pytest.raises(ValueError, match="timeout must be a number of seconds; got nan"):
            wait()


def in_child(check: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(20)
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_after_a_fork_all_is_afresh_before_any_thread_can_ask(app: App) -> None:
    sender = Sender(lambda: app.engine.broker)
    waiter = ResultWaiter(lambda: app.engine.results)
    asyncio.run(sender.publish([Message("t", "i", "q", b"{}")], 5.0))
    waiter.watch("i", lambda *_: None)
    assert sender._running
    assert waiter._nudge >= 0
    assert in_child(lambda: not sender._running and waiter._nudge < 0 and not waiter._waiting)
    sender.close()
    waiter.close()


def test_a_signal_handler_may_send_and_wait(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    url = app.broker_url
    inner: list[Any] = []
    make, start = urls._make, ResultWaiter._start

    def interrupted_make(url: str, options: Any) -> Any:
        if not inner:
            inner.append(None)
            os.kill(os.getpid(), signal.SIGUSR1)
        return make(url, options)

    def interrupted_start(waiter: ResultWaiter) -> None:
        if len(inner) == 1:
            inner.append(None)
            os.kill(os.getpid(), signal.SIGUSR1)
        start(waiter)

    def check() -> bool:
        other, handled = url + "x", threading.Event()
        monkeypatch.setattr(urls, "_make", interrupted_make)
        monkeypatch.setattr(ResultWaiter, "_start", interrupted_start)
        signal.signal(signal.SIGUSR1, lambda *_: inner.append(urls.open_engine(other)))
        engine = urls.open_engine(other)
        if inner[1:] != [engine] or urls.open_engine(other) is not engine:
            return False
        del inner[1:]
        waiter = ResultWaiter(lambda: engine.results)
        signal.signal(signal.SIGUSR1, lambda *_: waiter.watch("a", lambda *_: handled.set()))
        waiter.watch("b", lambda *_: None)
        waiter.close()
        return handled.wait(10)

    assert in_child(check)
