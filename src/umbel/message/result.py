"""The stored result of a task, as Celery's result stores keep it (its "meta").

    {"status": "SUCCESS", "result": 3, "traceback": null, "children": [],
     "date_done": "2026-11-22T08:37:27.132686+00:00", "task_id": "1aadfdf7-..."}

and `parent_id`, `group_id` where the task has them. A failed task's `result` is a record of its
exception, `{"exc_type", "exc_message", "exc_module"}`. Records are data: reading one never
imports a module and only ever calls a class that was registered for it.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, TypedDict, TypeVar, cast

import msgspec

from umbel import exceptions, states
from umbel.exceptions import DecodeError, EncodeError, RemoteError
from umbel.message import content
from umbel.message.format import PLAIN, Format, read, write
from umbel.message.serializer import dumps, is_deep, loads, register_type

T = TypeVar("T")
TEXT_LIMIT = 64 * 1024
"""Bytes of UTF-8 to which a record's arguments together, and a traceback, are cut."""

_PACKAGE = os.path.dirname(exceptions.__file__) + os.sep
_ARGUMENT_DEPTH = 50  # deeper exception arguments are stored as their repr
_NAME_LIMIT = 255

# Where Celery keeps the classes that we have under the same name. Both spellings are read; this
# one is written, so that a Celery client raises its own class.
_CELERY_MODULES: dict[type, str] = {
    kind: module
    for module, kinds in {
        "billiard.exceptions": (
            exceptions.SoftTimeLimitExceeded,
            exceptions.TimeLimitExceeded,
            exceptions.WorkerLostError,
            exceptions.Terminated,
        ),
        "kombu.exceptions": (
            exceptions.OperationalError,
            exceptions.EncodeError,
            exceptions.DecodeError,
            exceptions.ContentDisallowed,
            exceptions.SerializerNotInstalled,
        ),
        "celery.exceptions": (
            exceptions.AlreadyRegistered,
            exceptions.BackendError,
            exceptions.BackendGetMetaError,
            exceptions.BackendStoreError,
            exceptions.ChordError,
            exceptions.Ignore,
            exceptions.ImproperlyConfigured,
            exceptions.IncompleteStream,
            exceptions.InvalidTaskError,
            exceptions.MaxRetriesExceededError,
            exceptions.NotRegistered,
            exceptions.QueueNotFound,
            exceptions.Reject,
            exceptions.Retry,
            exceptions.SecurityError,
            exceptions.TaskError,
            exceptions.TaskPredicate,
            exceptions.TaskRevokedError,
            exceptions.TimeoutError,
        ),
    }.items()
    for kind in kinds
}


class Meta(msgspec.Struct, frozen=True):
    """What is stored about one task."""

    task_id: str
    status: str
    """One of `umbel.states`, or a state of the user's own."""
    result: object = None
    """The return value; for RETRY, FAILURE and REVOKED the exception's record."""
    traceback: str | None = None
    children: list[object] = []
    """Result tuples of the tasks that this one sent."""
    date_done: str | None = None
    """When the task ended: ISO 8601 with an offset; None while it has not."""
    parent_id: str | None = None
    group_id: str | None = None
    name: str | None = None
    """From here on: only where the setting `result_extended` is on."""
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None


class Extended(TypedDict):
    """What is stored besides where the setting `result_extended` is on."""

    name: str
    args: object
    kwargs: object
    worker: str | None
    retries: int
    queue: str | None


class ErrorRecord(TypedDict):
    """An exception as data."""

    exc_type: str
    """The class's qualified name."""
    exc_message: list[object]
    """The exception's `args`; what JSON cannot express is there as its repr."""
    exc_module: str


def encode_success(
    task_id: str,
    value: object,
    done_at: float,
    *,
    parent_id: str | None = None,
    group_id: str | None = None,
    children: Sequence[object] = (),
    extended: Extended | None = None,
    form: Format = PLAIN,
) -> bytes:
    """Write the meta of a task that returned `value` at `done_at` (Unix time).

    `children` are the result tuples of the tasks that it has sent.
    Raises `EncodeError` if the serializer cannot express the value.
    """
    if form is not PLAIN:
        fields = _fields(
            states.SUCCESS, value, None, done_at, task_id, parent_id, group_id, children, extended
        )
        return write(fields, form)
    result = dumps(value, "return value")
    data = _assemble(states.SUCCESS, result, None, done_at, task_id, parent_id, group_id, children)
    return data if extended is None else _extend(data, extended)


