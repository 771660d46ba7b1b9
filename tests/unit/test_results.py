"""`AsyncResult` and `ResultSet`, on the memory engine: what a caller learns, and how it waits."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import pickle
import signal as signals
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from umbel import App, exceptions, states
from umbel.app.request import Request, current
from umbel.engines.broker import Bury, Settlement, StoredResult
from umbel.engines.state import WorkerRecord
from umbel.message import result as message
from umbel.result import (
    AsyncResult,
    EagerResult,
    ResultSet,
    allow_join_result,
    assert_will_not_block,
    denied_join_result,
    result_from_tuple,
)


class BoomError(Exception):
    pass


class CodedError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


stores = itertools.count()


@pytest.fixture
def app() -> Iterator[App]:
    app = App("results", broker=f"memory://results-{next(stores)}", backend="broker")

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    yield app
    app.engine.close()


def put(app: App, id: str, status: str, meta: bytes) -> None:
    app.engine.results.put([StoredResult(id, status, meta)])


def succeed(app: App, id: str, value: object = None, **more: Any) -> None:
    put(app, id, "SUCCESS", message.encode_success(id, value, time.time(), **more))


def fail(app: App, id: str, error: BaseException, status: str = "FAILURE") -> None:
    record = message.describe_exception(error)
    text = f"Traceback (most recent call last):\n  far away\n{error!r}"
    put(app, id, status, message.encode_failure(id, record, time.time(), text, status=status))


def progress(app: App, id: str, state: str, meta: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "status": state,
        "result": meta,
        "traceback": None,
        "children": [],
        "task_id": id,
    }
    put(app, id, state, json.dumps({**fields, "date_done": None}).encode())


# ------------------------------------------------------------------------------------- identity


def test_results_are_equal_by_id(app: App) -> None:
    one, same, other = app.AsyncResult("a"), AsyncResult[int]("a", app=app), app.AsyncResult("b")
    assert one == same
    assert one == "a"
    assert one != other
    assert one != "b"
    assert one != 1
    assert len({one, same, other}) == 2
    assert (str(one), one.task_id, repr(one)) == ("a", "a", "<AsyncResult: a>")


def test_a_result_is_copied_and_passed_on_as_a_tuple(app: App) -> None:
    parent = app.AsyncResult("p")
    child = app.AsyncResult("c", parent=parent)
    assert child.as_tuple() == (("c", (("p", None), None)), None)
    assert child.as_list() == ["c", "p"]
    for back in (
        copy.copy(child),
        result_from_tuple(child.as_tuple(), app),
        result_from_tuple(json.loads(json.dumps(child.as_tuple())), app),
        result_from_tuple(child, app),
    ):
        assert back.as_list() == ["c", "p"]
        assert back.app is app
    assert result_from_tuple(["id", None], app).parent is None


@pytest.mark.parametrize("wrong", ["xy", 5, None, ((1, None), None), (("g", None), 5)])
def test_what_is_no_tuple_of_a_result_is_refused(app: App, wrong: object) -> None:
    with pytest.raises(ValueError, match="no result's tuple"):
        result_from_tuple(wrong, app)


def test_a_result_needs_an_id_and_no_backend(app: App) -> None:
    with pytest.raises(ValueError, match="which is text; got None"):
        AsyncResult(None, app=app)  # type: ignore[arg-type]
    with pytest.raises(exceptions.ImproperlyConfigured, match="AsyncResult\\(id, app=app\\)"):
        AsyncResult("a", object(), app=app)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("backend", "one result store"),
        ("on_ready", r"then\(callback\)"),
        ("revoke_by_stamped_headers", "comes with remote control"),
    ],
)
def test_what_is_not_there_says_why(app: App, name: str, why: str) -> None:
    kinds: list[Any] = [app.AsyncResult("a"), app.ResultSet([])]
    for result in kinds:
        with pytest.raises(AttributeError, match=f"has no attribute '{name}': .*{why}"):
            getattr(result, name)
    with pytest.raises(AttributeError, match=r"no attribute 'typo'$"):
        _ = app.AsyncResult("a").typo  # type: ignore[attr-defined]


CELERY = [
    "TimeoutError", "app", "args", "as_list", "as_tuple", "children", "collect", "date_done",
    "exists", "failed", "forget", "get", "get_leaf", "id", "ignored", "info", "iterdeps", "kwargs",
    "maybe_reraise", "maybe_throw", "name", "parent", "queue", "ready", "result", "retries",
    "revoke", "state", "status", "successful", "supports_native_join", "task_id", "then", "throw",
    "traceback", "wait", "worker",
]  # fmt: skip
CELERY_SET = [
    "add", "app", "clear", "completed_count", "discard", "failed", "forget", "get", "iter_native",
    "join", "join_native", "maybe_reraise", "maybe_throw", "parent", "ready", "remove", "results",
    "revoke", "successful", "supports_native_join", "then", "update", "waiting",
]  # fmt: skip


def test_every_other_name_of_celerys_is_there(app: App) -> None:
    succeed(app, "a", 1)
    result, several = app.AsyncResult("a"), app.ResultSet([app.AsyncResult("a")])
    assert [name for name in CELERY if not hasattr(result, name)] == []
    assert [name for name in CELERY_SET if not hasattr(several, name)] == []
    with pytest.raises(BoomError, match="thrown"):
        result.throw(BoomError("thrown"))


def test_a_task_may_return_a_result(app: App) -> None:
    succeed(app, "a", app.AsyncResult("b"))
    value = app.AsyncResult("a").get()
    assert result_from_tuple(value, app) == "b"


# --------------------------------------------------------------------------------- what it tells


def test_what_a_result_tells_in_each_state(app: App) -> None:
    result = app.AsyncResult("a")
    seen = []

    def note() -> None:
        assert result.state == result.status
        assert result.result == result.info
        seen.append((result.state, result.result, result.ready(), result.successful()))

    note()
    progress(app, "a", "STARTED", {"pid": 5, "hostname": "w@h"})
    note()
    progress(app, "a", "PROGRESS", {"done": 3})
    note()
    succeed(app, "a", [1])
    note()
    assert seen == [
        ("PENDING", None, False, False),
        ("STARTED", {"pid": 5, "hostname": "w@h"}, False, False),
        ("PROGRESS", {"done": 3}, False, False),
        ("SUCCESS", [1], True, True),
    ]
    assert not result.failed()
    assert result.traceback is None
    assert result.date_done is not None
    assert timedelta(0) <= datetime.now(UTC) - result.date_done < timedelta(minutes=1)


def test_a_retry_shows_its_cause(app: App) -> None:
    fail(app, "a", OSError("later"), "RETRY")
    result = app.AsyncResult("a")
    assert result.state == "RETRY"
    assert isinstance(result.info, OSError)
    assert not result.ready()
    assert result.maybe_throw().args == ("later",)


def test_children_and_what_they_led_to(app: App) -> None:
    children = [app.AsyncResult("b").as_tuple(), app.AsyncResult("c").as_tuple()]
    succeed(app, "a", 1, children=children)
    result = app.AsyncResult("a")
    assert app.AsyncResult("none").children is None
    assert result.children == [app.AsyncResult("b"), app.AsyncResult("c")]
    with pytest.raises(exceptions.IncompleteStream, match="Task b has not ended"):
        list(result.iterdeps())
    assert [node.id for _, node in result.iterdeps(intermediate=True)] == ["a", "b", "c"]
    succeed(app, "b", 2)
    succeed(app, "c", 3, children=[app.AsyncResult("d").as_tuple()])
    succeed(app, "d", 4)
    assert [(r.id, value) for r, value in result.collect()] == [
        ("a", 1), ("b", 2), ("c", 3), ("d", 4),
    ]  # fmt: skip
    assert result.get_leaf() == 4


def test_exists_tells_an_unknown_id_from_one_that_waits(app: App) -> None:
    assert not app.AsyncResult("never").exists()
    waiting = app.send_task("add", (1, 2))
    assert waiting.exists()
    assert waiting.state == "PENDING"
    number = app.engine.state.register(WorkerRecord("w@h", "h", 1, ("celery",), 1, 30.0))
    (held,) = app.engine.broker.claim(number, ["celery"], 1).deliveries
    assert waiting.exists()
    fence = (held.number, held.worker, held.attempt)
    app.engine.broker.settle([Settlement(*fence, Bury(waiting.id, "add", "lost", "boom", 3))])
    assert app.AsyncResult(waiting.id).exists()
    app.engine.state.drop([app.engine.state.dead_letters()[0].number])
    assert not app.AsyncResult(waiting.id).exists()
    succeed(app, "done")
    result = app.AsyncResult("done")
    assert result.exists()
    result.forget()
    assert not result.exists()


def test_what_cannot_be_read_is_an_error_of_the_backend(app: App) -> None:
    put(app, "a", "SUCCESS", b"{}")
    with pytest.raises(exceptions.BackendGetMetaError, match="result of task a cannot be read"):
        app.AsyncResult("a").get()


# --------------------------------------------------------------------------------------- get


def test_get_returns_the_value_or_raises_the_error(app: App) -> None:
    succeed(app, "a", {"x": 1})
    fail(app, "b", ValueError("no", 5))
    seen: list[object] = []
    assert app.AsyncResult("a").get(callback=lambda id, value: seen.append((id, value))) == {"x": 1}
    assert seen == [("a", {"x": 1})]
    failed = app.AsyncResult("b")
    with pytest.raises(ValueError, match="no") as raised:
        failed.get()
    assert raised.value.args == ("no", 5)
    assert raised.value.__notes__ == [f"In the worker:\n{failed.traceback}"]
    assert failed.traceback
    assert "far away" in failed.traceback
    value = failed.get(propagate=False)
    assert isinstance(value, ValueError)
    with pytest.raises(ValueError, match="no"):
        failed.maybe_throw()
    assert isinstance(failed.maybe_reraise(propagate=False), ValueError)
    assert failed.failed()
    assert failed.wait(propagate=False).args == ("no", 5)


def test_an_error_raised_twice_is_told_once_each_time(app: App) -> None:
    fail(app, "a", BoomError("x"))
    result = app.AsyncResult("a")
    for _ in range(2):
        with pytest.raises(BoomError) as raised:
            result.get()
        assert len(raised.value.__notes__) == 1


def test_errors_that_a_task_module_knows_come_back_as_themselves(app: App) -> None:
    """As with Celery; but only classes that the app's own modules hold are ever made."""
    fail(app, "a", CodedError(5))
    stranger = App("stranger", broker=app.broker_url, backend="broker")
    with pytest.raises(exceptions.RemoteError, match="5") as raised:
        stranger.AsyncResult("a").get()
    assert type(raised.value).__name__ == "CodedError"

    @stranger.task
    def here() -> None:
        """A task of this module, which holds CodedError."""

    with pytest.raises(CodedError) as known:
        stranger.AsyncResult("a").get()
    assert known.value.code == 5
    fail(app, "b", pickle.PicklingError("x"))  # this module imports pickle, not that class
    with pytest.raises(exceptions.RemoteError):
        stranger.AsyncResult("b").get()


