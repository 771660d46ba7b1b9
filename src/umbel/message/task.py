"""The task message: Celery's protocol 2 inside Kombu's envelope, as bytes and as values.

The envelope is the JSON that Kombu writes on Redis; every engine stores these bytes as they are.
Reading is tolerant where Celery's workers are, and fails with `DecodeError` where they crash.
"""

from __future__ import annotations

import binascii
import reprlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from umbel.exceptions import DecodeError, EncodeError
from umbel.message import content, serializer
from umbel.message.compression import compress, decompress
from umbel.message.content import JSON, JSON_ONLY

MAX_BYTES: Final = 32 << 20
"""The limit of a body where no other is given."""
NO_EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
"""The body's third item for a task with nothing to follow."""
SIGNATURE: Final = "umbel-signature"
"""The header that holds a message's signature (`umbel.message.signing`)."""
REPR_CHARACTERS: Final = 1024
"""About how long `argsrepr` and `kwargsrepr` may be (Celery's limit)."""
REPR_LEVELS: Final = 3

Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
"""What no database's integer is too small for."""


class Headers(msgspec.Struct, gc=False):
    """The headers of protocol 2, in the order in which Celery writes them."""

    task: str
    id: str
    lang: str = "py"
    shadow: str | None = None
    eta: str | None = None
    expires: str | None = None
    group: str | None = None
    group_index: Count | None = None
    retries: Count | None = 0
    timelimit: tuple[float | None, float | None] | None = (None, None)
    """(hard, soft), in seconds."""
    root_id: str | None = None
    parent_id: str | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    origin: str | None = None
    ignore_result: bool | None = None
    """None: the task's own setting decides."""
    replaced_task_nesting: Count | None = 0
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = msgspec.field(default_factory=dict)
    compression: str | msgspec.UnsetType | None = msgspec.UNSET
    """The content type of the body's compression; not written where there is none."""
    secret: list[str | int] | msgspec.UnsetType = msgspec.field(
        default=msgspec.UNSET, name="umbel-secret"
    )
    """Names and positions of arguments that are shown to nobody; not written where none is."""
    chord: tuple[str, int, str] | msgspec.UnsetType = msgspec.field(
        default=msgspec.UNSET, name="umbel-chord"
    )
    """The chord in which the end of this task, or of the chain that it begins, counts: its id, the
    place in it, and what tells apart several at one place."""
    join: tuple[str, str, bool] | msgspec.UnsetType = msgspec.field(
        default=msgspec.UNSET, name="umbel-join"
    )
    """The chord whose body it is; what to do with failures, `fail` or `collect`; and whether its
    results come before the arguments."""

    @property
    def shown_name(self) -> str:
        """What logs call the task."""
        return self.shadow or self.task


KNOWN_HEADERS: Final = frozenset({*Headers.__struct_encode_fields__, SIGNATURE})
"""The message's own headers; all others are the user's."""
DEATH_NOTES: Final = frozenset(
    {
        "x-death",
        *(f"x-{which}-death-{what}" for which in ("first", "last")
          for what in ("exchange", "queue", "reason")),
    }
)  # fmt: skip
"""Headers in which RabbitMQ keeps where a message has been; a copy of it has been nowhere."""


class DeliveryInfo(msgspec.Struct, gc=False):
    """Where a message was sent to."""

    exchange: str = ""
    routing_key: str = ""


class Properties(msgspec.Struct, gc=False, omit_defaults=True):
    """The message properties of an envelope."""

    correlation_id: str | None = None
    reply_to: str | None = None
    delivery_mode: int = msgspec.field(default_factory=lambda: 2)  # always written
    delivery_info: DeliveryInfo = msgspec.field(default_factory=DeliveryInfo)
    priority: int | None = msgspec.field(default_factory=lambda: 0)
    body_encoding: str | None = None
    delivery_tag: str | None = None
    expiration: str | None = None
    """Milliseconds as text; only when the message expires."""


class Envelope(msgspec.Struct, gc=False):
    """A whole message."""

    headers: Headers
    body: str
    properties: Properties = msgspec.field(default_factory=Properties)
    content_type: str | None = msgspec.field(default=None, name="content-type")
    content_encoding: str | None = msgspec.field(default=None, name="content-encoding")