def encode_failure(
    task_id: str,
    error: ErrorRecord,
    done_at: float | None,
    traceback: str | None = None,
    *,
    status: str = states.FAILURE,
    parent_id: str | None = None,
    group_id: str | None = None,
    children: Sequence[object] = (),
    extended: Extended | None = None,
    form: Format = PLAIN,
) -> bytes:
    """Write the meta of a task that failed, was revoked (REVOKED) or will run again (RETRY).

    `error` is what `describe_exception` made, which can always be written. `done_at` is Unix
    time; None while the task has not ended, as for a RETRY.
    """
    if form is not PLAIN:
        fields = _fields(
            status, error, traceback, done_at, task_id, parent_id, group_id, children, extended
        )
        try:
            return write(fields, form)
        except EncodeError:  # JSON has forms for dates and the like, others have none
            texts = [_repr_safely(argument) for argument in error["exc_message"]]
            return write({**fields, "result": {**error, "exc_message": texts}}, form)
    data = _assemble(
        status, dumps(error), traceback, done_at, task_id, parent_id, group_id, children
    )
    return data if extended is None else _extend(data, extended)


def encode_state(
    task_id: str,
    state: str,
    value: object,
    at: float,
    *,
    parent_id: str | None = None,
    group_id: str | None = None,
    extended: Extended | None = None,
    form: Format = PLAIN,
) -> bytes:
    """Write the meta of a state that a task gives itself, with a value of its own.

    An exception is stored as its record. Raises `EncodeError` if the serializer cannot express
    the value.
    """
    if isinstance(value, BaseException):
        value = describe_exception(value)
    done_at = at if state in states.READY_STATES else None
    if form is not PLAIN:
        fields = _fields(state, value, None, done_at, task_id, parent_id, group_id, (), extended)
        return write(fields, form)
    data = _assemble(state, dumps(value, "meta"), None, done_at, task_id, parent_id, group_id, ())
    return data if extended is None else _extend(data, extended)


def decode(data: bytes | memoryview, form: Format = PLAIN) -> Meta:
    """Read a stored meta, ours or Celery's. Raises `DecodeError` if it is not one.

    `ContentDisallowed` and `SecurityError` if `form` does not let it be read.
    """
    fields = loads(data) if form is PLAIN and data[:1] == b"{" else read(data, form)
    if not isinstance(fields, dict):
        raise DecodeError(f"not a stored result: an object was expected, not {_kind(fields)}")
    children = fields.get("children")
    if children is not None and not isinstance(children, list):
        raise DecodeError(f"not a stored result: children is {_kind(children)}")
    return Meta(
        task_id=_read_text(fields, "task_id"),
        status=_read_text(fields, "status"),
        result=fields.get("result"),
        traceback=_read_optional(fields, "traceback"),
        children=children or [],
        date_done=_read_optional(fields, "date_done"),
        parent_id=_read_optional(fields, "parent_id"),
        group_id=_read_optional(fields, "group_id"),
        name=_read_optional(fields, "name"),
        args=_read_as(fields, "args", list),
        kwargs=_read_as(fields, "kwargs", dict),
        worker=_read_optional(fields, "worker"),
        retries=_read_as(fields, "retries", int),
        queue=_read_optional(fields, "queue"),
    )


def encode_part(task_id: str, state: str, value: object, form: Format = PLAIN) -> bytes:
    """Write how a member of a chord has ended, as Celery does; `value` may be an error's record."""
    part = [1, task_id, state, value]
    if form is PLAIN:
        return dumps(part)
    data, *_ = content.encode(part, form.content_type)
    return data


def decode_part(data: bytes, form: Format = PLAIN) -> tuple[str, str, Any]:
    """Task id, state and value of a chord's member. `DecodeError` if it is none."""
    part: Any = (
        loads(data) if form is PLAIN else content.decode(data, form.content_type, form.accept)
    )
    try:
        _, task_id, state, value = part
    except (TypeError, ValueError):
        raise DecodeError("not a part of a chord") from None
    return task_id, state, value


class Collected:
    """An error among a chord's results, on its way to a body that is more than one task."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def collect_errors(value: object) -> object:
    """A chord's results, with what stands for errors where there are any."""
    if isinstance(value, list):
        return [collect_errors(item) for item in value]
    return Collected(value) if isinstance(value, Exception) else value


def describe_exception(exc: BaseException) -> ErrorRecord:
    """Make an exception's record, whatever its class does when looked at."""
    kind = type(exc)
    try:
        name = kind.__qualname__
        module: object = _CELERY_MODULES.get(kind, kind.__module__)
    except BaseException:  # noqa: BLE001  (a metaclass may raise anything, SystemExit too)
        name, module = "Exception", "builtins"
    return {
        "exc_type": name,
        "exc_message": _describe_args(exc),
        "exc_module": module if isinstance(module, str) else "",  # a class may set anything
    }


