"""What the JSON dialect writes, refuses and survives; agreement with kombu has its own tests."""

from __future__ import annotations

import enum
import subprocess
import sys
import uuid
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from umbel.exceptions import DecodeError, EncodeError
from umbel.message.serializer import MAX_DEPTH, describe, dumps, is_deep, loads


class Colour(enum.IntEnum):
    RED = 3


class Mood(enum.Enum):
    GOOD = "good"


class Text(str):
    __slots__ = ()


class Blob(bytes):
    __slots__ = ()


class User:
    pass


Point = namedtuple("Point", "x y")  # noqa: PYI024

WRITTEN: list[tuple[object, bytes]] = [
    ([[2, 3], {}, {"chain": None}], b'[[2,3],{},{"chain":null}]'),
    ("é", '"é"'.encode()),
    ("\ud800", rb'"\ud800"'),
    ({"\ud800": "é"}, rb'{"\ud800":"\u00e9"}'),
    (2**80, b"1208925819614629174706176"),
    (-0.0, b"-0.0"),
    (float("nan"), b"NaN"),
    ([float("inf"), float("-inf")], b"[Infinity,-Infinity]"),
    (((1, (2,)),), b"[[1,[2]]]"),
    ({1: "a", "1": "b"}, b'{"1":"b"}'),
    ({True: 1, False: 2, None: 3, 1.5: 4}, b'{"true":1,"false":2,"null":3,"1.5":4}'),
    ({float("nan"): 1, float("-inf"): 2}, b'{"NaN":1,"-Infinity":2}'),
    ({Colour.RED: Colour.RED}, b'{"3":3}'),
    ({Text("k"): Text("v")}, b'{"k":"v"}'),
    (Point(1, 2), b"[1,2]"),
    (OrderedDict(b=1, a=2), b'{"b":1,"a":2}'),
    (b"abc", b'{"__type__":"bytes","__value__":"abc"}'),
    (Blob(b"abc"), b'{"__type__":"bytes","__value__":"abc"}'),
    (b"\xff\xfe", b'{"__type__":"base64","__value__":"//4="}'),
    (datetime(2024, 1, 2, 3, 4, 5), b'{"__type__":"datetime","__value__":"2024-01-02T03:04:05"}'),
    (
        datetime(2024, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        b'{"__type__":"datetime","__value__":"2024-01-02T03:04:05.000678+00:00"}',
    ),
    (date(2024, 1, 2), b'{"__type__":"date","__value__":"2024-01-02"}'),
    (time(3, 4, 5), b'{"__type__":"time","__value__":"03:04:05"}'),
    (Decimal("1.50"), b'{"__type__":"decimal","__value__":"1.50"}'),
    (
        uuid.UUID("12345678123456781234567812345678"),
        b'{"__type__":"uuid","__value__":{"hex":"12345678123456781234567812345678"}}',
    ),
]


@pytest.mark.parametrize(("value", "data"), WRITTEN, ids=lambda item: repr(item)[:40])
def test_values_are_written_in_kombus_dialect(value: object, data: bytes) -> None:
    assert dumps(value) == data


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_an_object_is_replaced_by_what_its_json_method_returns() -> None:
    class Order:
        def __json__(self) -> object:
            return {"id": 7, "at": date(2024, 1, 2)}

    assert loads(dumps([Order()])) == [{"id": 7, "at": date(2024, 1, 2)}]


def test_djangos_lazy_texts_are_written_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Promise:
        def __str__(self) -> str:
            return "hello"

    functional = ModuleType("django.utils.functional")
    functional.Promise = Promise  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "django.utils.functional", functional)
    assert dumps([Promise()]) == b'["hello"]'


def test_the_same_list_twice_is_no_cycle() -> None:
    shared = [uuid.UUID(int=1)]
    assert loads(dumps([shared, shared, (), ((),)])) == [shared, shared, [], [[]]]


