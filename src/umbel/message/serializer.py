"""Kombu's JSON dialect: what Celery 5.x reads and writes in message bodies and stored results.

Plain JSON, plus objects of exactly two keys, `{"__type__": tag, "__value__": value}`, for
datetime, date, time, Decimal, UUID and bytes; NaN and the infinities are written bare; an object
with a `__json__()` method is replaced by what that returns.

msgspec does the work where it is known to agree with the standard library: it never asks for a
hook on a UUID or a datetime and writes NaN as null, so nothing reaches it before every value has
been looked at.
"""

from __future__ import annotations

import binascii
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache
from math import isfinite
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from umbel.exceptions import DecodeError, EncodeError

MAX_DEPTH = 1000
"""Levels of nesting that are written or read. A stock interpreter's own limit is the same."""

T = TypeVar("T")
_PLAIN = frozenset({str, int, bool, type(None)})
_SAFE_INT_BITS = 2000  # below any `sys.set_int_max_str_digits`, whose minimum is 640 digits

_fast_encode = msgspec.json.Encoder().encode
_fast_decode: Callable[[bytes], object] = msgspec.json.Decoder().decode
# What msgspec raises for things that the standard library may still know how to do: lone
# surrogates, NaN, numbers out of range. RecursionError: the stack was nearly full already.
_FAST_FAILURES = (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError)


def dumps(value: object, name: str = "") -> bytes:
    """Write `value` so that kombu >= 5.3 reads what it would have written itself.

    `name` is what error messages call the value. Raises `EncodeError`, with the path to the
    culprit, for a type JSON has no form for, for data that contains itself or is nested deeper
    than `MAX_DEPTH`, and for a dict that any reader would take for a type tag.
    """
    try:
        if _is_plain(value, MAX_DEPTH):
            return _fast_encode(value)
    except _FAST_FAILURES:
        pass
    return _Writer(name).write(value)


def loads(data: bytes | memoryview) -> object:
    """Read what `dumps` or kombu wrote. Raises `DecodeError`, and nothing else, for other bytes."""
    if type(data) is not bytes:
        data = bytes(data)
    # The parsers below recurse in C and stop at the interpreter's limit; where a program has
    # raised that limit, hostile nesting would overflow the C stack and kill the process.
    if sys.getrecursionlimit() > MAX_DEPTH and is_deep(data, MAX_DEPTH):
        raise DecodeError(f"not readable: nested more than {MAX_DEPTH} levels deep")
    if b"__type__" not in data and not (b"\\u00" in data and _ESCAPED_ASCII.search(data)):
        try:
            return _fast_decode(data)
        except _FAST_FAILURES:
            pass
    try:
        return _decoder()(data.decode("utf-8"))
    except DecodeError:
        raise
    except RecursionError:
        raise DecodeError("not readable: nested too deeply") from None
    except ValueError as error:
        # The parser's errors keep the whole text alive, so they are not chained.
        raise DecodeError(f"not valid JSON: {error}") from None


def describe(path: Sequence[str | int]) -> str:
    """Spell a path as Python would: `("args", 1, "user")` becomes `args[1].user`."""
    if len(path) > 20:
        return f"{describe(path[:10])}…{describe(['', *path[-5:]])}"
    text = ""
    for position, step in enumerate(path):
        if isinstance(step, int):
            text += f"[{step}]"
        elif position == 0:
            text += step
        elif step.isidentifier() and len(step) <= 60:
            text += f".{step}"
        else:
            text += f"[{step[:60]!r}]"
    return text


