"""Errbacks: what is called when a task has failed (`Signature.link_error`)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any

from umbel.app.request import Request
from umbel.canvas.signatures import Signature
from umbel.message import task as task_message
from umbel.message.content import content_types
from umbel.message.result import restore_exception
from umbel.result.stored import known_exceptions

if TYPE_CHECKING:
    from umbel.app.app import App


def takes_the_error(app: App, errback: Mapping[str, Any]) -> bool:
    """Whether an errback is called with request, exception and traceback.

    It is if its task is known here, is no bound one, and takes more than one positional argument
    besides those that the signature has. Else it is sent, with the failed task's id.
    """
    task = app.tasks.get(errback["task"])
    if task is None or isinstance(task.run, MethodType):
        return False
    own = 0 if errback.get("immutable") else len(errback.get("args") or ())
    places = inspect.signature(task.run).parameters.values()
    if any(place.kind is place.VAR_POSITIONAL for place in places):
        return True
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = errback.get("kwargs") or {}
    count = sum(place.kind in kinds and place.name not in named for place in places)
    return count - own > 1


def call(
    app: App,
    errback: Mapping[str, Any],
    payload: str,
    record: Mapping[str, Any],
    traceback: str | None,
) -> Any:
    """Call it with the failed task's request, its exception, and the traceback as text."""
    data = payload.encode("utf-8")
    request = Request()
    try:
        conf = app.conf
        message = task_message.decode(
            data, content_types(conf.accept_content), conf.task_max_message_bytes
        )
        headers = message.headers
        request = Request(headers.id, headers.task, message.args, message.kwargs)
        request.message, request.retries = message, headers.retries or 0
    except Exception:  # noqa: BLE001  (what failed could not be read: its headers can)
        headers = task_message.decode_headers(data)
        request = Request(headers.id, headers.task)
    request.payload, request.called_directly = data, False
    request.owner = app.tasks.get(request.task)
    error = restore_exception(record, known_exceptions(app))
    return Signature.from_dict(errback, app=app)(request, error, traceback)
