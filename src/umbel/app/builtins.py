"""The tasks that every app has, because workflows are made of them (`celery.app.builtins`)."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from umbel.canvas import chunks, signature
from umbel.canvas.plan import ACCUMULATE
from umbel.message.result import collect_errors

if TYPE_CHECKING:
    from umbel.app.app import App


def add_builtins(app: App) -> None:
    """Add them to an app."""

    @app.task(name=ACCUMULATE)
    def accumulate(*args: Any, index: int | None = None) -> Any:
        """Return the arguments, or one of them."""
        return collect_errors(list(args) if index is None else args[index])

    @app.task(name="celery.map")
    def xmap(task: dict[str, Any], it: Iterable[Any]) -> Any:
        return _call_for_each(app, task, [[item] for item in it])

    @app.task(name="celery.starmap")
    def xstarmap(task: dict[str, Any], it: Iterable[Iterable[Any]]) -> Any:
        return _call_for_each(app, task, it)

    @app.task(name="celery.chunks")
    def send_chunks(task: dict[str, Any], it: Iterable[Any], n: int) -> Any:
        return chunks.apply_chunks(task, it, n, app=app)

    @app.task(name="umbel.errback")
    def call_errback(
        errback: dict[str, Any], payload: str, error: dict[str, Any], traceback: str | None
    ) -> None:
        """Call an errback that wants to know more than the failed task's id."""
        from umbel.app.execution.errbacks import call

        call(app, errback, payload, error, traceback)


def _call_for_each(app: App, sig: dict[str, Any], calls: Iterable[Iterable[Any]]) -> Any:
    task = signature(sig, app=app).type
    if iscoroutinefunction(task.run):
        return _await_each(task, calls)
    return [task(*args) for args in calls]


async def _await_each(task: Any, calls: Iterable[Iterable[Any]]) -> list[Any]:
    return [await task(*args) for args in calls]
