"""What a run does around the task's function: handlers, signals, flow, progress, retries."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest

from umbel import App, AsyncResult, Task, signals, states
from umbel.app.execution.steps import ExceptionInfo, retry_delay
from umbel.exceptions import Ignore, Reject, Retry
from umbel.testing import Harness

app = App("runs")
told: list[Any] = []
KINDS = {
    "prerun": signals.task_prerun,
    "success": signals.task_success,
    "failure": signals.task_failure,
    "retry": signals.task_retry,
    "postrun": signals.task_postrun,
    "internal": signals.task_internal_error,
}


class Talking(Task[..., Any]):
    """Tells of each of its handlers, and what is stored by then."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        told.append(("before_start", task_id == self.request.id, args, kwargs))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        told.append(("on_success", retval, args, stored(task_id)))

    def on_failure(
        self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: ExceptionInfo
    ) -> None:
        told.append(("on_failure", repr(exc), stored(task_id)))
        assert einfo.exception is exc
        assert "Traceback" in str(einfo)

    def on_retry(
        self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: ExceptionInfo
    ) -> None:
        told.append(("on_retry", repr(exc), stored(task_id)))

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        told.append(("after_return", status, einfo is not None))


def stored(id: str) -> str:
    return AsyncResult(id, app=app).state


@app.task(base=Talking, bind=True, max_retries=1)
def act(self: Task[..., Any], what: str) -> str:
    told.append(("body", self.request.retries))
    match what:
        case "raise":
            raise LookupError("lost")
        case "retry":
            raise self.retry(exc=OSError("busy"), countdown=0)
        case "ignore":
            raise Ignore
        case "reject":
            raise Reject("no good", requeue=False)
        case "requeue":
            raise Reject("not now", requeue=self.request.delivery_info is not None)
    return what


@pytest.fixture
def heard() -> Iterator[None]:
    """Have every signal of tasks told."""

    def receive(signal: signals.Signal, sender: Any, **named: Any) -> None:
        assert sender is act
        kind = next(k for k, one in KINDS.items() if one is signal)
        said: Any = {
            "prerun": lambda: (named["task_id"] == act.request.id, named["args"], named["kwargs"]),
            "success": lambda: (named["result"], named["runtime"] >= 0),
            "failure": lambda: (repr(named["exception"]), named["einfo"].traceback[:9]),
            "retry": lambda: (type(named["reason"]), named["request"].id == act.request.id),
            "postrun": lambda: (named["state"], repr(named["retval"])),
            "internal": lambda: (repr(named["exception"]),),
        }[kind]
        told.append((f"task_{kind}", *said()))

    for signal in KINDS.values():
        signal.connect(receive)
    yield
    for signal in KINDS.values():
        signal.disconnect(receive)


@pytest.fixture(autouse=True)
def _silence() -> None:
    told.clear()


pytestmark = pytest.mark.usefixtures("umbel")


def begin(what: str) -> list[Any]:
    return [
        ("task_prerun", True, [what], {}),
        ("before_start", True, [what], {}),
        ("body", 0),
    ]


@pytest.mark.usefixtures("heard")
def test_a_return_is_told_once_and_in_order(umbel: Harness) -> None:
    act.delay("work")
    umbel.run()
    assert told == [
        *begin("work"),
        ("on_success", "work", ["work"], "SUCCESS"),
        ("task_success", "work", True),
        ("after_return", "SUCCESS", False),
        ("task_postrun", "SUCCESS", "'work'"),
    ]


@pytest.mark.usefixtures("heard")
def test_a_failure_is_told_once_and_in_order(umbel: Harness) -> None:
    act.delay("raise")
    umbel.run(propagate=False)
    assert told == [
        *begin("raise"),
        ("on_failure", "LookupError('lost')", "FAILURE"),
        ("task_failure", "LookupError('lost')", "Traceback"),
        ("after_return", "FAILURE", True),
        ("task_postrun", "FAILURE", "LookupError('lost')"),
    ]


@pytest.mark.usefixtures("heard")
def test_a_retry_is_told_and_its_last_attempt_fails(umbel: Harness) -> None:
    act.delay("retry")
    umbel.run(limit=1, propagate=False)
    assert told[3:6] == [
        ("on_retry", "OSError('busy')", "RETRY"),
        ("task_retry", Retry, True),
        ("task_postrun", "RETRY", told[5][2]),
    ]
    told.clear()
    umbel.run(propagate=False)
    assert [one[:2] for one in told[2:]] == [
        ("body", 1),
        ("on_failure", "OSError('busy')"),
        ("task_failure", "OSError('busy')"),
        ("after_return", "FAILURE"),
        ("task_postrun", "FAILURE"),
    ]


