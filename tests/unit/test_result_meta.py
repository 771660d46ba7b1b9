"""What is stored about a task that ended, and what a caller gets back from it."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import traceback
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from umbel import exceptions, states
from umbel.exceptions import DecodeError, EncodeError, RemoteError
from umbel.message import result
from umbel.message.result import (
    TEXT_LIMIT,
    Meta,
    decode,
    describe_exception,
    encode_failure,
    encode_success,
    format_traceback,
    restore_exception,
)
from umbel.message.serializer import dumps

DONE_AT = datetime(2026, 11, 22, 8, 37, 27, 132686, tzinfo=UTC).timestamp()


class BoomError(Exception):
    pass


class PickyError(Exception):
    """Takes other arguments than it passes on, as many libraries' errors do."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code = code


# ------------------------------------------------------------------------------------ the meta


def test_a_success_is_stored_as_celery_stores_it() -> None:
    assert json.loads(encode_success("an-id", 3, DONE_AT)) == {
        "status": "SUCCESS",
        "result": 3,
        "traceback": None,
        "children": [],
        "date_done": "2026-11-22T08:37:27.132686+00:00",
        "task_id": "an-id",
    }


def test_a_failure_is_stored_as_celery_stores_it() -> None:
    record = describe_exception(BoomError("bang", 42))
    data = encode_failure(
        "an-id", record, DONE_AT, "Traceback: é\ud800", parent_id="p", group_id="g"
    )
    assert json.loads(data) == {
        "status": "FAILURE",
        "result": {"exc_type": "BoomError", "exc_message": ["bang", 42], "exc_module": __name__},
        "traceback": "Traceback: é\ud800",
        "children": [],
        "date_done": "2026-11-22T08:37:27.132686+00:00",
        "task_id": "an-id",
        "parent_id": "p",
        "group_id": "g",
    }
    retry = json.loads(encode_failure("an-id", record, None, status=states.RETRY))
    assert (retry["status"], retry["date_done"]) == ("RETRY", None)


@pytest.mark.parametrize("at", [0.0, 1.9999999, 1e9, DONE_AT, 1795336647.000001])
def test_the_time_is_iso_with_microseconds_and_offset(at: float) -> None:
    expected = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
    assert decode(encode_success("an-id", None, at)).date_done == expected


@pytest.mark.parametrize("value", [None, [1, "é"], {"a": Decimal("1.5")}, "\ud800", b"\xff"])
def test_a_value_comes_back(value: object) -> None:
    meta = decode(encode_success('an "id"', value, DONE_AT, parent_id="p", group_id="g"))
    assert meta == Meta(
        'an "id"', "SUCCESS", value, None, [], "2026-11-22T08:37:27.132686+00:00", "p", "g"
    )


def test_a_value_that_cannot_be_stored_is_refused_by_name() -> None:
    with pytest.raises(EncodeError, match=r"^return value\[0\]\.x: cannot be written as JSON: set"):
        encode_success("an-id", [{"x": {1}}], DONE_AT)


def test_celerys_metas_are_read() -> None:
    captured = (
        b'{"status": "REVOKED", "result": {"exc_type": "TaskRevokedError", "exc_message":'
        b' ["revoked"], "exc_module": "celery.exceptions"}, "traceback": null, "children": null,'
        b' "date_done": "2026-11-22T08:37:27+00:00", "task_id": "an-id", "name": "t.add",'
        b' "args": [8], "worker": "w2@wirehost", "group_id": "g"}'
    )
    meta = decode(memoryview(captured))
    assert (meta.status, meta.children, meta.group_id) == ("REVOKED", [], "g")
    error = restore_exception(meta.result, {})
    assert type(error) is exceptions.TaskRevokedError
    assert error.args == ("revoked",)
    assert decode(b'{"status": "MINE", "result": {"at": 5}, "task_id": "x"}').result == {"at": 5}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"status": "SUCCESS", "result": 3}',
        b'{"status": null, "task_id": "x"}',
        b'{"status": "SUCCESS", "task_id": ""}',
        b'{"status": ["SUCCESS"], "task_id": "x"}',
        b'{"status": "SUCCESS", "task_id": "x", "traceback": 5}',
        b'{"status": "SUCCESS", "task_id": "x", "children": {}}',
        b'{"status": "SUCCESS", "task_id": "x", "date_done": 5}',
        b'{"status": "SUCCESS", "task_id": "x", "result": {"__type__": "x", "__value__": 1}}',
    ],
)
def test_what_is_no_meta_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data)


# ------------------------------------------------------------------------ describing exceptions


