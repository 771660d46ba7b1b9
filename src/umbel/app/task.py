"""A task: a function with a name, options, and the ways to send it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from types import CodeType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, Unpack, cast

from umbel.exceptions import MaxRetriesExceededError, Retry

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.options import Moment, SendOptions
    from umbel.app.request import Request
    from umbel.result import AsyncResult, EagerResult

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A function that can be sent to a worker (`celery.Task`). Made by `App.task`.

    Calling it runs the function here and now; `delay` and `apply_async` send it.
    """

    def __init__(
        self,
        app: App,
        function: Callable[..., Any],
        name: str,
        *,
        bind: bool = False,
        max_retries: int | None = 3,
        default_retry_delay: float = 180.0,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        ignore_result: bool | None = None,
        acks_late: bool | None = None,
        queue: str | None = None,
        priority: int | None = None,
        expires: float | None = None,
        serializer: str | None = None,
        compression: str | None = None,
        throws: tuple[type[Exception], ...] = (),
    ) -> None:
        functools.update_wrapper(self, function)
        self.app = app
        self.name = name
        self.bind = bind
        self.run = function
        """The function itself."""
        self.max_retries = max_retries
        """How often `retry` may run it again; None: for ever."""
        self.default_retry_delay = default_retry_delay
        """Seconds."""
        self.time_limit = time_limit
        self.soft_time_limit = soft_time_limit
        self.ignore_result = ignore_result
        self.acks_late = acks_late
        self.queue = queue
        self.priority = priority
        self.expires = expires
        """Seconds after sending; then it is not run any more."""
        self.serializer = serializer
        """What its messages are written in; None: `task_serializer`."""
        self.compression = compression
        """None: `task_compression`."""
        self.throws = throws
        """Errors that are expected: raised as themselves by `get`, logged without traceback."""
        self._fits = _quick_check(function, bind=bind)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function in this process; an `async def` one returns its coroutine."""
        if self.bind:
            return cast("R", self.run(self, *args, **kwargs))
        return cast("R", self.run(*args, **kwargs))

    @property
    def request(self) -> Request:
        """The request of the delivery that runs in this context."""
        from umbel.app.request import Request, current

        return current.get() or Request("", self.name)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
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
    ) -> AsyncResult[R]:
        """Send the task with options (`celery.Task.apply_async`, `umbel.app.options`).

        Raises as `delay`.
        """
        from umbel.app.publish import build_message

        app = self.app
        message = build_message(app.conf, self.name, args, kwargs, self, **options)
        if app.conf.task_always_eager:
            from umbel.app.eager import run_eagerly

            return run_eagerly(app, self.name, message)
        return app.publish(message, ignored=self.ignores_result(options.get("ignore_result")))

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """`delay` for coroutines: the event loop goes on while the message is stored."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[R]:
        """`apply_async` for coroutines, with the same options."""
        from umbel.app.publish import build_message

        app = self.app
        message = build_message(app.conf, self.name, args, kwargs, self, **options)
        if app.conf.task_always_eager:
            from umbel.app.eager import arun_eagerly

            return await arun_eagerly(app, self, message)
        ignored = self.ignores_result(options.get("ignore_result"))
        return await app.apublish(message, ignored=ignored)

    def apply(
        self,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        *,
        throw: bool | None = None,
        retries: int = 0,
        **options: Unpack[SendOptions],
    ) -> EagerResult[R]:
        """Run the task in this process, at once, as a worker would (`celery.Task.apply`).

        Its retries run at once too. It gets the very arguments, not copies of them. `throw`:
        raise what the task raises (default: `task_eager_propagates`). `retries`: those made
        before. The other options are those of `apply_async`; times in them have no effect.
        """
        from umbel.app.eager import apply

        return apply(self, args or (), kwargs or {}, throw, retries, options)

    def ignores_result(self, asked: bool | None) -> bool:
        """Whether a message's result is dropped: as asked for it, for the task, or for the app."""
        if asked is None:
            asked = self.ignore_result
        return self.app.conf.task_ignore_result if asked is None else asked

    def check_arguments(self, args: tuple[Any, ...] | list[Any], kwargs: dict[str, Any]) -> None:
        """`TypeError` if the arguments do not fit the function."""
        if not kwargs and self._fits(len(args)):
            return
        import inspect

        if self.bind:
            args = (self, *args)
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
        countdown: float | None = None,
        max_retries: int | None = None,
    ) -> Retry:
        """Make "run it again" the outcome of this attempt (`celery.Task.retry`).

        The next attempt is due after `countdown` seconds (default: `default_retry_delay`) or at
        `eta`. Raises `Retry` to leave the function; with `throw=False` it returns it instead.
        However often it is called, and whatever happens to the exception, the attempt has one
        follow-up, stored in the same step as its end. Once the task has been retried
        `max_retries` times, raises `exc`, else the exception being handled, else
        `MaxRetriesExceededError`.
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
        from umbel.app.publish import due_time
        from umbel.app.request import RetryPlan

        if countdown is None and eta is None:
            countdown = self.default_retry_delay
        due = due_time(self.name, self.app.conf, countdown, eta)
        request.retry = RetryPlan(
            due,
            request.retries + 1,
            exc,
            None if args is None else tuple(args),
            kwargs,
        )
        outcome = Retry(f"Retry of {self.name}: {exc!r}" if exc else "Retry", exc, due)
        if throw:
            raise outcome from exc
        return outcome

    def _give_up(self, request: Request, exc: BaseException | None) -> NoReturn:
        if exc is not None:
            raise exc
        message = (
            f"Can't retry {self.name}[{request.id}] args:{request.args} kwargs:{request.kwargs}: "
            f"it has been retried {request.retries} times"
        )
        raise MaxRetriesExceededError(message)


class AsyncTask(Task[P, R]):
    """A task made of an `async def` function. Made by `App.task`."""

    if TYPE_CHECKING:

        def __call__(  # type: ignore[override]  # calling it makes a coroutine, not the result
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, R]:
            """Make the function's coroutine in this process."""
            ...


def _quick_check(function: Callable[..., Any], *, bind: bool) -> Callable[[int], bool]:
    """Whether so many positional arguments, and nothing else, surely fit a function."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or hasattr(function, "__wrapped__"):
        return lambda _: False
    most = code.co_argcount - bind
    least = most - len(getattr(function, "__defaults__", None) or ())
    required_keywords = code.co_kwonlyargcount > len(
        getattr(function, "__kwdefaults__", None) or ()
    )
    if code.co_flags & 0x04:  # CO_VARARGS
        most = 1 << 30
    if required_keywords:
        return lambda _: False
    return lambda count: least <= count <= most