@pytest.mark.parametrize("way", ["raised", "kept", "automatic", "swallowed"])
def test_the_reason_of_a_retry_says_when_and_why(umbel: Harness, way: str) -> None:
    reasons: list[str] = []

    def hear(reason: Retry, **_: object) -> None:
        reasons.append(f"{reason} | {reason.when}")

    @app.task(
        bind=True, name=f"runs.reason_{way}", retry_kwargs={"countdown": 90},
        autoretry_for=OSError if way == "automatic" else (),
    )  # fmt: skip
    def again(self: Task[..., Any]) -> None:
        if way == "automatic":
            raise OSError("busy")
        try:
            self.retry(exc=OSError("busy"), countdown=timedelta(seconds=90), throw=way != "kept")
        except Retry:
            if way == "raised":
                raise

    signals.task_retry.connect(hear)
    try:
        again.delay()
        umbel.run(limit=1, propagate=False)
    finally:
        signals.task_retry.disconnect(hear)
    (reason,) = reasons
    assert reason in {f"Retry in 90s: OSError('busy') | {when}" for when in (90, 90.0)}


@pytest.mark.usefixtures("heard")
def test_ignore_stores_nothing_and_tells_only_of_the_run(umbel: Harness) -> None:
    result = act.delay("ignore")
    umbel.run(propagate=False)
    assert told == [*begin("ignore"), ("task_postrun", "IGNORED", "Ignore()")]
    assert result.state == states.PENDING
    assert umbel.queued == []
    assert umbel.dead == []


@pytest.mark.usefixtures("heard")
def test_reject_leaves_a_dead_letter_and_a_failure(umbel: Harness) -> None:
    result = act.delay("reject")
    umbel.run(propagate=False)
    assert [one[0] for one in told[3:]] == ["task_failure", "task_postrun"]
    assert told[-1][1] == "REJECTED"
    assert result.state == states.FAILURE
    assert isinstance(result.result, Reject)
    (letter,) = umbel.dead
    assert (letter.reason, letter.detail) == ("rejected", "rejected by the task: no good")


def test_reject_with_requeue_puts_it_back_for_later(umbel: Harness) -> None:
    result = act.delay("requeue")
    umbel.run(propagate=False)
    assert told.count(("body", 0)) == 1
    assert result.state == states.PENDING
    assert len(umbel.queued) == 1
    umbel.advance(seconds=1.1)
    umbel.run(propagate=False)
    assert told.count(("body", 0)) == 2
    assert umbel.dead == []


