"""What a setting may be: checked when it is given, and read from text where it comes as text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from umbel.exceptions import ImproperlyConfigured

SCALARS: Final = frozenset({"None", "bool", "bytes", "float", "int", "str"})
ZERO_MEANS_NONE: Final = frozenset(
    {
        "result_expires",
        "task_soft_time_limit",
        "task_time_limit",
        "worker_concurrency",
        "worker_max_memory_per_child",
        "worker_max_tasks_per_child",
    }
)
"""Settings for which Celery takes 0 for "not set"."""
ABOVE_ZERO: Final = frozenset(
    {"task_max_deliveries", "task_max_message_bytes", "task_publish_timeout", "worker_lease"}
)
NEGATIVE: Final = frozenset({"result_cache_max"})
"""Settings for which a negative number has a meaning."""
DELIVERY_MODES: Final[Mapping[object, int]] = MappingProxyType(
    {1: 1, 2: 2, "transient": 1, "persistent": 2}
)
"""What a message may say of how it is to be kept, and the number that it says."""
SECRET: Final = ("api", "token", "key", "secret", "pass", "signature", "credential")
"""What a name holds whose value is never shown."""
OPEN: Final = ("routing_key",)
"""Ends of names that hold one of these words and no secret."""
URLS: Final = ("_url", "_backend")
"""Ends of names of URLs, which may be written without the //."""


class Kinds:
    """The types that the annotations of a table of settings name."""

    def __init__(self, annotations: Mapping[str, str]) -> None:
        self._annotations = annotations

    def text(self, name: str) -> str:
        """How the reference calls a setting's type."""
        return self._annotations.get(name, "object")

    def parts(self, name: str) -> frozenset[str]:
        """The names of the types that a value may have."""
        return frozenset(part.strip() for part in self.text(name).split("|"))

    def check(self, name: str, value: Any, origin: str) -> Any:
        """The value as it is kept; `ImproperlyConfigured` names setting, origin and remedy."""
        special = _SPECIAL.get(name)
        if special is not None:
            value = special(value, origin)
        allowed = self.parts(name)
        if name == "task_default_priority" and value is None and "None" not in allowed:
            return 0
        if name in ZERO_MEANS_NONE and value == 0 and not isinstance(value, bool):
            return None
        if value is None and "None" in allowed:
            return None
        if not allowed <= SCALARS:
            return _check_names(name, value, origin) if self._takes_names(name) else value
        return _check_scalar(name, allowed, value, origin)

    def parse(self, name: str, text: str) -> Any:
        """A value from an environment variable or a command line."""
        allowed, word = self.parts(name), text.strip().lower()
        if "None" in allowed and word in {"none", "null"}:
            return None
        if "bool" in allowed and word in _WORDS:
            return _WORDS[word]
        for kind, convert in (("int", int), ("float", float)):
            if kind in allowed:
                try:
                    return convert(text)
                except ValueError:
                    continue
        if "str" in allowed or "bool" in allowed or allowed & {"int", "float"}:
            return text
        if self._takes_names(name) and not text.lstrip().startswith("["):
            return tuple(part.strip() for part in text.split(",") if part.strip())
        import json

        try:
            return json.loads(text)
        except ValueError:
            return text

    def _takes_names(self, name: str) -> bool:
        return self.text(name).startswith(("Collection[str",))


_WORDS: Final = {
    "1": True, "true": True, "yes": True, "on": True,
    "0": False, "false": False, "no": False, "off": False,
}  # fmt: skip


def _check_scalar(name: str, allowed: frozenset[str], value: Any, origin: str) -> Any:
    if isinstance(value, bool) or (value in (0, 1) and allowed == {"bool"}):
        if "bool" in allowed:
            return bool(value)
    elif isinstance(value, (str, bytes)):
        if type(value).__name__ in allowed or (isinstance(value, str) and "str" in allowed):
            return value
    elif allowed & {"int", "float"}:
        number = _number(value, whole="float" not in allowed)
        if number is not None:
            return _check_range(name, number, origin)
    raise _refuse(name, value, origin, f"must be {_describe(allowed)}")


def _number(value: Any, *, whole: bool) -> float | None:
    """A number or the seconds of a timedelta; None if it is neither."""
    if isinstance(value, int):
        return value
    if not whole:
        if isinstance(value, float):
            return value
        seconds = getattr(value, "total_seconds", None)
        if seconds is not None:
            return float(seconds())
    return None


