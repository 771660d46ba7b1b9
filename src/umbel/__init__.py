"""Umbel: a distributed task queue that runs Celery code on an engine of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from umbel.app import (
        App,
        AsyncTask,
        Task,
        app_or_default,
        bugreport,
        current_app,
        current_task,
        shared_task,
        uuid,
    )
    from umbel.app import App as Celery
    from umbel.app.sending.queues import Exchange, Queue, binding
    from umbel.canvas import (
        Signature,
        chain,
        chord,
        chunks,
        group,
        maybe_signature,
        signature,
        subtask,
        xmap,
        xstarmap,
    )
    from umbel.pools.kinds import maybe_patch_concurrency
    from umbel.result import AsyncResult, GroupResult

SERIES = "umbel"
"""The name of this series of releases."""
__all__ = [
    "SERIES",
    "VERSION",
    "VERSION_BANNER",
    "App",
    "AsyncResult",
    "AsyncTask",
    "Celery",
    "Exchange",
    "GroupResult",
    "Queue",
    "Signature",
    "Task",
    "__version__",
    "app_or_default",
    "binding",
    "bugreport",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "maybe_patch_concurrency",
    "maybe_signature",
    "shared_task",
    "signature",
    "subtask",
    "uuid",
    "version_info",
    "xmap",
    "xstarmap",
]


class version_info(NamedTuple):  # noqa: N801  (as sys.version_info)
    """The parts of `__version__`."""

    major: int
    minor: int
    micro: int
    releaselevel: str = ""
    serial: str = ""


VERSION = version_info(0, 1, 0)
__version__ = f"{VERSION.major}.{VERSION.minor}.{VERSION.micro}"
VERSION_BANNER = f"{__version__} ({SERIES})"

_HOMES = {
    **{name: ("umbel.app.sending.queues", name) for name in ("Exchange", "Queue", "binding")},
    **{name: ("umbel.result", name) for name in ("AsyncResult", "GroupResult")},
    **{
        name: ("umbel.canvas", name)
        for name in (
            "Signature",
            "chain",
            "chord",
            "chunks",
            "group",
            "maybe_signature",
            "signature",
            "subtask",
            "xmap",
            "xstarmap",
        )
    },
    "Celery": ("umbel.app", "App"),
    "maybe_patch_concurrency": ("umbel.pools.kinds", "maybe_patch_concurrency"),
    **{
        name: ("umbel.app", name)
        for name in (
            "App",
            "AsyncTask",
            "Task",
            "app_or_default",
            "bugreport",
            "current_app",
            "current_task",
            "shared_task",
            "uuid",
        )
    },
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        if name in {"backends", "bootsteps", "loaders"}:  # `from umbel import cli` asks here too
            from umbel.app.refusals import refuse_names

            refuse_names("umbel")(name)
        message = f"module 'umbel' has no attribute {name!r}"
        raise AttributeError(message)
    import importlib

    value = getattr(importlib.import_module(home[0]), home[1])
    globals()[name] = value
    return value
