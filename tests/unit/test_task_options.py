"""What the options and attributes of a task do, one by one."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from umbel import App, AsyncResult, Task, shared_task, states
from umbel.app.shared import sharings
from umbel.engines.broker import Acknowledge, Bury, Delivery, PutBack
from umbel.exceptions import MaxRetriesExceededError, OperationalError, WorkerLostError
from umbel.message import task as task_message
from umbel.signals import task_received
from umbel.testing import Harness
from umbel.worker.notices import Notices, tell_received
from umbel.worker.settle import Settler

app = App("options")
told: list[Any] = []


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    told.clear()
    known = len(sharings)
    yield
    del sharings[known:]


def delivery_of(task: Task[..., Any], **options: Any) -> Delivery:
    """A message of a task as a worker claims it."""
    result = task.apply_async(**options)
    (waiting,) = task.app.engine.broker.browse(id=result.id)
    assert waiting.number is not None
    return Delivery(waiting.number, 1, 1, waiting.queue, waiting.payload)


# ------------------------------------------------------------------------------------ errors


def test_a_task_may_have_its_own_error_for_too_many_retries(umbel: Harness) -> None:
    class WearyError(MaxRetriesExceededError):
        pass

    class Tired(Task[..., Any]):
        MaxRetriesExceededError = WearyError

    @app.task(bind=True, base=Tired, max_retries=0, name="options.tired")
    def tired(self: Task[..., Any], x: int, *, y: int) -> None:
        self.retry()

    tired.delay(1, y=2)
    with pytest.raises(WearyError, match=r"Can't retry options\.tired\[") as caught:
        umbel.run()
    assert (list(caught.value.task_args), caught.value.task_kwargs) == ([1], {"y": 2})
    assert Task.MaxRetriesExceededError is MaxRetriesExceededError


def test_no_notice_ends_a_worker(caplog: pytest.LogCaptureFixture) -> None:
    own = App("options-notices", broker="memory://options-notices", set_as_current=False)
    task = own.task(name="notices.bad")(lambda: None)
    task.on_failure = lambda *_: None  # type: ignore[method-assign]
    task.autoretry_for = 5  # type: ignore[assignment]  # set past all checks

    def leave(**_: object) -> None:
        raise SystemExit(3)

    delivery = delivery_of(task)
    headers = task_message.decode_headers(delivery.payload)
    settlement = Settler(own, "n", Notices(own, "n")).failed(delivery, headers, OSError("x"))
    assert isinstance(settlement.end, Acknowledge)
    task_received.connect(leave)
    try:
        tell_received(own, delivery, headers, "n")
    finally:
        task_received.disconnect(leave)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "the worker goes on" in caplog.text


def test_a_task_names_the_error_of_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    own = App("options-away", broker="memory://options-away", set_as_current=False)
    task = own.task(name="away")(lambda: None)

    def refuse(*_: object, **__: object) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(own.engine.broker, "publish", refuse)
    with pytest.raises(task.OperationalError, match="away"):
        task.apply_async(retry=False)


def test_expected_errors_are_raised_as_themselves_and_logged_quietly(
    umbel: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    class Calm(Task[..., Any]):
        throws = (KeyError,)

    @app.task(base=Calm, name="options.calm")
    def calm(kind: str) -> None:
        raise {"key": KeyError, "value": ValueError}[kind]("x")

    caplog.set_level(logging.INFO, "umbel.app.trace")
    calm.delay("key")
    calm.delay("value")
    umbel.run(propagate=False)
    lines = [(r.levelname, bool(r.exc_info)) for r in caplog.records if "raised" in r.message]
    assert lines == [("INFO", False), ("ERROR", True)]


# ------------------------------------------------------------------------- how it is made


def test_an_abstract_class_is_no_task_until_it_is_registered() -> None:
    own = App("options-abstract", broker="memory://", set_as_current=False)
    shared = set(own.tasks)  # by other tests' modules, with all apps

    class Base(Task[..., Any]):
        abstract = True

        def run(self) -> str:
            return "ran"

    assert set(own.tasks) == shared
    made = own.register_task(Base())
    assert made() == "ran"
    assert set(own.tasks) - shared == {made.name}


def test_bind_makes_it_a_task_of_an_app_and_tells_it() -> None:
    class Told(Task[..., Any]):
        name = "told"

        @classmethod
        def on_bound(cls, app: App) -> None:
            told.append((cls, app))

        def run(self) -> None: ...

    own = App("options-bind", broker="memory://", set_as_current=False)
    task = Told()
    assert task.bind(own) is own
    assert task.app is own
    assert told == [], "the settings may still come"
    own.finalize()
    task.bind(own)
    assert told == [(Told, own)]


def test_options_from_settings() -> None:
    class Configured(Task[..., Any]):
        from_config = (("tries", "task_max_deliveries"), ("given", "task_max_deliveries"))
        tries: int | None = None
        given: int | None = 7

    own = App("options-config", broker="memory://", set_as_current=False, task_max_deliveries=9)
    task: Any = own.task(base=Configured, name="configured")(lambda: None)
    own.finalize()
    assert (task.tries, task.given) == (9, 7)


def test_annotate_applies_what_the_settings_say() -> None:
    own = App("options-annotate", broker="memory://", set_as_current=False)
    task: Any = own.task(name="annotated")(lambda: "as it is")
    own.finalize()
    own.conf.task_annotations = {"annotated": {"queue": "q", "@run": lambda run: lambda: "other"}}
    assert (task.queue, task()) == (None, "as it is")
    task.annotate()
    assert (task.queue, task()) == ("q", "other")


def test_add_around_wraps_a_method_once() -> None:
    own = App("options-around", broker="memory://", set_as_current=False)
    task: Any = own.task(name="around")(lambda x: x)

    def outer(run: Any) -> Any:
        return lambda x: ("outer", run(x))

    task.add_around("run", outer)
    assert task(1) == ("outer", 1)
    task.add_around("run", outer)
    assert task(1) == ("outer", 1), "around the original, not around what was around it"


def test_a_filter_takes_the_tasks_place() -> None:
    own = App("options-filter", broker="memory://", set_as_current=False)

    def choose(task: Task[..., Any]) -> Any:
        told.append(task.name)
        return "instead of it"

    chosen: Any = own.task(filter=choose, name="filtered")(lambda: None)
    assert (chosen, told) == ("instead of it", ["filtered"])
    assert "filtered" in own.tasks
    other: Any = shared_task(filter=choose, name="options.shared")(lambda: None)
    assert other == "instead of it"


def test_a_lazy_task_is_there_at_once() -> None:
    own = App("options-lazy", broker="memory://", set_as_current=False)
    for lazy in (True, False):
        own.task(lazy=lazy, name=f"lazy{lazy}")(lambda: None)
        assert own.finalized is False
    assert {"lazyTrue", "lazyFalse"} <= set(own.tasks)


@pytest.mark.parametrize(
    "name", ["backend", "Request", "Strategy", "request_stack", "start_strategy"]
)
def test_what_is_not_there_says_what_is(name: str) -> None:
    task = app.task(name="options.plain")(lambda: None)
    with pytest.raises(AttributeError, match=rf"has no attribute '{name}'\. \w.*\.$"):
        getattr(task, name)
    with pytest.raises(AttributeError, match=r"has no attribute 'nothing_such'$"):
        task.nothing_such  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(task, name)


# ------------------------------------------------------------------------------ what is shown


class Shadowed(Task[..., Any]):
    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str | None:
        told.append((args, kwargs, options))
        return f"{self.name} for {args[0]}" if args else None


@app.task(base=Shadowed, name="options.shadowed")
def shadowed(*args: Any, **kwargs: Any) -> list[Any]:
    return [*args]


def test_shadow_name_names_the_message(umbel: Harness) -> None:
    shadowed.apply_async(("me",), {"k": 1}, countdown=-1)
    shadowed.delay()
    shadowed.apply_async(("me",), shadow="said")
    shadowed.apply_many([("a",), ("b",)])
    names = [task_message.decode_headers(w.payload).shadow for w in app.engine.broker.browse()]
    assert names == [
        "options.shadowed for me", None, "said", "options.shadowed for a",
        "options.shadowed for b",
    ]  # fmt: skip
    assert told[0] == (("me",), {"k": 1}, {"countdown": -1})
    assert len(told) == 4


def test_shadow_name_may_be_a_function() -> None:
    def name_it(task: Any, args: Any, kwargs: Any, options: Any) -> str:
        return f"{task.name}/{args[0]}"

    own = App("options-shadow", broker="memory://options-shadow", set_as_current=False)
    task = own.task(name="fn", shadow_name=name_it)(lambda x: x)
    task.delay(5)
    (waiting,) = own.engine.broker.browse()
    assert task_message.decode_headers(waiting.payload).shadow == "fn/5"


def test_lines_of_receipt_and_end_have_the_shadow(
    umbel: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(bind=True, name="options.acting", max_retries=1, default_retry_delay=0)
    def act(self: Task[..., Any], what: str) -> str:
        if what == "retry":
            raise self.retry()
        if what == "fail":
            raise LookupError
        return what

    caplog.set_level(logging.INFO, "umbel")
    act.apply_async(("end",), shadow="short")
    act.apply_async(("fail",), shadow="short")
    act.apply_async(("retry",), shadow="short")
    act.apply_async(("late",), shadow="short", expires=-1)
    umbel.run(propagate=False)
    lines = [r.getMessage() for r in caplog.records if "]" in r.getMessage()]
    assert len(lines) == 10
    spoken_of = [line for line in lines if "before it was sent" not in line]
    assert all(re.match(r"[\w ]+:? short\[", line) for line in spoken_of), lines
    ends = [r for r in caplog.records if "succeeded" in r.getMessage()]
    assert [vars(r)["task_name"] for r in ends] == ["options.acting"]


def test_a_long_result_is_cut_where_the_task_says(
    umbel: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    class Brief(Task[..., Any]):
        resultrepr_maxsize = 10

    caplog.set_level(logging.INFO, "umbel.app.trace")
    brief = app.task(base=Brief, name="options.brief")(lambda n: "x" * n)
    wordy = app.task(name="options.wordy")(lambda n: "x" * n)
    brief.delay(8)
    brief.delay(9)
    wordy.delay(1100)
    umbel.run()
    shown = [vars(r)["data"]["return_value"] for r in caplog.records if "succeeded" in r.message]
    assert shown == ["'xxxxxxxx'", "'xxxxxxxxx...", "'" + "x" * 1023 + "..."]


def test_a_task_that_keeps_no_trail_counts_no_children(umbel: Harness) -> None:
    class Forgetful(Task[..., Any]):
        trail = False

    inner = app.task(name="options.inner")(lambda: None)

    def send() -> None:
        inner.delay()

    for base, count in ((Forgetful, 0), (Task, 1)):
        result = app.task(base=base, name=f"options.outer{count}")(send).delay()
        umbel.run()
        assert len(result.children or ()) == count


# ----------------------------------------------------------------------------- what ends it


@pytest.mark.parametrize(
    ("options", "on_failure", "on_timeout"),
    [
        ({}, Acknowledge, Acknowledge),
        ({"acks_on_failure": False}, Bury, Acknowledge),
        ({"acks_on_timeout": False}, Acknowledge, PutBack),
        ({"acks_on_failure_or_timeout": False}, Bury, PutBack),
        ({"acks_on_failure_or_timeout": False, "acks_on_failure": True}, Acknowledge, PutBack),
        ({"acks_on_failure_or_timeout": False, "acks_on_timeout": True}, Bury, Acknowledge),
        ({"acks_on_failure": False, "acks_late": False}, Acknowledge, Acknowledge),
    ],
)
def test_what_is_not_acknowledged_stays(
    umbel: Harness, options: Any, on_failure: type, on_timeout: type
) -> None:
    def fail() -> None:
        raise LookupError

    task = app.task(name=f"options.fail{sorted(options.items())}", **options)(fail)
    task.delay()
    (ended,) = umbel.run(propagate=False)
    assert ended.state == states.FAILURE
    assert [letter.reason for letter in umbel.dead] == ["rejected"] * (on_failure is Bury)
    delivery = delivery_of(task)
    headers = task_message.decode_headers(delivery.payload)
    settlement = Settler(app, "n").timed_out(delivery, headers, TimeoutError("late"), "")
    assert type(settlement.end) is on_timeout


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ({}, PutBack),
        ({"reject_on_worker_lost": True}, PutBack),
        ({"reject_on_worker_lost": False}, Acknowledge),
    ],
)
def test_a_lost_process_puts_it_back_unless_the_task_says_otherwise(
    umbel: Harness, options: Any, end: type
) -> None:
    task = app.task(name=f"options.lost{options}", **options)(lambda: None)
    delivery = delivery_of(task)
    headers = task_message.decode_headers(delivery.payload)
    settlement = Settler(app, "n").lost(delivery, headers, "killed", "")
    assert type(settlement.end) is end
    assert (settlement.result is not None) == (end is Acknowledge)


def test_a_lost_process_is_a_retry_where_the_task_says_so(umbel: Harness) -> None:
    task = app.task(
        name="options.again", retry_on_worker_lost=True, max_retries=1, default_retry_delay=60
    )(lambda: None)
    delivery = delivery_of(task)
    headers = task_message.decode_headers(delivery.payload)
    settlement = Settler(app, "n").lost(delivery, headers, "killed", "")
    (follow_up,) = settlement.follow_ups
    assert task_message.decode_headers(follow_up.payload).retries == 1
    assert follow_up.due is not None
    assert settlement.result is not None
    assert settlement.result.status == states.RETRY
    delivery = Delivery(1, 1, 1, "celery", follow_up.payload)
    headers = task_message.decode_headers(follow_up.payload)
    last = Settler(app, "n").lost(delivery, headers, "killed", "")
    assert (last.follow_ups, type(last.end)) == ((), Acknowledge)
    app.results.put([last.result] if last.result is not None else [])
    with pytest.raises(WorkerLostError):
        AsyncResult(headers.id, app=app).get()
