"""Serializers and compression by name; bodies that want too much; protocol 1."""

import bz2
import json
import lzma
import random
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from umbel.app.sending.publish import build_message
from umbel.app.settings.table import Settings
from umbel.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    SerializerNotInstalled,
)
from umbel.message import content, serializer
from umbel.message import task as task_message
from umbel.message.compression import FREE, PIECE, compress, decompress
from umbel.serialization import register, register_type, unregister

LIMIT = 32 << 20


# ------------------------------------------------------------------------------ compression


def bomb(kind: str, size: int) -> bytes:
    """A text that unfolds to so many zero bytes."""
    makers: dict[str, Any] = {
        "zlib": zlib.compressobj, "bzip2": bz2.BZ2Compressor, "lzma": lzma.LZMACompressor
    }  # fmt: skip
    maker = makers[kind]()
    return b"".join(maker.compress(bytes(1 << 20)) for _ in range(size >> 20)) + bytes(
        maker.flush()
    )


@pytest.mark.parametrize("kind", ["zlib", "bzip2", "lzma"])
def test_a_bomb_is_given_up_within_a_few_megabytes(kind: str) -> None:
    data = bomb(kind, 1 << 28 if kind == "zlib" else 1 << 26)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="200 times its size"):
            decompress(data, kind, LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * FREE  # xz has a dictionary of 8 MiB


def test_what_unfolds_to_more_than_the_limit_is_given_up() -> None:
    data = random.Random(1).randbytes(3 << 20)
    with pytest.raises(DecodeError, match="more than 2 MiB"):
        decompress(zlib.compress(data), "zlib", 2 << 20)
    assert decompress(zlib.compress(data), "zlib", 3 << 20) == data


@pytest.mark.parametrize("kind", ["zlib", "bzip2", "lzma", "zstd", "brotli"])
def test_what_no_reader_would_trust_is_sent_as_it_is(kind: str) -> None:
    zeros = bytes(FREE + PIECE)
    assert compress(zeros, kind) == (zeros, None)
    random_bytes = random.Random(1).randbytes(PIECE)
    mixed = random_bytes * 70 + random_bytes[:99]
    compressed, content_type = compress(mixed, kind)
    if content_type is not None:
        assert decompress(compressed, content_type, LIMIT) == mixed


@pytest.mark.parametrize("kind", ["zlib", "bzip2", "lzma", "zstd", "brotli"])
def test_damaged_texts_are_decode_errors(kind: str) -> None:
    data = compress(b"a text of some length" * 20, kind)[0]
    for cut in range(len(data)):
        with pytest.raises(DecodeError):
            decompress(data[:cut], kind, LIMIT)
    with pytest.raises(DecodeError):
        decompress(data + b"more", kind, LIMIT)
    with pytest.raises(DecodeError, match="unknown method"):
        decompress(data, "snappy", LIMIT)


def test_a_real_gzip_wrapper_is_refused_as_celery_refuses_it() -> None:
    import gzip

    with pytest.raises(DecodeError):
        decompress(gzip.compress(b"x"), "application/x-gzip", LIMIT)


def test_a_huge_dictionary_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 29}]
    data = lzma.compress(b"x", filters=filters)
    with pytest.raises(DecodeError):
        decompress(data, "xz", LIMIT)


# ------------------------------------------------------------------------------ serializers


def send(*args: Any, **options: Any) -> bytes:
    return build_message(Settings(), "t.add", args, {}, **options).payload


def test_wrong_names_say_which_there_are() -> None:
    with pytest.raises(SerializerNotInstalled, match=r"'jason'; there is: json, pickle"):
        send(1, serializer="jason")
    with pytest.raises(ImproperlyConfigured, match=r"'snappy'; there is: zlib"):
        send(1, compression="snappy")
    with pytest.raises(SerializerNotInstalled, match="setup_security"):
        content.content_types(["auth"])
    with pytest.raises(SerializerNotInstalled):
        content.content_types(["application/x-nothing"])