@pytest.mark.parametrize(
    ("error", "module"),
    [
        (exceptions.SoftTimeLimitExceeded(), "billiard.exceptions"),
        (exceptions.TimeLimitExceeded(1), "billiard.exceptions"),
        (exceptions.WorkerLostError("signal 9"), "billiard.exceptions"),
        (exceptions.NotRegistered("t.nope"), "celery.exceptions"),
        (exceptions.TaskRevokedError("expired"), "celery.exceptions"),
        (exceptions.MaxRetriesExceededError("no more"), "celery.exceptions"),
        (exceptions.EncodeError("no"), "kombu.exceptions"),
        (exceptions.StoreFull("full"), "umbel.exceptions"),
        (ValueError(1), "builtins"),
        (TimeoutError(), "builtins"),
        (exceptions.TimeoutError("late"), "celery.exceptions"),
    ],
    ids=lambda item: item if isinstance(item, str) else type(item).__name__,
)
def test_our_exceptions_travel_under_celerys_names(error: Exception, module: str) -> None:
    record = describe_exception(error)
    expected = {
        "exc_type": type(error).__name__,
        "exc_message": [*error.args],
        "exc_module": module,
    }
    assert record == expected
    restored = restore_exception(record, {})
    assert type(restored) is type(error)
    assert restored.args == error.args


def test_arguments_that_json_cannot_express_become_their_repr() -> None:
    record = describe_exception(BoomError({1}, Decimal("1.5"), "x", b"\xff"))
    assert record["exc_message"] == ["{1}", Decimal("1.5"), "x", b"\xff"]


class RaisingRepr:
    def __repr__(self) -> str:
        raise SystemExit(3)


class WrongRepr:
    def __repr__(self) -> str:
        return 5  # type: ignore[return-value]


class RaisingJson:
    def __json__(self) -> object:
        raise KeyboardInterrupt


class RaisingStrError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class RaisingArgsError(Exception):
    @property
    def args(self) -> Any:
        raise KeyboardInterrupt

    @args.setter
    def args(self, value: object) -> None:
        raise KeyboardInterrupt


class RaisingCauseError(Exception):
    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise SystemExit(3)


class WrongArgsError(Exception):
    args = 5  # type: ignore[assignment]


class WrongModuleError(Exception):
    __module__ = 5  # type: ignore[assignment]


class NastyMeta(type):
    def __hash__(cls) -> int:
        raise SystemExit(3)


class NastyClassError(Exception, metaclass=NastyMeta):
    pass


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(900):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BoomError(RaisingRepr()), ["<RaisingRepr, whose repr raised SystemExit>"]),
        (BoomError({1: RaisingRepr()}), ["<dict, whose repr raised SystemExit>"]),
        (BoomError(WrongRepr()), ["<WrongRepr, whose repr raised TypeError>"]),
        (BoomError([RaisingJson()]), None),
        (BoomError(RaisingStrError("x")), ["<RaisingStrError, whose repr raised SystemExit>"]),
        (BoomError({"__type__": 1, "__value__": 2}), ["{'__type__': 1, '__value__': 2}"]),
        (RaisingStrError("x"), ["x"]),
        (RaisingArgsError("x"), ["x"]),
        (RaisingCauseError("x"), ["x"]),
        (WrongArgsError("x"), ["x"]),
        (WrongModuleError("x"), ["x"]),
        (NastyClassError("x"), ["x"]),
        (BoomError("\ud800"), ["\ud800"]),
        (SystemExit(3), [3]),
    ],
    ids=lambda item: type(item).__name__,
)
def test_nasty_exceptions_are_stored(error: BaseException, message: list[object] | None) -> None:
    record = describe_exception(error)
    text = format_traceback(error)
    stored = decode(encode_failure("an-id", record, DONE_AT, text))
    assert stored.result == record
    assert message is None or record["exc_message"] == message
    assert type(error).__name__ in text


def test_a_deep_argument_becomes_text() -> None:
    # It could be written by itself here, and perhaps no more inside a record or further down.
    (text,) = describe_exception(BoomError(deep()))["exc_message"]
    assert isinstance(text, str)


def test_huge_arguments_are_cut_with_a_note() -> None:
    for huge in ("é" * 10_000_000, ["x" * 200_000], {1: {"y" * 200_000}}):
        (text,) = describe_exception(BoomError(huge))["exc_message"]
        assert isinstance(text, str)
        assert len(text.encode()) <= TEXT_LIMIT
        assert text.rstrip().endswith("bytes left out ...")
    (kept,) = describe_exception(BoomError("x" * (TEXT_LIMIT - 2)))["exc_message"]
    assert kept == "x" * (TEXT_LIMIT - 2)


