"""A task: a function with a name, options, and the ways to send it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import CodeType, CoroutineType, MappingProxyType, MethodType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Concatenate,
    Generic,
    NoReturn,
    Unpack,
    cast,
    overload,
)

from umbel import exceptions
from umbel.app.current import current_app_of
from umbel.app.declarations import check_bound, check_options
from umbel.app.execution.handlers import Handlers
from umbel.app.many import Many
from umbel.exceptions import Ignore, ImproperlyConfigured, Retry, UmbelWarning

if TYPE_CHECKING:
    from datetime import timedelta

    from typing_extensions import ParamSpec, TypeVar

    from umbel.app.app import App
    from umbel.app.request import Request
    from umbel.app.sending.options import Moment, RetryOptions, SendOptions
    from umbel.canvas import Signature, chunks, xmap, xstarmap
    from umbel.result import AsyncResult as Result  # the method of that name hides it
    from umbel.result import EagerResult

    P = ParamSpec("P", default=...)
    R = TypeVar("R", default=Any)
    Q = ParamSpec("Q")
    T = TypeVar("T")
else:
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

_STRATEGY = (
    "The worker decides what becomes of a message; connect to its signals "
    "(umbel.signals.task_received, …) instead."
)
REFUSED: MappingProxyType[str, str] = MappingProxyType(
    {
        "backend": "Results lie where result_backend says, for all tasks of an app; "
        "make a second App for a second store.",
        "Request": "Override the task's handlers (on_failure, on_success, …) instead.",
        "Strategy": _STRATEGY,
        "start_strategy": _STRATEGY,
        "request_stack": "The request belongs to the context: task.request reads it, and "
        "push_request and pop_request set one up.",
    }
)
"""Attributes of Celery's tasks that are parts of its worker, and what takes their place."""


