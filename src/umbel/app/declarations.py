"""Options of a task, checked and put into one form where the task is made.

What is wrong is then told to who has written it, and not to a worker in the middle of a retry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final


def check_options(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are given in another form than they are kept in.

    `TypeError` names the task, the option and what it may be.
    """
    changed = {}
    for option in FORMS.keys() & options.keys():
        given = options[option]
        form, wanted = FORMS[option]
        try:
            value = form(given)
        except (TypeError, ValueError):
            raise TypeError(f"{task}: {option} must be {wanted}; got {given!r}.") from None
        if value is not given:
            changed[option] = value
    return changed


def check_bound(task: str, function: Callable[..., Any]) -> None:
    """`TypeError` for a function that takes nothing, where it is to take the task."""
    code = getattr(function, "__code__", None)
    takes_more = getattr(code, "co_flags", 0x04) & 0x04  # CO_VARARGS
    if not takes_more and code is not None and not code.co_argcount:
        raise TypeError(
            f"{task}: bind=True gives the task as the first argument, and the function takes "
            f"none. Write def {function.__name__}(self), or leave bind=True out."
        )


def _classes(given: Any) -> tuple[type[BaseException], ...]:
    if isinstance(given, type):
        given = (given,)
    elif not isinstance(given, (tuple, list, set, frozenset)):
        raise TypeError
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in given):
        raise TypeError
    return given if isinstance(given, tuple) else tuple(given)


def _count(given: Any) -> int | None:
    if given is None or (isinstance(given, int) and not isinstance(given, bool)):
        return given
    raise TypeError


def _seconds(given: Any) -> float:
    seconds: float = given.total_seconds() if isinstance(given, timedelta) else given
    if isinstance(given, bool) or not math.isfinite(seconds) or seconds < 0:
        raise ValueError
    return seconds


def _backoff(given: Any) -> bool | float:
    return given if isinstance(given, bool) else _seconds(given)


def _flag(given: Any) -> bool:
    if isinstance(given, bool):
        return given
    raise TypeError


def _keywords(given: Any) -> Mapping[str, Any]:
    if isinstance(given, Mapping) and all(isinstance(key, str) for key in given):
        return given
    raise TypeError


CLASSES: Final = (_classes, "an exception class, or a tuple of exception classes")
SECONDS: Final = (_seconds, "a number of seconds, or a timedelta, 0 or more")
FORMS: Final[Mapping[str, tuple[Callable[[Any], Any], str]]] = MappingProxyType(
    {
        "autoretry_for": CLASSES,
        "dont_autoretry_for": CLASSES,
        "throws": CLASSES,
        "max_retries": (_count, "a whole number, or None for ever"),
        "default_retry_delay": SECONDS,
        "retry_backoff": (_backoff, "True, False or a number of seconds, 0 or more"),
        "retry_backoff_max": SECONDS,
        "retry_jitter": (_flag, "True or False"),
        "retry_kwargs": (_keywords, "a dict of keywords of retry()"),
    }
)
"""For each option that a worker relies on: what brings it into its form, and what it may be."""