def test_a_timeout_of_nothing_looks_once(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    result = app.AsyncResult("a")
    monkeypatch.setattr(app.engine.results, "listen", lambda: pytest.fail("it waits"))
    for timeout in (0, -1, 0.0):
        with pytest.raises(exceptions.TimeoutError):
            result.get(timeout)
    with pytest.raises(result.TimeoutError):
        asyncio.run(result.aget(0))
    succeed(app, "a", 1)
    assert result.get(0) == 1
    assert asyncio.run(app.AsyncResult("a").aget(0)) == 1


def test_get_wakes_up_when_the_task_ends(app: App) -> None:
    result = app.AsyncResult("a")
    called = threading.Event()

    def end() -> None:
        assert called.wait(10)
        succeed(app, "a", 7)

    timer = threading.Thread(target=end)
    timer.start()
    assert result.get(timeout=10, interval=0.01, on_interval=called.set) == 7
    timer.join()


def test_messages_tell_of_each_state(app: App) -> None:
    progress(app, "a", "PROGRESS", {"done": 1})
    seen: list[tuple[str, Any]] = []

    def note(meta: dict[str, Any]) -> None:
        seen.append((meta["status"], meta["result"]))
        if meta["status"] == "PROGRESS" and meta["result"]["done"] == 1:
            progress(app, "a", "PROGRESS", {"done": 2})
        elif meta["status"] == "PROGRESS":
            succeed(app, "a", 3)

    assert app.AsyncResult("a").get(10, on_message=note) == 3
    assert seen == [("PROGRESS", {"done": 1}), ("PROGRESS", {"done": 2}), ("SUCCESS", 3)]


def test_the_error_of_a_step_before_comes_first(app: App) -> None:
    fail(app, "p", KeyError("first"))
    result = app.AsyncResult("c", parent=app.AsyncResult("m", parent=app.AsyncResult("p")))
    with pytest.raises(KeyError, match="first"):
        result.get(5)
    with pytest.raises(KeyError, match="first"):
        asyncio.run(result.aget(5))
    with pytest.raises(exceptions.TimeoutError):
        result.get(0, follow_parents=False)
    with pytest.raises(exceptions.TimeoutError):
        result.get(0, propagate=False)


def test_an_ignored_result_is_none_at_once(app: App) -> None:
    result = app.send_task("add", (1, 2), ignore_result=True)
    assert result.ignored
    assert result.get() is None
    assert asyncio.run(result.aget()) is None
    other = app.AsyncResult("x")
    other.ignored = True
    assert other.get() is None


def test_an_id_that_was_revoked(app: App) -> None:
    result = app.send_task("add", (1, 2))
    assert result.revoke()
    assert not result.revoke()
    assert result.state == states.REVOKED
    (entry,) = app.engine.state.history(id=result.id)
    assert (entry.task, entry.queue, entry.state) == ("add", "celery", states.REVOKED)
    with pytest.raises(exceptions.TaskRevokedError, match="revoked"):
        result.get()


@pytest.mark.parametrize(
    ("signal", "number"),
    [(None, 15), ("SIGTERM", 15), ("KILL", 9), (2, 2), ("10", 10), (signals.SIGUSR1, 10)],
)
def test_terminating_names_a_signal(app: App, signal: str | int | None, number: int) -> None:
    waiting = app.send_task("add", (1, 2))
    assert waiting.revoke(terminate=True, signal=signal)
    assert not app.AsyncResult("running").revoke(terminate=True, signal=signal)
    ResultSet([app.AsyncResult("member")], app=app).revoke(terminate=True, signal=signal)
    app.AsyncResult("other").revoke(signal=signal)
    expected = {waiting.id: number, "running": number, "member": number, "other": 0}
    told = app.engine.state.revocations(0)[1]
    assert told == expected
    assert {type(one) for one in told.values()} == {int}  # the driver of Redis takes no other


@pytest.mark.parametrize("signal", ["SIGNONE", "sigterm", "", 0, 99, -9])
def test_what_is_no_signal_is_refused(app: App, signal: str | int) -> None:
    with pytest.raises(ValueError, match=f"There is no signal {signal!r}"):
        app.AsyncResult("running").revoke(terminate=True, signal=signal)
    assert app.engine.state.revocations(0)[1] == {}


# ------------------------------------------------------------------------------ inside a task


@pytest.fixture
def in_a_task() -> Iterator[Request]:
    request = Request("a", "add", called_directly=False)
    token = current.set(request)
    yield request
    current.reset(token)


def test_a_task_does_not_wait_for_others(app: App, in_a_task: Request) -> None:
    succeed(app, "b", 1)
    result, several = app.AsyncResult("b"), app.ResultSet([app.AsyncResult("b")])
    for wait in (result.get, several.get, several.join_native, assert_will_not_block):
        with pytest.raises(RuntimeError, match=r"Never call result.get\(\) within a task!"):
            wait()
    for await_it in (result.aget, several.aget):
        with pytest.raises(RuntimeError, match="allow_join_result"):
            asyncio.run(await_it())
    assert result.get(disable_sync_subtasks=False) == 1
    assert several.get(disable_sync_subtasks=False) == [1]
    assert asyncio.run(result.aget(disable_sync_subtasks=False)) == 1
    with allow_join_result():
        assert result.get() == 1
        with denied_join_result(), pytest.raises(RuntimeError):
            result.get()
        assert asyncio.run(several.aget()) == [1]
    with pytest.raises(RuntimeError):
        result.get()
    in_a_task.called_directly = True
    assert result.get() == 1


def test_waiting_can_be_denied_anywhere(app: App) -> None:
    succeed(app, "b", 1)
    with denied_join_result(), pytest.raises(RuntimeError):
        app.AsyncResult("b").get()
    assert app.AsyncResult("b").get() == 1


# --------------------------------------------------------------------------------------- async


def test_the_async_twins(app: App) -> None:
    async def use() -> None:
        result = await add.adelay(1, 2)
        assert not await result.aready()
        assert await result.astate() == "PENDING"
        assert await result.aexists()
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, succeed, app, result.id, 3)
        assert await result == 3
        assert await result.aget() == 3
        assert await result.aresult() == 3
        assert await result.asuccessful()
        assert not await result.afailed()
        await result.aforget()
        assert await result.astate() == "PENDING"
        other = await add.adelay(1, 2)
        assert await other.arevoke()
        with pytest.raises(exceptions.TaskRevokedError):
            await other

    add = app.tasks["add"]
    asyncio.run(use())