def format_traceback(exc: BaseException) -> str:
    """Print an exception as the interpreter does, without the package's frames at the top.

    A text of more than `TEXT_LIMIT` bytes keeps its head and its tail.
    """
    import traceback  # its imports would double those of a child that has no failures

    try:
        report = traceback.TracebackException(type(exc), exc, exc.__traceback__, compact=True)
        _drop_own_frames(report)
        text = "".join(report.format())
    except BaseException as error:  # noqa: BLE001  (foreign __str__, __cause__, source loaders)
        name, reason = type(exc).__name__, type(error).__name__
        return f"{name}: (no traceback: {reason} was raised while it was being printed)\n"
    return _cut(text, TEXT_LIMIT, keep_tail=True)


def restore_exception(record: object, registered: Mapping[str, type[BaseException]]) -> Exception:
    """Make the exception that a record tells of, to be raised in the caller's process.

    `registered` maps `"module.Type"` to classes and adds to Python's own exceptions, those of
    `umbel.exceptions` and Celery's spellings of these. Any other record becomes a class made on
    the spot, a subclass of `RemoteError` with the remote name. So does one that names a class
    which is no `Exception` (SystemExit must not end the caller). Never raises.
    """
    if isinstance(record, Exception):
        return record  # Celery pickles the exception itself where results are pickled
    if not isinstance(record, Mapping):
        text = "the task failed; the stored result does not say of what"
        return RemoteError(text if record is None else record)
    name, module = record.get("exc_type"), record.get("exc_module")
    args = _read_args(record.get("exc_message"))
    if not _is_name(name):
        return RemoteError(*args)
    if not _is_name(module):
        module = RemoteError.__module__
    key = f"{module}.{name}"
    kind = registered.get(key) or _known_exceptions().get(key)
    if kind is not None and issubclass(kind, Exception):
        restored = _construct(kind, args)
        if restored is not None:
            return restored
    return _remote_class(module, name)(*args)


# ---------------------------------------------------------------------------------- writing


def _assemble(
    status: str,
    result: bytes,
    traceback: str | None,
    done_at: float | None,
    task_id: str,
    parent_id: str | None,
    group_id: str | None,
    children: Sequence[object],
) -> bytes:
    # Put together by hand: the result is JSON already, and this runs once for every task.
    date_done = b"null" if done_at is None else _spell_time(done_at)
    sent = dumps(children) if children else b"[]"
    head = b'{"status":%b,"result":%b,"traceback":%b,"children":%b,"date_done":%b,"task_id":%b'
    data = head % (dumps(status), result, dumps(traceback), sent, date_done, dumps(task_id))
    if parent_id is not None:
        data += b',"parent_id":' + dumps(parent_id)
    if group_id is not None:
        data += b',"group_id":' + dumps(group_id)
    return data + b"}"


def _extend(data: bytes, extended: Extended) -> bytes:
    """A meta with what few of them have; what cannot be written is there as its repr."""
    fields = [dumps(key) + b":" + _dump_safely(value) for key, value in extended.items()]
    return data[:-1] + b"," + b",".join(fields) + b"}"


def _dump_safely(value: object) -> bytes:
    try:
        return dumps(value)
    except EncodeError:
        return dumps(_repr_safely(value))


def _fields(
    status: str,
    result: object,
    traceback: str | None,
    done_at: float | None,
    task_id: str,
    parent_id: str | None,
    group_id: str | None,
    children: Sequence[object],
    extended: Extended | None,
) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "status": status,
        "result": result,
        "traceback": traceback,
        "children": list(children),
        "date_done": None if done_at is None else _spell_time(done_at).decode("ascii").strip('"'),
        "task_id": task_id,
    }
    if parent_id is not None:
        fields["parent_id"] = parent_id
    if group_id is not None:
        fields["group_id"] = group_id
    return fields if extended is None else {**fields, **extended}


def _spell_time(at: float) -> bytes:
    second, microseconds = divmod(round(at * 1e6), 1_000_000)
    return b'"%b.%06d+00:00"' % (_spell_second(second), microseconds)


@lru_cache(maxsize=8)  # formatting a whole time would cost more than all the rest of a meta
def _spell_second(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19].encode("ascii")


def _describe_args(exc: BaseException) -> list[object]:
    """List an exception's arguments as values that can be stored, within `TEXT_LIMIT`."""
    try:
        args: Any = exc.args
    except BaseException:  # noqa: BLE001  (a class may make it a property)
        args = None
    if type(args) is not tuple and type(args) is not list:
        args = BaseException.__dict__["args"].__get__(exc)
    left = TEXT_LIMIT
    described: list[object] = []
    for position, arg in enumerate(args):
        if left <= 0:
            described.append(f"... {len(args) - position} more arguments left out")
            break
        item, size = _describe_arg(arg, left)
        described.append(item)
        left -= size
    return described


