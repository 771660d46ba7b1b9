"""What a producer needs: the app, its settings and tasks, and the road to the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umbel.app.app import App
from umbel.app.app import App as Celery
from umbel.app.current import (
    app_or_default,
    current_app,
    current_task,
    default_app,
    get_current_app,
    pop_current_task,
    push_current_task,
)
from umbel.app.refusals import refuse_names
from umbel.app.shared import shared_task
from umbel.app.task import AsyncTask, Task

__all__ = [
    "App",
    "AsyncTask",
    "Celery",
    "Task",
    "app_or_default",
    "bugreport",
    "current_app",
    "current_task",
    "default_app",
    "get_current_app",
    "pop_current_task",
    "push_current_task",
    "shared_task",
    "uuid",
]


def bugreport(app: App | None = None) -> str:
    """What to put into a report of a bug about an app, by default the current one."""
    return app_or_default(app).bugreport()


def uuid() -> str:
    """A new id, as tasks get one."""
    from umbel.message.ids import new_id

    return new_id()


if not TYPE_CHECKING:
    __getattr__ = refuse_names(__name__)
