"""Eager calls: a task's message is made as ever, and executed here and now instead of being sent.

The message goes through the pipeline of any worker, so arguments are serialized and read back,
handlers and signals come as they do there, and a retry runs at once.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import msgspec

from umbel import clock, states
from umbel.app.coroutines import Loop
from umbel.app.outcome import Outcome
from umbel.app.pipeline import Pipeline
from umbel.app.publish import build_message
from umbel.app.request import Request
from umbel.app.routing import route
from umbel.app.steps import Steps
from umbel.engines.broker import Message, StoredResult
from umbel.exceptions import EncodeError, NotRegistered
from umbel.message import task as task_message
from umbel.message.result import format_traceback
from umbel.result import EagerResult
from umbel.result.expiry import expiry

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.options import SendOptions
    from umbel.app.task import Task

Arguments = tuple[Sequence[Any], Mapping[str, Any]]
Drive = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end."""
STATES = {
    "success": states.SUCCESS,
    "failure": states.FAILURE,
    "rejected": states.FAILURE,
}


class EagerPipeline(Pipeline):
    """The pipeline of one eager call, with all its attempts.

    Nothing is stored but where the task asks for it, so the value stays the very object.
    """

    def __init__(self, app: App, own: Arguments | None, retries: int, drive: Drive) -> None:
        super().__init__(app, socket.gethostname())
        self._own = own
        self._retries = retries
        """Those that the first attempt is to find made before it."""
        self._drive = drive
        self._current: Request | None = None
        self.state: str = states.FAILURE
        self.value: Any = None
        """What the last attempt returned, or the error it ended with."""

    def finish(self, message: Message) -> Outcome:
        """Execute the message and its retries; how the last of them ended."""
        payload = message.payload
        # Our own message: it is read back whatever others may send here (`accept_content`).
        content_type = msgspec.json.decode(payload, type=task_message.Envelope).content_type
        self._accept |= {content_type or ""}
        while True:
            outcome, rest = self.execute(0, payload, 0, self._call)
            if outcome.result is not None:
                self._store(message.id, outcome, outcome.result)
            if rest is not None:
                rest()
            if self._current is not None and self._current.end is not None:
                self.state, self.value = self._current.end
            if not outcome.follow_ups:
                return outcome
            payload = outcome.follow_ups[0].payload
            plan = self._current.retry if self._current is not None else None
            if plan is not None and (plan.args is not None or plan.kwargs is not None):
                self._own = None  # what the retry was given has replaced them

    def _request(
        self, message: task_message.Task, payload: bytes, task: Task[..., Any], deliveries: int
    ) -> Request:
        request = self._current = super()._request(message, payload, task, deliveries)
        request.is_eager = True
        if self._retries:
            request.retries, self._retries = self._retries, 0
        if self._own is not None:
            request.args, request.kwargs = list(self._own[0]), dict(self._own[1])
            message.args, message.kwargs = request.args, request.kwargs
        return request

    def _call(self, _: int, task: Task[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        value = (task if task.overrides_call else task.run)(*args, **kwargs)
        return self._drive(value) if isinstance(value, CoroutineType) else value

    def _stores(self, steps: Steps, request: Request, *, failed: bool = False) -> bool:
        stored = steps.task.store_eager_result
        return bool(stored) and super()._stores(steps, request, failed=failed)

    def _store(self, id: str, outcome: Outcome, meta: bytes) -> None:
        state = STATES.get(outcome.ending, states.RETRY)
        until = expiry(self._app.conf, state, clock.time())
        self._app.results.put([StoredResult(id, state, meta, until)])


def apply(
    task: Task[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    throw: bool | None,
    retries: int,
    options: SendOptions,
) -> EagerResult[Any]:
    """`Task.apply`: execute a call here, with its own arguments."""
    app = task.app
    task.check_arguments(list(args), dict(kwargs))
    final = route(app, task.name, args, kwargs, task, options)
    try:
        message = build_message(app.conf, task.name, list(args), dict(kwargs), task, **final)
    except EncodeError:
        # They need not be sent, only called with; the message holds what they look like.
        args_shown = [repr(value) for value in args]
        kwargs_shown = {name: repr(value) for name, value in kwargs.items()}
        message = build_message(app.conf, task.name, args_shown, kwargs_shown, task, **final)
    return run_eagerly(app, task.name, message, own=(args, kwargs), retries=retries, throw=throw)


def run_eagerly(
    app: App,
    name: str,
    message: Message,
    *,
    own: Arguments | None = None,
    retries: int = 0,
    throw: bool | None = None,
    drive: Drive | None = None,
) -> EagerResult[Any]:
    """Execute a task's message here; with `throw` raise what it raises.

    `own`: the call's own arguments, if it is to get them instead of their serialized copies.
    """
    loop = Loop()
    pipeline = EagerPipeline(app, own, retries, drive or loop.run)
    try:
        outcome = pipeline.finish(message)
    finally:
        loop.close()
    value = pipeline.value
    if pipeline.state in {states.IGNORED, states.REJECTED}:
        return EagerResult(message.id, value, pipeline.state, None, name, app=app)
    if outcome.ending == "success":
        return EagerResult(message.id, value, states.SUCCESS, None, name, app=app)
    if not isinstance(value, BaseException):
        value = NotRegistered(f"No task {name!r} is registered in {app!r}.")
    if not isinstance(value, Exception):
        raise value  # Ctrl-C ends the caller, not only the task
    if app.conf.task_eager_propagates if throw is None else throw:
        raise value
    traceback = format_traceback(value)
    return EagerResult(message.id, value, states.FAILURE, traceback, name, app=app)


async def arun_eagerly(app: App, task: Task[..., Any], message: Message) -> EagerResult[Any]:
    """`run_eagerly` for coroutines: an `async def` task runs on the caller's own event loop."""
    import asyncio
    import inspect
    from contextvars import copy_context

    if not inspect.iscoroutinefunction(task.run):
        return run_eagerly(app, task.name, message)
    loop = asyncio.get_running_loop()

    def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    def run() -> EagerResult[Any]:
        return run_eagerly(app, task.name, message, drive=drive)

    return await loop.run_in_executor(None, copy_context().run, run)
