"""Eager calls: `apply` and `task_always_eager` run a task where it is sent."""

import asyncio
import copy
import pickle
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from umbel import App, AsyncResult, Task, signals
from umbel.exceptions import (
    EncodeError,
    Ignore,
    MaxRetriesExceededError,
    NotRegistered,
    Reject,
    TaskRevokedError,
)
from umbel.result import EagerResult, allow_join_result

app = App("eager", broker="memory://eager", result_backend="broker")


@app.task
def echo(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


@app.task
def fails(text: str) -> None:
    raise KeyError(text)


@app.task(bind=True)
def about(self: Task[..., Any]) -> dict[str, Any]:
    request = self.request
    return {
        "id": request.id,
        "retries": request.retries,
        "is_eager": request.is_eager,
        "called_directly": request.called_directly,
        "thread": threading.get_ident(),
        "parent": request.parent_id,
        "root": request.root_id,
    }


@app.task(bind=True, max_retries=3)
def flaky(self: Task[..., Any], fails: int, seen: Any = None) -> tuple[int, Any]:
    if self.request.retries < fails:
        raise self.retry(countdown=3600, exc=ValueError("once more"))
    return self.request.retries, seen


@app.task(bind=True)
def changes(self: Task[..., Any], number: int) -> int:
    if not self.request.retries:
        raise self.retry(args=(number + 1,))
    return number


@app.task(bind=True, max_retries=1)
def gives_up(self: Task[..., Any]) -> None:
    self.retry()


@app.task
def outer() -> tuple[Any, Any]:
    result = about.delay()
    return result, result.get(disable_sync_subtasks=False)


@app.task
async def later(x: int, y: int) -> tuple[int, int]:
    await asyncio.sleep(0)
    return x + y, threading.get_ident()


@app.task
async def outer_later() -> Any:
    with allow_join_result():
        return later.delay(1, 2).get()[0], (await (await later.adelay(3, 4)).aget())[0]


@app.task
def leaves() -> None:
    raise SystemExit(3)


@pytest.fixture
def always_eager() -> Iterator[None]:
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False
    app.conf.task_eager_propagates = False
    app.conf.task_store_eager_result = False
    assert app.engine.broker.counts() == []


def test_apply_runs_it_here_with_the_very_arguments() -> None:
    thing = object()
    result = echo.apply((thing,), {"key": thing})
    assert isinstance(result, EagerResult)
    assert result.get() == ((thing,), {"key": thing})
    assert (result.state, result.status, result.ready(), result.successful()) == (
        "SUCCESS",
        "SUCCESS",
        True,
        True,
    )
    assert (result.failed(), result.traceback, result.name) == (False, None, echo.name)
    assert (result.info, result.result) == (result.get(), result.get())


def test_apply_shows_itself_in_the_request() -> None:
    seen = about.apply(task_id="mine", retries=2).get()
    assert seen == {
        "id": "mine",
        "retries": 2,
        "is_eager": True,
        "called_directly": False,
        "thread": threading.get_ident(),
        "parent": None,
        "root": "mine",
    }


def test_a_failure_is_in_the_result_or_raised() -> None:
    result = fails.apply(("here",))
    assert (result.state, result.failed()) == ("FAILURE", True)
    assert isinstance(result.result, KeyError)
    assert result.traceback is not None
    assert "in fails" in result.traceback
    assert "umbel" not in result.traceback.replace("test_eager", "")
    with pytest.raises(KeyError, match="here"):
        result.get()
    assert isinstance(result.get(propagate=False), KeyError)
    with pytest.raises(KeyError, match="here"):
        fails.apply(("here",), throw=True)


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TypeError):
        fails.apply(())


def test_retries_run_at_once() -> None:
    thing = object()
    assert flaky.apply((3, thing)).get() == (3, thing)
    assert changes.apply((5,)).get() == 6
    result = flaky.apply((9,))
    assert isinstance(result.result, ValueError)
    assert isinstance(gives_up.apply().result, MaxRetriesExceededError)


def test_leaving_the_program_leaves_it() -> None:
    with pytest.raises(SystemExit):
        leaves.apply()


@pytest.mark.usefixtures("always_eager")
def test_always_eager_takes_the_place_of_sending() -> None:
    for result in (
        echo.delay(1, [(2, 3)]),
        echo.apply_async((1, [(2, 3)]), countdown=3600, queue="elsewhere"),
        app.send_task(echo.name, (1, [(2, 3)])),
    ):
        assert isinstance(result, AsyncResult)
        # Copies, as a worker gets them.
        assert result.get(timeout=1) == ((1, [[2, 3]]), {})
    with pytest.raises(EncodeError, match="Argument 1"):
        echo.delay(object())
    with pytest.raises(TypeError):
        about.apply_async((1,))


@pytest.mark.usefixtures("always_eager")
def test_any_serializer_makes_its_round_trip() -> None:
    assert echo.apply_async(({1, 2},), serializer="pickle").get() == (({1, 2},), {})
    assert echo.apply_async((b"\0",), serializer="msgpack").get() == ((b"\0",), {})


@pytest.mark.usefixtures("always_eager")
def test_always_eager_propagates_when_asked_to() -> None:
    assert fails.delay("quiet").failed()
    app.conf.task_eager_propagates = True
    with pytest.raises(KeyError, match="loud") as raised:
        fails.delay("loud")
    assert raised.traceback[-1].name == "fails"
    assert flaky.delay(2).get() == (2, None)


