"""The execution pipeline: a delivery's bytes in, its outcome out.

decode → look the task up → set the request → begin → call → turn what happened into an outcome →
(once that has left) finish. The call itself is the slot's, because how code is run is what tells
pools apart; what begins and finishes a run is in `umbel.app.execution.steps`.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from functools import partial
from time import perf_counter  # the function itself: a task may patch the module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET

from umbel import clock, states
from umbel.app.execution.outcome import Ending, FollowUp, Outcome
from umbel.app.execution.progress import describe_request
from umbel.app.execution.steps import Steps, retry_automatically
from umbel.app.request import Request, current
from umbel.app.trace import log_failure, log_flow, log_retry, log_success
from umbel.engines.broker import Workflow
from umbel.exceptions import (
    ChordError,
    ContentDisallowed,
    DecodeError,
    EncodeError,
    Ignore,
    Reject,
    Retry,
    SecurityError,
)
from umbel.message import result as result_message
from umbel.message import task as task_message
from umbel.message.content import content_types
from umbel.message.result import ErrorRecord, describe_exception, format_traceback
from umbel.message.task import Headers, too_large
from umbel.signals import task_prerun

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.execution.retries import RetryPlan
    from umbel.app.sending.workflow import Shelf
    from umbel.app.task import Task

OURS: Final = frozenset(
    {"umbel.app.execution", "umbel.app", "umbel.pools", "umbel.testing", "asyncio"}
)
"""Packages whose frames lie between the slot and the user's function."""
Call = Callable[[int, "Task[..., Any]", list[Any], dict[str, Any]], Any]
Rest = Callable[[], None]
"""What is left of a run once its outcome has left; it raises nothing."""