def test_a_wait_that_is_cancelled_leaves_nothing_behind(app: App) -> None:
    async def use() -> None:
        with pytest.raises(exceptions.TimeoutError):
            await app.AsyncResult("a").aget(0.05)
        waiting = asyncio.ensure_future(app.AsyncResult("a").aget())
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(use())
    assert app.waiter._waiting == {}


# ---------------------------------------------------------------------------------------- then


def test_then_is_called_once_the_task_has_ended(app: App) -> None:
    seen: list[object] = []
    done = threading.Event()

    def note(result: AsyncResult[Any]) -> None:
        seen.append(result.get())
        done.set()

    late = app.AsyncResult("a")
    assert late.then(note) is late
    assert seen == []
    succeed(app, "a", 1)
    assert done.wait(10)
    app.AsyncResult("a").then(note)
    assert seen == [1, 1]


def test_an_error_in_a_callback_is_told(app: App, caplog: pytest.LogCaptureFixture) -> None:
    succeed(app, "a", 1)

    def refuse(_: object) -> None:
        raise BoomError("callback")

    errors: list[BaseException] = []
    app.AsyncResult("a").then(refuse, errors.append)
    assert [str(error) for error in errors] == ["callback"]
    app.AsyncResult("a").then(refuse)
    app.ResultSet([app.AsyncResult("a")]).then(refuse)
    assert len(caplog.records) == 2
    assert all(record.exc_info for record in caplog.records)


