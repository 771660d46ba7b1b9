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
from umbel.app.execution.coroutines import Loop
from umbel.app.execution.outcome import Outcome
from umbel.app.execution.pipeline import Pipeline
from umbel.app.execution.steps import Steps
from umbel.app.request import Request
from umbel.app.sending.publish import build_message
from umbel.app.sending.routing import route
from umbel.engines.broker import Message, StoredResult, Workflow
from umbel.exceptions import EncodeError, NotRegistered
from umbel.message import task as task_message
from umbel.message.result import format_traceback
from umbel.result import EagerResult, GroupResult
from umbel.result.expiry import expiry
from umbel.result.stored import decode, stored_value

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.sending.options import SendOptions
    from umbel.app.sending.workflow import Shelf
    from umbel.app.task import Task
    from umbel.canvas import Signature

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

    def __init__(
        self, app: App, own: Arguments | None, retries: int, drive: Drive, shelf: Shelf
    ) -> None:
        super().__init__(app, socket.gethostname())
        self._shelf = shelf
        self._own = own
        self._retries = retries
        """Those that the first attempt is to find made before it."""
        self._drive = drive
        self._current: Request | None = None
        self.state: str = states.FAILURE
        self.value: Any = None
        """What the last attempt returned, or the error it ended with."""

    @property
    def shelf(self) -> Shelf:
        """That of this call alone."""
        return self._shelf

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


class EagerRun:
    """One eager call, of a task or a workflow, with all that follows, in a store of its own."""

    def __init__(self, app: App, drive: Drive | None = None) -> None:
        from umbel.app.sending.workflow import Shelf
        from umbel.engines.memory import MemoryEngine

        self._app = app
        self._loop = Loop()
        self._drive = drive or self._loop.run
        engine = MemoryEngine()
        self._store = engine.store
        self.shelf: Shelf = Shelf(engine.results, shared=False, keeps=True)
        self.results: dict[str, EagerResult[Any]] = {}

    def run(
        self,
        name: str,
        message: Message,
        own: Arguments | None = None,
        retries: int = 0,
        *,
        throw: bool | None = None,
    ) -> EagerResult[Any]:
        """Run one task; what follows from it is in the store."""
        app = self._app
        pipeline = EagerPipeline(app, own, retries, self._drive, self.shelf)
        outcome = pipeline.finish(message)
        self.add(outcome.sent, outcome.workflow)
        value = pipeline.value
        if pipeline.state in {states.IGNORED, states.REJECTED}:
            result = EagerResult(message.id, value, pipeline.state, None, name, app=app)
        elif outcome.ending == "success":
            result = EagerResult(message.id, value, states.SUCCESS, None, name, app=app)
        else:
            result = self._failed(name, message, value, throw=throw)
        if pipeline.state != states.IGNORED or message.id not in self.results:
            self.results[message.id] = result
        return result

    def _failed(
        self, name: str, message: Message, value: Any, *, throw: bool | None
    ) -> EagerResult[Any]:
        app = self._app
        if not isinstance(value, BaseException):
            value = NotRegistered(f"No task {name!r} is registered in {app!r}.")
        if not isinstance(value, Exception):
            raise value  # Ctrl-C ends the caller, not only the task
        if app.conf.task_eager_propagates if throw is None else throw:
            raise value
        traceback = format_traceback(value)
        return EagerResult(message.id, value, states.FAILURE, traceback, name, app=app)

    def add(self, messages: Sequence[Message], workflow: Workflow | None) -> None:
        """Let these follow."""
        now = clock.time()
        if workflow is not None:
            self._store.change(workflow, now)
        for message in messages:
            self._store.add(message, now)

    def drain(self, *, throw: bool | None = None) -> None:
        """Run all that follows, in the order in which it was sent."""
        while self._store.messages:
            held = next(iter(self._store.messages.values()))
            self._store.remove(held)
            name = task_message.decode_headers(held.message.payload).task
            self.run(name, held.message, throw=throw)

    def close(self) -> None:
        """Let go of the event loop."""
        self._loop.close()

    def of(self, result: Any) -> Any:
        """A workflow's result, made of those of its tasks."""
        parent = None if result.parent is None else self.of(result.parent)
        if isinstance(result, GroupResult):
            found: Any = self._app.GroupResult(result.id, [self.of(one) for one in result.results])
        else:
            found = self.results.get(result.id) or self._never_run(result.id)
        if parent is not None:
            found.parent = parent
        return found

    def _never_run(self, id: str) -> EagerResult[Any]:
        stored = self._store.results.get(id)
        if stored is None:
            return EagerResult(id, None, states.PENDING, app=self._app)
        meta = decode(self._app, stored)
        error = stored_value(self._app, meta)
        return EagerResult(id, error, meta.status, meta.traceback, app=self._app)


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
    """Execute a task's message here, and what follows from it; with `throw` raise what it raises.

    `own`: the call's own arguments, if it is to get them instead of their serialized copies.
    """
    run = EagerRun(app, drive)
    try:
        run.run(name, message, own, retries, throw=throw)
        run.drain(throw=throw)
        return run.results[message.id]
    finally:
        run.close()


def apply_workflow(
    app: App,
    sig: Signature[Any],
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    *,
    throw: bool | None = None,
) -> Any:
    """`Signature.apply`: run a workflow here."""
    from umbel.app.sending.workflow import outline

    run = EagerRun(app)
    try:
        made, result = outline(app, run.shelf, sig, args, kwargs, options)
        run.add(made.messages, made.workflow)
        run.drain(throw=throw)
        return run.of(result)
    finally:
        run.close()


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
