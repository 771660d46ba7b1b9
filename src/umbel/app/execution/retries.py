"""The next attempt of a task: from what `Task.retry` was given to its message.

The message is the one that was delivered, with what the retry changes: it is stored together with
the end of the attempt, so it is no publish of its own.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.app.execution.outcome import FollowUp
from umbel.app.sending.carried import carry
from umbel.app.sending.checks import check_headers, check_limits, check_priority
from umbel.app.sending.publish import expire, hide_secrets
from umbel.app.sending.routing import PLACE
from umbel.message import compression, content
from umbel.message import task as task_message

if TYPE_CHECKING:
    from umbel.app.request import Request
    from umbel.app.task import Task

SAME_TASK: Final = "the next attempt is the same task"
REFUSED: Final = {
    "task_id": f"{SAME_TASK}, under the same id; apply_async sends another one",
    "retries": "retry() counts them itself",
    "router": "give the queue=, or exchange= and routing_key=, that it is to go to",
    "route_name": "give the queue=, or exchange= and routing_key=, that it is to go to",
}
"""Options of `apply_async` that a retry cannot have."""
NO_PUBLISH: Final = "the next attempt is stored together with the end of this one"
WITHOUT_EFFECT: Final = {
    "retry": NO_PUBLISH,
    "retry_policy": NO_PUBLISH,
    "timeout": NO_PUBLISH,
    "confirm_timeout": NO_PUBLISH,
    "add_to_parent": "no task is a child of itself",
    "result_cls": f"{SAME_TASK}, with the result that its sender has",
    "task_type": SAME_TASK,
}
"""Options of `apply_async` that change nothing about a retry."""
_told: set[str] = set()


class Changes(msgspec.Struct, frozen=True):
    """What the options of a retry change about the message."""

    headers: dict[str, Any] = msgspec.field(default_factory=dict)
    replaces_headers: bool = False
    """The user's own headers are to be only those in `headers`."""
    properties: dict[str, Any] = msgspec.field(default_factory=dict)
    """None takes one away."""
    embed: dict[str, Any] = msgspec.field(default_factory=dict)
    queues: tuple[str, ...] = ()
    """Where it goes; (): to where this attempt came from."""
    exchange: str = ""
    routing_key: str | None = None
    """None: the queue's name."""
    priority: int | None = None
    serializer: str | None = None
    compression: str | None = None


class RetryPlan(msgspec.Struct, frozen=True):
    """A decision to run the task again; the attempt's outcome, whatever it returns or raises."""

    due: float | None
    """Unix time; None: at once."""
    retries: int
    exc: BaseException | None
    when: float | datetime | None = None
    """`due` as it was asked for: seconds from then, or a datetime."""
    args: tuple[Any, ...] | None = None
    """New arguments; None keeps the message's."""
    kwargs: dict[str, Any] | None = None
    changes: Changes = Changes()


# --------------------------------------------------------------------------------- the decision


def plan_retry(
    task: Task[..., Any],
    request: Request,
    exc: BaseException | None,
    due: float | None,
    when: float | datetime | None,
    args: tuple[Any, ...] | list[Any] | None,
    kwargs: dict[str, Any] | None,
    options: Mapping[str, Any],
) -> RetryPlan:
    """The decision, once all that was given has been checked.

    `TypeError`, `ValueError` and `QueueNotFound` as from `apply_async`.
    """
    changes = read_options(task, request, options) if options else Changes()
    new_args, new_kwargs = _new_arguments(task, request, args, kwargs)
    return RetryPlan(due, request.retries + 1, exc, when, new_args, new_kwargs, changes)


def read_options(task: Task[..., Any], request: Request, options: Mapping[str, Any]) -> Changes:
    """What the options of a retry change."""
    name, conf = task.name, task.app.conf
    given = dict(options)
    _tell_of_idle(options)
    for option in REFUSED.keys() & given.keys():
        if given.pop(option) is not None:
            raise TypeError(f"{name}: retry({option}=…) is refused: {REFUSED[option]}.")
    carried = carry(name, given)
    headers, properties = carried.headers, carried.properties
    message = request.message
    assert message is not None  # noqa: S101  (what was called directly is not retried)
    if "ignore_result" in given:
        headers["ignore_result"] = given["ignore_result"]
    if not given.keys().isdisjoint(("time_limit", "soft_time_limit")):
        hard, soft = message.headers.timelimit or (None, None)
        hard, soft = given.get("time_limit", hard), given.get("soft_time_limit", soft)
        check_limits(name, hard, soft)
        headers["timelimit"] = [hard, soft]
    if "expires" in given:
        expires = given["expires"]
        headers["expires"], properties["expiration"] = (
            (None, None) if expires is None else expire(conf, name, message.headers.id, expires)
        )
    priority = given.get("priority")
    if priority is not None:
        check_priority(name, priority)
        properties["priority"] = priority
    for option, find in (("serializer", content.find), ("compression", compression.find)):
        if given.get(option) is not None:
            find(given[option])
    check_headers(name, message.headers.id, {**msgspec.to_builtins(message.headers), **headers})
    return Changes(
        headers=headers,
        replaces_headers=given.get("headers") is not None,
        properties=properties,
        embed=carried.embed,
        priority=priority,
        serializer=given.get("serializer"),
        compression=given.get("compression"),
        **_place(task, message.properties.delivery_info, given, properties),
    )


