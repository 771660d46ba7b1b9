"""What a task may do before and after its run: the handlers that its class can override."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from umbel.app.execution.steps import ExceptionInfo


class Handlers:
    """What is called before and after a run: override what you need (`celery.Task`).

    An error in a handler is logged and changes nothing about how the task ended, except in
    `before_start`, which is part of the run.
    """

    def before_start(self, task_id: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Before the function, in the same process; an error here is the task's failure."""

    def on_success(
        self, retval: Any, task_id: str, args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        """After the function has returned `retval`."""

    def on_failure(
        self,
        exc: BaseException,
        task_id: str,
        args: list[Any],
        kwargs: dict[str, Any],
        einfo: ExceptionInfo,
    ) -> None:
        """After the task has failed for good.

        Where its process was killed (a hard time limit, a crash), the worker's own process calls
        it.
        """

    def on_retry(
        self,
        exc: BaseException,
        task_id: str,
        args: list[Any],
        kwargs: dict[str, Any],
        einfo: ExceptionInfo,
    ) -> None:
        """After a run that will be followed by another; `exc` is what caused that."""

    def after_return(
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: list[Any],
        kwargs: dict[str, Any],
        einfo: ExceptionInfo | None,
    ) -> None:
        """After SUCCESS or FAILURE, last of the handlers; `retval` is the value or the error."""