class Run(msgspec.Struct, gc=False):
    """One delivery whose task is known, from its decoding to its outcome."""

    number: int
    payload: bytes
    message: task_message.Task
    steps: Steps
    request: Request
    context: Context
    """Its own: what it sets does not leak into the next task."""
    begins: bool
    """Whether anything comes before the function."""
    shelf: Shelf | None = None
    """Where the results of its chord lie, if it is a chord's body."""

    def begin(self) -> None:
        """What comes before the function: results, signals, a stored STARTED, `before_start`."""
        if self.shelf is not None:
            from umbel.app.execution.following import join

            join(self.request, self.message, self.shelf)
        self.steps.begin(self.request)


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
        self._extended = app.conf.result_extended
        self._drops_results = not app.keeps_results
        self._steps: dict[str, Steps] = {}
        self.void: set[int] = set()
        """What was terminated on request: its end is settled, and nothing of its own counts."""

    def execute(
        self, number: int, payload: bytes, deliveries: int, call: Call
    ) -> tuple[Outcome, Rest | None]:
        """Run one delivery in the calling thread: `open` and `perform`."""
        run = self.open(number, payload, deliveries)
        return (run, None) if isinstance(run, Outcome) else self.perform(run, call)

    def perform(self, run: Run, call: Call) -> tuple[Outcome, Rest | None]:
        """Call the function in the calling thread. Never raises what a task raised.

        Returns the outcome, and what is left to do once that is on its way to the store: the
        handlers and signals of the end. None: nobody wants to hear of it.
        """
        context, message = run.context, run.message
        failure: BaseException | None = None
        value: Any = None
        start = perf_counter()
        try:
            if run.begins:
                context.run(run.begin)
            value = context.run(call, run.number, run.steps.task, message.args, message.kwargs)
        except BaseException as raised:  # noqa: BLE001  (SystemExit too ends only the task)
            failure = raised
        return context.run(self.close, run, value, failure, perf_counter() - start)

    def open(self, number: int, payload: bytes, deliveries: int) -> Run | Outcome:
        """Decode a delivery and look its task up; the outcome at once if that cannot be done."""
        try:
            message = task_message.decode(payload, self._accept, self._limit)
        except (ContentDisallowed, SecurityError, DecodeError) as error:
            return _refuse(number, error)
        headers = message.headers
        task = self._tasks.get(headers.task)
        if task is None:
            return Outcome(number, "unknown")
        steps = self._steps.get(headers.task)
        if steps is None or steps.task is not task:
            steps = self._steps[headers.task] = Steps(task)
        request = self._request(message, payload, task, deliveries)
        scope = current.set(request)
        context = copy_context()
        current.reset(scope)
        begins = steps.begins or bool(task_prerun.receivers)
        shelf = None
        if headers.join is not UNSET:
            request.followed = request.joined = begins = True
            shelf = self.shelf
        return Run(number, payload, message, steps, request, context, begins, shelf)

    def close(
        self, run: Run, value: Any, failure: BaseException | None, runtime: float
    ) -> tuple[Outcome, Rest | None]:
        """The outcome of what the function returned or raised; as `perform` returns it.

        To be called in the run's context.
        """
        if self.void and run.number in self.void:
            self.void.discard(run.number)
            return Outcome(run.number, "terminated", runtime), None
        steps, request = run.steps, run.request
        if request.begun is not None:
            from umbel.app.log import end_lines

            end_lines(request)
        try:
            if failure is not None:
                # The class's own: what a task raises may have overridden it.
                BaseException.with_traceback(failure, _own_frames_off(failure.__traceback__))
                if steps.retried:
                    failure = _consider_retry(steps, request, failure)
            outcome = self._conclude(steps, request, run.payload, run.message, value, failure)
            if outcome.ending == "success":
                log_success(request, _shown(steps.task, request, value), runtime)
        except BaseException as odd:  # noqa: BLE001  (what it returned or raised cannot be told)
            outcome = self._conclude_odd(steps, request, odd)
        outcome.number, outcome.runtime = run.number, runtime
        if self._report_memory:
            outcome.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        end = request.end
        if end is not None and steps.is_heard(end[0]):
            return outcome, partial(run.context.run, steps.finish, request, *end, runtime)
        return outcome, None

    def _request(
        self, message: task_message.Task, payload: bytes, task: Task[..., Any], deliveries: int
    ) -> Request:
        headers = message.headers
        request = Request(headers.id, headers.task, message.args, message.kwargs)
        request.message = message
        request.payload = payload
        request.retries = headers.retries or 0
        request.deliveries = deliveries
        request.hostname = self._node
        request.ignore_result = self._drops_results or task.ignores_result(headers.ignore_result)
        request.called_directly = False
        request.parent_id = headers.parent_id
        request.owner = task
        request.followed = message.embed != task_message.NO_EMBED or headers.chord is not UNSET
        return request

    @property
    def shelf(self) -> Shelf:
        """Where what is known of workflows lies."""
        from umbel.app.sending.workflow import shelf_of

        return shelf_of(self._app)

    def _stores(self, steps: Steps, request: Request, *, failed: bool = False) -> bool:
        """Whether the outcome is kept as a result."""
        if not request.ignore_result:
            return True
        return failed and steps.keeps_errors and not self._drops_results

    def _conclude(
        self,
        steps: Steps,
        request: Request,
        payload: bytes,
        message: task_message.Task,
        value: Any,
        error: BaseException | None,
    ) -> Outcome:
        """The outcome of what happened; a recorded retry outweighs all else."""
        if steps.task.secret:
            error = _redact(steps.task, request, error)
        try:
            if request.retry is not None:
                from umbel.app.execution.retries import write_follow_ups

                follow_ups = write_follow_ups(
                    steps.task, payload, message, request.retry, self._accept, self._limit
                )
                outcome = self._conclude_retry(steps, request, request.retry, follow_ups, error)
                if request.retry.args is not None and message.headers.join is not UNSET:
                    # It has the results among its arguments now.
                    outcome.workflow = Workflow(dropped=(message.headers.join[0],))
                return outcome
            if error is None:
                return self._conclude_success(steps, message.headers, request, value)
        except EncodeError as refusal:
            what = "return value" if request.retry is None else "arguments for the retry"
            error = _explain(steps.task, request, what, refusal)
        if isinstance(error, Ignore):
            log_flow(request, error)
            request.end = (states.IGNORED, error)
            outcome = Outcome(0, "ignored")
            if request.followed or request.replaced is not None:
                from umbel.app.execution.following import after_ignored

                after_ignored(self._app, self.shelf, request).tell(outcome)
            return outcome
        if isinstance(error, Retry):
            error = RuntimeError(f"{request.task} raised Retry itself; call self.retry() instead")
        if isinstance(error, Reject):
            return self._conclude_rejection(steps, request, error)
        return self._conclude_failure(steps, request, error)

    def _conclude_success(
        self, steps: Steps, headers: Headers, request: Request, value: Any
    ) -> Outcome:
        meta: bytes | None = None
        followed = None
        if request.followed and request.message is not None:
            from umbel.app.execution.following import after_success

            followed = after_success(self._app, self.shelf, request.message, value)
        if self._stores(steps, request):
            meta = result_message.encode_success(
                headers.id,
                value,
                clock.time(),
                parent_id=headers.parent_id,
                children=_children_of(request),
                extended=describe_request(request) if self._extended else None,
                form=self._form,
            )
            if len(meta) > self._limit:
                raise too_large(meta, self._limit)
        request.end = (states.SUCCESS, value)
        outcome = Outcome(0, "success", result=meta)
        if followed is not None:
            followed.tell(outcome)
        return outcome

    def _conclude_failure(self, steps: Steps, request: Request, error: BaseException) -> Outcome:
        task = steps.task
        record = describe_exception(error)
        summary = _summarize(record)
        expected = isinstance(error, task.throws) if task.throws else False
        log_failure(request, error, expected=expected)
        request.end = (states.FAILURE, error)
        meta = self._failure_meta(steps, request, record, error)
        ending: Ending = "rejected" if steps.keeps_failures else "failure"
        outcome = Outcome(0, ending, result=meta, error=summary)
        self._follow_failure(outcome, request, record, error)
        return outcome

    def _follow_failure(
        self, outcome: Outcome, request: Request, record: ErrorRecord, error: BaseException
    ) -> None:
        """What a failure leads to in the task's workflow."""
        message, payload = request.message, request.payload
        if not request.followed or message is None or payload is None:
            return
        from umbel.app.execution.following import after_failure

        after_failure(
            self._app,
            self.shelf,
            message.headers,
            message,
            payload,
            record,
            format_traceback(error),
            states.FAILURE,
            buried=outcome.ending == "rejected",
        ).tell(outcome)

    def _conclude_odd(self, steps: Steps, request: Request, odd: BaseException) -> Outcome:
        """Of a run whose end itself raises when it is looked at: methods of the user's objects."""
        request.retry = None
        return self._conclude_failure(
            steps,
            request,
            RuntimeError(
                f"{request.task} has run, and what it returned or raised cannot be stored: looking "
                f"at it raises {type(odd).__name__}. Look for a __repr__, __str__, __bool__ or "
                "__class__ of its own that fails."
            ),
        )

    def _conclude_rejection(self, steps: Steps, request: Request, error: Reject) -> Outcome:
        log_flow(request, error)
        request.end = (states.REJECTED, error)
        record = describe_exception(error)
        summary = _text(f"rejected by the task: {error.reason}")
        if error.requeue:
            return Outcome(0, "requeued", error=summary)
        outcome = Outcome(
            0, "rejected", result=self._failure_meta(steps, request, record, error), error=summary
        )
        self._follow_failure(outcome, request, record, error)
        return outcome

    def _conclude_retry(
        self,
        steps: Steps,
        request: Request,
        plan: RetryPlan,
        follow_ups: tuple[FollowUp, ...],
        error: BaseException | None,
    ) -> Outcome:
        cause = Retry("Retry") if plan.exc is None else plan.exc
        record = describe_exception(cause)
        summary = _summarize(record)
        log_retry(request, plan)
        raised = error if isinstance(error, Retry) else Retry(None, plan.exc, plan.when)
        request.end = (states.RETRY, raised)
        meta = None
        if self._stores(steps, request):
            meta = result_message.encode_failure(
                request.id or "",
                record,
                None,
                format_traceback(cause),
                status=states.RETRY,
                parent_id=request.parent_id,
                extended=describe_request(request) if self._extended else None,
                form=self._form,
            )
        return Outcome(0, "retry", result=meta, follow_ups=follow_ups, error=summary)

    def _failure_meta(
        self, steps: Steps, request: Request, record: ErrorRecord, error: BaseException
    ) -> bytes | None:
        """What is stored of a failure; nothing if nothing is to be."""
        if not self._stores(steps, request, failed=True):
            return None
        return result_message.encode_failure(
            request.id or "",
            record,
            clock.time(),
            format_traceback(error),
            parent_id=request.parent_id,
            children=_children_of(request),
            extended=describe_request(request) if self._extended else None,
            form=self._form,
        )