# ---------------------------------------------------------------------------------------- sets


@pytest.fixture
def several(app: App) -> ResultSet[Any]:
    return app.ResultSet([app.AsyncResult(id) for id in "abc"])


def test_members_come_and_go(app: App, several: ResultSet[Any]) -> None:
    several.add(app.AsyncResult("a"))
    several.add(app.AsyncResult("d"))
    several.update([app.AsyncResult("d"), app.AsyncResult("e"), app.AsyncResult("e")])
    assert [r.id for r in several] == list("abcde")
    several.remove("a")
    several.remove(app.AsyncResult("b"))
    with pytest.raises(KeyError):
        several.remove("a")
    several.discard("a")
    several.discard("c")
    assert several.results == ["d", "e"]
    assert len(several) == 2
    assert several[0] == "d"
    assert [r.id for r in several[-1:]] == ["e"]
    assert several == app.ResultSet([app.AsyncResult("d"), app.AsyncResult("e")])
    assert several != app.ResultSet([])
    assert repr(several) == "<ResultSet: [d, e]>"
    several.clear()
    assert list(several) == []
    assert several.get() == []
    assert several.ready()
    assert ResultSet([app.AsyncResult("a")]).app is app


def test_how_a_set_stands(app: App, several: ResultSet[Any]) -> None:
    def stand() -> tuple[object, ...]:
        return (
            several.ready(), several.waiting(), several.successful(), several.failed(),
            several.completed_count(),
        )  # fmt: skip

    assert stand() == (False, True, False, False, 0)
    succeed(app, "a", 1)
    fail(app, "b", KeyError("no"))
    assert stand() == (False, True, False, True, 1)
    with pytest.raises(KeyError, match="no"):
        several.maybe_throw()
    succeed(app, "c", 3)
    assert stand() == (True, False, False, True, 2)
    assert several.supports_native_join


