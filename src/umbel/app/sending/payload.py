"""The last step of sending: headers and arguments become the bytes that a broker stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from umbel.exceptions import EncodeError
from umbel.message import task as task_message
from umbel.message.compression import compress
from umbel.message.content import JSON, encode
from umbel.message.serializer import describe
from umbel.message.task import Headers, Properties

if TYPE_CHECKING:
    from umbel.app.settings.table import Settings


class Written(NamedTuple):
    """A body as bytes."""

    data: bytes
    kind: tuple[str, str]
    """Content type and encoding."""
    compression: str | None
    """The content type of its compression."""


def write_payload(
    settings: Settings,
    headers: Headers,
    properties: Properties,
    body: tuple[Any, Any, Any],
    data: bytes | None,
    serializer: str,
    compression: str | None,
) -> bytes:
    """The message's bytes: `body` (args, kwargs, embed) serialized, compressed, signed.

    `data` is the body as JSON, or None if it is to be something else. `EncodeError` names the
    argument that cannot be sent.
    """
    written = write_body(settings, headers.task, body, data, serializer, compression)
    if written.compression is not None:
        headers.compression = written.compression
    payload = task_message.encode(headers, written.data, properties, *written.kind)
    return seal(settings, payload, properties.delivery_info.routing_key)


def write_body(
    settings: Settings,
    name: str,
    body: tuple[Any, Any, Any],
    data: bytes | None,
    serializer: str,
    compression: str | None,
) -> Written:
    """The body of `write_payload`."""
    content_type, encoding = JSON, "utf-8"
    if data is None:
        try:
            data, content_type, encoding = encode(body, serializer)
        except EncodeError as error:
            raise refuse_argument(name, error) from None
    if len(data) > settings.task_max_message_bytes:
        raise _refuse_size(name, len(data), settings.task_max_message_bytes)
    method = None
    if compression:
        data, method = compress(data, compression)
    return Written(data, (content_type, encoding), method)


def seal(settings: Settings, payload: bytes, queue: str) -> bytes:
    """The payload, signed for its queue if messages are signed."""
    if (
        settings.security_hmac_key is None
        and settings.security_ed25519_key is None
        and not settings.security_ed25519_trusted
    ):
        return payload
    from umbel.app.security import signer_of
    from umbel.message.signing import sign

    signer = signer_of(settings)
    return payload if signer is None else sign(payload, queue, signer)


def refuse_argument(name: str, error: EncodeError) -> EncodeError:
    """The same error in the caller's words: which argument, by position or name."""
    where, inner = "An argument", error.path
    if len(inner) > 1:
        which = inner[1] + 1 if isinstance(inner[1], int) else repr(inner[1])
        where, inner = f"Argument {which}", inner[2:]
    at = f", at {describe(('it', *inner))}" if inner else ""
    message = f"{where} of {name}{at}: {error.problem}. Nothing was queued."
    return EncodeError(message, error.problem, error.path, error.type_name)


def _refuse_size(name: str, size: int, limit: int) -> EncodeError:
    message = (
        f"The arguments of {name} take {size / 2**20:.1f} MiB; a message may take "
        f"{limit / 2**20:g} MiB (task_max_message_bytes). Nothing was queued. Store the data in a "
        "file or an object store and pass its name."
    )
    return EncodeError(message)