def test_many_arguments_are_cut_with_a_note() -> None:
    message = describe_exception(BoomError(*["x" * 1000] * 5000))["exc_message"]
    assert len(dumps(message)) < TEXT_LIMIT + 1000
    assert message[-1] == f"... {5000 - len(message) + 1} more arguments left out"


# ----------------------------------------------------------------------------------- tracebacks


def drop_this_frame(error: BaseException) -> BaseException:
    """A test's own frame is the outermost one; in a child that is the package's."""
    assert error.__traceback__ is not None
    return error.with_traceback(error.__traceback__.tb_next)


def test_a_traceback_begins_in_the_users_code() -> None:
    def user() -> None:
        dumps({1})

    # The pool's frame above the user's function, stood in for by the package's own directory.
    code = compile("def run(call):\n    call()\n", result._PACKAGE + "pools/slot.py", "exec")
    frames: dict[str, Any] = {}
    exec(code, frames)
    with pytest.raises(EncodeError) as caught:
        frames["run"](user)
    error = drop_this_frame(caught.value)
    assert "slot.py" in "".join(traceback.format_exception(error))
    text = format_traceback(error)
    assert "slot.py" not in text
    assert "in user" in text
    assert "serializer.py" in text  # below the user's code everything stays
    assert text.endswith("cannot be written as JSON: set; pass a list instead\n")


def test_the_traceback_of_our_own_fault_stays_whole() -> None:
    with pytest.raises(DecodeError) as caught:
        decode(b"")
    assert "serializer.py" in format_traceback(drop_this_frame(caught.value))


def test_a_traceback_tells_causes_notes_and_groups() -> None:
    def fail() -> None:
        try:
            raise BoomError("first")
        except BoomError as first:
            first.add_note("a note")
            raise ExceptionGroup("both", [ValueError("one"), KeyError("two")]) from first

    with pytest.raises(ExceptionGroup) as caught:
        fail()
    text = format_traceback(caught.value)
    for part in (
        "BoomError: first",
        "a note",
        "direct cause",
        "ValueError: one",
        "KeyError: 'two'",
    ):
        assert part in text
    assert format_traceback(BoomError("never raised")) == f"{__name__}.BoomError: never raised\n"


def test_a_long_traceback_keeps_head_and_tail() -> None:
    def dig(depth: int) -> None:
        if depth:
            return [dig, climb][depth % 2](depth - 1)
        raise BoomError("x" * 50_000 + "at the bottom")

    def climb(depth: int) -> None:
        return dig(depth)

    with pytest.raises(BoomError) as caught:
        dig(600)
    text = format_traceback(caught.value)
    assert TEXT_LIMIT - 10 <= len(text.encode()) <= TEXT_LIMIT
    assert text.startswith("Traceback (most recent call last)")
    assert " bytes left out ...\n" in text
    assert text.endswith("at the bottom\n")


def test_endless_and_circular_causes_are_survived() -> None:
    one, other = BoomError("one"), BoomError("other")
    one.__cause__, other.__context__ = other, one
    assert "BoomError: one" in format_traceback(one)
    chain = BoomError("last")
    for number in range(20_000):
        following = BoomError(str(number))
        following.__cause__ = chain
        chain = following
    assert len(format_traceback(chain).encode()) <= TEXT_LIMIT
    group: Exception = BoomError("inner")
    for _ in range(5000):
        group = ExceptionGroup("g", [group])
    assert "ExceptionGroup" in format_traceback(group)


# ------------------------------------------------------------------------- restoring exceptions


def record(kind: object, message: object = None, module: object = "builtins") -> dict[str, object]:
    return {"exc_type": kind, "exc_message": message, "exc_module": module}


def test_registered_classes_come_back_as_themselves() -> None:
    registered: dict[str, type[BaseException]] = {f"{__name__}.BoomError": BoomError}
    error = restore_exception(describe_exception(BoomError("bang", 42)), registered)
    assert type(error) is BoomError
    assert error.args == ("bang", 42)
    assert type(restore_exception(record("KeyError", ["x"]), {})) is KeyError


def test_an_unknown_class_is_made_on_the_spot() -> None:
    error = restore_exception(describe_exception(BoomError("bang", 42)), {})
    assert isinstance(error, RemoteError)
    assert not isinstance(error, BoomError)
    assert (type(error).__name__, type(error).__module__) == ("BoomError", __name__)
    assert str(error) == "('bang', 42)"
    again = restore_exception(describe_exception(error), {})
    assert type(again) is type(error)
    nested = restore_exception(record("Outer.Inner", ["x"], "app"), {})
    assert (type(nested).__name__, type(nested).__qualname__) == ("Inner", "Outer.Inner")
    assert describe_exception(nested) == record("Outer.Inner", ["x"], "app")


