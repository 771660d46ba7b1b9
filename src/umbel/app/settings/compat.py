"""Where the defaults differ from Celery's on purpose, and `compat="celery"` that restores them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class Difference(NamedTuple):
    """One setting whose default here is not what Celery does."""

    setting: str
    celery: Any
    """Its value with `compat="celery"`."""
    here: str
    """What happens with our default."""
    there: str
    """What happens in Celery."""


DIFFERENCES: Final = (
    Difference(
        "task_acks_late", False,
        "a task is done when it has ended: kill -9 loses nothing, and it may run twice",
        "a task is done when it starts: it never runs twice, and is lost with its process",
    ),
    Difference(
        "task_reject_on_worker_lost", False,
        "a task whose process died runs again, alone, and is a dead letter after some deaths",
        "a task whose process died has failed, even with task_acks_late",
    ),
    Difference(
        "task_unknown_timeout", 0.0,
        "a task that no worker knows waits for one that does, then is a dead letter",
        "a task that the worker does not know is taken out of the queue at once",
    ),
    Difference(
        "task_soft_time_limit_grace", 604800.0,
        "a task that ignores its soft limit is killed after the grace",
        "a task may ignore its soft limit (for a week, with compat)",
    ),
    Difference(
        "redis_priority_order", "celery",
        "9 is the most urgent on every broker",
        "on Redis 0 is the most urgent",
    ),
    Difference(
        "worker_hijack_root_logger", True,
        "logging that the app has set up stays as it is",
        "the worker takes the root logger's handlers away and sets its own",
    ),
)  # fmt: skip
"""Settings only: that unknown names are refused, and passed over with a warning in Celery, is
the one difference of `compat` that is no setting."""