def is_deep(data: bytes, limit: int) -> bool:
    """Tell whether JSON text nests more than `limit` levels, without building anything."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    depth = 0
    for token in _BRACKETS.finditer(data):
        first = token[0][:1]
        if first in b"[{":
            depth += 1
            if depth > limit:
                return True
        elif first in b"]}":
            depth -= 1
    return False


# ---------------------------------------------------------------------------------- writing


def _is_plain(value: Any, depth: int) -> bool:
    """Tell whether msgspec writes exactly what kombu would: only exact plain types, no NaN."""
    if depth == 0:
        return False
    kind = type(value)
    if kind is dict:
        if not value:
            return True
        for key, item in value.items():
            if type(key) is not str:
                return False
            if type(item) not in _PLAIN and not _is_plain(item, depth - 1):
                return False
        return len(value) != 2 or "__type__" not in value
    if kind is list or kind is tuple:
        for item in value:
            if type(item) not in _PLAIN and not _is_plain(item, depth - 1):
                return False
        return True
    return kind in _PLAIN or (kind is float and isfinite(value))


class _Writer:
    """Turns any value into plain lists, dicts and tags, and knows where it is while doing so."""

    __slots__ = ("around", "culprit", "name", "path")

    def __init__(self, name: str) -> None:
        self.name = name
        self.path: list[str | int] = []
        self.around: set[int] = set()  # ids of the containers that the current value lies in
        self.culprit: object = None

    def write(self, value: object) -> bytes:
        try:
            return _encoder()(self.plain(value)).encode("ascii")
        except EncodeError:
            raise
        except RecursionError:
            raise self.error("is nested too deeply for JSON") from None
        except Exception as error:  # the methods of foreign classes may raise anything
            type_name = type(self.culprit).__name__
            problem = f"cannot be written as JSON: {type_name} raised {type(error).__name__}"
            raise self.error(problem) from error

    def plain(self, value: Any) -> object:
        # By the type and not by isinstance: a proxy may claim a class that it is not.
        kind = type(value)
        if value is None or kind is bool or issubclass(kind, (str, float)):
            return value
        self.culprit = value
        if issubclass(kind, int):
            return self.integer(value)
        if id(value) in self.around:
            raise self.error("contains itself, which JSON cannot express")
        if len(self.around) >= MAX_DEPTH:
            raise self.error(f"is nested more than {MAX_DEPTH} levels deep")
        self.around.add(id(value))
        if issubclass(kind, (list, tuple)):
            result: object = self.array(value)
        elif issubclass(kind, dict):
            result = self.mapping(value)
        else:
            result = self.other(value)
        self.around.remove(id(value))
        return result

    def integer(self, value: int) -> int:
        if int.bit_length(value) > _SAFE_INT_BITS:
            try:
                int.__repr__(value)
            except ValueError:
                problem = "has more digits than Python's readers accept; pass it as hex text"
                raise self.error(problem) from None
        return value

    def array(self, value: Sequence[object]) -> list[object]:
        items: list[object] = []
        for position, item in enumerate(value):
            self.path.append(position)
            items.append(self.plain(item))
            self.path.pop()
        return items

    def mapping(self, value: Mapping[object, object]) -> dict[str, object]:
        fields: dict[str, object] = {}
        for key, item in value.items():
            text = self.key(key)
            self.path.append(text)
            fields[text] = self.plain(item)
            self.path.pop()
        if len(fields) == 2 and "__type__" in fields and "__value__" in fields:
            self.culprit = value
            raise self.error(
                "has exactly the keys __type__ and __value__, which every reader would take for"
                " a type tag; rename one or add a third"
            )
        return fields

    def key(self, key: Any) -> str:
        """Spell a key as the standard library does, so that no reader sees a difference."""
        kind = type(key)
        if issubclass(kind, str):
            return str.__str__(key)
        if key is None:
            return "null"
        if kind is bool:
            return "true" if key else "false"
        self.culprit = key
        if issubclass(kind, int):
            return int.__repr__(self.integer(key))
        if issubclass(kind, float):
            return _spell_float(key)
        raise self.error(
            f"has a key that cannot be written as JSON: {kind.__name__};"
            " use str, int, float, bool or None"
        )

    def other(self, value: Any) -> object:
        """Write what JSON has no type for, asking in kombu's order."""
        reducer = getattr(value, "__json__", None)
        if reducer is not None:
            return self.plain(reducer())
        if _is_lazy_text(value):
            return str(value)
        for kind, (tag, spell) in _spellers.items():
            if isinstance(value, kind):
                plain = self.plain(spell(value))
                return plain if tag is None else {"__type__": tag, "__value__": plain}
        if isinstance(value, bytes):
            return _tag_bytes(value)
        type_name = type(value).__name__
        raise self.error(f"cannot be written as JSON: {type_name}; {_advise(value)}")

    def error(self, problem: str) -> EncodeError:
        where = describe([self.name, *self.path])
        message = f"{where}: {problem}" if where else problem
        return EncodeError(message, problem, tuple(self.path), type(self.culprit).__name__)


_spellers: dict[type, tuple[str | None, Callable[[Any], object]]] = {
    datetime: ("datetime", datetime.isoformat),  # first: a datetime is a date too
    date: ("date", lambda value: value.isoformat()),
    time: ("time", lambda value: value.isoformat()),
    Decimal: ("decimal", str),
    UUID: ("uuid", lambda value: {"hex": value.hex}),
}


