"""What the worker itself tells handlers and receivers: of what no child can tell.

A message that is received, revoked, unknown or no task is told of where it is decided. The end of
a task whose process was killed is told of in a thread of its own, after it is stored, so that a
handler that waits for a mail server holds nobody up.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections.abc import Callable
from typing import Final, NamedTuple, ParamSpec

from umbel import signals, states
from umbel.app import App
from umbel.app.execution.steps import ExceptionInfo, Steps
from umbel.app.request import Request, current
from umbel.engines.broker import Delivery
from umbel.exceptions import DecodeError, Retry, SecurityError
from umbel.message import task as task_message
from umbel.message.content import content_types
from umbel.message.task import Headers

logger: logging.Logger = logging.getLogger("umbel.worker")

P = ParamSpec("P")
PATIENCE: Final = 5.0
"""Seconds that handlers get to come to an end when the worker stops."""


class Notice(NamedTuple):
    """An end to tell of."""

    steps: Steps
    request: Request
    state: str
    error: BaseException
    einfo: ExceptionInfo


def guarded(tell: Callable[P, None]) -> Callable[P, None]:
    """A notice whose error is logged: it is told to people, and the worker goes on."""

    @functools.wraps(tell)
    def tell_or_log(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            tell(*args, **kwargs)
        except (Exception, SystemExit):
            logger.exception("A notice failed (%s); the worker goes on", tell.__name__)

    return tell_or_log


class Notices:
    """Tells of ends that the supervisor has decided."""

    def __init__(self, app: App, node: str) -> None:
        self._app = app
        self._node = node
        self._unstored: list[Notice] = []
        self._stored: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @guarded
    def add(
        self, delivery: Delivery, headers: Headers, error: BaseException, stacks: str, *,
        state: str = states.FAILURE,
    ) -> None:  # fmt: skip
        """Note an end, if anybody wants to hear of it; it is told once it is stored."""
        task = self._app.tasks.get(headers.task)
        if task is None:
            return
        steps = Steps(task)
        signal = signals.task_retry if state == states.RETRY else signals.task_failure
        if not steps.has_handlers and not signal.receivers:
            return
        text = f"{stacks}{type(error).__module__}.{type(error).__qualname__}: {error}\n"
        request = request_of(self._app, delivery, headers, self._node)
        reason = error
        if state == states.RETRY:
            reason = Retry(None, error, task.default_retry_delay)
        self._unstored.append(Notice(steps, request, state, reason, ExceptionInfo(error, text)))

    def tell(self) -> None:
        """What was noted is stored now: tell of it."""
        if not self._unstored:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="umbel-notices", daemon=True)
            self._thread.start()
        for notice in self._unstored:
            self._stored.put(notice)
        self._unstored.clear()

    def close(self) -> None:
        """Wait a moment for what is being told."""
        if self._thread is not None:
            self._stored.put(None)
            self._thread.join(PATIENCE)

    def _run(self) -> None:
        while (notice := self._stored.get()) is not None:
            scope = current.set(notice.request)
            try:
                notice.steps.tell(notice.request, notice.state, notice.error, None, notice.einfo)
            except (Exception, SystemExit):
                logger.exception("What became of %s could not be told", notice.request.id)
            finally:
                current.reset(scope)


def request_of(app: App, delivery: Delivery, headers: Headers, node: str) -> Request:
    """The request of a delivery that does not run, with its arguments where they can be read."""
    request = Request(headers.id, headers.task)
    try:
        conf = app.conf
        message = task_message.decode(
            delivery.payload, content_types(conf.accept_content), conf.task_max_message_bytes
        )
        request.message, request.args, request.kwargs = message, message.args, message.kwargs
    except (DecodeError, SecurityError):  # its end does not hang on that
        request.parent_id, request.root_id = headers.parent_id, headers.root_id
    request.payload = delivery.payload
    request.retries = headers.retries or 0
    request.deliveries = delivery.deliveries
    request.hostname = node
    request.called_directly = False
    request.owner = app.tasks.get(headers.task)
    # What Celery's worker calls them (`celery.worker.request.Request`).
    request.update(name=headers.shown_name, task_name=headers.task, task_id=headers.id)
    return request


@guarded
def tell_received(app: App, delivery: Delivery, headers: Headers, node: str) -> None:
    """A message was claimed and gets a slot."""
    if signals.task_received.receivers:
        signals.task_received.send(node, request=request_of(app, delivery, headers, node))


@guarded
def tell_revoked(
    app: App, delivery: Delivery, headers: Headers, node: str, *, expired: bool,
    signum: int | None = None,
) -> None:  # fmt: skip
    """A message will not run: it was revoked or has expired; or what ran is ended by a signal."""
    if signals.task_revoked.receivers:
        signals.task_revoked.send(
            app.tasks.get(headers.task),
            request=request_of(app, delivery, headers, node),
            terminated=signum is not None,
            signum=signum,
            expired=expired,
        )


@guarded
def tell_rejected(delivery: Delivery, node: str, error: Exception) -> None:
    """What was claimed is no task message, or none that may be read."""
    if signals.task_rejected.receivers:
        signals.task_rejected.send(node, message=delivery, exc=error)


@guarded
def tell_unknown(delivery: Delivery, headers: Headers, node: str, error: Exception) -> None:
    """No task of a message's name is registered here."""
    if signals.task_unknown.receivers:
        signals.task_unknown.send(
            node, message=delivery, exc=error, name=headers.task, id=headers.id
        )
