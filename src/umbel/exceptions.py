"""Every error a user of the package can meet, under Celery's names (`celery.exceptions`)."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    import click

    from umbel.result import AsyncResult

    class CeleryCommandException(click.ClickException):
        """An error of a command of your own that ends with an exit code of its choice."""

        def __init__(self, message: str, exit_code: int) -> None: ...


class UmbelError(Exception):
    """Base of the errors that the package raises itself."""


CeleryError = UmbelError


# ----------------------------------------------------------------- settings, stores, messages


class ImproperlyConfigured(UmbelError):  # noqa: N818  (Celery's name)
    """A setting, URL or option cannot work; the message names what to change."""


class OperationalError(UmbelError):
    """The store could not be reached or written in time; nothing was queued.

    Kombu's name (`kombu.exceptions.OperationalError`). URLs in the message are masked.
    """


class UnconfirmedError(OperationalError):
    """The store has queued it, but too few of its replicas have confirmed it in time.

    It is not tried again: that would queue it twice. See `redis_min_replicas_ack`.
    """


class PartlySentError(OperationalError):
    """`apply_many` could not store all its messages: those of `results` are queued."""

    def __init__(self, message: str, results: list[AsyncResult[Any]]) -> None:
        super().__init__(message)
        self.results = results
        """The results of what is queued: of the first items, in their order."""

    def __reduce__(self) -> tuple[type[PartlySentError], tuple[str, list[AsyncResult[Any]]]]:
        return type(self), (str(self), self.results)


class StoreFull(OperationalError):  # noqa: N818
    """The disk that holds the store is full. Nothing was lost; free space and try again."""


class StoreDamaged(OperationalError):  # noqa: N818
    """The store's file is not a sound SQLite database."""


class EncodeError(UmbelError, TypeError):
    """A value cannot be written in the serializer's format (`kombu.exceptions.EncodeError`)."""

    def __init__(
        self,
        message: str = "",
        problem: str = "",
        path: tuple[str | int, ...] = (),
        type_name: str = "",
    ) -> None:
        super().__init__(message)
        self.problem: str = problem or message
        """The message without the place: what is wrong and what to do about it."""
        self.path = path
        """Keys and positions that lead from the encoded value to the culprit; (): the value."""
        self.type_name = type_name
        """The culprit's class name, or an empty text when the error came from elsewhere."""


class DecodeError(UmbelError, ValueError):
    """Stored bytes are not what their format promises (`kombu.exceptions.DecodeError`)."""


class ContentDisallowed(DecodeError):  # noqa: N818
    """Content of a type that `accept_content` does not name; it was not decoded.

    Kombu's name (`kombu.exceptions.ContentDisallowed`).
    """


class SerializerNotInstalled(ImproperlyConfigured):
    """There is no serializer of that name (`kombu.exceptions.SerializerNotInstalled`)."""


class SecurityError(UmbelError):
    """A message's signature, certificate or content type is not what was agreed."""


class BackendError(UmbelError):
    """Base of the errors that tell of a stored result. An unreachable store: `OperationalError`."""

    def __init__(self, *args: object, task_id: str = "", state: str = "") -> None:
        super().__init__(*args)
        self.task_id = task_id
        self.state = state


class BackendGetMetaError(BackendError):
    """What is stored under a task's id is not a result that can be read."""


class BackendStoreError(BackendError):
    """A result could not be stored."""


# ---------------------------------------------------------------------------------- of a task


class TaskError(UmbelError):
    """Base of the errors that tell of a task."""


class QueueNotFound(KeyError, TaskError):  # noqa: N818
    """No queue of this name is declared, and `task_create_missing_queues` is off."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NotRegistered(KeyError, TaskError):  # noqa: N818
    """No task of this name is known to the app."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class AlreadyRegistered(TaskError):  # noqa: N818
    """A task of this name is there already."""


class InvalidTaskError(TaskError):
    """A message is not one of a task, or its fields contradict each other."""


class TimeoutError(TaskError, builtins.TimeoutError):  # noqa: A001
    """`AsyncResult.get` ended its wait before the task did; the task goes on."""


class IncompleteStream(TaskError):  # noqa: N818
    """`AsyncResult.iterdeps` came to a task that has not ended."""


class ChordError(TaskError):
    """A task of a chord's header has failed, so its body does not run."""


class TaskRevokedError(TaskError):
    """The task was revoked or expired before it ran."""