def register_type(
    t: type[T],
    marker: str | None,
    encoder: Callable[[T], object],
    decoder: Callable[[Any], T] = lambda value: value,
) -> None:
    """Let JSON carry values of a class (`kombu.utils.json.register_type`).

    `encoder` makes a value that JSON has; with a `marker` it travels as
    `{"__type__": marker, "__value__": …}` and `decoder` makes the object again; without one the
    reader gets what the encoder made. Instances of subclasses are written too. Producer and worker
    both have to register it; a reader that has not cannot read the message. `ValueError` for a
    marker that is taken by another class's.
    """
    if marker is not None:
        taken = any(tag == marker and kind is not t for kind, (tag, _) in _spellers.items())
        if taken or marker in {"bytes", "base64"}:
            raise ValueError(f"the marker {marker!r} is taken by another type; choose another")
        _readers[marker] = decoder
    _spellers[t] = (marker, encoder)


_ADVICE = {
    ("builtins", "set"): "pass a list instead",
    ("builtins", "frozenset"): "pass a list instead",
    ("builtins", "bytearray"): "pass bytes instead",
    ("builtins", "memoryview"): "pass bytes instead",
    ("datetime", "timedelta"): "pass its total_seconds() instead",
    ("enum", "Enum"): "pass its value instead",
    ("pydantic.main", "BaseModel"): "pass its model_dump(), or annotate the parameter with the "
    "model and make the task with pydantic=True",
}


def _advise(value: object) -> str:
    if _is_row(value):
        return "pass its primary key instead"
    for base in type(value).__mro__:
        advice = _ADVICE.get((base.__module__, base.__name__))
        if advice:
            return advice
    return "pass plain values instead, or give its class a __json__() method"


def _is_row(value: object) -> bool:
    """Tell whether a value looks like a row of an ORM (Django, SQLAlchemy, Peewee, Tortoise)."""
    try:
        kind = type(value)
        options = getattr(kind, "_meta", None)
        return (
            hasattr(kind, "__table__")
            or hasattr(options, "pk")
            or hasattr(options, "primary_key")
            or "_sa_instance_state" in vars(value)
        )
    except Exception:  # noqa: BLE001  (attributes of foreign objects may do anything)
        return False


def _is_lazy_text(value: object) -> bool:
    """Tell whether a value is one of Django's lazy translations, which kombu writes as text."""
    functional = sys.modules.get("django.utils.functional")
    return functional is not None and isinstance(value, functional.Promise)


def _tag_bytes(value: bytes) -> dict[str, str]:
    try:
        return {"__type__": "bytes", "__value__": value.decode("utf-8")}
    except UnicodeDecodeError:
        text = binascii.b2a_base64(value, newline=False).decode("ascii")
        return {"__type__": "base64", "__value__": text}


def _spell_float(value: float) -> str:
    if isfinite(value):
        return float.__repr__(value)
    if value != value:  # noqa: PLR0124  (NaN)
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


@cache
def _encoder() -> Callable[[object], str]:
    import json  # only odd values need it, and a worker's children start without it

    return json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


# ---------------------------------------------------------------------------------- reading

# A letter of `__type__` may be written as an escape, and would be a tag all the same.
_ESCAPED_ASCII = re.compile(rb"\\u00[567]")
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)


def _read_date(value: str) -> date:
    return datetime.fromisoformat(value).date()


def _read_decimal(value: object) -> Decimal:
    if not isinstance(value, str):
        raise TypeError("a decimal is written as text")
    return Decimal(value)


def _read_uuid(value: dict[str, str]) -> UUID:
    if value.keys() != {"hex"}:
        raise TypeError("a UUID is written as its hex digits")
    return UUID(hex=value["hex"])


def _read_base64(value: str) -> bytes:
    return binascii.a2b_base64(value.encode("utf-8"))


_readers: dict[str, Callable[[Any], object]] = {
    "datetime": datetime.fromisoformat,
    "date": _read_date,
    "time": time.fromisoformat,
    "decimal": _read_decimal,
    "uuid": _read_uuid,
    "bytes": lambda value: value.encode("utf-8"),
    "base64": _read_base64,
}


def _untag(fields: dict[str, object]) -> object:
    if len(fields) != 2 or "__type__" not in fields or "__value__" not in fields:
        return fields
    tag, value = fields["__type__"], fields["__value__"]
    reader = _readers.get(tag) if isinstance(tag, str) else None
    if reader is None:
        shown = repr(tag[:60]) if isinstance(tag, str) else type(tag).__name__
        raise DecodeError(f"unknown type tag {shown}; this reader knows {', '.join(_readers)}")
    try:
        return reader(value)
    except Exception as error:  # noqa: BLE001  (any value may come here)
        shown = repr(value[:60]) if isinstance(value, str) else type(value).__name__
        raise DecodeError(f"not a {tag}: {shown} ({type(error).__name__})") from None


@cache
def _decoder() -> Callable[[str], object]:
    import json

    return json.JSONDecoder(object_hook=_untag).decode