def _refuse(number: int, error: ContentDisallowed | SecurityError | DecodeError) -> Outcome:
    if isinstance(error, ContentDisallowed):
        return Outcome(number, "disallowed", error=str(error))
    if isinstance(error, SecurityError):
        return Outcome(number, "untrusted", error=str(error))
    return Outcome(number, "undecodable", error=str(error))


def _children_of(request: Request) -> Sequence[object]:
    """What the run has sent, as result tuples."""
    if "_children" not in request.__dict__:  # most have sent nothing
        return ()
    return [child.as_tuple() for child in request.children]


def _redact(
    task: Task[..., Any], request: Request, error: BaseException | None
) -> BaseException | None:
    """The error without what is secret in the task's arguments."""
    from umbel.app.redaction import conceal

    args, kwargs, plan = request.args or (), request.kwargs or {}, request.retry
    if plan is not None and plan.exc is not None:
        request.retry = msgspec.structs.replace(plan, exc=conceal(task, args, kwargs, plan.exc))
    return None if error is None else conceal(task, args, kwargs, error)


def _shown(task: Task[..., Any], request: Request, value: object) -> object:
    """The return value as it may be logged."""
    if not task.secret:
        return value
    from umbel.app.redaction import shown_value

    return shown_value(task, request.args or (), request.kwargs or {}, value)


