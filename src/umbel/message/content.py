"""Content: what a body's values become, by the serializer's name or by its content type.

JSON is Kombu's dialect (`umbel.message.serializer`) and what messages are made of. The others are
used where a user names them, for sending and, apart from that, for accepting.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Final, NamedTuple

from umbel.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    SecurityError,
    SerializerNotInstalled,
)
from umbel.message import serializer as json_dialect

JSON: Final = "application/json"
PICKLE: Final = "application/x-python-serialize"
JSON_ONLY: Final = frozenset({JSON})


class Serializer(NamedTuple):
    """One way to write values."""

    name: str
    content_type: str
    encoding: str
    """`utf-8`, or `binary`."""
    encode: Callable[[Any], bytes | str] | None
    """None: it can only be read."""
    decode: Callable[[bytes], Any] | None
    """None: it can only be written."""


# ------------------------------------------------------------------------------------ pickle


def _write_pickle(value: object) -> bytes:
    import pickle

    return pickle.dumps(value, protocol=2)  # what Kombu writes


def _read_pickle(data: bytes) -> object:
    import pickle

    return pickle.loads(data)  # noqa: S301  (only where the user has accepted it by its name)


# -------------------------------------------------------------------------------------- yaml


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError as error:
        raise ImproperlyConfigured(
            'The serializer yaml needs a library: pip install "umbel[yaml]"'
        ) from error


def _write_yaml(value: object) -> str:
    text: str = _yaml().safe_dump(value)
    return text


@cache
def _yaml_loader() -> Any:
    base: Any = _yaml().SafeLoader

    # Not the loader in C: libyaml composes without a limit of depth and overflows the C stack.
    class Loader(base):  # type: ignore[misc]  # without PyYAML it has no type
        """Plain values only, and no merging of mappings, by which a small text becomes huge."""

        def flatten_mapping(self, node: Any) -> None:
            for key, _ in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    raise DecodeError("it merges mappings (<<), which is not read")

    return Loader


def _read_yaml(data: bytes) -> object:
    value = _yaml().load(data, _yaml_loader())
    if b"*" in data:  # an alias: a small text may unfold to a huge or endless value
        _measure(value, json_dialect.MAX_DEPTH, [MAX_NODES])
    return value


MAX_NODES: Final = 1_000_000
"""Values that a YAML text with aliases may unfold to."""


def _measure(value: object, depth: int, left: list[int]) -> None:
    left[0] -= 1
    if left[0] < 0:
        raise DecodeError(f"its aliases unfold to more than {MAX_NODES} values")
    if depth == 0:
        raise DecodeError(f"nested more than {json_dialect.MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for key, item in value.items():
            _measure(key, depth - 1, left)
            _measure(item, depth - 1, left)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            _measure(item, depth - 1, left)


# ----------------------------------------------------------------------------------- msgpack

MSGPACK_DEPTH: Final = 500
"""Levels of nesting; the readers of Celery's workers end at 511."""
_MSGPACK_ATOMS = (str, int, float, bool, bytes, type(None))


def _write_msgpack(value: object) -> bytes:
    import msgspec

    return msgspec.msgpack.encode(_msgpack_plain(value, MSGPACK_DEPTH))


def _msgpack_plain(value: Any, depth: int) -> Any:
    """The value in types that every reader of msgpack gets back as they were."""
    # msgspec would write UUIDs, datetimes and sets too, which a Celery peer cannot read.
    kind = type(value)
    if kind in _MSGPACK_ATOMS:
        return value
    if depth == 0:
        raise EncodeError(f"nested more than {MSGPACK_DEPTH} levels deep")
    if isinstance(value, dict):
        return {_msgpack_key(key): _msgpack_plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_msgpack_plain(item, depth - 1) for item in value]
    for atom in (str, int, float):
        if isinstance(value, atom):
            return atom(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise EncodeError(f"msgpack has no form for {kind.__name__}; pass plain values instead")


def _msgpack_key(key: object) -> str | bytes:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, bytes):
        return bytes(key)
    raise EncodeError(f"a key is {type(key).__name__}; readers of msgpack take only text as keys")


def _read_msgpack(data: bytes) -> object:
    import msgspec

    return msgspec.msgpack.decode(data)


# ------------------------------------------------------------------------------------- table

_by_name: dict[str, Serializer] = {}
_by_type: dict[str, Serializer] = {}


