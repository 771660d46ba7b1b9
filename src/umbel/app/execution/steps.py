"""What a task's own handlers and the signals hear of a run, and in which order.

prerun signal → STARTED stored → before_start → the function → the outcome leaves for the store →
on_success (on_failure, on_retry) → its signal → after_return → postrun signal.

A task that overrides no handler and that no receiver waits for passes all of it by one look.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from umbel import signals, states
from umbel.app.execution.handlers import Handlers
from umbel.exceptions import OperationalError
from umbel.message.result import format_traceback

if TYPE_CHECKING:
    from types import TracebackType

    from umbel.app.request import Request
    from umbel.app.task import Task

logger: logging.Logger = logging.getLogger("umbel.task")

SIGNALS: Final = {
    states.SUCCESS: signals.task_success,
    states.FAILURE: signals.task_failure,
    states.RETRY: signals.task_retry,
    states.REJECTED: signals.task_failure,
    states.IGNORED: signals.task_postrun,
}
"""The signal of each way in which a run can end."""
CO_COROUTINE: Final = 0x80
"""The flag of an `async def` function's code (`inspect.CO_COROUTINE`)."""
ENDS: Final = ("on_success", "on_failure", "on_retry", "after_return")


class ExceptionInfo:
    """An error as handlers get it (`billiard.einfo.ExceptionInfo`); its text is the traceback."""

    def __init__(self, error: BaseException, traceback: str | None = None) -> None:
        self.type: type[BaseException] = type(error)
        self.exception = error
        self.tb: TracebackType | None = error.__traceback__
        self.internal = False
        self._text = traceback

    @property
    def traceback(self) -> str:
        """The traceback as text."""
        if self._text is None:
            self._text = format_traceback(self.exception)
        return self._text

    @property
    def exc_info(self) -> tuple[type[BaseException], BaseException, TracebackType | None]:
        """What `logging` takes as `exc_info`."""
        return self.type, self.exception, self.tb

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"


class Steps:
    """What one task asks of its runs besides the function: looked up once, at its first run."""

    __slots__ = (
        "before_start",
        "begins",
        "has_handlers",
        "is_coroutine",
        "keeps_errors",
        "keeps_failures",
        "retried",
        "spared",
        "task",
        "tracked",
    )

    def __init__(self, task: Task[..., Any]) -> None:
        self.task: Task[..., Any] = task
        self.before_start: Callable[[str, list[Any], dict[str, Any]], None] | None = (
            task.before_start if _overrides(task, "before_start") else None
        )
        self.has_handlers: bool = any(_overrides(task, name) for name in ENDS)
        self.is_coroutine: bool = _makes_coroutine(task)
        """Whether a call of the function runs none of it: it makes a coroutine."""
        self.tracked: bool = bool(task.track_started)
        self.retried: tuple[type[BaseException], ...] = tuple(task.autoretry_for)
        """Errors after which the task is retried by itself."""
        self.spared: tuple[type[BaseException], ...] = tuple(task.dont_autoretry_for)
        self.keeps_errors: bool = bool(task.store_errors_even_if_ignored)
        self.keeps_failures: bool = acks_late(task) and not acks_on(task, "failure")
        """Whether a failed message becomes a dead letter."""
        self.begins: bool = self.tracked or self.before_start is not None

    def begin(self, request: Request) -> None:
        """All that comes before the function."""
        task = self.task
        if signals.task_prerun.receivers:
            signals.task_prerun.send(
                task, task_id=request.id, task=task, args=request.args, kwargs=request.kwargs
            )
        if self.tracked and not request.ignore_result and not request.is_eager:
            try:
                meta = {"pid": os.getpid(), "hostname": request.hostname}
                task.update_state(request.id, states.STARTED, meta)
            except OperationalError as error:
                logger.warning("STARTED of %s[%s] was not stored: %s", task.name, request.id, error)
        if self.before_start is not None:
            self.before_start(request.id or "", request.args, request.kwargs)

    def is_heard(self, state: str) -> bool:
        """Whether anybody wants to know of this end."""
        return (
            self.has_handlers
            or bool(signals.task_postrun.receivers)
            or bool(SIGNALS[state].receivers)
        )

    def finish(self, request: Request, state: str, value: Any, runtime: float | None) -> None:
        """Tell handlers and receivers of an end: each once, whatever the others raise."""
        einfo = ExceptionInfo(value) if isinstance(value, BaseException) else None
        self.tell(request, state, value, runtime, einfo)
        signals.task_postrun.send(
            self.task,
            task_id=request.id,
            task=self.task,
            args=request.args,
            kwargs=request.kwargs,
            retval=value,
            state=state,
        )
        if request.begun is not None:
            from umbel.app.log import end_lines

            end_lines(request)

    def tell(
        self,
        request: Request,
        state: str,
        value: Any,
        runtime: float | None,
        einfo: ExceptionInfo | None,
    ) -> None:
        """All of `finish` but that the run is over: of one that was killed, nobody saw the end."""
        task = self.task
        call = (request.id or "", request.args, request.kwargs)
        if state == states.SUCCESS:
            self._guard("on_success", request, task.on_success, value, *call)
            signals.task_success.send(task, result=value, runtime=runtime)
        elif state == states.FAILURE and einfo is not None:
            self._guard("on_failure", request, task.on_failure, value, *call, einfo)
            _send_failure(task, request, value, einfo)
        elif state == states.RETRY and einfo is not None:
            self._guard("on_retry", request, task.on_retry, value.exc or value, *call, einfo)
            signals.task_retry.send(task, request=request, reason=value, einfo=einfo)
        elif state == states.REJECTED and not value.requeue and einfo is not None:
            _send_failure(task, request, value, einfo)
        if state in {states.SUCCESS, states.FAILURE}:
            self._guard("after_return", request, task.after_return, state, value, *call, einfo)

    def _guard(
        self, name: str, request: Request, handler: Callable[..., object], *args: Any
    ) -> None:
        if not self.has_handlers:
            return
        try:
            handler(*args)
        except BaseException as error:  # SystemExit too: the outcome stands
            task, shown = self.task, error
            if task.secret:
                from umbel.app.redaction import conceal

                shown = conceal(task, request.args or (), request.kwargs or {}, error)
            logger.exception(
                "Task %s[%s]: its %s handler raised; how the task ended stays as it is",
                task.name, request.id, name, exc_info=shown,
            )  # fmt: skip
            signals.task_internal_error.send(
                task,
                task_id=request.id,
                args=request.args,
                kwargs=request.kwargs,
                request=request,
                exception=shown,
                traceback=shown.__traceback__,
                einfo=ExceptionInfo(shown),
            )


