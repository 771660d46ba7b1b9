"""The options of tasks, and of sending them, as types."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TypedDict

Moment = datetime | str | float
"""A point in time: a datetime, ISO 8601 text, or Unix time in seconds. A datetime without a zone
means UTC while `enable_utc` is on, else the app's zone."""


class SendOptions(TypedDict, total=False):
    """Keywords of `Task.apply_async`, `Task.aapply_async` and `App.send_task`."""

    task_id: str | None
    """The task's id; default: a new UUID."""
    countdown: float | None
    """Seconds from now before which it does not run; wins over `eta`."""
    eta: Moment | None
    """When it may run at the earliest."""
    expires: float | timedelta | datetime | str | None
    """When it is dropped if it has not started; a number or a timedelta is a duration."""
    priority: int | None
    """0 to 9; 9 is the most urgent."""
    queue: str | None
    """Default: the task's, else `task_default_queue`."""
    ignore_result: bool | None
    """Store no result; `get()` then returns None at once."""
    serializer: str | None
    """Default: the task's, else `task_serializer`."""
    compression: str | None
    """Default: the task's, else `task_compression`."""
    time_limit: float | None
    """Hard limit in seconds: the task's process is killed."""
    soft_time_limit: float | None
    """Soft limit in seconds: `SoftTimeLimitExceeded` is raised inside the task."""


class TaskOptions(TypedDict, total=False):
    """Keywords of `@app.task` (`celery.app.task.Task`)."""

    name: str
    """Default: the module's and the function's name."""
    max_retries: int | None
    """How often `retry` may run it again; default 3, None: for ever."""
    default_retry_delay: float
    """Seconds before the next attempt if `retry` is given none; default 180."""
    time_limit: float | None
    """Hard limit in seconds; default: `task_time_limit`."""
    soft_time_limit: float | None
    """Soft limit in seconds; default: `task_soft_time_limit`."""
    ignore_result: bool | None
    """Store no result; default: `task_ignore_result`."""
    acks_late: bool | None
    """The message is done when the task has ended; default: `task_acks_late`, which is on."""
    queue: str | None
    """Default: `task_default_queue`."""
    priority: int | None
    """0 to 9, 9 the most urgent; default: `task_default_priority`."""
    expires: float | None
    """Seconds after sending when it is dropped if it has not started; default: never."""
    serializer: str | None
    """Default: `task_serializer`."""
    compression: str | None
    """Default: `task_compression`."""
    throws: tuple[type[Exception], ...]
    """Errors that are expected: raised as themselves by `get`, logged without a traceback."""
