"""Every serializer with every compression: ours read by the real Kombu, Kombu's read by us."""

import contextlib
import importlib
import json
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.app.sending.publish import build_message
from umbel.app.settings.table import Settings
from umbel.exceptions import ContentDisallowed, DecodeError, EncodeError
from umbel.message import content
from umbel.message import task as task_message
from umbel.message.compression import compress, decompress

kombu: Any = importlib.import_module("kombu")  # it has no types
kombu_json: Any = importlib.import_module("kombu.utils.json")
kombu_compression: Any = importlib.import_module("kombu.compression")

SERIALIZERS = ["json", "pickle", "yaml", "msgpack"]
COMPRESSIONS = [None, "zlib", "gzip", "bzip2", "lzma", "xz", "zstd", "brotli"]
EVERYTHING = content.content_types(SERIALIZERS)

text = st.text(st.characters(exclude_categories=["Cs"]))
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
).filter(lambda value: not (isinstance(value, dict) and set(value) == {"__type__", "__value__"}))


@pytest.fixture(scope="module")
def channel() -> Iterator[Any]:
    with kombu.Connection("memory://") as connection:
        yield connection.default_channel


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("serializer", SERIALIZERS)
@settings(max_examples=15, deadline=None)
@given(args=st.lists(plain, max_size=3), kwargs=st.dictionaries(text, plain, max_size=3))
def test_kombu_reads_ours_and_we_read_kombus(
    channel: Any,
    serializer: str,
    compression: str | None,
    args: list[Any],
    kwargs: dict[str, Any],
) -> None:
    message = build_message(
        Settings(), "t.add", args, kwargs, serializer=serializer, compression=compression
    )
    received = channel.message_to_python(json.loads(message.payload))
    received.accept = EVERYTHING
    assert list(map(plainly, received.decode())) == [args, kwargs, task_message.NO_EMBED]
    own = task_message.decode(message.payload, EVERYTHING)
    assert (plainly(own.args), own.kwargs, own.embed) == (args, kwargs, task_message.NO_EMBED)

    written: list[dict[str, Any]] = []
    channel._put = lambda _, message, **__: written.append(message)
    kombu.Producer(channel).publish(
        (args, kwargs, task_message.NO_EMBED), routing_key="q", serializer=serializer,
        headers={"task": "t.add", "id": "i"}, compression=compression,
    )  # fmt: skip
    read = task_message.decode(kombu_json.dumps(written[0]).encode(), EVERYTHING)
    assert (plainly(read.args), read.kwargs, read.embed) == (args, kwargs, task_message.NO_EMBED)
    ours, theirs = json.loads(message.payload), written[0]
    for key in ("content-type", "content-encoding"):
        assert ours[key] == theirs[key]
    assert ours["headers"].get("compression") == theirs["headers"].get("compression")


def plainly(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", [name for name in COMPRESSIONS if name])
@given(data=st.binary())
def test_compression_agrees_with_kombus(name: str, data: bytes) -> None:
    compressed, kind = compress(data, name)
    assert kind is not None
    assert kombu_compression.decompress(compressed, kind) == data
    theirs, their_kind = kombu_compression.compress(data, name)
    assert kind == their_kind
    assert decompress(theirs, their_kind, 1 << 20) == data
    assert decompress(theirs, name, 1 << 20) == data  # readers take aliases too


@pytest.mark.parametrize("content_type", sorted(EVERYTHING))
@given(data=st.binary(max_size=100))
def test_hostile_bytes_are_decode_errors(content_type: str, data: bytes) -> None:
    if content_type == content.PICKLE:
        return  # whoever accepts pickle lets its sender run code
    with contextlib.suppress(DecodeError):
        content.decode(data, content_type, EVERYTHING)


@pytest.mark.parametrize(
    "value", [{1, 2}, datetime(2030, 1, 1), 1 << 64, {1: 2}, object(), [[date(2030, 1, 1)]]]
)
def test_msgpack_refuses_what_kombu_refuses(value: Any) -> None:
    """msgspec could write most of these, and a Celery peer could not read them."""
    kombu_serialization = importlib.import_module("kombu.serialization")
    kombu_exceptions = importlib.import_module("kombu.exceptions")
    with pytest.raises(EncodeError):
        content.encode(value, "msgpack")
    with pytest.raises((kombu_exceptions.EncodeError, kombu_exceptions.DecodeError)):
        kombu_serialization.loads(
            kombu_serialization.dumps(value, "msgpack")[2], "application/x-msgpack", "binary",
            force=True,
        )  # fmt: skip


def test_what_is_not_accepted_is_not_decoded() -> None:
    ran: list[str] = []

    class Bomb:
        def __reduce__(self) -> Any:
            return ran.append, ("boom",)

    message = build_message(Settings(), "t.add", (Bomb(),), {}, serializer="pickle")
    with pytest.raises(ContentDisallowed, match="pickle"):
        task_message.decode(message.payload)
    assert ran == []
    task_message.decode(message.payload, content.content_types(["application/x-python-serialize"]))
