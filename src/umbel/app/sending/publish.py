"""From a task's name, arguments and options to the message that a broker stores."""

from __future__ import annotations

import operator
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from msgspec import UNSET, UnsetType

from umbel import clock
from umbel.app import request
from umbel.app.sending.checks import (
    check_call,
    check_limits,
    check_time,
    refuse_call,
    refuse_countdown,
)
from umbel.app.sending.options import Moment
from umbel.app.sending.payload import refuse_argument, write_payload
from umbel.app.sending.routing import route as route  # noqa: PLC0414  (one import for who sends)
from umbel.engines.broker import Message
from umbel.exceptions import EncodeError, ImproperlyConfigured
from umbel.message import task as task_message
from umbel.message.ids import new_id
from umbel.message.serializer import dumps
from umbel.message.task import DeliveryInfo, Headers, Properties
from umbel.signals import after_task_publish, before_task_publish

if TYPE_CHECKING:
    from umbel.app.settings.table import Settings
    from umbel.app.task import Task

REPLY_TO: Final = os.urandom(16).hex()
"""Celery clients name their result queue here; other backends than `rpc://` do not use it."""


OMITTED: Final[Any] = object()
"""An option that was not given, where None means that the task's own shall not hold."""


class Standing(NamedTuple):
    """Where in a workflow a new task stands; None leaves what follows from who sends it."""

    root: str | None
    parent: str | None
    group: str | None
    group_index: int | None
    chord: tuple[str, int, str] | None


class Unknown:
    """The options of a task that is not known here: none."""

    expires = queue = compression = None


UNKNOWN: Final = Unknown()


def build_message(  # noqa: C901, PLR0912, PLR0915  (flat: an option after the other)
    settings: Settings,
    name: str,
    args: tuple[Any, ...] | list[Any] | None,
    kwargs: dict[str, Any] | None,
    task: Task[..., Any] | None = None,
    /,
    *,
    by_name: bool = False,
    copies: tuple[str, ...] = (),
    standing: Standing | None = None,
    task_id: str | None = None,
    countdown: float | timedelta | None = None,
    eta: Moment | None = None,
    expires: float | timedelta | datetime | str | None = OMITTED,
    priority: int | None = OMITTED,
    queue: str | None = OMITTED,
    ignore_result: bool | None = None,
    serializer: str | None = None,
    compression: str | None = None,
    time_limit: float | None = OMITTED,
    soft_time_limit: float | None = OMITTED,
    **rare: Any,
) -> Message:
    """The message of one new task; what is not given comes from `task`, then from the settings.

    `by_name`: it is sent by its name, so its function's signature is not looked at. `copies`: more
    queues that get it. `standing`: its place in the workflow that sends it. `rare`: the other
    options of `SendOptions`, but for those of routing, which `umbel.app.sending.routing.route` has
    resolved. `EncodeError` names an argument that cannot be sent, `TypeError` one that does not
    fit.
    """
    args, kwargs = () if args is None else args, {} if kwargs is None else kwargs
    # Not every caller is typed.
    if not (isinstance(args, (tuple, list)) and isinstance(kwargs, dict)):  # type: ignore[redundant-expr]
        raise refuse_call(name, args, kwargs)
    known: Any = UNKNOWN if task is None else task
    if task is not None and not by_name:
        task.check_arguments(args, kwargs)
        ignore_result = task.ignores_result(ignore_result)
    if expires is OMITTED:
        expires = known.expires
    if queue is OMITTED:
        queue = known.queue
    own = vars(known)  # what is given nowhere is not there: its setting is looked up below
    if priority is OMITTED:
        priority = own.get("priority")
    if time_limit is OMITTED:
        time_limit = own.get("time_limit")
    if soft_time_limit is OMITTED:
        soft_time_limit = own.get("soft_time_limit")
    serializer = serializer or own.get("serializer") or settings.task_serializer
    compression = compression or known.compression or settings.task_compression
    if queue is None:
        queue = settings.task_default_queue
    if priority is None:
        priority = settings.task_default_priority or 0
    check_call(name, task_id, queue, priority, ignore_result)
    id = task_id or new_id()
    # A new id is unique by itself.
    tag = f"{id}:{os.urandom(4).hex() if task_id else id[-8:]}"
    parent = request.current.get()
    shown_args, shown_kwargs, levels = tuple(args), kwargs, settings.task_repr_maxlevels
    places: list[str | int] | UnsetType = UNSET
    if task is not None and task.secret:
        places, shown_args, shown_kwargs = hide_secrets(task, args, kwargs)
    headers = Headers(
        name,
        id,
        root_id=id if parent is None else parent.root_id or parent.id,
        parent_id=None if parent is None else parent.id,
        argsrepr=task_message.describe(shown_args, levels),
        kwargsrepr=task_message.describe(shown_kwargs, levels) if kwargs else "{}",
        origin=_origin(),
        ignore_result=ignore_result,
        secret=places,
    )
    if standing is not None:
        headers.root_id = standing.root or headers.root_id
        headers.parent_id = standing.parent or headers.parent_id
        headers.group, headers.group_index = standing.group, standing.group_index
        if standing.chord is not None:
            headers.chord = standing.chord
    properties = Properties(
        id, REPLY_TO,
        settings.task_default_delivery_mode,  # type: ignore[arg-type]  # kept as a number
        DeliveryInfo("", queue), priority, delivery_tag=tag,
    )  # fmt: skip
    due = None
    if countdown is not None or eta is not None:
        due = due_time(name, settings, countdown, eta)
        headers.eta = None if due is None else task_message.format_time(due)
    if time_limit is not None or soft_time_limit is not None or expires is not None:
        _limit(settings, headers, properties, time_limit, soft_time_limit, expires)
    body = (args, kwargs, task_message.NO_EMBED)
    if rare or before_task_publish.receivers or after_task_publish.receivers:
        from umbel.app.sending.parcel import pack

        return pack(settings, headers, properties, body, due, copies, rare, serializer, compression)
    try:
        # Here, because the way through plain values is the deepest of this road.
        data = dumps(body) if serializer == "json" else None
    except EncodeError as error:
        raise refuse_argument(name, error) from None
    payload = write_payload(settings, headers, properties, body, data, serializer, compression)
    return Message(tag, id, queue, payload, priority, due)