LARGEST: Final = 2**63 - 1
"""The largest number that stores and system calls take."""


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond all floats
        return False


def _check_range(name: str, number: float, origin: str) -> float:
    if not _is_finite(number):
        raise _refuse(name, number, origin, "must be a finite number")
    if number > LARGEST:
        raise _refuse(name, number, origin, f"must be at most {LARGEST}")
    if number < 0 and name not in NEGATIVE:
        raise _refuse(name, number, origin, "must not be negative")
    if number == 0 and name in ABOVE_ZERO:
        raise _refuse(name, number, origin, "must be above 0")
    return number


def _check_names(name: str, value: Any, origin: str) -> Any:
    """A tuple of texts; one text alone is meant as one name, not as its letters."""
    if value is None:
        return ()
    names = (value,) if isinstance(value, str) else value
    if isinstance(names, (tuple, list, set, frozenset)) and all(
        isinstance(item, str) for item in names
    ):
        return tuple(names)
    raise _refuse(name, value, origin, "must be a list of names")


def _check_broker_url(value: Any, origin: str) -> Any:
    """Several URLs are one text, separated by ; (a password may hold one of its own)."""
    if isinstance(value, (list, tuple)):
        value = ";".join(map(str, value)) or None
    if isinstance(value, str) and _SEVERAL_STORES.search(value):
        rule = "must be one URL: only servers can stand in for each other"
        raise _refuse("broker_url", value, origin, rule)
    return value


_SEVERAL_STORES: Final = re.compile(r"^(sqlite|memory):.*;[a-z+]+://|;(sqlite|memory)://")


def _check_timezone(value: Any, origin: str) -> Any:
    name = getattr(value, "key", None) or getattr(value, "zone", None) or value  # zoneinfo, pytz
    if name is None:
        return None
    if isinstance(name, str):
        from zoneinfo import ZoneInfo

        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            pass
        else:
            return name
    elif str(value) == "UTC":
        return "UTC"  # datetime.timezone.utc
    raise _refuse("timezone", value, origin, "must be an IANA name such as Asia/Shanghai")


def _check_priority(value: Any, origin: str) -> Any:
    if isinstance(value, int) and not 0 <= value <= 9:
        raise _refuse("task_default_priority", value, origin, "must be from 0 to 9, 9 most urgent")
    return value


def _check_delivery_mode(value: Any, origin: str) -> Any:
    if not isinstance(value, (int, str)) or value not in DELIVERY_MODES:
        rule = "must be 1 (transient) or 2 (persistent)"
        raise _refuse("task_default_delivery_mode", value, origin, rule)
    return DELIVERY_MODES[value]


def _check_concurrency(value: Any, _: str) -> Any:
    return None if value == "auto" else value


def _check_compat(value: Any, origin: str) -> Any:
    if value not in {None, "celery"}:
        raise _refuse("compat", value, origin, "must be 'celery' or None")
    return value


_SPECIAL: Final = {
    "broker_url": _check_broker_url,
    "compat": _check_compat,
    "task_default_delivery_mode": _check_delivery_mode,
    "task_default_priority": _check_priority,
    "timezone": _check_timezone,
    "worker_concurrency": _check_concurrency,
}


def _describe(allowed: frozenset[str]) -> str:
    words = []
    if "bool" in allowed:
        words.append("True or False")
    if "float" in allowed:
        words.append("a number (or a timedelta)")
    elif "int" in allowed:
        words.append("a whole number")
    if "str" in allowed:
        words.append("text")
    if "bytes" in allowed:
        words.append("bytes")
    if "None" in allowed:
        words.append("None")
    return " or ".join(words)


def _refuse(name: str, value: object, origin: str, rule: str) -> ImproperlyConfigured:
    shown = censor(name, value)
    return ImproperlyConfigured(f"{name} {rule}; got {shown!r} ({origin}).")


def censor(name: str, value: Any) -> Any:
    """The value as it may be shown: secrets as `********`, URLs without their passwords."""
    secret = any(word in name.lower() for word in SECRET) and not name.endswith(OPEN)
    if secret and value is not None:
        return "********"
    if isinstance(value, str) and ("://" in value or name.endswith(URLS)):
        from umbel.engines.urls import mask

        return mask(value)
    if isinstance(value, Mapping):
        return {key: censor(str(key), inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [censor("", inner) for inner in value]
    if not isinstance(value, str) and "@" in repr(value):  # it may hold a URL
        return f"<{type(value).__name__}>"
    return value
