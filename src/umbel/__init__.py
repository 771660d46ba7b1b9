"""Umbel: a distributed task queue that runs Celery code on an engine of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from umbel.app import App, AsyncTask, Task
    from umbel.app import App as Celery
    from umbel.app.queues import Exchange, Queue, binding
    from umbel.result import AsyncResult

__version__ = "0.1.0"
__all__ = [
    "App",
    "AsyncResult",
    "AsyncTask",
    "Celery",
    "Exchange",
    "Queue",
    "Task",
    "__version__",
    "binding",
]

_HOMES = {
    "App": ("umbel.app", "App"),
    "Celery": ("umbel.app", "App"),
    "AsyncTask": ("umbel.app", "AsyncTask"),
    "Task": ("umbel.app", "Task"),
    "Exchange": ("umbel.app.queues", "Exchange"),
    "Queue": ("umbel.app.queues", "Queue"),
    "binding": ("umbel.app.queues", "binding"),
    "AsyncResult": ("umbel.result", "AsyncResult"),
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        message = f"module 'umbel' has no attribute {name!r}"
        raise AttributeError(message)
    import importlib

    value = getattr(importlib.import_module(home[0]), home[1])
    globals()[name] = value
    return value