def hide_secrets(
    task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[str | int], tuple[Any, ...], dict[str, Any]]:
    """Where a call's secret arguments are, and the arguments as they may be shown."""
    from umbel.app.redaction import secret_places

    places = secret_places(task, len(args))
    return places, *task_message.hide(places, args, kwargs)


def due_time(
    name: str, settings: Settings, countdown: float | timedelta | None, eta: Moment | None
) -> float | None:
    """Unix time of a countdown (seconds from now, or a timedelta), which wins, or of an ETA.

    None: at once. `ValueError` names the task and what is wrong.
    """
    if countdown is not None:
        if isinstance(countdown, timedelta):
            countdown = countdown.total_seconds()
        elif not isinstance(countdown, (int, float)):
            raise refuse_countdown(name, countdown)
        due = check_time(name, "countdown", countdown, lambda seconds: clock.time() + seconds)
        return due if countdown > 0 else None
    return None if eta is None else check_time(name, "eta", eta, partial(unix_time, settings))


def expiry_time(
    name: str, settings: Settings, expires: float | timedelta | datetime | str
) -> float:
    """Unix time of an expiry; a number or a timedelta is a duration from now."""
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    convert: Callable[[Any], float] = partial(unix_time, settings)
    if isinstance(seconds, (int, float)):
        convert = partial(operator.add, clock.time())
    return check_time(name, "expires", seconds, convert) or 0.0


def unix_time(settings: Settings, moment: Moment) -> float:
    """Unix time of a moment. A naive datetime means UTC while `enable_utc` is on."""
    if isinstance(moment, (int, float)):
        return float(moment)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if moment.tzinfo is None:
        zone = UTC if settings.enable_utc or not settings.timezone else _zone(settings.timezone)
        moment = moment.replace(tzinfo=zone)
    return moment.timestamp()


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError) as error:
        message = f"There is no time zone {name!r}; write an IANA name such as Asia/Shanghai."
        raise ImproperlyConfigured(message) from error


def _limit(
    settings: Settings,
    headers: Headers,
    properties: Properties,
    hard: float | None,
    soft: float | None,
    expires: float | timedelta | datetime | str | None,
) -> None:
    check_limits(headers.task, hard, soft)
    headers.timelimit = (hard, soft)
    if expires is None:
        return
    headers.expires, properties.expiration = expire(settings, headers.task, headers.id, expires)


def expire(
    settings: Settings, name: str, id: str, expires: float | timedelta | datetime | str
) -> tuple[str, str]:
    """An expiry as a message's header and as its property."""
    deadline = expiry_time(name, settings, expires)
    rest = deadline - clock.time()
    if rest < 0:
        import logging

        logging.getLogger("umbel.app").warning(
            "%s[%s] has expired %.1f s before it was sent, so no worker will run it; it is sent "
            "all the same",
            name,
            id,
            -rest,
        )
    return task_message.format_time(deadline), str(max(0, int(rest * 1000)))


_origins: dict[int, str] = {}


def _origin() -> str:
    pid = os.getpid()
    origin = _origins.get(pid)
    if origin is None:
        origin = _origins[pid] = f"gen{pid}@{socket.gethostname()}"
    return origin