def register(
    name: str,
    encoder: Callable[[Any], bytes | str] | None,
    decoder: Callable[[bytes], Any] | None,
    content_type: str,
    content_encoding: str = "utf-8",
) -> None:
    """Make a serializer known to this process (`kombu.serialization.register`).

    `encoder` makes bytes or text of a value, `decoder` gets the bytes; None where it does not
    write or read. It is used once a setting or option names it, and read once `accept_content`
    does. Producer and worker both have to register it. JSON itself cannot be replaced.
    """
    if name == "json" or content_type == JSON:
        raise ImproperlyConfigured(
            "JSON cannot be replaced: every result and message of others is read by it. Register "
            "your serializer under a name and a content type of its own."
        )
    made = Serializer(name, content_type, content_encoding, encoder, decoder)
    _by_name[name] = _by_type[content_type] = made


def unregister(name: str) -> None:
    """Forget a serializer (`kombu.serialization.unregister`)."""
    found = find(name)
    del _by_name[found.name]
    _by_type.pop(found.content_type, None)


def find(name: str) -> Serializer:
    """A serializer by its name or content type.

    `SerializerNotInstalled` names those there are, `ImproperlyConfigured` what to install.
    """
    found = _by_name.get(name) or _by_type.get(name)
    if found is None:
        if name in {"auth", "application/data"}:
            raise SerializerNotInstalled(
                "The serializer auth signs with your certificate: call app.setup_security() first."
            )
        raise SerializerNotInstalled(
            f"There is no serializer {name!r}; there is: {', '.join(_by_name)}. One of your own "
            "is made known by umbel.serialization.register()."
        )
    if found.name == "yaml":
        _yaml()
    return found


def content_types(names: Iterable[str]) -> frozenset[str]:
    """The content types of serializers named as `accept_content` does: by name or type."""
    if isinstance(names, str):
        names = (names,)
    return frozenset(find(name).content_type for name in names)


def encode(value: object, name: str) -> tuple[bytes, str, str]:
    """A value's bytes by the serializer of that name or content type; content type and encoding.

    `EncodeError` if it cannot write the value.
    """
    chosen = find(name)
    if chosen.encode is None:
        raise SerializerNotInstalled(f"The serializer {chosen.name} can only read.")
    try:
        data = chosen.encode(value)
    except (EncodeError, ImproperlyConfigured, SecurityError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise EncodeError(f"cannot be written as {chosen.name}: {reason[:500]}") from error
    if isinstance(data, str):
        data = data.encode("utf-8")
    return data, chosen.content_type, chosen.encoding


def decode(data: bytes, content_type: str | None, accept: frozenset[str]) -> Any:
    """The value of some bytes, if their content type is accepted.

    `ContentDisallowed` if it is not: nothing was decoded then. `DecodeError` if the bytes are no
    such content, `SecurityError` if they are not signed as they should be.
    """
    if content_type not in accept:
        raise disallowed(content_type, accept)
    chosen = _by_type.get(content_type or "")
    if chosen is None or chosen.decode is None:
        raise DecodeError(f"no serializer that is known here reads {content_type}")
    try:
        return chosen.decode(data)
    except (DecodeError, ImproperlyConfigured, SecurityError):
        raise
    except RecursionError:
        raise DecodeError(f"not readable as {chosen.name}: nested too deeply") from None
    except Exception as error:  # noqa: BLE001  (each library has its own)
        reason = f"{type(error).__name__}: {error}"
        raise DecodeError(f"not readable as {chosen.name}: {reason[:500]}") from None


def disallowed(content_type: str | None, accept: frozenset[str]) -> ContentDisallowed:
    """The refusal of a content type, in words."""
    known = _by_type.get(content_type or "")
    shown = f"{known.name} ({content_type})" if known else repr((content_type or "")[:100])
    names = ", ".join(sorted(_by_type[one].name if one in _by_type else one for one in accept))
    advice = f"; to accept it, add {known.name!r} to accept_content" if known else ""
    return ContentDisallowed(
        f"Refusing to decode content of type {shown}: accepted is {names or 'nothing'}{advice}"
    )


for _one in (
    Serializer("json", JSON, "utf-8", json_dialect.dumps, json_dialect.loads),
    Serializer("pickle", PICKLE, "binary", _write_pickle, _read_pickle),
    Serializer("yaml", "application/x-yaml", "utf-8", _write_yaml, _read_yaml),
    Serializer("msgpack", "application/x-msgpack", "binary", _write_msgpack, _read_msgpack),
):
    _by_name[_one.name] = _by_type[_one.content_type] = _one