class FromSettings:
    """A task option that was given nowhere: it reads as its setting does at that moment."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def __get__(self, task: Task[..., Any] | None, owner: type[Task[..., Any]]) -> Any:
        if task is None:
            return None
        return getattr(task.app.conf, self.setting, None)


class OfCurrentApp:
    """The app of a task that was not bound to one: the current app."""

    def __get__(self, task: Task[..., Any] | None, owner: type[Task[..., Any]]) -> Any:
        if task is None:
            return None
        return current_app_of(task.name or owner.__name__)


class Task(Handlers, Many[R], Generic[P, R]):
    """A function that can be sent to a worker (`celery.Task`). Usually made by `App.task`.

    Calling it runs the function here and now; `delay` and `apply_async` send it.

    The options are class attributes: `@app.task(max_retries=5)` sets them for one task, a
    subclass for all tasks that are made with `base=` it. A class may be a task itself:

        class Add(Task[[int, int], int]):
            name = "add"

            def run(self, x: int, y: int) -> int:
                return x + y

        add = app.register_task(Add())

    A task is created once in each process, so what `__init__` sets up is shared by its runs.
    """

    MaxRetriesExceededError: type[exceptions.MaxRetriesExceededError] = (
        exceptions.MaxRetriesExceededError
    )
    """What `retry` raises when there was no error and no attempt is left."""
    OperationalError: type[exceptions.OperationalError] = exceptions.OperationalError
    """What sending raises when the store cannot be reached."""
    name: str = ""
    """Default: the module's name and the function's (the class's) own."""
    app: App = cast("App", OfCurrentApp())
    typing: bool | None = None
    """Check arguments against the function's signature when sending; None: `App(strict_typing=)`,
    which is on."""
    max_retries: int | None = 3
    """How often `retry` may run it again; None: for ever."""
    default_retry_delay: float = 180.0
    """Seconds before the next attempt if `retry` is given none."""
    autoretry_for: tuple[type[BaseException], ...] = ()
    """Errors after which the task is retried by itself."""
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    """Errors among these after which it is not."""
    retry_kwargs: Mapping[str, Any] = MappingProxyType({})
    """What an automatic retry gives to `retry`."""
    retry_backoff: bool | float = False
    """The delay before automatic retry n is 2**n seconds (True), or that times the number."""
    retry_backoff_max: float = 600.0
    """The longest such delay, in seconds."""
    retry_jitter: bool = True
    """Take a random delay from 0 up to it, so that retries do not come in waves."""
    rate_limit: str | float | None = cast("None", FromSettings("task_default_rate_limit"))
    """"10/s", "5/m", "1/h", or a number a second. Kept; workers of this version do not limit."""
    time_limit: float | None = cast("None", FromSettings("task_time_limit"))
    """Hard limit in seconds: the task's process is killed."""
    soft_time_limit: float | None = cast("None", FromSettings("task_soft_time_limit"))
    """Soft limit in seconds: `SoftTimeLimitExceeded` is raised inside the task."""
    ignore_result: bool | None = cast("None", FromSettings("task_ignore_result"))
    """Store no result."""
    store_errors_even_if_ignored: bool | None = cast(
        "None", FromSettings("task_store_errors_even_if_ignored")
    )
    store_eager_result: bool | None = cast("None", FromSettings("task_store_eager_result"))
    """Store results of runs in this process (`apply`) too."""
    track_started: bool | None = cast("None", FromSettings("task_track_started"))
    """Store the state STARTED when a run begins."""
    trail: bool = True
    """Keep what the task sends in `request.children`."""
    send_events: bool = True
    """Accepted; workers of this version send no events."""
    acks_late: bool | None = cast("None", FromSettings("task_acks_late"))
    """The message is done when the task has ended; else before it starts."""
    acks_on_failure: bool | None = cast("None", FromSettings("task_acks_on_failure"))
    acks_on_timeout: bool | None = cast("None", FromSettings("task_acks_on_timeout"))
    acks_on_failure_or_timeout: bool | None = cast(
        "None", FromSettings("task_acks_on_failure_or_timeout")
    )
    reject_on_worker_lost: bool | None = cast("None", FromSettings("task_reject_on_worker_lost"))
    retry_on_worker_lost: bool | None = cast("None", FromSettings("task_retry_on_worker_lost"))
    serializer: str | None = cast("None", FromSettings("task_serializer"))
    compression: str | None = None
    priority: int | None = cast("None", FromSettings("task_default_priority"))
    """0 to 9, 9 the most urgent."""
    expires: float | None = None
    """Seconds after sending; then it is not run any more."""
    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    delivery_mode: int | str | None = None
    throws: tuple[type[Exception], ...] = ()
    """Errors that are expected: raised as themselves by `get`, logged without traceback."""
    secret: Sequence[str] = ()
    """Parameters whose values are shown nowhere: not in logs, dead letters and errors. They
    travel and are stored like the others."""
    shadow_name: Callable[..., str | None] | None = None
    """Gives a message another name for logs: `shadow_name(task, args, kwargs, options)`."""
    resultrepr_maxsize: int = 1024
    """Longest form of a result in logs, in characters."""
    abstract: bool = True
    """Accepted, as Celery does; a class becomes a task by `App.register_task` alone."""
    from_config: tuple[tuple[str, str], ...] = ()
    """More options that take their value from a setting when they are None: (option, setting)."""

    overrides_call: ClassVar[bool] = False
    """Whether a worker calls `__call__`, which a subclass has defined, in the place of `run`."""
    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.overrides_call = getattr(cls.__call__, "__module__", None) != __name__
        for option in [name for name, value in vars(cls).items() if value is None]:
            standard = vars(Task).get(option)
            if isinstance(standard, FromSettings):  # None is "as the setting says"
                setattr(cls, option, standard)
        for option, value in check_options(cls.name or cls.__name__, vars(cls)).items():
            setattr(cls, option, value)
        for option, advice in REFUSED.items():
            if option in vars(cls):
                raise ImproperlyConfigured(
                    f"{cls.__name__}: tasks have no option {option!r}. {advice}"
                )

    if TYPE_CHECKING:
        # So that the arguments of `Add()` are those of the user's own `__init__`.
        def __init__(self) -> None: ...
    else:

        def __getattr__(self, name: str) -> Any:
            advice = f". {REFUSED[name]}" if name in REFUSED else ""
            message = f"{self!r} has no attribute {name!r}{advice}"
            raise AttributeError(message, name=name, obj=self)

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R | Coroutine[Any, Any, R]:
        """Do the task's work: the function itself, or the method that a subclass defines."""
        raise NotImplementedError(f"{type(self).__name__} defines no method run.")

    def __repr__(self) -> str:
        return f"<Task {self.name or type(self).__name__}>"

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        """Pickled by name: whoever unpickles it gets the task of their own app."""
        return unpickle_task, (self.name, self.__module__)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the task in this process, with a request of its own."""
        from umbel.app.request import Request, current

        request = current.get()
        if request is not None and request.owner is self:
            return cast("R", self.run(*args, **kwargs))
        own = Request("", self.name, list(args), dict(kwargs), owner=self, outer=request)
        token = current.set(own)
        try:
            value = self.run(*args, **kwargs)
        finally:
            current.reset(token)
        return cast("R", _run_with(own, value) if isinstance(value, CoroutineType) else value)

    @property
    def request(self) -> Request:
        """The request of the delivery that runs in this context."""
        from umbel.app.request import Request, current

        request = current.get()
        while request is not None:
            if request.owner is self or request.task == self.name:
                return request
            request = request.outer
        return Request("", self.name, owner=self)

    def push_request(self, **fields: Any) -> None:
        """Begin a request of this task, with such fields, until `pop_request`."""
        from umbel.app.request import Request, current

        request = Request("", self.name, owner=self, outer=current.get())
        for field, value in fields.items():
            setattr(request, field, value)
        current.set(request)

    def pop_request(self) -> None:
        """End what `push_request` began."""
        from umbel.app.request import current

        request = current.get()
        if request is not None:
            current.set(request.outer)

    # -------------------------------------------------------------- binding to an app

    def bind(self, app: App) -> App:
        """Make it a task of `app` (`App.register_task` does)."""
        self.app = app
        self.__dict__.update(check_options(self.name, vars(self)))
        if "__name__" not in self.__dict__:
            self.__name__ = type(self).__name__
        if app.finalized:
            self.prepare()
        return app

    @classmethod
    def on_bound(cls, app: App) -> None:
        """Override to do something once the task belongs to an app and its settings are read."""

    def prepare(self) -> None:
        """Take what the settings say; at the first use, so that settings may follow tasks."""
        app = self.app
        for option, setting in self.from_config:
            if getattr(self, option, None) is None:
                setattr(self, option, getattr(app.conf, setting))
        for option in ("priority", "serializer", "time_limit", "soft_time_limit"):
            given = getattr(type(self), option)
            if given is not None:
                self.__dict__.setdefault(option, given)
        self.annotate()
        checked = app.strict_typing if self.typing is None else self.typing
        self._fits = _quick_check(self.run) if checked else _fits_always
        self._prepared = True
        self.on_bound(app)

    def annotate(self) -> None:
        """Apply `task_annotations`."""
        setting = getattr(self.app.conf, "task_annotations", None)
        if not setting:
            return
        from umbel.app.annotations import annotations_of

        for key, value in annotations_of(setting, self):
            if key.startswith("@"):
                self.add_around(key[1:], value)
                continue
            try:
                changed = check_options(self.name, {key: value})
            except TypeError as error:
                raise ImproperlyConfigured(f"task_annotations: {error}") from None
            setattr(self, key, changed.get(key, value))

    def add_around(self, attr: str, around: Callable[[Callable[..., Any]], Any]) -> None:
        """Put `around(method)` in the place of a method."""
        method = getattr(self, attr)
        original = getattr(method, "__around__", method)
        wrapper = around(original)
        wrapper.__around__ = original
        setattr(self, attr, wrapper)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """Send the task: `add.delay(2, 3)`. Returns once the message is safe.

        `TypeError` if the arguments do not fit the function, `EncodeError` if one cannot be
        sent, `OperationalError` if the store cannot take it within the publish deadline.
        """
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> Result[R]:
        """Send the task with options (`celery.Task.apply_async`, `umbel.app.sending.options`).

        Raises as `delay`.
        """
        from umbel.app.sending.publish import build_message, route

        app = self.app
        final = route(app, self.name, args, kwargs, self, options)
        message = build_message(app.conf, self.name, args, kwargs, self, **final)
        if app.conf.task_always_eager:
            from umbel.app.execution.eager import run_eagerly

            return run_eagerly(app, self.name, message)
        return app.publish(message, ignored=self.ignores_result(options.get("ignore_result")))

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """`delay` for coroutines: the event loop goes on while the message is stored."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> Result[R]:
        """`apply_async` for coroutines, with the same options."""
        from umbel.app.sending.publish import build_message
        from umbel.app.sending.routing import route

        app = self.app
        final = route(app, self.name, args, kwargs, self, options)
        message = build_message(app.conf, self.name, args, kwargs, self, **final)
        if app.conf.task_always_eager:
            from umbel.app.execution.eager import arun_eagerly

            return await arun_eagerly(app, self, message)
        ignored = self.ignores_result(options.get("ignore_result"))
        return await app.apublish(message, ignored=ignored)

    def apply(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Unpack[SendOptions],
    ) -> EagerResult[R]:
        """Run the task in this process, at once, as a worker would (`celery.Task.apply`).

        Its retries run at once too. It gets the very arguments, not copies of them. `throw`:
        raise what the task raises (default: `task_eager_propagates`). `retries`: those made
        before. The other options are those of `apply_async`; times in them have no effect.
        """
        from umbel.app.execution.eager import apply

        return apply(self, args or (), kwargs or {}, throw, options.pop("retries", 0), options)

    # --------------------------------------------------------------------------- signatures

    def signature(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        immutable: bool = False,
        **more: Any,
    ) -> Signature[R]:
        """A call of this task as data, with options of `apply_async`."""
        from umbel.canvas import Signature

        return Signature(self, args, kwargs, options, immutable=immutable, app=self.app, **more)

    subtask = signature

    @overload
    def s(self) -> Signature[R]: ...
    @overload
    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]: ...
    @overload
    def s(
        self: Task[Concatenate[Any, Q], T], *args: Q.args, **kwargs: Q.kwargs
    ) -> Signature[T]: ...
    @overload
    def s(
        self: Task[Concatenate[Any, Any, Q], T], *args: Q.args, **kwargs: Q.kwargs
    ) -> Signature[T]: ...
    @overload
    def s(
        self: Task[Concatenate[Any, Any, Any, Q], T], *args: Q.args, **kwargs: Q.kwargs
    ) -> Signature[T]: ...

    def s(self: Task[..., Any], *args: Any, **kwargs: Any) -> Signature[Any]:
        """The call with these arguments as data: `add.s(2, 2) | add.s(4)`.

        The first arguments may be left out: they come from the task before, or from `delay`.
        """
        return self.signature(args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """The same, immutable: nothing is put before these arguments."""
        return self.signature(args, kwargs, immutable=True)

    def map(self, it: Iterable[Any]) -> xmap:
        """One message that calls the task for each item, one after the other."""
        from umbel.canvas import xmap

        return xmap(self.s(), it, app=self.app)

    def starmap(self, it: Iterable[Iterable[Any]]) -> xstarmap:
        """The same, each item a list of arguments."""
        from umbel.canvas import xstarmap

        return xstarmap(self.s(), it, app=self.app)

    def chunks(self, it: Iterable[Iterable[Any]], n: int) -> chunks:
        """Messages that call the task for `n` items each, an item a list of arguments."""
        from umbel.canvas import chunks

        return chunks(self.s(), it, n, app=self.app)

    def signature_from_request(
        self,
        request: Request | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        **extra: Any,
    ) -> Signature[R]:
        """The call that is running now as a signature, with its links, its chord and its id."""
        found = self.request if request is None else request
        options = {**found.as_execution_options(), **extra}
        if queue is not None:
            options["queue"] = queue
        return self.signature(
            found.args if args is None else args,
            found.kwargs if kwargs is None else kwargs,
            {name: value for name, value in options.items() if value is not None},
        )

    subtask_from_request = signature_from_request

    def replace(self, sig: Signature[Any]) -> Any:
        """Let another signature take this task's place: `return self.replace(other.s(1))`.

        It gets the task's id, its links, its place in a chord and the rest of its chain, so that
        whoever waits for this task waits for it. Of a group the result is the list of results.
        It ends the function by raising `Ignore`; what has replaced it is stored in the same step
        as the task's end. Called directly, it runs the other one here and returns its value.
        `ImproperlyConfigured` for a signature that is in a chord already, and an empty chain.
        """
        if sig.options.get("chord"):
            raise ImproperlyConfigured("A signature replacing a task must not be part of a chord")
        if sig.subtask_type in {"chain", "group"} and not sig.kwargs["tasks"]:
            raise ImproperlyConfigured(f"Cannot replace with an empty {sig.subtask_type}")
        return self.on_replace(sig)

    def on_replace(self, sig: Signature[Any]) -> Any:
        """Override to change what replaces the task; it has to call this method."""
        request = self.request
        if request.called_directly or request.message is None:
            return sig.apply().get()
        request.replaced = sig
        raise Ignore("Replaced by new task")

    def add_to_chord(self, sig: Signature[T], lazy: bool = False) -> Any:
        """Add a signature to the chord that this task is a member of; returns its result.

        With `lazy` it is not sent: returns the signature, which counts once it is. `ValueError`
        outside of a chord.
        """
        request = self.request
        chord = request.chord
        if not chord:
            raise ValueError("Current task is not member of any chord")
        from umbel.app.sending.workflow import CHORD
        from umbel.message.ids import new_id

        place = request.chord_place or (request.group, request.group_index or 0, "")
        sig.options[CHORD] = (place[0], place[1], new_id())
        if isinstance(chord, Mapping):
            sig.set(chord=chord)
        return sig if lazy else sig.delay()

    def ignores_result(self, asked: bool | None) -> bool:
        """Whether a message's result is dropped: as asked for it, for the task, or for the app."""
        if asked is None:
            asked = self.ignore_result
        return self.app.conf.task_ignore_result if asked is None else asked

    _prepared = False

    def check_arguments(self, args: tuple[Any, ...] | list[Any], kwargs: dict[str, Any]) -> None:
        """`TypeError` if the arguments do not fit the function."""
        if not self._prepared:
            self.prepare()
        if not kwargs and self._fits(len(args)):
            return
        if self._fits is _fits_always:
            return
        import inspect

        try:
            inspect.signature(self.run).bind(*args, **kwargs)
        except TypeError as error:
            message = f"{self.name}: {error}. Nothing was queued."
            raise TypeError(message) from None

    def retry(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: Moment | None = None,
        countdown: float | timedelta | None = None,
        max_retries: int | None = None,
        **options: Unpack[RetryOptions],
    ) -> Retry:
        """Make "run it again" the outcome of this attempt (`celery.Task.retry`).

        The next attempt is due after `countdown` seconds (default: `default_retry_delay`) or at
        `eta`. Its arguments and options are those of this one but for what is given: of `args` and
        `kwargs` the one that is not given stays. Raises `Retry` to leave the function; with
        `throw=False` it returns it instead. However often it is called, and whatever happens to
        the exception, the attempt has one follow-up, stored in the same step as its end. Once the
        task has been retried `max_retries` times, raises `exc`, else the exception being handled,
        else `MaxRetriesExceededError`. What is given is checked at once, as by `apply_async`.
        """
        request = self.request
        if exc is None:
            import sys

            handled = sys.exception()
            exc = None if isinstance(handled, Retry) else handled
        if request.called_directly:
            raise exc or Retry("The task was called directly, so it cannot be retried")
        limit = self.max_retries if max_retries is None else max_retries
        if limit is not None and request.retries >= limit:
            request.retry = None
            self._give_up(request, exc)
        from umbel.app.execution.retries import plan_retry
        from umbel.app.sending.publish import due_time

        if countdown is None and eta is None:
            countdown = self.default_retry_delay
        due = due_time(self.name, self.app.conf, countdown, eta)
        from datetime import UTC, datetime, timedelta

        at = None if due is None else datetime.fromtimestamp(due, UTC)
        seconds = countdown.total_seconds() if isinstance(countdown, timedelta) else countdown
        when = at if seconds is None else seconds
        request.retry = plan_retry(self, request, exc, due, when, args, kwargs, options)
        outcome = Retry(None, exc, when)
        if throw:
            raise outcome from exc
        return outcome

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None
    ) -> None:
        """Store a state of your own, `self.update_state(state="PROGRESS", meta={"done": 30})`.

        `AsyncResult.state` and `.info` show it at once. `task_id` is the running task's unless
        given; in a function that was called directly there is none, and nothing is stored. What
        comes after the task's end is dropped. `EncodeError` for a `meta` that cannot be stored,
        `OperationalError` if the store cannot be written.
        """
        if not state:
            raise ValueError("update_state needs a state, for instance 'PROGRESS'.")
        request = self.request
        id = task_id or request.id
        if id:
            from umbel.app.execution.progress import store_state

            store_state(self.app, id, state, meta, request if id == request.id else None)

    def AsyncResult(self, task_id: str) -> Result[R]:  # noqa: N802  (Celery's name)
        """The result of a message of this task by its id, sent by whomever."""
        from umbel.result import AsyncResult

        return AsyncResult(task_id, app=self.app)

    def add_trail(self, result: Result[Any]) -> Result[Any]:
        """Count a task that was sent among the running one's children; returns its result."""
        if self.trail:
            self.request.children.append(result)
        return result

    def _give_up(self, request: Request, exc: BaseException | None) -> NoReturn:
        if exc is not None:
            raise exc
        message = (
            f"Can't retry {self.name}[{request.id}] args:{request.args} kwargs:{request.kwargs}: "
            f"it has been retried {request.retries} times"
        )
        raise self.MaxRetriesExceededError(
            message, task_args=request.args, task_kwargs=request.kwargs
        )