def acks_late(task: Task[..., Any]) -> bool:
    """Whether a task's messages are acknowledged when it has ended."""
    late = task.acks_late
    return task.app.conf.task_acks_late if late is None else late


def acks_on(task: Task[..., Any], what: Literal["failure", "timeout"]) -> bool:
    """Whether a failure (a hard time limit) is an end: the message is done then."""
    choice = task.acks_on_failure if what == "failure" else task.acks_on_timeout
    if choice is None:
        choice = task.acks_on_failure_or_timeout
    return choice is not False


def _overrides(task: Task[..., Any], name: str) -> bool:
    """Whether a task has a handler of its own, from its class or set on it."""
    return getattr(getattr(task, name), "__func__", None) is not vars(Handlers)[name]


def _makes_coroutine(task: Task[..., Any]) -> bool:
    function: Any = type(task).__call__ if task.overrides_call else task.run
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and bool(code.co_flags & CO_COROUTINE)


def _send_failure(
    task: Task[..., Any], request: Request, error: BaseException, einfo: ExceptionInfo
) -> None:
    signals.task_failure.send(
        task,
        task_id=request.id,
        exception=error,
        args=request.args,
        kwargs=request.kwargs,
        traceback=error.__traceback__,
        einfo=einfo,
    )


def retry_delay(retries: int, factor: bool | float, longest: float, *, jitter: bool) -> float:
    """Seconds before automatic retry number `retries + 1`: factor × 2**retries, at most longest.

    With jitter it is a random share of that, so that what failed together comes back apart.
    """
    import random

    delay = min(longest, max(1.0, float(factor)) * 2.0 ** min(retries, 64))
    return random.uniform(0, delay) if jitter else delay  # noqa: S311  (no secret)


def retry_automatically(task: Task[..., Any], request: Request, error: BaseException) -> None:
    """Make a retry the outcome, for an error in `autoretry_for`.

    Raises what `Task.retry` does once the task has been retried often enough.
    """
    options: Mapping[str, Any] = task.retry_kwargs
    if task.retry_backoff:
        delay = retry_delay(
            request.retries, task.retry_backoff, task.retry_backoff_max, jitter=task.retry_jitter
        )
        options = {**options, "countdown": delay}
    task.retry(exc=error, throw=False, **options)
