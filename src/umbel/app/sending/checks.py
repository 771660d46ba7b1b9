"""Checks of what a caller gives, before anything is sent: no message that a worker cannot read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from umbel.app.sending.queues import check_name
from umbel.engines.broker import MAX_PRIORITY
from umbel.message.task import Headers

NOTHING_SENT = "Nothing was queued."


def check_call(
    name: object, task_id: object, queue: object, priority: object, ignore_result: object
) -> None:
    """`TypeError` or `ValueError` for an option that no worker could make sense of."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"A task is sent by its name, a text; got {name!r}. {NOTHING_SENT}")
    if type(priority) is not int or not 0 <= priority <= MAX_PRIORITY:
        check_priority(name, priority)
    if ignore_result is not None and not isinstance(ignore_result, bool):
        raise TypeError(
            f"{name}: ignore_result must be True or False; got {ignore_result!r}. {NOTHING_SENT}"
        )
    for option, value in (("task_id", task_id), ("queue", queue)):
        if value is not None and (not isinstance(value, str) or not value):
            raise TypeError(f"{name}: {option} must be text; got {value!r}. {NOTHING_SENT}")
    check_name(queue)


def refuse_call(name: str, args: object, kwargs: object) -> TypeError:
    """What to raise where arguments are no tuple or list, or keywords no dict."""
    return TypeError(
        f"{name}: args must be a tuple or list and kwargs a dict; got "
        f"{type(args).__name__} and {type(kwargs).__name__}. {NOTHING_SENT}"
    )


def refuse_countdown(name: str, countdown: object) -> ValueError:
    """What to raise where a countdown is no duration."""
    return ValueError(
        f"{name}: countdown must be a number of seconds from now, or a timedelta; got "
        f"{countdown!r}. {NOTHING_SENT}"
    )


def check_priority(name: object, priority: object) -> None:
    """`ValueError` for a priority that no engine has."""
    if type(priority) is bool or not isinstance(priority, int) or not 0 <= priority <= MAX_PRIORITY:
        raise ValueError(
            f"{name}: priority must be from 0 to 9, 9 the most urgent; got {priority!r}. "
            f"{NOTHING_SENT}"
        )


def check_headers(name: str, id: str, headers: dict[str, Any]) -> Headers:
    """The headers as a worker will read them; `ValueError` if none could."""
    try:
        checked = msgspec.convert(headers, Headers)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"{name}: with these headers no worker could read the message: {error}. An option, "
            f"headers= or a receiver of before_task_publish has set them so. {NOTHING_SENT}"
        ) from None
    if checked.id != id:
        raise ValueError(f"{name}: its id cannot be changed by a header. {NOTHING_SENT}")
    return checked


def check_limits(name: str, hard: float | None, soft: float | None) -> None:
    """`ValueError` for a time limit that is no positive number of seconds, or soft above hard."""
    for option, value in (("time_limit", hard), ("soft_time_limit", soft)):
        if value is not None and (not _is_finite(value) or value <= 0):
            raise ValueError(
                f"{name}: {option} must be a positive number of seconds; got {value!r}. "
                f"{NOTHING_SENT}"
            )
    if hard is not None and soft is not None and soft > hard:
        raise ValueError(
            f"{name}: soft_time_limit ({soft:g} s) must not be above time_limit ({hard:g} s). "
            f"{NOTHING_SENT}"
        )


def check_timeout(name: str, options: Mapping[str, Any]) -> None:
    """`ValueError` for a time to publish in that would never be over, or is none."""
    for option in ("timeout", "confirm_timeout"):
        value = options.get(option)
        if value is not None and (not _is_finite(value) or not 0 <= value <= MAX_TIME):
            raise ValueError(
                f"{name}: {option} must be a number of seconds; got {value!r}. {NOTHING_SENT}"
            )


def check_time(
    name: str, option: str, value: object, convert: Callable[[Any], float | None]
) -> float | None:
    """The Unix time of an option, or `ValueError` in words."""
    if isinstance(value, (int, float)) and not _is_finite(value):
        raise ValueError(f"{name}: {option} must be a finite number; got {value!r}. {NOTHING_SENT}")
    try:
        moment = convert(value)
        if moment is not None and not MIN_TIME < moment < MAX_TIME:
            raise OverflowError("it lies outside the years 1 to 9999")
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ValueError(
            f"{name}: {option}={value!r} is no time: {error}. Give seconds, a datetime, or text "
            f"in ISO 8601 such as 2030-01-31T12:00:00+00:00. {NOTHING_SENT}"
        ) from None
    return moment


MIN_TIME = -62_135_596_800.0
MAX_TIME = 253_402_300_799.0


def _is_finite(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