class AsyncTask(Task[P, R]):
    """A task made of an `async def` function. Usually made by `App.task`."""

    if TYPE_CHECKING:

        def __call__(  # type: ignore[override]  # calling it makes a coroutine, not the result
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, R]:
            """Make a coroutine that runs the task in this process."""
            ...


async def _run_with(request: Request, coroutine: Coroutine[Any, Any, Any]) -> Any:
    from umbel.app.request import current

    token = current.set(request)
    try:
        return await coroutine
    finally:
        current.reset(token)


def class_of(
    function: Callable[..., Any],
    name: str,
    bases: tuple[type[Task[..., Any]], ...],
    options: Mapping[str, Any],
    *,
    bind: bool,
) -> type[Task[..., Any]]:
    """The class, of its own, of a function's task: its options are the class's attributes."""
    is_async = bool(getattr(_code_of(function), "co_flags", 0) & CO_COROUTINE)
    if is_async and not any(issubclass(base, AsyncTask) for base in bases):
        bases = (*bases, AsyncTask)
    body = {
        **options,
        "name": name,
        "run": function if bind else staticmethod(function),
        "__module__": function.__module__,
        "__doc__": function.__doc__,
        "__qualname__": function.__qualname__,
    }
    return type(function.__name__, bases, body)


def make_task(
    app: App,
    function: Callable[..., Any],
    name: str,
    base: type[Task[..., Any]],
    options: Mapping[str, Any],
    *,
    bind: bool = False,
    run: Callable[..., Any] | None = None,
    mixins: tuple[type[Task[..., Any]], ...] = (),
) -> Task[..., Any]:
    """The task of a function: the one instance of a class of its own below `base`.

    `run`: what workers call instead. `mixins`: what stands between `base` and `Task`.
    """
    given: object = base
    if not isinstance(given, type) or not issubclass(given, Task):
        raise TypeError(f"{name}: base must be a subclass of umbel.Task; got {base!r}.")
    if bind:
        check_bound(name, function)
    task = class_of(run or function, name, (base, *mixins), options, bind=bind)()
    task.__wrapped__ = function
    task.__name__ = function.__name__
    task.__qualname__ = function.__qualname__
    task.__annotations__ = getattr(function, "__annotations__", {})
    task.bind(app)
    return task