def _consider_retry(steps: Steps, request: Request, error: BaseException) -> BaseException:
    """Retry a task by itself if it asks for that; returns what it has failed with."""
    task = steps.task
    if not isinstance(error, steps.retried) or isinstance(error, (Ignore, Reject, Retry)):
        return error
    if request.retry is not None or isinstance(error, steps.spared):
        return error
    if isinstance(error, ChordError) and request.joined:
        return error  # its function was not called
    try:
        retry_automatically(task, request, error)
    except Exception as refusal:  # noqa: BLE001  (it has been retried often enough)
        return refusal
    return error


def _own_frames_off(frames: TracebackType | None) -> TracebackType | None:
    """A traceback that starts in the user's code."""
    inner = frames
    while inner is not None and inner.tb_frame.f_globals.get("__package__") in OURS:
        inner = inner.tb_next
    return inner or frames


def _summarize(record: ErrorRecord) -> str:
    return _text(f"{record['exc_type']}: {', '.join(map(str, record['exc_message']))}")


def _text(text: str) -> str:
    # A lone surrogate, as in a file's name that is no text, fits into no message.
    return text[:500].encode("utf-8", "backslashreplace").decode("utf-8")


def _explain(
    task: Task[..., Any], request: Request, what: str, refusal: EncodeError
) -> BaseException:
    message = f"The {what} of {task.name} cannot be stored: {str(refusal).lstrip('.')}"
    error = EncodeError(message, refusal.problem, refusal.path, refusal.type_name)
    # The place that it names may be a key of a secret mapping.
    return (task.secret and _redact(task, request, error)) or error
