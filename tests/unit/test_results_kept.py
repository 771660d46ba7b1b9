"""What the store keeps of a task's end: results and their expiry, history, nothing if ignored."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import pickle
import sqlite3
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from umbel import App, Task, clock, exceptions
from umbel.contrib.testing.worker import start_worker
from umbel.engines.broker import Acknowledge, Bury, HistoryEntry, Settlement
from umbel.engines.state import WorkerRecord
from umbel.result import AsyncResult, many, single
from umbel.result.frames import remote_frames

stores = itertools.count()
DAY = 86400.0


@pytest.fixture(params=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    memory = f"memory://kept-{next(stores)}"
    url = memory if request.param == "memory" else f"sqlite:///{tmp_path}/queue.db"
    app = App("kept", broker=url, backend="broker")

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no such luck")

    yield app
    clock.shift(0)
    app.engine.close()


@pytest.fixture
def run(app: App) -> Callable[..., AsyncResult[Any]]:
    """Send a task and work it off."""

    def run(name: str, *args: Any, **options: Any) -> AsyncResult[Any]:
        result = app.send_task(name, args, **options)
        with start_worker(app, perform_ping_check=False):
            app.ResultSet([result]).get(10, propagate=False)
        return app.AsyncResult(result.id)

    return run


# -------------------------------------------------------------------------------------- expiry


@pytest.mark.parametrize(
    ("settings", "success", "failure"),
    [
        ({}, DAY, DAY),
        ({"result_expires": 60}, 60, 60),
        ({"result_expires": None}, None, None),
        ({"result_expires": 0}, None, None),
        ({"result_expires": 60, "result_failure_expires": 3600}, 60, 3600),
        ({"result_expires": 60, "result_failure_expires": 0}, 60, None),
    ],
)
def test_results_expire_without_a_janitor(
    app: App,
    run: Callable[..., AsyncResult[Any]],
    settings: dict[str, Any],
    success: float | None,
    failure: float | None,
) -> None:
    app.conf.update(settings)
    for result, kept in ((run("add", 1, 2), success), (run("fail"), failure)):
        assert result.ready()
        clock.shift((kept or 400 * DAY) - 5)
        assert app.AsyncResult(result.id).exists()
        clock.shift((kept or 800 * DAY) + 5)
        assert app.AsyncResult(result.id).exists() == (kept is None)
        clock.shift(0)
    result = app.send_task("add")
    result.revoke()
    expires = app.engine.results.get([result.id])[result.id].expires
    assert (expires is None) == (success is None)
    assert expires is None or abs(expires - time.time() - (success or 0)) < 60


# ------------------------------------------------------------------------------------- history


def test_history_tells_how_attempts_ended(app: App, run: Callable[..., AsyncResult[Any]]) -> None:
    added, ignored, failed = run("add", 1, 2), run("add", 3, 4, task_id="x"), run("fail")
    assert [entry.id for entry in app.history()] == [failed.id, ignored.id, added.id]
    (entry,) = app.history(task="fail")
    assert (entry.id, entry.state, entry.queue) == (failed.id, "FAILURE", "celery")
    assert entry.error == "ValueError: no such luck"
    assert [entry.id for entry in app.history(state="SUCCESS", limit=1)] == [ignored.id]
    assert [entry.id for entry in app.history(id=added.id)] == [added.id]


def test_history_is_kept_for_a_time_and_a_number(
    app: App, run: Callable[..., AsyncResult[Any]]
) -> None:
    """A live worker drops what is older, or beyond the number."""

    def wait_for(ids: list[str]) -> None:
        end = time.monotonic() + 10
        while [entry.id for entry in app.history(task="add")] != ids:
            assert time.monotonic() < end, app.history(task="add")
            time.sleep(0.01)

    for id in "abc":
        run("add", 1, 2, task_id=id)
    app.conf.history_limit = 2
    with start_worker(app, perform_ping_check=False):
        wait_for(["c", "b"])
    app.conf.history_expires = 100.0
    clock.shift(50.0)
    run("add", 1, 2, task_id="d")
    clock.shift(125.0)
    with start_worker(app, perform_ping_check=False):
        wait_for(["d"])


# ------------------------------------------------------------------------------ ignored results


def test_an_ignored_result_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row and no wake-up: what is committed at the end does not mention results."""
    app = App("ignored", broker=f"sqlite:///{tmp_path}/queue.db", backend="broker")

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    statements: list[str] = []
    connect = sqlite3.connect

    def trace(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", trace)

    def settle(*, ignore: bool) -> tuple[list[str], bool]:
        """What is written when a task ends, and whether whoever waits for results is woken."""
        number = app.engine.state.register(WorkerRecord("w@h", "h", 1, ("celery",), 1, 30.0))
        app.engine.state.unregister(number)
        sent = add.apply_async((1, 2), ignore_result=ignore)
        waker = app.engine.results.listen()
        statements.clear()
        with start_worker(app, perform_ping_check=False):
            end = time.monotonic() + 10
            while not app.history(id=sent.id):
                assert time.monotonic() < end
                time.sleep(0.01)
        import select

        woken = bool(select.select([waker], [], [], 0)[0])
        waker.close()
        return [s for s in statements if s.lstrip().startswith("INSERT INTO result")], woken

    written, woken = settle(ignore=True)
    assert (written, woken) == ([], False)
    written, woken = settle(ignore=False)
    assert len(written) == 1
    assert woken
    app.engine.close()


# ----------------------------------------------------------------------------- nobody at work


def test_waiting_warns_when_nobody_works(app: App, caplog: pytest.LogCaptureFixture) -> None:
    record = WorkerRecord("other@here", "here", 1, ("mail", "slow"), 1, 30.0)
    app.engine.state.register(record)
    result = app.send_task("add", (1, 2), queue="fast")
    start = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(exceptions.TimeoutError) as raised:
        result.get(2.1)
    assert time.monotonic() - start < 3
    (line,) = caplog.messages
    for words in (
        f"Task {result.id} waits", "'fast'", app.engine.name, "other@here serves mail, slow",
        f"umbel -A {app.module} worker -Q fast",
    ):  # fmt: skip
        assert words in line
    assert "worker -Q fast" in str(raised.value)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (single, many):
        monkeypatch.setattr(module, "QUIET_AFTER", 0.1)


@pytest.mark.usefixtures("impatient")
def test_coroutines_and_sets_warn_once(app: App, caplog: pytest.LogCaptureFixture) -> None:
    several = app.ResultSet([app.send_task("add", (n, n)) for n in range(3)])

    async def wait_for_all() -> None:
        waits = (several[0].aget(0.2), several.aget(0.2))
        for error in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(error, exceptions.TimeoutError)

    with caplog.at_level(logging.WARNING):
        asyncio.run(wait_for_all())
        assert len(caplog.messages) == 2
        with pytest.raises(exceptions.TimeoutError):
            several.get(0.2)
    assert len(caplog.messages) == 3
    assert all("Live workers: none" in line for line in caplog.messages)


@pytest.mark.usefixtures("impatient")
def test_waiting_is_quiet_while_somebody_works(app: App, caplog: pytest.LogCaptureFixture) -> None:
    app.engine.state.register(WorkerRecord("w@here", "here", 1, ("celery",), 1, 30.0))
    result = app.send_task("add", (1, 2))
    with pytest.raises(
        exceptions.TimeoutError, match="It waits in the queue 'celery', which w@here"
    ):
        result.get(0.2)
    assert caplog.messages == []


def test_a_timeout_says_where_the_task_is(app: App) -> None:
    broker, state = app.engine.broker, app.engine.state
    worker = state.register(WorkerRecord("w@here", "here", 1, ("celery",), 1, 30.0))

    def complaint(result: Any) -> str:
        with pytest.raises(exceptions.TimeoutError) as caught:
            result.get(0.01)
        return str(caught.value)

    never = complaint(app.AsyncResult("never"))
    assert f"There is nothing of this id in {app.engine.name}: never sent, or expired." in never
    assert "It goes on" not in never
    waiting = app.send_task("nobody.knows", (1, 2))
    assert "It waits in the queue 'celery', which w@here works on." in complaint(waiting)
    assert "The app here has no task 'nobody.knows'." in complaint(waiting)
    assert f"{waiting.id}: It waits" in complaint(app.ResultSet([waiting]))
    later = app.send_task("add", (1, 2), eta="2999-01-01T12:00:00Z")
    assert "It is due at 2999-01-01 12:00:00+00:00 in the queue 'celery'." in complaint(later)
    state.pause("celery")
    assert "is paused. Go on: umbel -A " in complaint(waiting)
    assert complaint(waiting).endswith(" queues --resume celery")
    state.resume("celery")
    deliveries = broker.claim(worker, ("celery",), 1).deliveries
    assert complaint(waiting).endswith("w@here has it. It goes on.")
    (one,) = deliveries
    end = Bury(waiting.id, "nobody.knows", "unknown", "no such task")
    broker.settle([Settlement(one.number, one.worker, one.attempt, end)])
    assert f"It is a dead letter (unknown): umbel -A {app.module} dead show" in complaint(waiting)
    entry = HistoryEntry("gone", "add", "celery", "IGNORED", 1.0, None, "w@here", 0, "")
    kept = app.send_task("add", (1, 2), task_id="gone")
    (one,) = broker.claim(worker, ("celery",), 1).deliveries
    broker.settle([Settlement(one.number, one.worker, one.attempt, Acknowledge(), history=entry)])
    assert "It has ended (IGNORED), and no result of it is kept." in complaint(kept)


def test_a_task_that_nobody_knows_ends_with_the_nearest_name(app: App) -> None:
    app.conf.task_unknown_timeout = 0.1
    result = app.send_task("ad", (1, 2))
    with (
        start_worker(app, perform_ping_check=False),
        pytest.raises(exceptions.NotRegistered, match=r"'ad'.*nearest.*'add'"),
    ):
        result.get(10)
    (letter,) = app.engine.state.dead_letters()
    assert (letter.id, letter.task, letter.reason) == (result.id, "ad", "unknown")


# ------------------------------------------------------------------------------- extended metas


def test_extended_results_tell_of_the_call(app: App, run: Callable[..., AsyncResult[Any]]) -> None:
    plain = run("add", 1, 2)
    assert (plain.name, plain.args, plain.kwargs, plain.worker, plain.retries, plain.queue) == (
        (None,) * 6
    )
    app.conf.result_extended = True
    added, failed = run("add", 1, 2), run("fail")
    assert (added.name, added.args, added.kwargs, added.retries) == ("add", [1, 2], {}, 0)
    assert added.queue == "celery"
    assert added.worker
    assert (failed.name, failed.args, failed.state) == ("fail", [], "FAILURE")
    expired = run("add", 1, 2, expires=-1)
    assert (expired.state, expired.name, expired.args) == ("REVOKED", "add", None)


def test_what_a_task_sends_are_its_children(app: App) -> None:
    @app.task(name="parent")
    def parent() -> None:
        app.tasks["add"].delay(1, 2)
        app.tasks["add"].delay(3, 4)

    result = app.send_task("parent")
    with start_worker(app, perform_ping_check=False):
        result.get(10)
        children = result.children
        assert children is not None
        assert [child.get(10) for child in children] == [3, 7]


def test_remote_tracebacks(app: App, run: Callable[..., AsyncResult[Any]]) -> None:
    """The error is raised with stand-ins for the frames of the task."""
    failed = run("fail")
    with pytest.raises(ValueError, match="no such luck") as raised:
        failed.get()
    assert raised.traceback[-1].name == "_value"
    assert "no such luck" in raised.value.__notes__[0]
    app.conf.task_remote_tracebacks = True
    with pytest.raises(ValueError, match="no such luck") as raised:
        failed.get()
    frame = raised.value.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    assert frame is not None
    code = frame.tb_frame.f_code
    assert (code.co_name, code.co_filename) == ("fail", __file__)
    assert 'raise ValueError("no such luck")' in Path(__file__).read_text().splitlines()[
        frame.tb_lineno - 1
    ]  # fmt: skip
    assert not hasattr(raised.value, "__notes__")
    assert remote_frames("no traceback at all") is None


def printed(file: str, line: int) -> str:
    error = ValueError("x")
    head = "Traceback (most recent call last):\n"
    error.__traceback__ = remote_frames(f'{head}  File "{file}", line {line}, in f\n')
    return "".join(traceback.format_exception(error))


def test_a_remote_traceback_shows_lines_of_this_programs_own_sources_only(tmp_path: Path) -> None:
    secret = tmp_path / "secret.py"
    secret.write_text("TOKEN = 1\n")
    here = os.path.relpath(secret)
    for file in ("/etc/passwd", "a\0b", "../" * 20 + "etc/passwd", str(secret), here):
        text = printed(file, 1)
        assert "root:" not in text
        assert "TOKEN" not in text
        assert file.replace("\0", "\\0") in text
    own = Path(__file__).read_text().splitlines()
    for number in (1, 20):
        text = printed(__file__, number)
        assert f'"{__file__}", line {number}, in f\n    {own[number - 1]}' in text


def test_a_result_without_an_app_is_the_current_ones(app: App) -> None:
    app.set_current()
    result = app.send_task("add", (1, 2))
    assert AsyncResult[int](result.id).app is app
    back = pickle.loads(pickle.dumps(result))
    assert back == result
    assert back.app is app
    assert back.ignored is False


def test_a_retry_tells_when_it_comes(app: App) -> None:
    """As Celery's: seconds of a countdown, the time of an ETA."""
    seen: list[exceptions.Retry] = []

    @app.task(bind=True, name="again")
    def again(self: Task[..., Any], options: dict[str, Any]) -> None:
        seen.append(self.retry(throw=False, **options))

    with start_worker(app, perform_ping_check=False):
        for options in ({"countdown": 100}, {"eta": "2099-01-01T00:00:00+00:00"}, {}):
            again.delay(options)
        add = app.tasks["add"].delay(1, 2)
        assert add.get(10) == 3
    at = datetime(2099, 1, 1, tzinfo=UTC)
    assert [retry.when for retry in seen] == [100, at, 180.0]
    assert [retry.humanize() for retry in seen] == ["in 100s", f"at {at}", "in 180s"]
    assert app.tasks["add"].AsyncResult(add.id) == add


def test_a_task_that_waits_for_another_fails_and_says_why(
    app: App, run: Callable[..., AsyncResult[Any]]
) -> None:
    @app.task(name="waits")
    def waits() -> Any:
        return app.tasks["add"].delay(1, 2).get(timeout=5)

    with pytest.raises(RuntimeError, match=r"Never call result.get\(\) within a task!"):
        run("waits").get()