def test_a_set_gives_its_values_in_order(app: App, several: ResultSet[Any]) -> None:
    seen: list[tuple[str, object]] = []
    states_seen: list[str] = []
    for id, value in (("c", 3), ("a", 1)):
        succeed(app, id, value)

    def last(meta: dict[str, Any]) -> None:
        states_seen.append(meta["task_id"])
        if meta["task_id"] == "a":
            succeed(app, "b", 2)

    assert several.get(10, on_message=last) == [1, 2, 3]
    assert sorted(states_seen) == ["a", "b", "c"]
    assert several.join() == several.join_native() == [1, 2, 3]
    assert several.get(callback=lambda id, value: seen.append((id, value))) == []
    assert sorted(seen) == [("a", 1), ("b", 2), ("c", 3)]
    assert asyncio.run(several.aget()) == [1, 2, 3]
    twice = app.ResultSet([app.AsyncResult("a"), app.AsyncResult("a")])
    assert twice.get(10) == [1, 1]


def test_the_first_to_end_comes_first(app: App, several: ResultSet[Any]) -> None:
    succeed(app, "c", 3)
    ends = several.iter_native(timeout=10)
    assert next(ends)[0] == "c"
    fail(app, "a", KeyError("no"))
    id, meta = next(ends)
    assert (id, meta["status"], type(meta["result"])) == ("a", "FAILURE", KeyError)
    succeed(app, "b", 2)
    assert next(ends)[1]["result"] == 2
    assert list(ends) == []