def _describe_arg(arg: object, limit: int) -> tuple[object, int]:
    """Give an argument, or text that stands for it, with its size in bytes."""
    text = arg if type(arg) is str else None
    if text is None or len(text) <= limit:
        try:
            encoded = dumps(arg)
            if len(encoded) <= limit and not is_deep(encoded, _ARGUMENT_DEPTH):
                # Read back: what is stored must not depend on the object any more.
                return loads(encoded), len(encoded)
        except BaseException:  # noqa: BLE001, S110  (a foreign __json__; its repr is stored)
            pass
    if text is None:
        text = _repr_safely(arg)
    text = _cut(text, limit, keep_tail=False)
    return text, len(text)


def _repr_safely(value: object) -> str:
    try:
        return str.__str__(repr(value))
    except BaseException as error:  # noqa: BLE001  (a foreign __repr__ may raise anything)
        return f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"


def _cut(text: str, limit: int, *, keep_tail: bool) -> str:
    """Cut a text to `limit` bytes of UTF-8, with a note where something was left out."""
    if len(text) * 4 <= limit:
        return text
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= limit:
        return text
    room = max(limit - 40, 0)  # the note takes the rest
    tail = room // 2 if keep_tail else 0
    head = room - tail
    start = data[:head].decode("utf-8", "ignore")
    end = data[len(data) - tail :].decode("utf-8", "ignore")
    return f"{start}\n... {len(data) - room} bytes left out ...\n{end}"


def _drop_own_frames(report: Any) -> None:
    """Take the package's frames off the top of a traceback and of those it was caused by.

    A traceback of nothing but our frames is our own fault, and stays whole.
    """
    waiting = [report]
    while waiting:
        one = waiting.pop()
        if one is None:
            continue
        own = 0
        while own < len(one.stack) and one.stack[own].filename.startswith(_PACKAGE):
            own += 1
        if own < len(one.stack):
            del one.stack[:own]
        waiting += [one.__cause__, one.__context__, *(one.exceptions or ())]


# ---------------------------------------------------------------------------------- reading


def _kind(value: object) -> str:
    return type(value).__name__


def _read_text(fields: dict[str, object], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not value:
        raise DecodeError(f"not a stored result: {key} is missing or is {_kind(value)}, not text")
    return value


def _read_optional(fields: dict[str, object], key: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise DecodeError(f"not a stored result: {key} is {_kind(value)}, not text")
    return value


def _read_as(fields: dict[str, object], key: str, kind: type[T]) -> T | None:
    """A field that is there for people: None if it is something else than it should be."""
    value = fields.get(key)
    return value if isinstance(value, kind) else None


def _read_args(message: object) -> tuple[object, ...]:
    """Celery's records carry a list; older ones and other writers a bare text or nothing."""
    if isinstance(message, list):
        return tuple(message)
    return () if message is None else (message,)


def _is_name(value: object) -> bool:
    """Tell whether a stored text can be a class's or module's name."""
    return isinstance(value, str) and 0 < len(value) <= _NAME_LIMIT and value.isprintable()


@cache
def _known_exceptions() -> dict[str, type[Exception]]:
    known: dict[str, type[Exception]] = {}
    for module in (builtins, exceptions):
        for name, kind in vars(module).items():
            if isinstance(kind, type) and issubclass(kind, Exception):
                known[f"{module.__name__}.{name}"] = kind
    for kind, module_name in _CELERY_MODULES.items():
        known[f"{module_name}.{kind.__name__}"] = kind
    return known


def _construct(kind: type[Exception], args: tuple[object, ...]) -> Exception | None:
    """Call a registered class; if it takes other arguments, make the object without it."""
    for takes_args in (True, False):
        try:
            made = kind(*args) if takes_args else kind.__new__(kind)
            if isinstance(made, kind):
                made.args = args  # as they were; a constructor may have worded them anew
                return made
        except Exception:  # noqa: BLE001, S112  (a foreign constructor; try the next way)
            continue
    return None


@lru_cache(maxsize=1024)
def _remote_class(module: str, name: str) -> type[RemoteError]:
    short_name = name.rpartition(".")[2] or name
    return type(short_name, (RemoteError,), {"__module__": module, "__qualname__": name})


register_type(
    Collected,
    "umbel-error",
    lambda collected: describe_exception(collected.error),
    lambda record: cast("Any", restore_exception(record, {})),  # the error itself is read
)