def test_the_classes_made_on_the_spot_are_bounded() -> None:
    for number in range(5000):
        restore_exception(record(f"E{number}", [], "app"), {})
    assert result._remote_class.cache_info().currsize <= 1024


def test_both_spellings_of_our_exceptions_are_read() -> None:
    for name, module in (
        ("SoftTimeLimitExceeded", "billiard.exceptions"),
        ("SoftTimeLimitExceeded", "umbel.exceptions"),
        ("TimeLimitExceeded", "billiard.exceptions"),
        ("WorkerLostError", "billiard.exceptions"),
        ("NotRegistered", "celery.exceptions"),
        ("MaxRetriesExceededError", "celery.exceptions"),
        ("TaskRevokedError", "celery.exceptions"),
        ("Retry", "celery.exceptions"),
        ("OperationalError", "kombu.exceptions"),
        ("TimeoutError", "umbel.exceptions"),
    ):
        error = restore_exception(record(name, ["x"], module), {})
        assert type(error) is getattr(exceptions, name)
        assert error.args == ("x",)


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_what_is_no_exception_is_never_restored_as_itself(name: str) -> None:
    for registered in ({}, {f"builtins.{name}": getattr(builtins, name)}):
        error = restore_exception(record(name, ["1"]), registered)
        assert isinstance(error, RemoteError)
        assert type(error).__name__ == name
    assert isinstance(restore_exception(record("eval", ["1"]), {}), RemoteError)


@pytest.mark.parametrize(
    ("message", "args"),
    [("text", ("text",)), (None, ()), ([], ()), ([1, "x"], (1, "x")), ({"a": 1}, ({"a": 1},))],
)
def test_messages_of_every_form_are_read(message: object, args: tuple[object, ...]) -> None:
    assert restore_exception(record("ValueError", message), {}).args == args
    assert restore_exception(record("BoomError", message, "app"), {}).args == args


def test_a_constructor_that_refuses_the_arguments_is_passed_by() -> None:
    original = PickyError(5, where="here")
    registered: dict[str, type[BaseException]] = {f"{__name__}.PickyError": PickyError}
    error = restore_exception(describe_exception(original), registered)
    assert type(error) is PickyError
    assert str(error) == "5 at here"


def test_a_constructor_that_words_its_arguments_does_so_once() -> None:
    class WordedError(Exception):
        def __init__(self, code: object) -> None:
            super().__init__(f"code {code}")

    error = restore_exception(
        record("WordedError", ["code 5"], "app"), {"app.WordedError": WordedError}
    )
    assert str(error) == "code 5"


def test_every_builtin_exception_survives_any_arguments() -> None:
    kinds = [
        name
        for name, kind in vars(builtins).items()
        if isinstance(kind, type) and issubclass(kind, BaseException)
    ]
    assert len(kinds) > 60
    for name in kinds:
        for message in ([], ["x"], ["a", "b"], [None] * 5, ["x", ["y", 1, 2, "z"]], [{}, [1]], 7):
            error = restore_exception(record(name, message), {})
            assert isinstance(error, Exception)
            assert type(error).__name__ == name or isinstance(error, OSError)
            assert error.args == (tuple(message) if isinstance(message, list) else (message,))
            assert format_traceback(error)
            assert isinstance(str(error), str)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "boom",
        [1],
        {},
        record(None),
        record(5),
        record(["x"]),
        record(""),
        record("a\0b"),
        record("\ud800"),
        record("x" * 100_000),
        record("BoomError", ["x"], None),
        record("BoomError", ["x"], 5),
        record("BoomError", ["x"], "a\0"),
        record("BoomError", ["x"], "m" * 100_000),
        record(".", ["x"], "."),
        record("BoomError", [Decimal("sNaN")], "app"),
    ],
    ids=lambda item: repr(item)[:60],
)
def test_records_of_any_form_become_an_error(stored: object) -> None:
    error = restore_exception(stored, {})
    assert isinstance(error, RemoteError)
    assert len(type(error).__qualname__) < 256
    assert len(type(error).__module__) < 256
    assert format_traceback(error)


def test_nothing_is_imported_or_looked_up_by_a_stored_name() -> None:
    code = """if True:
        import sys
        from umbel.message.result import restore_exception
        before = set(sys.modules)
        for module, name in [("wave", "Error"), ("os", "error"), ("subprocess", "Popen"),
                             ("subprocess", "CalledProcessError"), ("json", "JSONDecodeError")]:
            record = {"exc_type": name, "exc_message": ["x"], "exc_module": module}
            error = restore_exception(record, {})
            print(type(error).__mro__[1].__name__)
        import_error = restore_exception({"exc_type": "error", "exc_module": "sys"}, {})
        print(set(sys.modules) - before)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["RemoteError"] * 5 + ["set()"]