def test_a_set_fails_as_soon_as_one_of_its_tasks_has(app: App, several: ResultSet[Any]) -> None:
    fail(app, "c", KeyError("no"))
    with pytest.raises(KeyError, match="no"):
        several.get()
    with pytest.raises(KeyError, match="no"):
        asyncio.run(several.aget())
    succeed(app, "a", 1)
    succeed(app, "b", 2)
    values = several.get(propagate=False)
    assert values[:2] == [1, 2]
    assert isinstance(values[2], KeyError)
    assert isinstance(asyncio.run(several.aget(propagate=False))[2], KeyError)


def test_one_timeout_for_all(app: App, several: ResultSet[Any]) -> None:
    succeed(app, "b", 2)
    start = time.monotonic()
    with pytest.raises(exceptions.TimeoutError, match=r"2 of 3 tasks .* 0.1 s \(a, c\)"):
        several.get(0.1)
    with pytest.raises(exceptions.TimeoutError, match=r"2 of 3 tasks"):
        asyncio.run(several.aget(0.1))
    for wait in (several.get, several.join):
        with pytest.raises(exceptions.TimeoutError):
            wait(0)
    with pytest.raises(exceptions.TimeoutError):
        asyncio.run(several.aget(0))
    assert time.monotonic() - start < 5
    assert app.waiter._waiting == {}