class _HeadersOnly(msgspec.Struct, gc=False):
    headers: Headers


class Task(msgspec.Struct, gc=False):
    """A decoded task message."""

    headers: Headers
    args: list[Any]
    kwargs: dict[str, Any]
    embed: dict[str, Any]
    properties: Properties
    content_type: str
    """What the body was; a retry with new arguments is written in the same way."""


_encode = msgspec.json.Encoder().encode
_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_headers = msgspec.json.Decoder(_HeadersOnly).decode
_UNUSABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def encode(
    headers: Headers,
    body: bytes,
    properties: Properties,
    content_type: str = JSON,
    content_encoding: str = "utf-8",
) -> bytes:
    """The envelope's bytes. `body` is the serialized three-item body, compressed if it is."""
    properties.body_encoding = "base64"
    text = binascii.b2a_base64(body, newline=False).decode("ascii")
    return _encode(Envelope(headers, text, properties, content_type, content_encoding))


def encode_open(
    headers: dict[str, Any],
    body: bytes,
    properties: dict[str, Any],
    content_type: str,
    content_encoding: str,
) -> bytes:
    """`encode` for headers and properties that hold more than the known ones.

    `EncodeError` for a value that JSON has no form for, with its path from `headers` or
    `properties` on.
    """
    text = binascii.b2a_base64(body, newline=False).decode("ascii")
    return serializer.dumps({
        "body": text,
        "content-encoding": content_encoding,
        "content-type": content_type,
        "headers": headers,
        "properties": {**properties, "body_encoding": "base64"},
    })  # fmt: skip


def check_readable(payload: bytes) -> None:
    """`EncodeError` for a written message that could not be read: nan, half a character, a type."""
    try:
        msgspec.json.decode(payload)  # looks at the user's headers too
        _decode_envelope(payload)
    except _UNUSABLE as error:
        raise EncodeError(f"no worker could read the message: {error}", str(error)) from None


def decode_headers(payload: bytes | memoryview) -> Headers:
    """Only the headers, for whoever need not look at the arguments. `DecodeError` if unusable."""
    try:
        return _decode_headers(payload).headers
    except _UNUSABLE as error:
        return _decode_headers(upgrade(payload, error)).headers


def decode(
    payload: bytes | memoryview, accept: frozenset[str] = JSON_ONLY, limit: int = MAX_BYTES
) -> Task:
    """The whole message, if its content type is one of `accept`.

    `DecodeError` says what is wrong with it, `ContentDisallowed` that it was not accepted. A
    compressed body may unfold to `limit` bytes.
    """
    try:
        envelope = _decode_envelope(payload)
    except _UNUSABLE as error:
        envelope = _decode_envelope(upgrade(payload, error))
    body = decode_body(envelope, accept, limit)
    return Task(envelope.headers, *body, envelope.properties, envelope.content_type or "")


