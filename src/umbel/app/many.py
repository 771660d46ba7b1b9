"""Sending one task many times: `Task.apply_many`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple, Unpack, cast, overload

if TYPE_CHECKING:
    from umbel.app.sending.options import ManyOptions
    from umbel.app.task import Task
    from umbel.result import AsyncResult

R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
Ts = TypeVarTuple("Ts")
Args = tuple[Any, ...] | list[Any]
"""One call's positional arguments."""


class Many(Generic[R]):
    """What a task does many times at once.

    A type checker holds each item against the function's parameters: the overloads are of tuples
    of so many items, as many as the call of a function with defaults may have.
    """

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Run the function here."""
            ...

    @overload
    def apply_many(
        self: Callable[[A], Any], items: Iterable[tuple[A]], **options: Unpack[ManyOptions]
    ) -> list[AsyncResult[R]]: ...
    @overload
    def apply_many(
        self: Callable[[A, B], Any], items: Iterable[tuple[A, B]], **options: Unpack[ManyOptions]
    ) -> list[AsyncResult[R]]: ...
    @overload
    def apply_many(
        self: Callable[[A, B, C], Any],
        items: Iterable[tuple[A, B, C]],
        **options: Unpack[ManyOptions],
    ) -> list[AsyncResult[R]]: ...
    @overload
    def apply_many(
        self: Callable[[A, B, C, D], Any],
        items: Iterable[tuple[A, B, C, D]],
        **options: Unpack[ManyOptions],
    ) -> list[AsyncResult[R]]: ...
    @overload
    def apply_many(
        self: Callable[[A, B, C, D, E], Any],
        items: Iterable[tuple[A, B, C, D, E]],
        **options: Unpack[ManyOptions],
    ) -> list[AsyncResult[R]]: ...
    @overload
    def apply_many(
        self: Callable[[Unpack[Ts]], Any],
        items: Iterable[tuple[*Ts]],
        **options: Unpack[ManyOptions],
    ) -> list[AsyncResult[R]]: ...
    @overload
    def apply_many(
        self, items: Iterable[Args], kwargs: dict[str, Any], **options: Unpack[ManyOptions]
    ) -> list[AsyncResult[R]]: ...

    def apply_many(
        self, items: Iterable[Args], kwargs: dict[str, Any] | None = None, **options: Any
    ) -> list[AsyncResult[R]]:
        """Send the task once for each item: `add.apply_many([(1, 2), (3, 4)])`.

        An item is the tuple of one call's positional arguments; `kwargs` and the options, those of
        `apply_async` but `task_id`, hold for all. Returns the results in the items' order once all
        messages are safe.

        What cannot be sent (an argument that does not fit or cannot be encoded, a wrong option)
        raises as `delay` does, with a note of the item, before anything is queued. The messages
        are stored in batches of 500, each as a whole and under the publish deadline: when one
        cannot be stored, what is raised is `OperationalError` if it was the first, so that nothing
        is queued, and else `PartlySentError`, whose `results` are those of the first items, which
        are.
        """
        from umbel.app.sending.batch import build_many, publish

        task = cast("Task[..., Any]", self)
        app = task.app
        messages = list(build_many(task, items, kwargs, options))
        if app.conf.task_always_eager:
            from umbel.app.execution.eager import run_eagerly

            return [run_eagerly(app, task.name, message) for message in messages]
        return publish(app, messages, ignored=task.ignores_result(options.get("ignore_result")))

    @overload
    async def aapply_many(
        self: Callable[[A], Any], items: Iterable[tuple[A]], **options: Unpack[ManyOptions]
    ) -> list[AsyncResult[R]]: ...
    @overload
    async def aapply_many(
        self: Callable[[A, B], Any], items: Iterable[tuple[A, B]], **options: Unpack[ManyOptions]
    ) -> list[AsyncResult[R]]: ...
    @overload
    async def aapply_many(
        self: Callable[[A, B, C], Any],
        items: Iterable[tuple[A, B, C]],
        **options: Unpack[ManyOptions],
    ) -> list[AsyncResult[R]]: ...
    @overload
    async def aapply_many(
        self: Callable[[A, B, C, D], Any],
        items: Iterable[tuple[A, B, C, D]],
        **options: Unpack[ManyOptions],
    ) -> list[AsyncResult[R]]: ...
    @overload
    async def aapply_many(
        self: Callable[[A, B, C, D, E], Any],
        items: Iterable[tuple[A, B, C, D, E]],
        **options: Unpack[ManyOptions],
    ) -> list[AsyncResult[R]]: ...
    @overload
    async def aapply_many(
        self: Callable[[Unpack[Ts]], Any],
        items: Iterable[tuple[*Ts]],
        **options: Unpack[ManyOptions],
    ) -> list[AsyncResult[R]]: ...
    @overload
    async def aapply_many(
        self, items: Iterable[Args], kwargs: dict[str, Any], **options: Unpack[ManyOptions]
    ) -> list[AsyncResult[R]]: ...

    async def aapply_many(
        self, items: Iterable[Args], kwargs: dict[str, Any] | None = None, **options: Any
    ) -> list[AsyncResult[R]]:
        """`apply_many` for coroutines: the event loop goes on meanwhile."""
        from umbel.app.sending.batch import abuild_many, apublish

        task = cast("Task[..., Any]", self)
        app = task.app
        messages = await abuild_many(task, items, kwargs, options)
        if app.conf.task_always_eager:
            from umbel.app.execution.eager import arun_eagerly

            return [await arun_eagerly(app, task, message) for message in messages]
        ignored = task.ignores_result(options.get("ignore_result"))
        return await apublish(app, messages, ignored=ignored)