def test_a_set_of_ignored_results(app: App) -> None:
    several = app.ResultSet([app.send_task("add", ignore_result=True), app.AsyncResult("a")])
    succeed(app, "a", 1)
    assert several.get() == [None, 1]
    assert asyncio.run(several.aget()) == [None, 1]


def test_a_set_is_revoked_and_forgotten_in_one_step(app: App) -> None:
    several = app.ResultSet([app.send_task("add", (n, n)) for n in range(3)])
    assert several.revoke() == 3
    assert several.ready()
    assert app.engine.broker.counts() == []
    several.forget()
    assert not several.ready()


def test_then_of_a_set(app: App, several: ResultSet[Any]) -> None:
    done = threading.Event()
    several.then(lambda _: done.set())
    succeed(app, "a", 1)
    fail(app, "b", KeyError("no"))
    assert not done.wait(0.01)
    succeed(app, "c", 1)
    assert done.wait(10)
    done.clear()
    several.then(lambda _: done.set())
    assert done.is_set()


def test_a_set_looks_once_for_all(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand results, and a handful of looks into the store."""
    ids = [str(n) for n in range(10_000)]
    for id in ids:
        succeed(app, id, int(id))
    looks = 0
    store = app.engine.results
    get = store.get

    def count(ids: Any, waker: Any = None) -> dict[str, StoredResult]:
        nonlocal looks
        looks += 1
        return get(ids, waker)

    monkeypatch.setattr(store, "get", count)
    several = app.ResultSet([app.AsyncResult(id) for id in ids])
    assert several.ready()
    assert several.completed_count() == len(ids)
    assert sum(several.get()) == sum(range(10_000))
    assert looks == 1
    assert sum(app.ResultSet([app.AsyncResult(id) for id in ids]).get()) == sum(range(10_000))
    assert looks == 2


def test_results_of_tasks_that_ran_here(app: App) -> None:
    done = EagerResult("a", 5, "SUCCESS", name="add")
    failed = EagerResult[int]("b", ValueError("no"), "FAILURE", "Traceback …")
    for one in (done, copy.copy(done), pickle.loads(pickle.dumps(done))):
        assert (one.get(), one.wait(0), one.state, one.name) == (5, 5, "SUCCESS", "add")
        assert one.ready()
        assert one.successful()
        assert one.get_leaf() == 5
        assert repr(one) == "<EagerResult: a>"
    assert asyncio.run(done.aget()) == 5
    with pytest.raises(ValueError, match="no"):
        failed.get()
    assert failed.get(propagate=False) is failed.result
    assert failed.traceback == "Traceback …"
    seen: list[object] = []
    done.then(seen.append)
    assert seen == [done]
    succeed(app, "c", 6)
    assert ResultSet([done, app.AsyncResult("c")]).get(5) == [5, 6]
    with denied_join_result():
        with pytest.raises(RuntimeError):
            done.get()
        assert done.get(disable_sync_subtasks=False) == 5
    several = ResultSet([done])
    several.forget()
    assert done.get() == 5
    several.revoke()
    assert done.state == "REVOKED"
    with pytest.raises(exceptions.TaskRevokedError):
        done.get()
