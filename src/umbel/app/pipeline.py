"""The execution pipeline: a delivery's bytes in, its outcome out.

decode → look the task up → set the request → call → turn what happened into an outcome.
The call itself is the slot's, because how code is run is what tells pools apart.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from umbel import clock, states
from umbel.app.outcome import Outcome
from umbel.app.request import Request, RetryPlan, current
from umbel.app.trace import log_failure, log_retry, log_success
from umbel.exceptions import ContentDisallowed, DecodeError, EncodeError, Retry, SecurityError
from umbel.message import result as result_message
from umbel.message import task as task_message
from umbel.message.content import content_types
from umbel.message.result import ErrorRecord, describe_exception, format_traceback
from umbel.message.task import too_large

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.task import Task

OURS: Final = frozenset({"umbel.app", "umbel.pools", "umbel.worker", "asyncio"})
"""Packages whose frames lie between the slot and the user's function."""
Call = Callable[[int, "Task[..., Any]", list[Any], dict[str, Any]], Any]


class Pipeline:
    """Executes deliveries of one app."""

    def __init__(self, app: App, node: str, *, report_memory: bool = False) -> None:
        self._app = app
        self._tasks = app.tasks
        self._node = node
        self._report_memory = report_memory
        self._accept = content_types(app.conf.accept_content)
        self._limit = app.conf.task_max_message_bytes
        self._form = app.result_format

    def execute(self, number: int, payload: bytes, deliveries: int, call: Call) -> Outcome:
        """Run one delivery. Never raises what a task raised."""
        try:
            message = task_message.decode(payload, self._accept, self._limit)
        except ContentDisallowed as error:
            return Outcome(number, "disallowed", error=str(error))
        except SecurityError as error:
            return Outcome(number, "untrusted", error=str(error))
        except DecodeError as error:
            return Outcome(number, "undecodable", error=str(error))
        headers = message.headers
        task = self._tasks.get(headers.task)
        if task is None:
            return Outcome(number, "unknown")
        request = self._request(message, task, deliveries)
        scope = current.set(request)
        start = time.perf_counter()
        failure: BaseException | None = None
        value: Any = None
        try:
            # In a context of its own: what it sets does not leak into the next task.
            value = copy_context().run(call, number, task, message.args, message.kwargs)
        except BaseException as raised:  # noqa: BLE001  (SystemExit too ends only the task)
            failure = raised.with_traceback(_own_frames_off(raised.__traceback__))
        runtime = time.perf_counter() - start
        try:
            outcome = self._conclude(task, request, payload, message, value, failure)
            if outcome.ending == "success":
                log_success(request, value, runtime)
        finally:
            current.reset(scope)
        outcome.number, outcome.runtime = number, runtime
        if self._report_memory:
            outcome.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return outcome

    def _request(
        self, message: task_message.Task, task: Task[..., Any], deliveries: int
    ) -> Request:
        headers, properties = message.headers, message.properties
        info = properties.delivery_info
        return Request(
            headers.id,
            headers.task,
            message.args,
            message.kwargs,
            headers.retries or 0,
            deliveries,
            {
                "exchange": info.exchange,
                "routing_key": info.routing_key,
                "priority": properties.priority,
                "redelivered": deliveries > 0,
            },
            self._node,
            headers.root_id,
            headers.parent_id,
            headers.eta,
            headers.expires,
            headers.timelimit or (None, None),
            task.ignores_result(headers.ignore_result) or not self._app.keeps_results,
            called_directly=False,
            owner=task,
        )

    def _stores(self, task: Task[..., Any], request: Request) -> bool:  # noqa: ARG002
        """Whether the outcome is kept as a result."""
        return not request.ignore_result

    def _conclude(
        self,
        task: Task[..., Any],
        request: Request,
        payload: bytes,
        message: task_message.Task,
        value: Any,
        error: BaseException | None,
    ) -> Outcome:
        """The outcome of what happened; a recorded retry outweighs all else."""
        try:
            if request.retry is not None:
                follow_up = _follow_up(payload, message, request.retry, self._limit)
                return self._conclude_retry(task, request, request.retry, follow_up)
            if error is None:
                return self._conclude_success(task, request, value)
        except EncodeError as refusal:
            what = "return value" if request.retry is None else "arguments for the retry"
            error = _explain(task, what, refusal)
        if isinstance(error, Retry):
            error = RuntimeError(f"{task.name} raised Retry itself; call self.retry() instead")
        return self._conclude_failure(task, request, error)

    def _conclude_success(self, task: Task[..., Any], request: Request, value: Any) -> Outcome:
        meta: bytes | None = None
        if self._stores(task, request):
            meta = result_message.encode_success(
                request.id, value, clock.time(), parent_id=request.parent_id, form=self._form
            )
            if len(meta) > self._limit:
                raise too_large(meta, self._limit)
        return Outcome(0, "success", result=meta)

    def _conclude_failure(
        self, task: Task[..., Any], request: Request, error: BaseException
    ) -> Outcome:
        record = describe_exception(error)
        summary = _summarize(record)
        expected = isinstance(error, task.throws) if task.throws else False
        log_failure(request, error, expected=expected)
        meta = None
        if self._stores(task, request):
            meta = result_message.encode_failure(
                request.id,
                record,
                clock.time(),
                format_traceback(error),
                parent_id=request.parent_id,
                form=self._form,
            )
        return Outcome(0, "failure", result=meta, error=summary)

    def _conclude_retry(
        self, task: Task[..., Any], request: Request, plan: RetryPlan, follow_up: FollowUp
    ) -> Outcome:
        cause = plan.exc or Retry("Retry")
        record = describe_exception(cause)
        summary = _summarize(record)
        log_retry(request, plan)
        meta = None
        if self._stores(task, request):
            meta = result_message.encode_failure(
                request.id,
                record,
                None,
                format_traceback(cause),
                status=states.RETRY,
                parent_id=request.parent_id,
                form=self._form,
            )
        return Outcome(0, "retry", result=meta, follow_up=follow_up, error=summary)