@pytest.mark.parametrize(
    ("value", "message", "path", "type_name"),
    [
        (User(), "args: cannot be written as JSON: User; pass plain values", (), "User"),
        ([1, {"user": User()}], "args[1].user: cannot be written as JSON: U", (1, "user"), "User"),
        ([{"a b": {1}}], "args[0]['a b']: cannot be written as", (0, "a b"), "set"),
        ([timedelta(1)], "args[0]: cannot be written as JSON", (0,), "timedelta"),
        ([Mood.GOOD], "args[0]: cannot be written as JSON: Mood; pass its value", (0,), "Mood"),
        ([memoryview(b"")], "args[0]: cannot be written as JSON", (0,), "memoryview"),
        ([{(1, 2): 3}], "args[0]: has a key that cannot be written as JSON: tuple", (0,), "tuple"),
        ([b"", 10**5000], "args[1]: has more digits", (1,), "int"),
        ([10**5000], "args[0]: has more digits", (0,), "int"),
        ({10**5000: 1}, "args: has more digits", (), "int"),
        ({"x": {"__type__": 1, "__value__": 2}}, "args.x: has exactly the keys", ("x",), "dict"),
        ({"x": {Text("__type__"): 1, "__value__": b""}}, "args.x: has exactly", ("x",), "dict"),
        (["", nested(MAX_DEPTH)], "args[1][0]", None, "list"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_named_with_its_place(
    value: object, message: str, path: tuple[str | int, ...] | None, type_name: str
) -> None:
    with pytest.raises(EncodeError) as caught:
        dumps(value, "args")
    assert str(caught.value).startswith(message)
    assert path is None or caught.value.path == path
    assert caught.value.type_name == type_name
    assert str(caught.value).endswith(caught.value.problem)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ({1}, "set; pass a list instead"),
        (timedelta(1), "timedelta; pass its total_seconds() instead"),
        (Mood.GOOD, "Mood; pass its value instead"),
        (memoryview(b""), "memoryview; pass bytes instead"),
        (User(), "User; pass plain values instead, or give its class a __json__() method"),
    ],
)
def test_the_message_says_what_to_pass_instead(value: object, advice: str) -> None:
    with pytest.raises(EncodeError) as caught:
        dumps(value)
    assert str(caught.value) == f"cannot be written as JSON: {advice}"


def test_without_a_name_the_message_starts_with_the_place_or_the_problem() -> None:
    with pytest.raises(EncodeError, match=r"^\[0\]\.x: cannot be written as JSON: User; "):
        dumps([{"x": User()}])
    with pytest.raises(EncodeError, match=r"^cannot be written as JSON: User; "):
        dumps(User())


class DjangoRow:
    _meta = SimpleNamespace(pk="id")


class MappedRow:
    __table__ = "users"


class TrackedRow:
    def __init__(self) -> None:
        self._sa_instance_state = object()


@pytest.mark.parametrize("row", [DjangoRow(), MappedRow(), TrackedRow()])
def test_an_orm_row_gets_the_advice_to_pass_its_key(row: object) -> None:
    with pytest.raises(EncodeError, match=r"\[0\]: .*Row; pass its primary key instead$"):
        dumps([row])


def test_a_dict_with_a_third_key_beside_the_tags_is_plain_data() -> None:
    value = {"__type__": "x", "__value__": 1, "more": 2}
    assert loads(dumps(value)) == value
    assert loads(dumps({"__type__": 1, "x": b""})) == {"__type__": 1, "x": b""}


def test_cycles_are_refused_however_they_branch() -> None:
    knot: list[Any] = []
    knot += [knot, knot]
    loop: dict[str, Any] = {"at": date(2024, 1, 2)}
    loop["self"] = [loop]
    for value, type_name in ((knot, "list"), (loop, "dict")):
        with pytest.raises(EncodeError, match="contains itself") as caught:
            dumps(value)
        assert caught.value.type_name == type_name


class Ouroboros:
    def __json__(self) -> object:
        return self


class Hydra:
    def __json__(self) -> object:
        return [Hydra()]


class Faulty:
    def __json__(self) -> object:
        raise KeyError("gone")


class Impostor:
    """Claims, as mocks and proxies do, a class that it is not."""

    claimed: type = str

    def __getattribute__(self, name: str) -> object:
        own = object.__getattribute__
        return own(self, "claimed") if name == "__class__" else own(self, name)


class LateImpostor(Impostor):
    claimed = datetime


class Locked:
    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(name)


@pytest.mark.parametrize("make", [Ouroboros, Faulty, Impostor, LateImpostor, Locked])
def test_an_object_that_misbehaves_is_an_encode_error(make: type) -> None:
    with pytest.raises(EncodeError) as caught:
        dumps([make()])
    assert caught.value.path == (0,)
    assert caught.value.type_name == make.__name__


def test_an_object_that_grows_while_it_is_written_is_an_encode_error() -> None:
    with pytest.raises(EncodeError, match="nested"):
        dumps([Hydra()])


def test_deep_data_is_written_and_read_or_refused_clearly() -> None:
    assert loads(dumps(nested(600))) == nested(600)
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(EncodeError, match="nested"):
            dumps(nested(depth))


def test_deep_data_is_refused_where_the_recursion_limit_was_raised() -> None:
    # The parsers recurse in C: without a limit of its own the process would die of a signal.
    code = """if True:
        import sys
        from umbel.exceptions import DecodeError, EncodeError
        from umbel.message.serializer import dumps, loads
        sys.setrecursionlimit(10**7)
        deep = []
        for _ in range(300_000):
            deep = [deep]
        for call, arg in [(dumps, deep), (loads, b"[" * 10**6), (loads, b'{"__type__":' * 10**6)]:
            try:
                call(arg)
            except (DecodeError, EncodeError) as error:
                print(type(error).__name__, "nested" in str(error))
        print(loads(b"[" * 900 + b"]" * 900) is not None, loads(b'["' + b"[" * 5000 + b'"]')[0][0])
        sys.stdout.flush()
        import os
        os._exit(0)  # freeing the deep list is not what is tested
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:4] == [
        "EncodeError True",
        "DecodeError True",
        "DecodeError True",
        "True [",
    ], (done.returncode, done.stderr)


def test_depth_is_counted_outside_of_texts() -> None:
    assert is_deep(b"[[[1]]]", 2)
    assert not is_deep(b"[[[1]]]", 3)
    assert not is_deep(rb'["[[[[\"[[[", "\\", []]', 2)
    assert not is_deep(b"[],[],[],[]", 1)
    assert not is_deep(b'"[[[[[[', 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1",
        b"[1,]",
        b"{'a': 1}",
        b'"\xff"',
        b"\xef\xbb\xbf1",
        b"1" * 5000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"__type__":"nope","__value__":1}',
        b'{"__type__":["x"],"__value__":1}',
        b'{"__type__":null,"__value__":1}',
        b'{"__type__":"datetime","__value__":"yesterday"}',
        b'{"__type__":"datetime","__value__":5}',
        b'{"__type__":"date","__value__":"2024-02-30"}',
        b'{"__type__":"time","__value__":"25:00"}',
        b'{"__type__":"decimal","__value__":"x"}',
        b'{"__type__":"decimal","__value__":[0,[1],"F"]}',
        b'{"__type__":"uuid","__value__":{"hex":"12"}}',
        b'{"__type__":"uuid","__value__":{"hex":"12345678123456781234567812345678","is_safe":1}}',
        b'{"__type__":"uuid","__value__":"12345678123456781234567812345678"}',
        b'{"__type__":"bytes","__value__":"\\ud800"}',
        b'{"__type__":"bytes","__value__":[]}',
        b'{"__type__":"base64","__value__":"A"}',
        b'{"\\u005f_type__":"nope","__value__":1}',
    ],
    ids=lambda data: repr(data[:50]),
)
def test_bad_bytes_are_decode_errors(data: bytes) -> None:
    with pytest.raises(DecodeError):
        loads(data)


def test_decode_errors_stay_short() -> None:
    with pytest.raises(DecodeError) as caught:
        loads(b'{"__type__":"datetime","__value__":"' + b"9" * 100_000 + b'"}')
    assert len(str(caught.value)) < 200
    with pytest.raises(DecodeError) as caught:
        loads(b'{"__type__":"' + b"9" * 100_000 + b'","__value__":1}')
    assert len(str(caught.value)) < 200


def test_a_tag_spelt_with_escapes_is_a_tag() -> None:
    assert loads(b'{"\\u005f_type__":"bytes","__value__":"x"}') == b"x"
    assert loads(b'{"__typ\\u0065__":"bytes","__value__":"x"}') == b"x"


def test_bytes_and_memoryviews_are_read_alike() -> None:
    data = dumps([1, b"\xff", "é", datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=5)))])
    value = [1, b"\xff", "é", datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=5)))]
    assert loads(data) == loads(memoryview(data)) == value


def test_paths_are_spelt_as_python_would() -> None:
    assert describe(("args", 1, "user")) == "args[1].user"
    assert describe(("kwargs", "a-b", 0)) == "kwargs['a-b'][0]"
    assert describe(("", 0)) == "[0]"
    assert len(describe(["x" * 10, *["y" * 1000] * 1000])) < 2000


def test_an_encode_error_from_elsewhere_needs_only_a_message() -> None:
    error = EncodeError("no")
    assert (str(error), error.args, error.problem, error.path) == ("no", ("no",), "no", ())
