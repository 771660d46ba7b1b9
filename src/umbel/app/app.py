"""The app: its settings, its tasks, and its engine."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property
from time import monotonic
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    Unpack,
    overload,
)
from weakref import ref

from umbel._state import current_request
from umbel.app.current import State, apps
from umbel.app.discovery import Search, discover, import_task_modules
from umbel.app.location import locate_store
from umbel.app.naming import importable_name, main_module
from umbel.app.refusals import ARGUMENTS, CLASSES, NAMES
from umbel.app.registry import TaskRegistry
from umbel.app.settings.table import Settings, UnreadSettings
from umbel.app.shared import Sharing, share, sharings
from umbel.app.shorthands import Shorthands
from umbel.app.task import AsyncTask, Task, make_task, stack_level, warn_of_near_misses
from umbel.exceptions import DuplicateTaskNameWarning, ImproperlyConfigured, OperationalError
from umbel.signals import Signal

if TYPE_CHECKING:
    from types import ModuleType

    from umbel.app.sending.options import SendOptions, TaskOptions
    from umbel.app.sending.routing import Amqp
    from umbel.app.sending.sender import Sender
    from umbel.app.settings.keywords import AppSettings
    from umbel.canvas import Signature
    from umbel.engines.broker import Message, Workflow
    from umbel.engines.results import ResultStore
    from umbel.engines.state import Engine
    from umbel.engines.waiting import ResultWaiter
    from umbel.message.format import Format
    from umbel.message.result import ErrorRecord
    from umbel.result import AsyncResult
    from umbel.result import AsyncResult as Result  # the methods of these names hide them

P = ParamSpec("P")
R = TypeVar("R")
AnyTask: TypeAlias = Task[..., Any]
T = TypeVar("T", bound=AnyTask)
TaskClass = TypeVar("TaskClass", bound=AnyTask)


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


class App(Shorthands):
    """A set of tasks and the store they travel through (`celery.Celery`).

    `main` names the app and takes the place of `__main__` in task names; `broker` is a URL, by
    default the embedded store, and `backend` where results are kept (`result_backend`). The
    configuration is `config_source`, as for `config_from_object`, with its `namespace`;
    `changes` and further keywords are settings (`umbel.app.settings.table`) and outweigh it. Type
    checkers know keywords by the settings' own names; old names are better in `changes`.
    """

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        config_source_silent: bool = False,
        namespace: str | None = None,
        set_as_current: bool = True,
        task_cls: type[AnyTask] | None = None,
        tasks: Mapping[str, AnyTask] | None = None,
        include: Collection[str] | None = None,
        autofinalize: bool = True,
        strict_typing: bool = True,
        **settings: Unpack[AppSettings],
    ) -> None:
        given: dict[str, Any] = {**settings}
        for refused in ARGUMENTS.keys() & given.keys():
            if given.pop(refused):
                raise ImproperlyConfigured(f"App(…) takes no {refused}: {ARGUMENTS[refused]}.")
        self.main = main
        self.namespace = namespace
        self.conf: Settings = UnreadSettings()
        """The settings, by attribute or key; read when the first of them is asked for."""
        if "compat" in given:  # before what it is lenient with
            self.conf.compat = given["compat"]
        for option, value in (
            ("broker_url", broker),
            ("result_backend", backend),
            ("include", include),
        ):
            if value is not None:
                given.setdefault(option, value)
        self.conf.update({**(changes or {}), **given})
        self.conf.tell_when_read(self._configured)
        if config_source is not None:
            self.config_from_object(config_source, silent=config_source_silent)
        self.set_as_current = set_as_current
        if task_cls is not None:
            self.task_cls = task_cls
        self.autofinalize = autofinalize
        self.strict_typing = strict_typing
        self.finalized: bool = False
        self._registry = TaskRegistry(tasks or {})
        self._shared: dict[Sharing, AnyTask] = {}
        self._searches: list[Search] = []
        self._finalizing = threading.RLock()
        self._module, self._file = _caller()
        self._engine: Engine | None = None
        self._sender: Sender | None = None
        self._waiter: ResultWaiter | None = None
        self._amqp: Amqp | None = None
        apps.add(self)
        if set_as_current:
            self.set_current()
        self.on_init()

    task_cls: type[AnyTask] = Task
    """The class that the app's tasks are made from."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for refused in CLASSES.keys() & vars(cls).keys():
            raise ImproperlyConfigured(f"{cls.__name__}.{refused}: {CLASSES[refused]}.")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            reason = NAMES.get(name)
            if reason is None:
                message = f"{type(self).__name__!r} object has no attribute {name!r}"
            else:
                message = f"An app has no {name!r}: {reason}."
            raise AttributeError(message)

    def on_init(self) -> None:
        """Override to do something at the end of `__init__`."""

    def __repr__(self) -> str:
        return f"<App {self.main or self._module}>"

    @property
    def module(self) -> str:
        """The name under which a worker can import the module that made this app."""
        if self._module in {None, "__main__"}:
            return (importable_name(self._file) if self._file else None) or "MODULE"
        return self._module or "MODULE"

    @property
    def broker_url(self) -> str:
        """The URL in force: `broker_url`, or the embedded store's."""
        url = self.conf.broker_url
        if url:
            return url
        from urllib.parse import quote

        return "sqlite:///" + quote(locate_store(self._module, self._file))

    @property
    def keeps_results(self) -> bool:
        """Whether results are stored: unless the code sets `broker_url` alone (Celery's rule).

        A `broker_url` from the environment or a command line moves the store with its results.
        """
        backend = self.conf.result_backend
        if backend is None:
            return not self.conf.is_in_code("broker_url")
        return not backend.startswith("disabled")

    @functools.cached_property
    def result_format(self) -> Format:
        """How results are written and what of them is read, by the settings `result_…`."""
        from umbel.message.format import make_format

        conf = self.conf
        accept = conf.result_accept_content
        return make_format(
            conf.result_serializer,
            conf.result_compression,
            conf.accept_content if accept is None else accept,
            conf.task_max_message_bytes,
        )

    @property
    def engine(self) -> Engine:
        """The open store of `broker_url`; opened on first use.

        `ImproperlyConfigured` for one that there is not, and for a `result_backend` elsewhere.
        """
        if self._engine is None:
            from umbel.app.backends import open_stores
            from umbel.engines.urls import open_engine

            self._engine = open_stores(self, open_engine)
        return self._engine

    def connect(self) -> Engine:
        """The same store over connections of its own, for a thread that must wait for no other."""
        from umbel.app.backends import open_stores
        from umbel.engines.urls import connect_engine

        return open_stores(self, connect_engine)

    @property
    def results(self) -> ResultStore:
        """Where results are kept; `ImproperlyConfigured` names the line to add if nowhere."""
        if not self.keeps_results:
            raise ImproperlyConfigured(
                f"{self!r} keeps no results: it has a broker_url and no result_backend (as in "
                "Celery). Add result_backend='broker' to keep them where the messages are."
            )
        return self.engine.results

    @property
    def opened(self) -> Engine | None:
        """The store, if it has been opened."""
        return self._engine

    def let_go(self) -> Callable[[], None]:
        """Forget the open store, so that the next use opens it anew; call the result to go back.

        For tests. The store is not closed: what uses it goes on with it.
        """
        kept = self._engine, self._sender, self._waiter
        self._engine = self._sender = self._waiter = None

        def go_back() -> None:
            self.end_threads()
            self._engine, self._sender, self._waiter = kept

        return go_back

    def end_threads(self) -> None:
        """End the threads that send and wait on behalf of coroutines and callbacks."""
        for helper in (self._sender, self._waiter):
            if helper is not None:
                helper.close()
        self._sender = self._waiter = None

    def config_from_object(
        self,
        obj: Any,
        silent: bool = False,
        force: bool = False,
        namespace: str | None = None,
    ) -> None:
        """Take the settings of a module, dict, class or instance, or of what a path names.

        A path is `"proj.celeryconfig"`, `"proj.settings:Config"` or `"django.conf:settings"`. It
        is read when the first setting is asked for, with `force` now. With a `namespace`, only
        names that begin with it are read: `namespace="CELERY"` reads `CELERY_TIMEZONE`. If
        `silent`, a module that does not exist is none. `ImproperlyConfigured` when it is read and
        something in it is wrong. What it imports and foreign names are passed over.
        """
        self.namespace = namespace or self.namespace
        self.conf.use(obj, namespace=self.namespace, silent=silent)
        if force:
            self.conf.read()

    def add_defaults(self, fun: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Add defaults under all other settings; a callable is called when they are read."""
        self.conf.add_defaults(fun)

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self, /, *, pydantic: Literal[True], bind: bool = False, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[..., Any]], Task[..., Any]]: ...
    @overload
    def task(self, /, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundDecorator: ...
    @overload
    def task(
        self, /, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]
    ) -> Decorator: ...

    def task(self, function: Any = None, /, **options: Any) -> Any:
        """Make a task of a function: `@app.task` or `@app.task(name=…, max_retries=…)`.

        With `bind=True` the function gets the task as its first argument; `base` is the class
        that the task is made from. The other options, with their defaults: `Task`. A keyword
        that is none of them becomes an attribute of the task, with a warning if it looks like a
        misspelt option. With `pydantic=True` arguments and return value may be Pydantic models,
        and plain values on their way (`umbel.app.models`).
        """
        if function is not None:
            return self._decorate(function, **options)

        def decorate(function: Callable[..., Any]) -> Any:
            return self._decorate(function, **options)

        return decorate

    def _decorate(
        self,
        function: Callable[..., Any],
        *,
        shared: bool = False,
        lazy: bool = True,  # noqa: ARG002  (Celery's; tasks are made at once here)
        filter: Callable[[AnyTask], Any] | None = None,  # noqa: A002  (Celery's name)
        **options: Any,
    ) -> Any:
        task = self._add_task(function, **options)
        if shared:
            share(Sharing(function, {**options, "name": task.name}))
        return task if filter is None else filter(task)

    def take(self, sharing: Sharing) -> AnyTask:
        """This app's task of a function that is shared by all apps."""
        task = self._shared.get(sharing)
        if task is None:
            task = self._add_task(sharing.function, **sharing.options)
            self._shared[sharing] = task
        return task

    def _add_task(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        base: type[AnyTask] | None = None,
        bind: bool = False,
        pydantic: bool = False,
        pydantic_strict: bool = False,
        pydantic_context: Mapping[str, Any] | None = None,
        pydantic_dump_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AnyTask:
        if not callable(function):
            raise TypeError(f"@app.task makes a task of a function; got {function!r}.")
        if isinstance(function, Task):
            raise TypeError(f"{function!r} is a task already: remove one of its two decorators.")
        name = name or self.gen_task_name(function.__name__, function.__module__)
        first = self._registry.get(name)
        if first is not None:
            known = getattr(first, "__wrapped__", None)
            if known is not None and known.__code__ is not function.__code__:
                self._warn_of_double(
                    name, known, function, "The first one stays; calls of this name reach it."
                )
            return first
        base = base or self.Task
        warn_of_near_misses(name, base, options)
        if pydantic:
            from umbel.app.models import make_model_task

            task = make_model_task(
                self, function, name, base, options, bind=bind, strict=pydantic_strict,
                context=pydantic_context, dump=pydantic_dump_kwargs,
            )  # fmt: skip
        else:
            task = make_task(self, function, name, base, options, bind=bind)
        return self._registry.setdefault(name, task)

    def register_task(self, task: TaskClass | type[TaskClass], /, **options: Any) -> TaskClass:
        """Add a task that is written as a class, or an instance of one; returns the instance.

        The options are those of `App.task` and outweigh the class's. A class without a name is
        named as a function would be. Of two tasks with one name the later stays, with a warning.
        """
        added = task() if isinstance(task, type) else task
        for option, value in options.items():
            setattr(added, option, value)
        if not added.name:
            added.name = self.gen_task_name(type(added).__name__, type(added).__module__)
        known = self._registry.get(added.name)
        if known is not None and known is not added:
            self._warn_of_double(
                added.name,
                known,
                added,
                "The new one has replaced it; calls of this name reach it.",
            )
        self._registry[added.name] = added
        added.bind(self)
        return added

    def _warn_of_double(self, name: str, known: object, new: object, consequence: str) -> None:
        import warnings

        def describe(thing: object) -> str:
            thing = getattr(thing, "__wrapped__", thing)
            kind = thing if hasattr(thing, "__qualname__") else type(thing)
            return f"{kind.__module__}.{kind.__qualname__}"

        message = (
            f"Two tasks have the name {name!r}: {describe(known)} and {describe(new)}. "
            f"{consequence} Give one of them another: @app.task(name=…)."
        )
        warnings.warn(DuplicateTaskNameWarning(message), stacklevel=stack_level())

    def gen_task_name(self, name: str, module: str) -> str:
        """The name of a task that was given none: its module's and the function's.

        Override it to name tasks otherwise. `__main__` is replaced by the name under which a
        worker imports that file; in an interpreter, which has none, by the app's.
        """
        if module == "__main__":
            module = main_module() or self.main or module
        return f"{module}.{name}"

    @cached_property
    def Task(self) -> type[AnyTask]:  # noqa: N802  (Celery's name)
        """The class that this app's tasks are made from: `task_cls`, bound to the app."""
        given: object = self.task_cls
        if not isinstance(given, type) or not issubclass(given, Task):
            raise ImproperlyConfigured(
                f"App(task_cls={self.task_cls!r}): give a subclass of umbel.Task, the class itself "
                "and not its name."
            )
        return type("Task", (self.task_cls,), {"app": self, "__module__": self.task_cls.__module__})

    @cached_property
    def tasks(self) -> TaskRegistry:
        """All tasks of the app by name; the first look finalizes the app."""
        self.finalize(auto=True)
        return self._registry

    def finalize(self, auto: bool = False) -> None:
        """Read what the settings say of the tasks; happens by itself when the app is used.

        `RuntimeError` if it would (`auto`) and the app was made with `autofinalize=False`.
        """
        with self._finalizing:
            if self.finalized:
                return
            if auto and not self.autofinalize:
                raise RuntimeError(
                    f"{self!r} is used before app.finalize() was called, and it was made with "
                    "autofinalize=False."
                )
            self.finalized = True
            for sharing in list(sharings):
                self.take(sharing)
            from umbel.app.builtins import add_builtins

            add_builtins(self)
            for task in list(self._registry.values()):
                task.prepare()
        self._tell("on_after_finalize")

    # ------------------------------------------------------------- modules with tasks

    def autodiscover_tasks(
        self,
        packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Have workers import `package.tasks` of each of these packages that has one.

        `packages` may be a function, called then; None asks Django for its installed apps.
        `related_name` is the module's name; None imports the packages alone. `force` imports
        them now.
        """
        search = Search(packages, related_name)
        if force:
            discover(search)
        else:
            self._searches.append(search)

    def import_default_modules(self) -> list[ModuleType]:
        """Import what `autodiscover_tasks`, `imports` and `include` name, once; workers do."""
        searches, self._searches = self._searches, []
        return import_task_modules(self, searches)

    # -------------------------------------------------------------------- its signals

    @cached_property
    def on_configure(self) -> Signal:
        """Sent when the settings have been read, before `on_after_configure`."""
        return Signal(name="app.on_configure")

    @cached_property
    def on_after_configure(self) -> Signal:
        """Sent when the settings have been read; `source` is `app.conf`."""
        return Signal(name="app.on_after_configure", providing_args={"source"})

    @cached_property
    def on_after_finalize(self) -> Signal:
        """Sent when all tasks that were defined so far are known."""
        return Signal(name="app.on_after_finalize")

    @cached_property
    def on_after_fork(self) -> Signal:
        """Sent in a process that this one has forked."""
        me, signal = ref(self), Signal(name="app.on_after_fork")

        def tell() -> None:
            app = me()
            if app is not None:
                signal.send(sender=app)

        os.register_at_fork(after_in_child=tell)
        return signal

    def _tell(self, name: str, **arguments: Any) -> None:
        signal = vars(self).get(name)  # there once somebody has asked for it
        if signal is not None:
            signal.send(sender=self, **arguments)

    def _configured(self) -> None:
        hook = getattr(type(self), "on_configure", None)
        if callable(hook):  # a method, as subclasses before Celery 4 had it
            hook(self)
        self._tell("on_configure")
        self._tell("on_after_configure", source=self.conf)

    # ------------------------------------------------------------------- its lifetime

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store, and be no longer the current app. It opens again when used."""
        apps.discard(self)
        if State.current is self:
            State.current = None
        if State.default is self:
            State.default = None
        engine, self._engine = self._engine, None
        self.end_threads()
        if engine is not None:
            engine.close()

    def __reduce__(self) -> tuple[Callable[..., App], tuple[type[App], dict[str, Any]]]:
        """Pickled by its configuration; tasks are not part of it."""
        return rebuild, (type(self), self.__reduce_keys__())

    def __reduce_keys__(self) -> dict[str, Any]:
        """What a pickled app is made from again; override to add to it."""
        keys: dict[str, Any] = {
            "main": self.main,
            "changes": self.conf.changes,
            "namespace": self.namespace,
            "strict_typing": self.strict_typing,
            "set_as_current": False,
        }
        if "task_cls" in vars(self):
            keys["task_cls"] = self.task_cls
        return keys

    @property
    def configured(self) -> bool:
        """Whether the settings have been read."""
        return not isinstance(self.conf, UnreadSettings)

    def set_current(self) -> None:
        """Make this the app that is meant where none is named, in the whole process."""
        State.current = self

    def set_default(self) -> None:
        """Make this the app that is meant where none is named and none is current."""
        State.default = self

    # ------------------------------------------------------------------------ sending

    def send_task(
        self,
        name: str,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[Any]:
        """Send a task by name, known here or not. Options as `Task.apply_async`.

        If it is known here, its own options are the defaults.
        """
        from umbel.app.sending.publish import build_message
        from umbel.app.sending.routing import route

        task = options.get("task_type")
        if task is None:
            task = self.tasks.get(name)
        else:
            task.app.finalize(auto=True)  # it may be another app's
        final = route(self, name, args, kwargs, task, options)
        message = build_message(self.conf, name, args, kwargs, task, by_name=True, **final)
        if self.conf.task_always_eager and name in self.tasks:
            from umbel.app.execution.eager import run_eagerly

            return run_eagerly(self, name, message)
        return self.publish(message, ignored=bool(options.get("ignore_result")))

    def publish(self, message: Message, *, ignored: bool = False) -> AsyncResult[Any]:
        """Hand one message to the broker, under the deadline `task_publish_timeout`.

        `ignored`: its result will not be stored. `OperationalError` if the deadline passes.
        """
        from umbel.result import AsyncResult

        if message.rare:
            from umbel.app.sending.batch import publish

            return publish(self, (message,), ignored=ignored)[0]
        timeout = self.conf.task_publish_timeout
        end = monotonic() + timeout
        try:
            self.engine.broker.publish((message,), timeout=timeout)
        except OperationalError as error:
            from umbel.app.sending.batch import try_again

            try_again(self, (message,), {}, end, error)
        result: Result[Any] = AsyncResult(
            message.id, app=self, queue=message.queue, ignored=ignored
        )
        if current_request.get() is not None:
            from umbel.app.request import add_child

            add_child(result)
        return result

    async def apublish(self, message: Message, *, ignored: bool = False) -> AsyncResult[Any]:
        """`publish` for coroutines; concurrent calls travel in one batch."""
        from umbel.app.sending.batch import apublish

        return (await apublish(self, (message,), ignored=ignored))[0]

    @property
    def sender(self) -> Sender:
        """What publishes for coroutines."""
        if self._sender is None:
            from umbel.app.sending.sender import Sender

            self._sender = Sender(lambda: self.engine.broker)
        return self._sender

    @property
    def amqp(self) -> Amqp:
        """The queues that the app knows: `app.amqp.queues`, to be read only."""
        if self._amqp is None:
            from umbel.app.sending.routing import Amqp

            self._amqp = Amqp(self.conf)
        return self._amqp

    def send_workflow(
        self,
        sig: Signature[Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> Any:
        """Send a workflow; what `Signature.apply_async` is made of."""
        if self.conf.task_always_eager:
            return self.apply_workflow(sig, args, kwargs, options, None)
        from umbel.app.sending.workflow import send

        return send(self, sig, args, kwargs, options)

    async def asend_workflow(
        self,
        sig: Signature[Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> Any:
        """`send_workflow` for coroutines."""
        import asyncio

        # One step in the store, which may be large: a thread keeps it off the event loop.
        return await asyncio.to_thread(self.send_workflow, sig, args, kwargs, options)

    def apply_workflow(
        self,
        sig: Signature[Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        throw: bool | None,
    ) -> Any:
        """Run a workflow in this process; what `Signature.apply` is made of."""
        from umbel.app.execution.eager import apply_workflow

        return apply_workflow(self, sig, args, kwargs, options, throw=throw)

    def end_workflow(self, payload: bytes, record: ErrorRecord, state: str) -> Workflow | None:
        """What it means for its workflow that a message is not run."""
        from umbel.app.execution.following import after_end

        return after_end(self, payload, record, state)

    @property
    def waiter(self) -> ResultWaiter:
        """What `AsyncResult.aget` waits on."""
        if self._waiter is None:
            from umbel.engines.waiting import ResultWaiter

            self._waiter = ResultWaiter(lambda: self.results)
        return self._waiter

    def lookup(self, name: str) -> AnyTask:
        """The task of that name; `NotRegistered` names the nearest one."""
        return self.tasks[name]


def rebuild(kind: type[App], keys: dict[str, Any]) -> App:
    """An app from what `App.__reduce_keys__` told."""
    return kind(**keys)


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