def test_the_settings_name_the_default() -> None:
    settings = Settings()
    settings.update(task_serializer="msgpack", task_compression="zlib")
    payload = build_message(settings, "t.add", ("x" * 1000,), {}).payload
    envelope = json.loads(payload)
    assert envelope["content-type"] == "application/x-msgpack"
    assert envelope["content-encoding"] == "binary"
    assert envelope["headers"]["compression"] == "application/x-gzip"
    assert task_message.decode(payload, content.content_types(["msgpack"])).args == ["x" * 1000]
    with pytest.raises(ContentDisallowed, match="add 'msgpack' to accept_content"):
        task_message.decode(payload)


@pytest.mark.parametrize("name", ["pickle", "yaml", "msgpack"])
def test_what_cannot_be_written_is_an_encode_error(name: str) -> None:
    with pytest.raises(EncodeError, match=r"t.add.*Nothing was queued"):
        send(lambda: None, serializer=name)


@pytest.fixture
def reversing() -> Iterator[str]:
    register("reversed", lambda v: repr(v)[::-1], lambda d: eval(d[::-1]), "application/x-reversed")
    yield "reversed"
    unregister("reversed")


def test_a_serializer_of_ones_own(reversing: str) -> None:
    payload = send(1, (2, 3), serializer=reversing)
    accept = content.content_types(["json", "application/x-reversed"])
    assert task_message.decode(payload, accept).args == [1, (2, 3)]
    with pytest.raises(ImproperlyConfigured, match="JSON cannot be replaced"):
        register("json", None, None, "application/x-mine")


def test_a_serializer_that_was_unregistered_is_gone() -> None:
    register("once", str, None, "application/x-once")
    unregister("once")
    with pytest.raises(SerializerNotInstalled):
        unregister("once")
    with pytest.raises(SerializerNotInstalled):
        send(1, serializer="once")


class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y


def test_json_carries_registered_types() -> None:
    register_type(Point, "point", lambda p: [p.x, p.y], lambda pair: Point(*pair))
    kept = task_message.decode(send({"at": [Point(1, 2)]})).args[0]["at"][0]
    assert isinstance(kept, Point)
    assert (kept.x, kept.y) == (1, 2)
    register_type(complex, None, str)
    assert task_message.decode(send(1 + 2j)).args == ["(1+2j)"]
    with pytest.raises(ValueError, match="taken"):
        register_type(list, "point", list)


def test_a_registered_type_may_hold_other_tagged_values() -> None:
    from decimal import Decimal

    register_type(Point, "point", lambda p: [p.x, p.y], lambda pair: Point(*pair))
    written = serializer.dumps(Point(Decimal("1.50"), 2))  # type: ignore[arg-type]
    read = serializer.loads(written)
    assert isinstance(read, Point)
    assert read.x == Decimal("1.50")


# ------------------------------------------------------------------------------- yaml's traps