def _own_frames_off(frames: TracebackType | None) -> TracebackType | None:
    """A traceback that starts in the user's code."""
    inner = frames
    while inner is not None and inner.tb_frame.f_globals.get("__package__") in OURS:
        inner = inner.tb_next
    return inner or frames


FollowUp = tuple[str, float | None, bytes]


def _follow_up(payload: bytes, message: task_message.Task, plan: RetryPlan, limit: int) -> FollowUp:
    """The next attempt's tag, due time and message.

    The tag is derived from this message's, so that storing it twice leaves one.
    """
    headers = message.headers
    nonce = (message.properties.delivery_tag or "").rpartition(":")[2].partition(".")[0]
    tag = f"{headers.id}:{nonce}.{plan.retries}"
    body = compression = None
    if plan.args is not None or plan.kwargs is not None:
        args = message.args if plan.args is None else plan.args
        kwargs = message.kwargs if plan.kwargs is None else plan.kwargs
        value = (args, kwargs, message.embed)
        body, compression = task_message.encode_body(value, message, limit)
    data = task_message.encode_retry(
        payload,
        tag=tag,
        retries=plan.retries,
        due=plan.due,
        body=body,
        compression=compression,
    )
    return tag, plan.due, data


def _summarize(record: ErrorRecord) -> str:
    text = f"{record['exc_type']}: {', '.join(map(str, record['exc_message']))}"[:500]
    # A lone surrogate, as in a file's name that is no text, fits into no message.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _explain(task: Task[..., Any], what: str, refusal: EncodeError) -> EncodeError:
    message = f"The {what} of {task.name} cannot be stored: {refusal}"
    return EncodeError(message, refusal.problem, refusal.path, refusal.type_name)