def decode_body(
    envelope: Envelope, accept: frozenset[str], limit: int
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Args, kwargs and embed of an envelope. `DecodeError` if the body is anything else."""
    content_type = envelope.content_type
    if content_type not in accept:
        raise content.disallowed(content_type, accept)
    data = raw_body(envelope.body, envelope.properties.body_encoding)
    if envelope.headers.compression:
        data = decompress(data, envelope.headers.compression, limit)
    if content_type == JSON:
        body = serializer.loads(data)
    else:
        body = content.decode(data, content_type, accept)
    if type(body) is dict and "args" in body:
        body = _read_mapping(body)
    if isinstance(body, tuple):  # as pickle keeps it
        body = list(body)
    if not isinstance(body, list) or len(body) != 3:
        found = f"{len(body)} items" if isinstance(body, list) else type(body).__name__
        raise DecodeError(f"the body must be [args, kwargs, embed], three items; found {found}")
    args, kwargs, embed = body
    if isinstance(args, tuple):
        args = list(args)
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise DecodeError(
            "the body's args must be an array and its kwargs an object; found "
            f"{type(args).__name__} and {type(kwargs).__name__}"
        )
    if embed is not None and not isinstance(embed, dict):
        raise DecodeError(f"the body's third item must be an object; found {type(embed).__name__}")
    return args, kwargs, embed or {}


def raw_body(body: str, encoding: str | None) -> bytes:
    """The bytes of a body as they travel."""
    if encoding != "base64":
        return body.encode("utf-8", "surrogatepass")
    try:
        return binascii.a2b_base64(body, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise DecodeError(f"the body is not base64: {error}") from error


def _read_mapping(body: dict[str, Any]) -> list[Any]:
    """The items of a body written as in protocol 1 under headers of protocol 2."""
    embed = {name: body.get(name) for name in NO_EMBED}
    return [body.get("args") or [], body.get("kwargs") or {}, embed]


def upgrade(payload: bytes | memoryview, error: Exception | None = None) -> bytes:
    """A message of protocol 1, in which all is in the body, as one of protocol 2.

    `DecodeError` if it is neither; `error` is why it is not of protocol 2.
    """
    try:
        envelope: Any = msgspec.json.decode(payload)
        headers = envelope.get("headers") or {}
        if "task" in headers or "id" in headers:
            raise DecodeError(f"not a task message of protocol 2: {error}")
        if envelope.get("content-type") != JSON:
            raise DecodeError("neither a task message of protocol 2 nor JSON of protocol 1")
        properties = envelope.get("properties") or {}
        data = raw_body(envelope["body"], properties.get("body_encoding"))
        if headers.get("compression"):
            data = decompress(data, headers.pop("compression"), MAX_BYTES)
        body: Any = serializer.loads(data)
        args, kwargs, embed = _read_mapping(body)
        known = {name: body[name] for name in _OF_PROTOCOL_1 if body.get(name) is not None}
        made = msgspec.convert(known, Headers)
        made.group = made.group or body.get("taskset")
        made.argsrepr, made.kwargsrepr = describe(tuple(args)), describe(dict(kwargs))
        new_headers = {**headers, **msgspec.to_builtins(made)}
        text = binascii.b2a_base64(serializer.dumps((args, kwargs, embed)), newline=False)
        properties["body_encoding"] = "base64"
        upgraded = {"headers": new_headers, "properties": properties, "body": text.decode("ascii")}
        payload = _encode({**envelope, **upgraded})
        _decode_envelope(payload)  # what was taken over as it stood may be none
    except DecodeError:
        raise
    except Exception as wrong:
        raise DecodeError(f"not a task message: {error or wrong}") from wrong
    return payload


_OF_PROTOCOL_1: Final = (
    "task", "id", "retries", "eta", "expires", "timelimit", "group", "group_index",
)  # fmt: skip


class Body(NamedTuple):
    """A body as it travels."""

    data: bytes
    content_type: str
    content_encoding: str
    compression: str | None
    """The content type of its compression."""


def encode_body(
    value: object,
    message: Task,
    limit: int,
    *,
    serializer: str | None = None,
    compression: str | None = None,
) -> Body:
    """New args, kwargs and embed for a message that was received.

    Written and compressed as it was, unless something else is named. `EncodeError` if the
    serializer cannot write them, or beyond `limit` bytes.
    """
    data, kind, encoding = content.encode(value, serializer or message.content_type)
    if len(data) > limit:
        raise too_large(data, limit)
    method = compression or message.headers.compression
    written, used = compress(data, method) if method else (data, None)
    return Body(written, kind, encoding, used)


def too_large(data: bytes, limit: int) -> EncodeError:
    """The refusal of what a message or result has no room for."""
    return EncodeError(
        f"{len(data) / 2**20:.1f} MiB, and {limit / 2**20:g} MiB is the limit "
        "(task_max_message_bytes); store it in a file and pass its name"
    )


def encode_retry(
    payload: bytes | memoryview,
    *,
    tag: str,
    retries: int,
    due: float | None,
    body: Body | None = None,
    headers: Mapping[str, Any] = MappingProxyType({}),
    replaces_headers: bool = False,
    properties: Mapping[str, Any] = MappingProxyType({}),
    joined: bool = True,
) -> bytes:
    """The message of a task's next attempt: the same but for what is given.

    Headers that this package does not know stay, as Celery's workers keep them, unless `headers`
    replaces them. A property that is None is taken away. `joined`: it still gets the results of its
    chord before its arguments. `EncodeError` for a header that JSON has no form for, with its path
    from `headers` on.
    """
    envelope = msgspec.json.decode(payload)
    if "task" not in (envelope.get("headers") or ()):
        envelope = msgspec.json.decode(upgrade(payload))
    known = envelope["headers"]
    if replaces_headers:
        known = {name: value for name, value in known.items() if name in KNOWN_HEADERS}
    known.pop(SIGNATURE, None)  # it is for the message as it was
    if not joined:
        known.pop("umbel-join", None)
    known |= headers
    known["retries"] = retries
    known["eta"] = None if due is None else format_time(due)
    known["parent_id"] = known.get("parent_id") or known["id"]
    sent = {**(envelope.get("properties") or {}), **properties, "delivery_tag": tag}
    for name in [name for name in properties if properties[name] is None]:
        del sent[name]
    envelope["headers"], envelope["properties"] = known, sent
    if body is not None:
        _replace_body(envelope, body)
    return serializer.dumps(envelope) if headers else _encode(envelope)


def encode_joined(payload: bytes, body: Body, shown: Mapping[str, str]) -> bytes:
    """The message of a chord's body with the results in it, so that Celery's workers read it too.

    `shown`: the headers that show the arguments.
    """
    envelope = msgspec.json.decode(payload)
    for name in (SIGNATURE, "umbel-join"):
        envelope["headers"].pop(name, None)
    envelope["headers"] |= shown
    _replace_body(envelope, body)
    return _encode(envelope)


def _replace_body(envelope: dict[str, Any], body: Body) -> None:
    envelope["properties"]["body_encoding"] = "base64"
    headers = envelope["headers"]
    headers.pop("compression", None)
    if body.compression is not None:
        headers["compression"] = body.compression
    envelope["body"] = binascii.b2a_base64(body.data, newline=False).decode("ascii")
    envelope["content-type"] = body.content_type
    envelope["content-encoding"] = body.content_encoding


def retry_tag(id: str, delivery_tag: str | None, retries: int, copy: int = 0) -> str:
    """The tag of a task's next attempt, derived from this one's: storing it twice leaves one.

    `copy`: the number of the message, where an exchange makes several of it.
    """
    nonce = (delivery_tag or "").rpartition(":")[2].partition(".")[0]
    return f"{id}:{nonce}{f'-{copy}' if copy else ''}.{retries}"


def format_time(seconds: float) -> str:
    """A Unix time as ISO 8601 with the offset +00:00."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def parse_time(text: str | None) -> float | None:
    """The Unix time of an ISO 8601 text; one without an offset means UTC, as Celery reads it.

    `DecodeError` if it is no time.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise DecodeError(f"{text!r} is not a time in ISO 8601") from error


class _Repr(reprlib.Repr):
    def __init__(self, levels: int) -> None:
        super().__init__()
        self.maxlevel = levels
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 50
        self.maxstring = self.maxother = 200
        self.maxlong = 100


@cache
def _repr(levels: int) -> Callable[[object], str]:
    return _Repr(levels).repr


_PLAIN: Final = frozenset({int, bool, float, type(None)})


class Hidden:
    """What is shown in the place of a value."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


HIDDEN: Final = "********"
"""What stands for a secret."""
_hidden: Final = Hidden(HIDDEN)


def hide(
    places: Sequence[str | int], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments, with those at some positions and of some names hidden."""
    shown = tuple(_hidden if position in places else item for position, item in enumerate(args))
    return shown, {name: _hidden if name in places else item for name, item in kwargs.items()}


def describe(value: tuple[Any, ...] | dict[str, Any], levels: int = REPR_LEVELS) -> str:
    """A short text of arguments for logs and monitors; nobody parses it.

    `levels`: how deep containers are shown.
    """
    for item in value.values() if isinstance(value, dict) else value:
        kind = type(item)
        if kind in _PLAIN or (kind is str and len(item) < 100):
            continue
        try:
            text = _repr(levels)(value)
        except Exception as error:  # noqa: BLE001  (a user's __repr__ may raise anything)
            text = f"<repr failed: {type(error).__name__}>"
        return _shorten(text)
    return _shorten(repr(value))


def _shorten(text: str) -> str:
    return text if len(text) <= REPR_CHARACTERS else text[: REPR_CHARACTERS - 3] + "..."
