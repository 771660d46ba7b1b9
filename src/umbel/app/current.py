"""Which app, and which task, is meant when none is named."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakSet

from umbel import _state
from umbel._state import current_request
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.task import Task

apps: Final[WeakSet[App]] = WeakSet()
"""Every app of this process."""


class State:
    """The apps of this process. Not of this thread: a web server's threads share one app."""

    current: App | None = None
    """The app made last, or the one whose `set_current` was called last."""
    default: App | None = None
    """The one whose `set_default` was called; current while no other is."""


def get_current_app() -> App:
    """The app of the task that runs in this context; else the process's current app.

    If this process has made none, that of its configuration module (`UMBEL_CONFIG_MODULE`,
    `CELERY_CONFIG_MODULE`, else `celeryconfig`); `ImproperlyConfigured` says what to do if there is
    neither.
    """
    return current_app_of("What was asked for")


def get_current_task() -> Task[..., Any] | None:
    """The task that runs in this context, called by a worker or by its name in the code."""
    request = current_request.get()
    return None if request is None else request.owner


def get_current_worker_task() -> Task[..., Any] | None:
    """The task that a worker runs in this context, however deep the calls inside it go."""
    request = current_request.get()
    while request is not None and request.called_directly:
        request = request.outer
    return None if request is None else request.owner


def current_app_of(name: str) -> App:
    """The current app; its absence is told as a concern of `name`."""
    request = current_request.get()
    if request is not None and request.owner is not None:
        of_task: App | None = vars(request.owner).get("app")
        if of_task is not None:
            return of_task
    app = State.current or State.default or _configured_app()
    if app is None:
        raise ImproperlyConfigured(
            f"{name} belongs to no app, and this process has made none: nothing was queued. "
            'Import the module that makes it (app = umbel.App("proj")) before this is used; in '
            "Django, in the project's __init__.py. Or put a celeryconfig.py where Python finds it."
        )
    return app


def _configured_app() -> App | None:
    """The app that a worker without `-A` would serve: of a configuration module, if there is one.

    Celery 3 projects are often no more than that module and tasks. Nothing is made of nothing.
    """
    from umbel.app.settings.sources import CONFIG_VARIABLES  # seldom needed, and not small

    if not (
        any(map(os.environ.get, CONFIG_VARIABLES))
        or "celeryconfig" in sys.modules
        or importlib.util.find_spec("celeryconfig")
    ):
        return None
    made: App = importlib.import_module("umbel.app.default").app
    return made


_state.find_app = current_app_of


def app_or_default(app: App | None = None) -> App:
    """The given app, or the current one."""
    return get_current_app() if app is None else app


def push_current_task(task: Task[..., Any]) -> None:
    """Make a task the current one, until `pop_current_task`."""
    task.push_request()


def pop_current_task() -> Task[..., Any] | None:
    """End what `push_current_task` began; returns its task."""
    request = current_request.get()
    if request is None:
        return None
    current_request.set(request.outer)
    task: Task[..., Any] | None = request.owner
    return task


class Stand:
    """A name that can be imported before what it stands for exists.

    The package itself never goes through one: it asks `get_current_app` and `get_current_task`.
    """

    __slots__ = ("_find",)

    def __init__(self, find: Callable[[], Any]) -> None:
        object.__setattr__(self, "_find", find)

    def _get_current_object(self) -> Any:
        """What it stands for at this moment."""
        return object.__getattribute__(self, "_find")()

    @property  # type: ignore[misc]  # an object's class can be set; ours cannot
    def __class__(self) -> type:  # so that isinstance() sees what it stands for
        try:
            return type(self._get_current_object())
        except ImproperlyConfigured:
            return Stand

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what it stands for."""
        return self._get_current_object()(*args, **kwargs)

    def __bool__(self) -> bool:
        return bool(self._get_current_object())

    def __eq__(self, other: object) -> bool:
        return bool(self._get_current_object() == other)

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __repr__(self) -> str:
        return repr(self._get_current_object())

    def __dir__(self) -> list[str]:
        return dir(self._get_current_object())

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return object.__getattribute__(self, "_find"), ()


current_app: App = cast("App", Stand(get_current_app))
"""The current app, whichever that is when it is used."""
default_app: App = cast("App", Stand(lambda: State.default or get_current_app()))
"""The app whose `set_default` was called."""
current_task: Task[..., Any] = cast("Task[..., Any]", Stand(get_current_task))
"""The task that runs in this context; false where none does."""