def _tell_of_idle(options: Mapping[str, Any]) -> None:
    for option in WITHOUT_EFFECT.keys() & options.keys():
        if options[option] is not None and option not in _told:
            _told.add(option)
            logging.getLogger("umbel.app").warning(
                "The option %s= of retry() has no effect: %s (told once)",
                option,
                WITHOUT_EFFECT[option],
            )


def _place(
    task: Task[..., Any],
    came: task_message.DeliveryInfo,
    options: Mapping[str, Any],
    properties: dict[str, Any],
) -> dict[str, Any]:
    """Where the options send it; what they leave open is as this attempt came."""
    place = {key: options[key] for key in PLACE if options.get(key) is not None}
    if not place:
        return {}
    if "queue" not in place:
        own = (
            {"exchange": came.exchange, "routing_key": came.routing_key}
            if came.exchange
            else {"queue": came.routing_key}
        )
        place = {**own, **place}
    found = task.app.amqp.find(place)
    if found.delivery_mode is not None:
        properties.setdefault("delivery_mode", found.delivery_mode)
    if found.exchange is None:
        return {"queues": found.queues}
    return {
        "queues": found.queues,
        "exchange": found.exchange,
        "routing_key": found.routing_key,
    }


def _new_arguments(
    task: Task[..., Any],
    request: Request,
    args: tuple[Any, ...] | list[Any] | None,
    kwargs: dict[str, Any] | None,
) -> tuple[tuple[Any, ...] | None, dict[str, Any] | None]:
    """Args and kwargs of the next attempt, or None for what stays as it is.

    A parameter that is given in the other way than before is taken away from where it was.
    """
    if args is not None and kwargs is None and request.kwargs:
        positional = _parameters(task)[: len(args)]
        kwargs = {key: value for key, value in request.kwargs.items() if key not in positional}
    elif kwargs is not None and args is None and request.args:
        args, kwargs = _merge(task, request.args, kwargs)
    return None if args is None else tuple(args), kwargs


def _parameters(task: Task[..., Any]) -> list[str | None]:
    """The positional parameters, None for those that cannot be given by name."""
    kinds = inspect.Parameter
    return [
        parameter.name if parameter.kind is kinds.POSITIONAL_OR_KEYWORD else None
        for parameter in inspect.signature(task.run).parameters.values()
        if parameter.kind in {kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD}
    ]


def _merge(
    task: Task[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Old positional arguments with new keywords over them."""
    values, rest = list(args), dict(kwargs)
    for position, parameter in enumerate(_parameters(task)[: len(values)]):
        if parameter is not None and parameter in rest:
            values[position] = rest.pop(parameter)
    return values, rest


# ---------------------------------------------------------------------------------- the message


def write_follow_ups(
    task: Task[..., Any],
    payload: bytes,
    message: task_message.Task,
    plan: RetryPlan,
    accept: frozenset[str],
    limit: int,
) -> tuple[FollowUp, ...]:
    """The messages of the next attempt: one, unless an exchange copies it to several queues.

    `EncodeError` for what cannot be sent.
    """
    changes = plan.changes
    headers = changes.headers
    body = None
    if plan.args is not None or plan.kwargs is not None:
        headers = {**_shown(task, message, plan), **headers}
    if headers is not changes.headers or changes.embed or changes.serializer or changes.compression:
        # From its bytes, because the task may have changed the values that it was given.
        fresh = task_message.decode(payload, accept, limit)
        value = (
            fresh.args if plan.args is None else plan.args,
            fresh.kwargs if plan.kwargs is None else plan.kwargs,
            {**fresh.embed, **changes.embed},
        )
        body = task_message.encode_body(
            value, message, limit, serializer=changes.serializer, compression=changes.compression
        )
    made = []
    for copy, queue in enumerate(changes.queues or (None,)):
        tag = task_message.retry_tag(
            message.headers.id, message.properties.delivery_tag, plan.retries, copy
        )
        properties = changes.properties
        if queue is not None:
            key = queue if changes.routing_key is None else changes.routing_key
            info = {"exchange": changes.exchange, "routing_key": key}
            properties = {**properties, "delivery_info": info}
        data = task_message.encode_retry(
            payload, tag=tag, retries=plan.retries, due=plan.due, body=body, headers=headers,
            replaces_headers=changes.replaces_headers, properties=properties,
            joined=plan.args is None,
        )  # fmt: skip
        made.append(FollowUp(tag, plan.due, data, queue, changes.priority))
    return tuple(made)


def _shown(task: Task[..., Any], message: task_message.Task, plan: RetryPlan) -> dict[str, Any]:
    """The headers that show the arguments."""
    args = tuple(message.args) if plan.args is None else plan.args
    kwargs = message.kwargs if plan.kwargs is None else plan.kwargs
    headers: dict[str, Any] = {}
    if task.secret:
        headers["umbel-secret"], args, kwargs = hide_secrets(task, args, kwargs)
    levels = task.app.conf.task_repr_maxlevels
    return {
        **headers,
        "argsrepr": task_message.describe(args, levels),
        "kwargsrepr": task_message.describe(kwargs, levels),
    }