def test_an_error_in_a_handler_changes_nothing_about_the_end(
    umbel: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    internal: list[Any] = []

    def note(exception: BaseException, **named: Any) -> None:
        internal.append((named["sender"], exception))

    signals.task_internal_error.connect(note)

    def broken(*args: Any) -> None:
        raise ZeroDivisionError("in the handler")

    for name in ("on_success", "after_return", "on_failure"):
        monkeypatch.setattr(act, name, broken, raising=False)
    good, bad = act.delay("work"), act.delay("raise")
    with caplog.at_level(logging.ERROR):
        umbel.run(propagate=False)
    assert (good.state, bad.state) == (states.SUCCESS, states.FAILURE)
    assert isinstance(bad.result, LookupError)
    assert caplog.text.count("its on_success handler raised") == 1
    assert caplog.text.count("its after_return handler raised") == 2
    assert [one[0] for one in internal] == [act] * 4
    signals.task_internal_error.disconnect(note)


def test_an_error_before_the_start_is_the_tasks_failure(
    umbel: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise ZeroDivisionError("no start")

    monkeypatch.setattr(act, "before_start", broken, raising=False)
    result = act.delay("work")
    umbel.run(propagate=False)
    assert isinstance(result.result, ZeroDivisionError)
    assert ("body", 0) not in told
    assert told[0][0] == "on_failure"


@app.task(bind=True)
def report(self: Task[..., Any], steps: int) -> str:
    told.append(stored(str(self.request.id)))
    for n in range(steps):
        self.update_state(state="PROGRESS", meta={"done": n})
        result = AsyncResult[Any](str(self.request.id), app=app)
        told.append((result.state, result.info))
    return "done"


def test_progress_is_seen_at_once_and_the_end_replaces_it(umbel: Harness) -> None:
    result = report.delay(2)
    umbel.run()
    assert told == ["PENDING", ("PROGRESS", {"done": 0}), ("PROGRESS", {"done": 1})]
    assert (result.state, result.result) == ("SUCCESS", "done")


def test_started_is_stored_where_it_is_tracked(
    umbel: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "track_started", True)
    report.delay(0)
    report.apply_async((0,), ignore_result=True)
    umbel.run()
    assert told == ["STARTED", "PENDING"]


def test_late_progress_does_not_undo_an_end(umbel: Harness) -> None:
    failed, done = act.delay("raise"), act.delay("work")
    umbel.run(propagate=False)
    for result in (failed, done):
        act.update_state(result.id, "PROGRESS", {"done": 99})
    assert (failed.state, done.state) == (states.FAILURE, states.SUCCESS)


def test_a_state_of_ones_own_stays_after_ignore(umbel: Harness) -> None:
    @app.task(bind=True, name="runs.gives_in")
    def gives_in(self: Task[..., Any]) -> None:
        self.update_state(state=states.FAILURE, meta=ValueError("own words"))
        raise Ignore

    result = gives_in.delay()
    umbel.run(propagate=False)
    assert result.state == states.FAILURE
    assert isinstance(result.result, ValueError)
    with pytest.raises(ValueError, match="needs a state"):
        gives_in.update_state("id")


def test_called_directly_a_task_has_no_state_to_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(App, "engine", property(lambda _: pytest.fail("looked at the store")))
    act.update_state(state="PROGRESS")


def test_errors_of_ignored_results_are_stored_where_asked(
    umbel: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = act.apply_async(("raise",), ignore_result=True)
    umbel.run(propagate=False)
    assert stored(kept.id) == states.PENDING
    monkeypatch.setattr(act, "store_errors_even_if_ignored", True)
    kept = act.apply_async(("raise",), ignore_result=True)
    quiet = act.apply_async(("work",), ignore_result=True)
    umbel.run(propagate=False)
    assert stored(kept.id) == states.FAILURE
    assert stored(quiet.id) == states.PENDING


def test_a_failure_that_is_not_acknowledged_becomes_a_dead_letter(
    umbel: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act, "acks_on_failure", False)
    result = act.delay("raise")
    umbel.run(propagate=False)
    assert result.state == states.FAILURE
    assert [letter.reason for letter in umbel.dead] == ["rejected"]


def test_a_retry_goes_on_with_what_it_is_given(umbel: Harness) -> None:
    @app.task(bind=True, max_retries=0, name="runs.again")
    def again(self: Task[..., Any], a: int, b: int = 0) -> list[int]:
        if self.request.retries < 2:
            self.retry(
                args=(a + 1,),
                kwargs={"b": 9},
                eta=umbel.now + timedelta(hours=1),
                max_retries=5,
            )
        return [a, b]

    result = again.delay(1, b=2)
    due = umbel.now + timedelta(hours=1)
    umbel.run()
    (one,) = umbel.queued
    assert (one.args, one.kwargs, one.retries) == ((2,), {"b": 9}, 1)
    assert one.eta is not None
    assert timedelta() <= one.eta - due < timedelta(seconds=20)
    for _ in range(2):
        umbel.advance(hours=1)
        umbel.run()
    assert result.result == [3, 9]


def test_delays_double_up_to_the_longest() -> None:
    assert [retry_delay(n, True, 600, jitter=False) for n in (0, 1, 4, 20)] == [1, 2, 16, 600]
    assert [retry_delay(n, 3, 600, jitter=False) for n in (0, 1, 4)] == [3, 6, 48]
    assert retry_delay(10_000, True, 60, jitter=False) == 60
    delays = [retry_delay(5, True, 600, jitter=True) for _ in range(200)]
    assert all(0 <= delay <= 32 for delay in delays)
    assert max(delays) - min(delays) > 16


class UnreliableError(Exception): ...


class HopelessError(UnreliableError): ...


attempts: list[int] = []


@app.task(
    bind=True,
    autoretry_for=(UnreliableError,),
    dont_autoretry_for=(HopelessError,),
    retry_kwargs={"max_retries": 2, "countdown": 7},
)
def call_out(self: Task[..., Any], kind: str) -> str:
    attempts.append(self.request.retries)
    if kind == "ignored":
        raise Ignore
    if kind == "other":
        raise KeyError(kind)
    raise (HopelessError if kind == "hopeless" else UnreliableError)(kind)


@app.task(
    autoretry_for=(UnreliableError,), retry_backoff=3, retry_backoff_max=10, retry_jitter=False
)
async def call_out_later() -> None:
    raise UnreliableError("later")


class Patient(Task[..., Any]):
    autoretry_for = (LookupError,)
    retry_kwargs = MappingProxyType({"max_retries": 1, "countdown": 0})


@app.task(base=Patient)
def look_up() -> None:
    raise LookupError("nothing")


def test_errors_that_are_named_are_retried_so_often(umbel: Harness) -> None:
    result = call_out.delay("no line")
    attempts.clear()
    for retries in range(3):
        umbel.run(propagate=False)
        assert attempts == list(range(retries + 1))
        umbel.advance(seconds=6)
        assert not umbel.run(propagate=False)
        umbel.advance(seconds=1.5)
    assert "no line" in str(result.result)
    assert result.state == states.FAILURE
    assert umbel.queued == []


@pytest.mark.parametrize("kind", ["hopeless", "other", "ignored"])
def test_errors_that_are_spared_or_not_named_are_not_retried(umbel: Harness, kind: str) -> None:
    call_out.delay(kind)
    umbel.run(propagate=False)
    assert umbel.queued == []


def test_async_tasks_are_retried_too_after_longer_and_longer(umbel: Harness) -> None:
    result = call_out_later.delay()
    for pause in (3, 6, 10):
        umbel.run(propagate=False)
        assert result.state == states.RETRY
        (waiting,) = umbel.queued
        assert waiting.eta is not None
        assert pause - 1 < (waiting.eta - umbel.now).total_seconds() <= pause
        umbel.advance(seconds=pause)
    umbel.run(propagate=False)
    assert result.state == states.FAILURE


def test_a_base_class_says_what_is_retried(umbel: Harness) -> None:
    result = look_up.delay()
    umbel.run(limit=1, propagate=False)
    assert result.state == states.RETRY
    umbel.run(propagate=False)
    assert isinstance(result.result, LookupError)


def test_called_directly_the_error_comes_out() -> None:
    with pytest.raises(UnreliableError, match="here"):
        call_out("here")


def test_children_that_a_task_counts_are_stored_with_its_result(umbel: Harness) -> None:
    @app.task(bind=True, name="runs.parent")
    def parent(self: Task[..., Any]) -> None:
        self.add_trail(app.AsyncResult("child-1"))
        quiet.add_trail(app.AsyncResult("child-2"))

    quiet = app.task(trail=False, name="runs.quiet")(lambda: None)
    result = parent.delay()
    umbel.run()
    assert [child.id for child in result.children or ()] == ["child-1"]


def test_what_a_receiver_sets_in_the_context_is_there_in_the_task(umbel: Harness) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")

    def set_tenant(**named: Any) -> None:
        tenant.set("blue")

    def note(**named: Any) -> None:
        told.append(tenant.get())

    @app.task(name="runs.whose")
    def whose() -> str:
        before = tenant.get()
        tenant.set("green")
        return before

    signals.task_prerun.connect(set_tenant)
    signals.task_postrun.connect(note)
    result = whose.delay()
    umbel.run()
    signals.task_prerun.disconnect(set_tenant)
    signals.task_postrun.disconnect(note)
    assert result.get() == "blue"
    assert told == ["green"]
    assert tenant.get() == "nobody"


class DeniedError(Exception):
    """Looks at nothing but itself."""

    def with_traceback(self, frames: Any) -> Any:
        return None


class BrokenError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    def __bool__(self) -> bool:
        raise ValueError("no truth")


class Shy:
    def __repr__(self) -> str:
        raise ValueError("no form")


@pytest.mark.parametrize("what", ["denied", "broken", "reject", "shy"])
def test_a_run_whose_end_cannot_be_looked_at_ends_once(umbel: Harness, what: str) -> None:
    runs: list[str] = []

    @app.task(name=f"runs.odd_{what}", bind=True, secret=("token",))
    def odd(self: Task[..., Any], token: str) -> object:
        runs.append(token)
        match what:
            case "denied":
                raise DeniedError
            case "broken":
                raise BrokenError
            case "reject":
                raise Reject("\ud800")
        return {"form": Shy()} if what == "shy" else None

    result = odd.delay("secret")
    umbel.run(propagate=False)
    assert result.state == "FAILURE"
    assert runs == ["secret"]
