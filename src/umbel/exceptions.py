"""Every error a user of the package can meet, under Celery's names (`celery.exceptions`)."""

from __future__ import annotations

import builtins


class UmbelError(Exception):
    """Base of all errors that the package raises itself."""


class ImproperlyConfigured(UmbelError):  # noqa: N818  (Celery's name)
    """A setting, URL or option cannot work; the message names what to change."""


class OperationalError(UmbelError):
    """The store could not be reached or written in time; nothing was queued.

    Kombu's name (`kombu.exceptions.OperationalError`). URLs in the message are masked.
    """


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
        self.problem = problem or message
        """The message without the place: what is wrong and what to do about it."""
        self.path = path
        """Keys and positions that lead from the encoded value to the culprit; (): the value."""
        self.type_name = type_name
        """The culprit's class name, or an empty text when the error came from elsewhere."""


class DecodeError(UmbelError, ValueError):
    """Stored bytes are not what their format promises (`kombu.exceptions.DecodeError`)."""


class NotRegistered(UmbelError, KeyError):  # noqa: N818
    """No task of this name is known to the app."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class TimeoutError(UmbelError, builtins.TimeoutError):  # noqa: A001
    """`AsyncResult.get` ended its wait before the task did; the task goes on."""


class TaskError(UmbelError):
    """Base of the errors that tell how a task ended."""


class SoftTimeLimitExceeded(TaskError):  # noqa: N818
    """Raised inside a task at its soft time limit, so that it can clean up."""


class TimeLimitExceeded(TaskError):  # noqa: N818
    """The task ran into its hard time limit and its process was killed."""


class WorkerLostError(TaskError):
    """The process that ran the task died; the message says of what."""


class TaskRevokedError(TaskError):
    """The task was revoked or expired before it ran."""


class MaxRetriesExceededError(TaskError):
    """`Task.retry` was called more often than `max_retries` allows."""


class RemoteError(TaskError):
    """A task failed with an exception whose class is not registered here.

    The raised object's class is made on the spot: it has the remote class's name and is a
    subclass of this one. Nothing that a stored result names is ever imported or called.
    """


class Retry(TaskError):  # noqa: N818
    """Raised by `Task.retry` to leave the task; the attempt's outcome is the follow-up."""

    def __init__(
        self, message: str = "", exc: BaseException | None = None, when: float | None = None
    ) -> None:
        super().__init__(message)
        self.exc = exc
        """The error that caused the retry, if one was named."""
        self.when = when
        """Unix time from which the next attempt may run; None: at once."""