@pytest.mark.usefixtures("always_eager")
def test_always_eager_leaves_the_tasks_of_others_to_others() -> None:
    result = app.send_task("elsewhere.task")
    assert not isinstance(result, EagerResult)
    assert [held.queue for held in app.engine.broker.browse(id=result.id)] == ["celery"]
    app.engine.broker.purge(["celery"])


@pytest.mark.usefixtures("always_eager")
def test_eager_results_are_stored_when_asked_for() -> None:
    assert app.AsyncResult(echo.delay(1).id).state == "PENDING"
    app.conf.task_store_eager_result = True
    assert app.AsyncResult(echo.delay(1).id).get(timeout=1) == [[1], {}]
    assert app.AsyncResult(fails.delay("x").id).state == "FAILURE"
    with pytest.raises(EncodeError):
        echo.apply((object(),)).get()


class Told(Task):
    def before_start(self, *_: Any) -> None:
        self.heard.append("before_start")

    def on_success(self, *_: Any) -> None:
        self.heard.append("on_success")

    def on_failure(self, *_: Any) -> None:
        self.heard.append("on_failure")

    def on_retry(self, *_: Any) -> None:
        self.heard.append("on_retry")

    def after_return(self, *_: Any) -> None:
        self.heard.append("after_return")

    heard: ClassVar[list[str]] = []


@app.task(base=Told, autoretry_for=(KeyError,), max_retries=1, retry_backoff=True)
def told(how: str) -> str:
    if how == "ignore":
        raise Ignore
    if how == "reject":
        raise Reject("unwanted", requeue=False)
    if how == "fail":
        raise KeyError(how)
    return how


@pytest.mark.parametrize(
    ("how", "state", "heard"),
    [
        ("return", "SUCCESS", ["before_start", "on_success", "after_return"]),
        (
            "fail",
            "FAILURE",
            ["before_start", "on_retry", "before_start", "on_failure", "after_return"],
        ),
        ("ignore", "IGNORED", ["before_start"]),
        ("reject", "REJECTED", ["before_start"]),
    ],
)
def test_handlers_come_as_in_a_worker(how: str, state: str, heard: list[str]) -> None:
    Told.heard.clear()
    signalled: list[str] = []

    def prerun(sender: object, signal: Any, **_: object) -> None:
        signalled.append(signal.name)

    signals.task_prerun.connect(prerun)
    assert told.apply((how,)).state == state
    signals.task_prerun.disconnect(prerun)
    assert Told.heard == heard
    assert signalled == ["task_prerun"] * heard.count("before_start")


@pytest.mark.usefixtures("always_eager")
def test_eager_calls_nest() -> None:
    result = outer.delay()
    inner, seen = result.get()
    assert (seen["parent"], seen["root"]) == (result.id, result.id)
    assert inner.id == seen["id"]


@pytest.mark.usefixtures("always_eager")
def test_coroutines_run_from_plain_code_and_on_the_callers_loop() -> None:
    assert later.delay(1, 2).get()[0] == 3
    assert later.apply((1, 2)).get() == (3, threading.get_ident())
    assert outer_later.delay().get() == (3, 7)

    async def main() -> tuple[Any, Any]:
        result = await later.adelay(1, 2)
        return await result.aget(), (await about.adelay()).get()["thread"]

    mine = threading.get_ident()
    assert asyncio.run(main()) == ((3, mine), mine)


def test_an_eager_result_is_complete() -> None:
    result = echo.apply((1,), task_id="mine")
    heard: list[AsyncResult[Any]] = []
    result.then(heard.append)
    assert heard == [result]
    assert repr(result) == "<EagerResult: mine>"
    again = pickle.loads(pickle.dumps(result))
    assert (again, again.get(), again.name) == (result, ((1,), {}), echo.name)
    assert result.wait(timeout=1) == result.get()
    result.forget()
    assert result.successful()
    result.revoke(terminate=True)
    assert result.state == "REVOKED"
    with pytest.raises(TaskRevokedError):
        result.get()


def test_an_eager_result_knows_what_is_known_of_it() -> None:
    result = echo.apply((1,), task_id="mine")
    assert (result.id, result.task_id, str(result)) == ("mine", "mine", "mine")
    current = App("current", broker="memory://eager")
    assert (result.app, EagerResult("x", 1, "SUCCESS").app) == (app, current)
    assert copy.copy(result).app is app
    app.set_current()
    assert result.exists()
    assert not result.ignored
    assert not result.supports_native_join
    assert result.as_list() == ["mine"]
    assert result.as_tuple() == (("mine", None), None)
    assert (result.parent, result.children) == (None, [])
    assert [result.args, result.kwargs, result.worker, result.retries, result.queue] == [None] * 5
    assert result.date_done is None
    assert list(result.iterdeps()) == [(None, result)]
    assert list(result.collect()) == [(result, ((1,), {}))]
    assert result.maybe_throw() == result.maybe_reraise() == result.result
    failed = fails.apply(("here",))
    for throw in (failed.maybe_throw, failed.maybe_reraise, failed.get):
        with pytest.raises(KeyError, match="here"):
            throw()
    with pytest.raises(EagerResult.TimeoutError):
        failed.throw(result.TimeoutError("mine"))


def test_a_task_of_no_app_here_is_told() -> None:
    other = App("other", broker="memory://eager")
    other.tasks[echo.name] = echo
    echo_of_other = app.tasks.pop(echo.name)
    try:
        assert isinstance(echo_of_other.apply().result, NotRegistered)
    finally:
        app.tasks[echo.name] = echo_of_other
