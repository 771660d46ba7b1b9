"""The app: its settings, its tasks, and its engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    overload,
)
from weakref import WeakSet

from umbel.app.location import locate_store
from umbel.app.settings import Settings
from umbel.app.task import AsyncTask, Task
from umbel.exceptions import ImproperlyConfigured, NotRegistered

if TYPE_CHECKING:
    from umbel.app.options import SendOptions, TaskOptions
    from umbel.app.sending import Sender
    from umbel.engines.broker import Message
    from umbel.engines.state import Engine
    from umbel.engines.waiting import ResultWaiter
    from umbel.result import AsyncResult, ResultSet
    from umbel.result import AsyncResult as Result  # the method of that name hides it

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=Task[..., Any])
CO_COROUTINE: Final = 0x80
"""`inspect.CO_COROUTINE`; importing inspect would double this module's import time."""

apps: Final[WeakSet[App]] = WeakSet()
"""Every app of this process."""


class Decorator(Protocol):
    """What `@app.task(…)` applies to a function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BoundDecorator(Protocol):
    """What `@app.task(bind=True, …)` applies to a function that takes the task first."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[T, P], Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[T, P], R], /) -> Task[P, R]: ...


class App:
    """A set of tasks and the store they travel through (`celery.Celery`).

    `main` names the app and takes the place of `__main__` in task names; `broker` is a URL, by
    default the embedded store; further keywords are settings (`umbel.app.settings`).
    """

    def __init__(
        self, main: str | None = None, *, broker: str | None = None, **settings: Any
    ) -> None:
        self.main = main
        self.conf = Settings()
        self.conf.update(settings)
        if broker is not None:
            self.conf.broker_url = broker
        self.tasks: dict[str, Task[..., Any]] = {}
        self._module, self._file = _caller()
        self._engine: Engine | None = None
        self._sender: Sender | None = None
        self._waiter: ResultWaiter | None = None
        apps.add(self)

    def __repr__(self) -> str:
        return f"<App {self.main or self._module}>"

    @property
    def module(self) -> str:
        """The name under which a worker can import the module that made this app."""
        if self._module in {None, "__main__"}:
            return _stem(self._file) if self._file else "MODULE"
        return self._module or "MODULE"

    @property
    def broker_url(self) -> str:
        """The URL in force: `UMBEL_BROKER_URL`, `broker_url`, or the embedded store's."""
        url = os.environ.get("UMBEL_BROKER_URL") or self.conf.broker_url
        if url:
            return url
        from urllib.parse import quote

        return "sqlite:///" + quote(locate_store(self._module, self._file))

    @property
    def engine(self) -> Engine:
        """The open store of `broker_url`; opened on first use."""
        if self._engine is None:
            from umbel.engines.urls import open_engine

            self._engine = open_engine(self.broker_url)
        return self._engine

    @property
    def opened(self) -> Engine | None:
        """The store, if it has been opened."""
        return self._engine

    def let_go(self) -> Callable[[], None]:
        """Forget the open store, so that the next use opens it anew; call the result to go back.

        For tests. Nothing is closed: what uses the store goes on with it.
        """
        kept = self._engine, self._sender, self._waiter
        self._engine = self._sender = self._waiter = None

        def go_back() -> None:
            self._engine, self._sender, self._waiter = kept

        return go_back

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, /, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundDecorator: ...
    @overload
    def task(
        self, /, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]
    ) -> Decorator: ...

    def task(self, function: Any = None, /, **options: Any) -> Any:
        """Make a task of a function: `@app.task` or `@app.task(name=…, max_retries=…)`.

        With `bind=True` the function gets the task as its first argument. The other options,
        with their defaults: `umbel.app.options.TaskOptions`. `ImproperlyConfigured` for one that
        does not exist.
        """

        def decorate(function: Callable[..., Any]) -> Task[..., Any]:
            return self._add_task(function, **options)

        return decorate if function is None else decorate(function)

    def _add_task(self, function: Callable[..., Any], **options: Any) -> Task[..., Any]:
        name = options.pop("name", None) or self.gen_task_name(
            function.__name__, function.__module__
        )
        known = Task.__init__.__kwdefaults__ or {}
        unknown = options.keys() - known.keys()
        if unknown:
            raise ImproperlyConfigured(
                f"@app.task has no option {min(unknown)!r} in this version (task {name}). "
                f"It has: name, {', '.join(known)}."
            )
        kind = AsyncTask if function.__code__.co_flags & CO_COROUTINE else Task
        task: Task[..., Any] = kind(self, function, name, **options)
        first = self.tasks.setdefault(name, task)
        if first is not task and first.run.__code__ is not function.__code__:
            message = f"Two functions are registered as the task {name!r}; the first one stays."
            import warnings

            warnings.warn(message, stacklevel=4)
        return first

    def gen_task_name(self, name: str, module: str) -> str:
        """The name of a task that was given none: its module's and the function's."""
        if module == "__main__":
            module = self.main or (_stem(self._file) if self._file else "__main__")
        return f"{module}.{name}"

    def send_task(
        self,
        name: str,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[Any]:
        """Send a task by name, known here or not. Options as `Task.apply_async`."""
        from umbel.app.publish import build_message

        message = build_message(self.conf, name, args, kwargs, **options)
        return self.publish(message, ignored=bool(options.get("ignore_result")))

    def publish(self, message: Message, *, ignored: bool = False) -> AsyncResult[Any]:
        """Hand one message to the broker, under the deadline `task_publish_timeout`.

        `ignored`: its result will not be stored. `OperationalError` if the deadline passes.
        """
        from umbel.result import AsyncResult

        self.engine.broker.publish((message,), timeout=self.conf.task_publish_timeout)
        return AsyncResult(message.id, app=self, queue=message.queue, ignored=ignored)

    async def apublish(self, message: Message, *, ignored: bool = False) -> AsyncResult[Any]:
        """`publish` for coroutines; concurrent calls travel in one batch."""
        from umbel.result import AsyncResult

        if self._sender is None:
            from umbel.app.sending import Sender

            self._sender = Sender(lambda: self.engine.broker, self.conf.task_publish_timeout)
        await self._sender.publish(message)
        return AsyncResult(message.id, app=self, queue=message.queue, ignored=ignored)

    def AsyncResult(  # noqa: N802  (Celery's name)
        self, id: str, *, parent: AsyncResult[Any] | None = None
    ) -> AsyncResult[Any]:
        """The result of a task by its id, sent by whomever."""
        from umbel.result import AsyncResult

        return AsyncResult(id, app=self, parent=parent)

    def ResultSet(  # noqa: N802  (Celery's name)
        self, results: Iterable[Result[R]]
    ) -> ResultSet[R]:
        """The results of many tasks, to be waited for together."""
        from umbel.result import ResultSet

        return ResultSet(results, app=self)

    @property
    def waiter(self) -> ResultWaiter:
        """What `AsyncResult.aget` waits on."""
        if self._waiter is None:
            from umbel.engines.waiting import ResultWaiter

            self._waiter = ResultWaiter(lambda: self.engine.results)
        return self._waiter

    def lookup(self, name: str) -> Task[..., Any]:
        """The task of that name; `NotRegistered` names the nearest one."""
        task = self.tasks.get(name)
        if task is None:
            import difflib

            near = difflib.get_close_matches(name, self.tasks, n=1)
            hint = f" The nearest that is: {near[0]!r}." if near else ""
            message = f"No task {name!r} is registered in {self!r}.{hint}"
            raise NotRegistered(message)
        return task


def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]


def _caller() -> tuple[str | None, str | None]:
    """Name and file of the module that makes an app."""
    frame = sys._getframe(1)  # noqa: SLF001  (the module that calls is not known otherwise)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if name != "umbel" and not name.startswith("umbel."):
            break
        frame = frame.f_back
    name, file = frame.f_globals.get("__name__"), frame.f_globals.get("__file__")
    return name, file
