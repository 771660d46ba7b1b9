"""The JSON dialect against the real kombu: each reads what the other writes, types included."""

from __future__ import annotations

import json
import uuid
from collections import OrderedDict
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kombu.utils import json as kombu_json

from umbel.exceptions import DecodeError, EncodeError
from umbel.message.serializer import dumps, loads

QUICK = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


kombu: Any = kombu_json  # it has annotations, but not everywhere


class Level(IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


class Blob(bytes):
    __slots__ = ()


class Number(float):
    pass


class Boxed:
    def __init__(self, value: object) -> None:
        self.value = value

    def __json__(self) -> object:
        return self.value

    def __repr__(self) -> str:
        return f"Boxed({self.value!r})"


zones = st.none() | st.integers(-86399, 86399).map(lambda s: timezone(timedelta(seconds=s)))
texts = st.text(st.characters(), max_size=20)  # lone surrogates too
plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.sampled_from([2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**4000, 0, -1])
    | st.floats()
    | st.sampled_from([-0.0, 1e16, 1e22, 5e-324, 1.7976931348623157e308])
    | texts
)
tagged = (
    st.binary(max_size=20)
    | st.datetimes(timezones=zones)
    | st.dates()
    | st.times(timezones=zones)
    | st.decimals()
    | st.uuids()
)
odd = (
    texts.map(Text)
    | st.binary(max_size=9).map(Blob)
    | st.floats().map(Number)
    | st.just(Level.LOW)
    | plain.map(Boxed)
    | tagged.map(Boxed)
)
keys = texts | st.integers() | st.floats() | st.booleans() | st.none() | st.just(Level.LOW)


def containers(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(items, max_size=5)
        | st.lists(items, max_size=5).map(tuple)
        | st.dictionaries(texts, items, max_size=5)
        | st.dictionaries(keys, items, max_size=5)
        | st.dictionaries(keys, items, max_size=5).map(OrderedDict)
        | items.map(Boxed)
    )


plain_trees = st.recursive(
    plain,
    lambda items: st.lists(items, max_size=5) | st.dictionaries(texts, items, max_size=5),
    max_leaves=10,
)
values = st.recursive(plain | tagged | odd, containers, max_leaves=20)


def same(one: object, other: object) -> bool:
    """Equal in value and type, all the way down; NaN equals NaN, 0.0 is not -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (float, Decimal, datetime, time)):
        return repr(one) == repr(other)
    return one == other


def test_same_tells_apart_what_equality_does_not() -> None:
    assert same([float("nan")], [float("nan")])
    for one, other in ((1, 1.0), (True, 1), (0.0, -0.0), ([1], (1,)), ({"a": 1}, {"a": True})):
        assert not same(one, other)


@QUICK
@given(values)
@example({1: "a", "1": "b", 2: "c"})
@example({"\ud83d": "\udc00", "é": ["\x00\x7f\u2028"]})
@example([[[[1]], {}, ()]])
@example(Decimal("sNaN"))
@example({float("nan"): float("inf")})
def test_each_reads_what_the_other_writes(value: object) -> None:
    theirs = kombu.dumps(value).encode("utf-8")
    expected = kombu.loads(theirs)
    ours = dumps(value)
    assert same(kombu.loads(ours), expected)
    assert same(loads(theirs), expected)
    assert same(loads(ours), expected)


@QUICK
@given(plain_trees)
def test_plain_data_comes_back_as_it_was(value: object) -> None:
    assert same(loads(dumps(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        {1},
        timedelta(1),
        memoryview(b"x"),
        bytearray(b"x"),
        object(),
        {(1,): 2},
        {b"k": 1},
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_both_refuse_the_same_values(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        kombu.dumps(value)
    with pytest.raises(EncodeError):
        dumps(value)


def outcome(read: Any, data: bytes) -> tuple[str, object]:
    try:
        return "value", read(data)
    except Exception as error:  # noqa: BLE001  (what it is, is asserted)
        return "error", error


@QUICK
@given(
    plain_trees,
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3), st.integers(0, 3))),
)
def test_damaged_texts_are_read_as_kombu_reads_them_or_refused(
    value: object, damages: list[tuple[int, bytes, int]]
) -> None:
    data = bytearray(dumps(value))
    for at, inserted, removed in damages:
        data[at : at + removed] = inserted
    kind, found = outcome(loads, bytes(data))
    their_kind, theirs = outcome(kombu.loads, bytes(data))
    assert kind == their_kind
    assert same(found, theirs) if kind == "value" else isinstance(found, DecodeError)


@QUICK
@given(st.binary() | st.text('[]{}",:0123456789eE+-.\\ntrufalsNIiy \n').map(str.encode))
@example(b"NaN")
@example(b"-Infinity")
@example(b"1e400")
@example(b"-0")
def test_any_bytes_give_kombus_value_or_a_decode_error(data: bytes) -> None:
    kind, found = outcome(loads, data)
    their_kind, theirs = outcome(kombu.loads, data)
    assert kind == their_kind
    assert same(found, theirs) if kind == "value" else isinstance(found, DecodeError)


tags = st.sampled_from(["datetime", "date", "time", "decimal", "uuid", "bytes", "base64", "set"])
tag_values = (
    plain
    | st.sampled_from(["2024-01-02", "2024-01-02T03:04:05Z", "03:04", "1.5", "NaN", "//4=", "_"])
    | st.dictionaries(st.sampled_from(["hex", "int", "bytes", "is_safe"]), plain | texts)
    | st.uuids().map(lambda one: {"hex": str(one)})
)
hostile = st.recursive(
    st.builds(lambda tag, value: {"__type__": tag, "__value__": value}, tags | plain, tag_values),
    lambda items: (
        st.lists(items)
        | st.builds(lambda tag, value: {"__type__": tag, "__value__": value}, tags, items)
    ),
    max_leaves=5,
)


@QUICK
@given(hostile)
def test_hostile_tags_give_kombus_value_or_a_decode_error(value: object) -> None:
    data = json.dumps(value).encode()
    kind, found = outcome(loads, data)
    if kind == "error":  # kombu also takes forms that nobody writes, such as decimals as numbers
        assert isinstance(found, DecodeError)
    else:
        assert same(found, kombu.loads(data))


def test_what_kombu_writes_for_each_tag_is_read() -> None:
    for value in (
        uuid.uuid4(),
        Decimal("1.50"),
        date(2024, 1, 2),
        time(3, 4, 5, 6, tzinfo=timezone(timedelta(hours=-3))),
        datetime(2024, 1, 2, 3, 4),
        b"",
        b"\xff",
    ):
        assert same(loads(kombu.dumps({"x": [value]}).encode()), {"x": [value]})