CO_COROUTINE = 0x80
"""`inspect.CO_COROUTINE`; importing inspect would double this module's import time."""


def warn_of_near_misses(name: str, base: type[Task[..., Any]], options: Mapping[str, Any]) -> None:
    """Any keyword becomes an attribute of the task, so only a likely slip is worth a word."""
    own = [option for option in options if not hasattr(base, option) and option not in REFUSED]
    if not own:
        return
    import difflib
    import warnings

    known = [option for option in vars(Task) if not option.startswith("_")] + ["base", "bind"]
    for option in own:
        near = difflib.get_close_matches(option.lower(), known, n=1, cutoff=0.8)
        if near:
            message = (
                f"{name}: {option!r} is no option of tasks and becomes an attribute of this one. "
                f"Did you mean {near[0]!r}? If not, declare it in a base class."
            )
            warnings.warn(UmbelWarning(message), stacklevel=stack_level())


def stack_level() -> int:
    """The `stacklevel` that puts a warning at the caller's line outside the package."""
    depth, frame = 1, sys._getframe(1)  # noqa: SLF001  (as warnings itself does)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("umbel."):
        depth, frame = depth + 1, frame.f_back
    return depth


def unpickle_task(name: str, module: str) -> Task[..., Any]:
    """The task of that name in this process's app."""
    if module not in sys.modules:
        import importlib

        importlib.import_module(module)
    return current_app_of(name).lookup(name)


def _code_of(function: Callable[..., Any]) -> CodeType | None:
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _fits_always(_: int) -> bool:
    return True


def _quick_check(run: Callable[..., Any]) -> Callable[[int], bool]:
    """Whether so many positional arguments, and nothing else, surely fit a function or method."""
    function = run.__func__ if isinstance(run, MethodType) else run
    code = _code_of(function)
    if code is None or hasattr(function, "__wrapped__"):
        return lambda _: False
    bound = isinstance(run, MethodType)
    most = code.co_argcount - bound
    least = most - len(getattr(function, "__defaults__", None) or ())
    required_keywords = code.co_kwonlyargcount > len(
        getattr(function, "__kwdefaults__", None) or ()
    )
    if code.co_flags & 0x04:  # CO_VARARGS
        most = 1 << 30
    if required_keywords:
        return lambda _: False
    return lambda count: least <= count <= most