def test_yaml_that_unfolds_is_refused() -> None:
    laughs = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "\n".join(
        f"{name}: &{name} [{','.join(['*' + before] * 10)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    merges = "a: &a {k: v}\nb: {<<: [*a, *a]}"
    for hostile in (laughs, merges, "&a [*a]", "!!python/object/apply:os.getcwd []"):
        with pytest.raises(DecodeError):
            content.decode(hostile.encode(), "application/x-yaml", content.content_types(["yaml"]))


def test_yaml_repeats_an_object_by_an_alias() -> None:
    shared = ["x"]
    payload = send(shared, shared, serializer="yaml")
    assert task_message.decode(payload, content.content_types("yaml")).args == [["x"], ["x"]]


@pytest.mark.parametrize(
    ("name", "data"),
    [("json", b"[" * 100_000), ("msgpack", b"\x91" * 100_000), ("yaml", b"[" * 100_000)],
)  # fmt: skip
def test_deep_nesting_is_a_decode_error(name: str, data: bytes) -> None:
    accept = content.content_types([name])
    with pytest.raises(DecodeError):
        content.decode(data, next(iter(accept)), accept)


# -------------------------------------------------------------------------------- protocol 1


def protocol_1(body: object, **envelope: Any) -> bytes:
    return json.dumps(
        {
            "body": json.dumps(body), "content-type": "application/json",
            "content-encoding": "utf-8", "headers": {},
            "properties": {"delivery_tag": "t", "delivery_info": {"routing_key": "q"}},
        } | envelope
    ).encode()  # fmt: skip


FULL = {
    "task": "t.add", "id": "bac328ef", "args": [1, 2], "kwargs": {"k": 3}, "group": None,
    "group_index": None, "retries": 2, "eta": "2026-11-22T08:36:36.638181+00:00",
    "expires": "2026-11-22T08:37:06.638181+00:00", "utc": True, "callbacks": [{"task": "t.b"}],
    "errbacks": None, "timelimit": [5, None], "taskset": "g1", "chord": None,
}  # fmt: skip


def test_a_message_of_protocol_1_is_read() -> None:
    payload = protocol_1(FULL)
    task = task_message.decode(payload)
    assert (task.args, task.kwargs) == ([1, 2], {"k": 3})
    assert task.embed["callbacks"] == [{"task": "t.b"}]
    headers = task_message.decode_headers(payload)
    assert headers == task.headers
    assert (headers.task, headers.id, headers.retries) == ("t.add", "bac328ef", 2)
    assert (headers.timelimit, headers.group) == ((5, None), "g1")
    assert headers.eta == FULL["eta"]
    assert headers.argsrepr == "(1, 2)"
    again = task_message.encode_retry(payload, tag="x:1", retries=3, due=None)
    assert task_message.decode(again).headers.retries == 3
    assert task_message.decode(again).args == [1, 2]


def test_the_least_that_a_message_of_protocol_1_holds() -> None:
    task = task_message.decode(
        protocol_1({"task": "t.add", "id": "i", "args": [1], "kwargs": {}}, headers=None)
    )
    assert (task.headers.id, task.args, task.kwargs) == ("i", [1], {})


@pytest.mark.parametrize("body", [{}, {"task": "t"}, {"task": 1, "id": "i"}, [], "x", {"id": "i"}])
def test_what_is_of_neither_protocol_is_a_decode_error(body: object) -> None:
    for read in (task_message.decode, task_message.decode_headers):
        with pytest.raises(DecodeError):
            read(protocol_1(body))


def test_headers_of_protocol_2_win_over_a_body_of_protocol_1() -> None:
    headers = task_message.Headers("t.other", "i2")
    body = json.dumps(FULL).encode()
    payload = task_message.encode(headers, body, task_message.Properties())
    task = task_message.decode(payload)
    assert (task.headers.task, task.headers.id, task.args) == ("t.other", "i2", [1, 2])
    assert task.embed["callbacks"] == [{"task": "t.b"}]


def test_protocol_1_is_read_as_json_only() -> None:
    payload = protocol_1(FULL, **{"content-type": "application/x-python-serialize"})
    with pytest.raises(DecodeError, match="JSON of protocol 1"):
        task_message.decode_headers(payload)


# ------------------------------------------------------------------------------------ retries


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("name", ["json", "msgpack", "pickle"])
def test_a_retry_with_new_arguments_is_written_as_the_message_was(
    name: str, compression: str | None
) -> None:
    accept = content.content_types([name])
    payload = send("x" * 500, serializer=name, compression=compression)
    message = task_message.decode(payload, accept)
    value: tuple[object, ...] = (["y"], {}, message.embed)
    body = task_message.encode_body(value, message, LIMIT)
    again = task_message.encode_retry(payload, tag="i:2", retries=1, due=None, body=body)
    assert list(task_message.decode(again, accept).args) == ["y"]
    assert bool(json.loads(again)["headers"].get("compression")) == bool(compression)
    assert json.loads(again)["content-type"] == json.loads(payload)["content-type"]
    with pytest.raises(EncodeError, match="limit"):
        task_message.encode_body(value, message, 5)


@pytest.mark.parametrize("name", ["task", "id"])
def test_a_message_of_protocol_1_that_is_no_text_is_refused(name: str) -> None:
    payload = protocol_1({**FULL, name: "\ud800"})
    for read in (task_message.decode, task_message.decode_headers):
        with pytest.raises(DecodeError):
            read(payload)


def test_a_message_of_protocol_1_with_odd_properties_is_refused() -> None:
    payload = protocol_1(FULL, properties={"delivery_tag": 5, "delivery_info": []})
    with pytest.raises(DecodeError):
        task_message.decode(payload)
