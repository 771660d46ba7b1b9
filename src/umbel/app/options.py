"""The options of tasks, and of sending them, as types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from umbel.app.task import Task

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
    """Keywords of `@app.task`. What each means, and its default: the attributes of `Task`."""

    name: str | None
    base: type[Task[..., Any]] | None
    """The class that the task is made from; default: the app's `task_cls`."""
    typing: bool | None
    max_retries: int | None
    default_retry_delay: float
    autoretry_for: tuple[type[BaseException], ...]
    dont_autoretry_for: tuple[type[BaseException], ...]
    retry_kwargs: Mapping[str, Any]
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    rate_limit: str | float | None
    time_limit: float | None
    soft_time_limit: float | None
    ignore_result: bool | None
    store_errors_even_if_ignored: bool | None
    store_eager_result: bool | None
    track_started: bool | None
    trail: bool
    send_events: bool
    acks_late: bool | None
    acks_on_failure: bool | None
    acks_on_timeout: bool | None
    acks_on_failure_or_timeout: bool | None
    reject_on_worker_lost: bool | None
    retry_on_worker_lost: bool | None
    serializer: str | None
    compression: str | None
    priority: int | None
    expires: float | None
    queue: str | None
    exchange: str | None
    routing_key: str | None
    delivery_mode: int | str | None
    throws: tuple[type[Exception], ...]
    shadow_name: Callable[..., str | None] | None
    resultrepr_maxsize: int
    abstract: bool
    from_config: tuple[tuple[str, str], ...]
