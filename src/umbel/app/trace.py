"""The log lines about a task's end, worded as Celery words them: people grep for them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from umbel import clock
from umbel.exceptions import Ignore, Reject

if TYPE_CHECKING:
    from umbel.app.execution.retries import RetryPlan
    from umbel.app.request import Request

logger: logging.Logger = logging.getLogger(__name__)


def log_success(request: Request, value: Any, runtime: float) -> None:
    """Tell of a task that has returned, at INFO; costs next to nothing when that is off."""
    if logger.isEnabledFor(logging.INFO):
        text = _represent(value)
        longest = 1024 if request.owner is None else request.owner.resultrepr_maxsize
        data = {
            "id": request.id, "name": _name(request), "runtime": runtime,
            "return_value": text if len(text) <= longest else f"{text[:longest]}...",
        }  # fmt: skip
        _info(request, "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s", data)


def log_retry(request: Request, plan: RetryPlan) -> None:
    """Tell of a task that will run again."""
    if logger.isEnabledFor(logging.INFO):
        pause = 0.0 if plan.due is None else max(0.0, plan.due - clock.time())
        cause = "" if plan.exc is None else f": {_represent(plan.exc)}"
        text = f"Retry in {round(pause, 2):g}s{cause}"
        data = {"id": request.id, "name": _name(request), "exc": text}
        _info(request, "Task %(name)s[%(id)s] retry: %(exc)s", data)


def log_flow(request: Request, error: Ignore | Reject) -> None:
    """Tell of a task that has asked for another end than its function's."""
    data = {"id": request.id, "name": _name(request), "exc": _represent(error)}
    if isinstance(error, Ignore):
        _info(request, "Task %(name)s[%(id)s] ignored", data)
    else:
        _log(request, logging.WARNING, "Task %(name)s[%(id)s] %(exc)s", data, error)


def log_failure(request: Request, error: BaseException, *, expected: bool) -> None:
    """Tell of a task that has failed: at ERROR with its traceback, unless it was expected to."""
    what = "expected" if expected else "unexpected"
    data = {
        "id": request.id, "name": _name(request), "exc": _represent(error),
        "description": f"raised {what}",
    }  # fmt: skip
    text = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
    if expected:
        _info(request, text, data)
    else:
        _log(request, logging.ERROR, text, data, error)


def _info(request: Request, text: str, data: dict[str, Any]) -> None:
    _log(request, logging.INFO, text, data, None)


def _log(
    request: Request, level: int, text: str, data: dict[str, Any], error: BaseException | None
) -> None:
    try:
        # `data` for handlers that want the parts; the task's name and id as on its own lines.
        extra = {"data": data, "task_name": request.task, "task_id": request.id}
        logger.log(level, text, data, exc_info=error, extra=extra)
    except BaseException:  # noqa: BLE001  (no handler of the user's may cost the outcome)
        logger.warning("A line about %s[%s] could not be logged", request.task, request.id)


def _name(request: Request) -> str:
    """What lines call the task: its `shadow`, if it has one."""
    return request.shadow or request.task


def _represent(value: Any) -> str:
    try:
        return repr(value)
    except BaseException as error:  # noqa: BLE001  (the user's own repr)
        return f"<{type(value).__name__} whose repr() raises {type(error).__name__}>"
