"""The running task's request: what `Task.request` shows, and what `Task.retry` decides."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec

from umbel._state import current_request

if TYPE_CHECKING:
    from umbel.app.task import Task


class RetryPlan(msgspec.Struct, frozen=True):
    """A decision to run the task again; the attempt's outcome, whatever it returns or raises."""

    due: float | None
    """Unix time; None: at once."""
    retries: int
    exc: BaseException | None
    args: tuple[Any, ...] | None = None
    """New arguments; None keeps the message's."""
    kwargs: dict[str, Any] | None = None


class Request(msgspec.Struct):
    """One delivery of a task, as the task sees it (`celery.app.task.Context`)."""

    id: str
    task: str
    args: list[Any] = msgspec.field(default_factory=list)
    kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    retries: int = 0
    """Retries made so far: 0 in the first attempt."""
    deliveries: int = 0
    """Attempts so far that killed their process; above 0 this is a redelivery."""
    delivery_info: dict[str, Any] = msgspec.field(default_factory=dict)
    hostname: str | None = None
    """The worker's node name."""
    root_id: str | None = None
    parent_id: str | None = None
    eta: str | None = None
    expires: str | None = None
    timelimit: tuple[float | None, float | None] = (None, None)
    """(hard, soft), in seconds."""
    ignore_result: bool = False
    called_directly: bool = True
    """The function was called in this process, without a message."""
    retry: RetryPlan | None = None
    is_eager: bool = False
    """It runs in the process that sent it (`apply`, `task_always_eager`)."""
    owner: Task[..., Any] | None = None
    """The task that runs, as its app has it."""
    outer: Request | None = None
    """The request of the task that called this one, in this process."""


current: ContextVar[Request | None] = current_request
"""The request of the task that runs in this context."""