class MaxRetriesExceededError(TaskError):
    """`Task.retry` was called more often than `max_retries` allows."""

    def __init__(
        self,
        *args: object,
        task_args: tuple[object, ...] | list[object] = (),
        task_kwargs: dict[str, object] | None = None,
    ) -> None:
        super().__init__(*args)
        self.task_args = task_args
        self.task_kwargs: dict[str, object] = task_kwargs or {}


# Celery's are billiard's and no TaskErrors either: `except TaskError` in a task must not swallow
# its time limit.


class SoftTimeLimitExceeded(Exception):  # noqa: N818
    """Raised inside a task at its soft time limit, so that it can clean up."""


class TimeLimitExceeded(Exception):  # noqa: N818
    """The task ran into its hard time limit and its process was killed."""


class WorkerLostError(Exception):
    """The process that ran the task died; the message says of what."""


class Terminated(Exception):  # noqa: N818
    """The process that ran the task was told to end."""


class RemoteError(TaskError):
    """A task failed with an exception whose class is not registered here.

    The raised object's class is made on the spot: it has the remote class's name and is a
    subclass of this one. Nothing that a stored result names is ever imported or called.
    """


# --------------------------------------------------------- what a task raises to leave its function


class TaskPredicate(UmbelError):  # noqa: N818
    """Base of what leaves a task without being its failure."""


class Retry(TaskPredicate):
    """Raised by `Task.retry` to leave the task; the attempt's outcome is the follow-up."""

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: object = None,
    ) -> None:
        super().__init__(message or "")
        self.message = message
        self.exc: BaseException | None = None if isinstance(exc, str) else exc
        """The error that caused the retry, if one was named."""
        self.excs: str | None = exc if exc is None or isinstance(exc, str) else repr(exc)
        """The same as text."""
        self.when = when
        """When the next attempt may run: seconds from then, or a datetime; None: at once."""
        self.is_eager = is_eager
        self.sig = sig

    def humanize(self) -> str:
        """When, in words."""
        if self.when is None:
            return "at once"
        return f"in {self.when:g}s" if isinstance(self.when, (int, float)) else f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        return f"Retry {self.humanize()}: {self.excs}" if self.excs else f"Retry {self.humanize()}"

    def __reduce__(self) -> tuple[type[Retry], tuple[object, ...]]:
        return type(self), (self.message, self.exc or self.excs, self.when, self.is_eager)


RetryTaskError = Retry


class Ignore(TaskPredicate):
    """Raise it in a task to end it without a result being stored."""


class Reject(TaskPredicate):
    """Raise it in a task to reject its message: `requeue=True` runs it again later."""

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class WorkerShutdown(SystemExit):
    """Raised in the worker's own process (a signal handler, say), it ends the worker."""


class WorkerTerminate(SystemExit):
    """The same; what runs is not waited for."""


SystemTerminate = WorkerTerminate


# ----------------------------------------------------------------------------------- warnings


class UmbelWarning(UserWarning):
    """Base of the package's warnings."""


CeleryWarning = UmbelWarning


class AlwaysEagerIgnored(UmbelWarning):
    """`task_always_eager` is on and has no effect on what was called."""


class DuplicateNodenameWarning(UmbelWarning):
    """Two workers have one name."""


class DuplicateTaskNameWarning(UmbelWarning):
    """Two functions have one task name; the message says which of them stays."""


class FixupWarning(UmbelWarning):
    """A framework's integration could not be set up."""


class NotConfigured(UmbelWarning):
    """There is no configuration where one was looked for; defaults are in force."""


class SecurityWarning(UmbelWarning):
    """Something is allowed that lets others run code."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Will be deprecated."""


class CDeprecationWarning(DeprecationWarning):
    """Deprecated: goes away with a later version."""


def reraise(
    tp: type[BaseException],  # noqa: ARG001  (Celery's signature)
    value: BaseException,
    tb: TracebackType | None = None,
) -> NoReturn:
    """Raise an exception with a traceback."""
    raise value if value.__traceback__ is tb else value.with_traceback(tb)


if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> type[BaseException]:
        if name != "CeleryCommandException":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import click  # an app must not load it

        class CeleryCommandException(click.ClickException):
            """An error of a command of your own that ends with an exit code of its choice."""

            def __init__(self, message: str, exit_code: int) -> None:
                super().__init__(message)
                self.exit_code = exit_code

        CeleryCommandException.__qualname__ = name
        globals()[name] = CeleryCommandException
        return CeleryCommandException
