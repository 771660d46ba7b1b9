"""Tasks that are no single app's: `shared_task`.

Every app of the process gets a task of its own made from the function. What the decorator
returns stands for the current app's, so that a library's tasks go where the project's app sends.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar, Unpack, overload

from umbel.app.current import State, apps, current_app_of
from umbel.app.declarations import check_bound
from umbel.app.naming import main_module
from umbel.app.task import Task, class_of, warn_of_near_misses

if TYPE_CHECKING:
    from umbel.app.app import BoundDecorator, Decorator
    from umbel.app.sending.options import TaskOptions
    from umbel.app.task import AsyncTask

P = ParamSpec("P")
R = TypeVar("R")


class Sharing:
    """A function and its options, of which each app makes a task."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.function = function
        self.options = options


sharings: Final[list[Sharing]] = []
"""What the next app gets when it is finalized."""


def share(sharing: Sharing) -> None:
    """Give all apps, those there are and those to come, a task."""
    sharings.append(sharing)
    for app in list(apps):
        if app.finalized:
            app.take(sharing)


class SharedTask(Task[P, R]):
    """Stands for the current app's task, whose attributes it has. Made by `shared_task`.

    Where there is no app yet it is what it was declared to be, and its function can be called.
    """

    sharing: Sharing

    @property
    def here(self) -> Task[..., Any]:
        """The task of the current app; `ImproperlyConfigured` says what to do if there is none."""
        return current_app_of(self.name).take(self.sharing)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the current app's task in this process."""
        call = self.here if _has_app() else super().__call__
        value: R = call(*args, **kwargs)
        return value

    def __repr__(self) -> str:
        return f"<SharedTask {vars(self)['name']}>"

    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> Any:
            own = object.__getattribute__
            if name in OWN or name.startswith("__") or not _has_app():
                return own(self, name)
            return getattr(current_app_of("").take(own(self, "sharing")), name)

        def __setattr__(self, name: str, value: object) -> None:
            if _has_app():
                setattr(self.here, name, value)
            else:  # for the apps to come
                vars(self)[name] = self.sharing.options[name] = value

        def __delattr__(self, name: str) -> None:
            delattr(self.here, name)


OWN: Final = frozenset({"here", "sharing"})


def _has_app() -> bool:
    return State.current is not None or State.default is not None


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(
    *, pydantic: Literal[True], bind: bool = False, **options: Unpack[TaskOptions]
) -> Callable[[Callable[..., Any]], Task[..., Any]]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> Decorator: ...


def shared_task(function: Any = None, /, **options: Any) -> Any:
    """Make a task that belongs to every app (`celery.shared_task`); options as for `App.task`.

    For code that does not know the project's app, such as a library or a Django app. Which app
    it sends through is decided at each call: the one whose task is running, else the current
    one, in all threads the same. `ImproperlyConfigured` when it is sent and there is no app.
    """
    if function is not None:
        return _make(function, options)

    def decorate(function: Callable[..., Any]) -> Task[..., Any]:
        return _make(function, dict(options))

    return decorate


def _make(function: Callable[..., Any], options: dict[str, Any]) -> Task[..., Any]:
    if isinstance(function, Task):
        raise TypeError(
            f"{function!r} is a task already: remove the second decorator (@shared_task was "
            "applied more than once, or to a task of an app)."
        )
    if not callable(function):
        raise TypeError(f"@shared_task makes a task of a function; got {function!r}.")
    given = {key: value for key, value in options.items() if key not in {"shared", "lazy"}}
    chosen = given.pop("filter", None)
    sharing = Sharing(function, given)
    own = dict(given)
    base = own.pop("base", None) or Task
    bind = own.pop("bind", False)
    module = function.__module__
    if module == "__main__":
        module = main_module() or module
    name = own.pop("name", None) or f"{module}.{function.__name__}"
    warn_of_near_misses(name, base, own)
    if bind:
        check_bound(name, function)
    bases = (SharedTask,) if base is Task else (SharedTask, base)
    kind = class_of(function, name, bases, own, bind=bind)
    task = kind.__new__(kind)  # what `__init__` sets up is the state of each app's own task
    vars(task).update(
        name=name,
        sharing=sharing,
        __wrapped__=function,
        __name__=function.__name__,
        __qualname__=function.__qualname__,
    )
    share(sharing)
    return chosen(task) if chosen is not None else task
