"""Messages signed with a shared key (HMAC-SHA256): the whole message, for one queue.

The signature is a header. It covers every other header (so the task's name, id, expiry, limits),
the body as it travels, how to decode it, whom to answer, and the queue it was sent to. It does not
cover what brokers change on the way: the delivery tag, the mark of a redelivery, `x-death`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from umbel.exceptions import ImproperlyConfigured, SecurityError
from umbel.message.task import SIGNATURE, raw_body

Keys = str | bytes | Sequence[str | bytes]
"""One key or several: the first one signs, each is accepted."""
MIN_KEY: Final = 32
"""Bytes of a key."""
_VERSION: Final = "1:"


def read_keys(keys: Keys) -> tuple[bytes, ...]:
    """The keys as bytes; `ImproperlyConfigured` for one that is too short to be one."""
    several = (keys,) if isinstance(keys, (str, bytes)) else keys
    read = tuple(key.encode("utf-8") if isinstance(key, str) else key for key in several)
    if not read or min(map(len, read)) < MIN_KEY:
        raise ImproperlyConfigured(
            f"security_hmac_key must have at least {MIN_KEY} bytes. Make one, and give the same to "
            "producers and workers: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return read


def sign(payload: bytes, queue: str, keys: Keys) -> bytes:
    """The message with its signature for a queue; one that it had is replaced."""
    envelope = msgspec.json.decode(payload)
    envelope["headers"][SIGNATURE] = _VERSION + _digest(envelope, queue, read_keys(keys)[0])
    return msgspec.json.encode(envelope)


def verify(payload: bytes | memoryview, queue: str, keys: tuple[bytes, ...]) -> None:
    """`SecurityError` unless the message was signed, for this queue, with one of the keys."""
    try:
        envelope: Any = msgspec.json.decode(payload)
        signature = (envelope["headers"] or {}).get(SIGNATURE)
        if not isinstance(signature, str):
            raise SecurityError("it is not signed, and security_hmac_key asks for it")
        for key in keys:
            if hmac.compare_digest(
                signature.encode("utf-8", "replace"),
                (_VERSION + _digest(envelope, queue, key)).encode("ascii"),
            ):
                return
    except SecurityError:
        raise
    except Exception as error:  # noqa: BLE001  (anything may be inside)
        raise SecurityError(f"its signature cannot be checked: {error}") from None
    raise SecurityError(
        "its signature is not good: it was altered, sent to another queue, or signed with another "
        "key than security_hmac_key"
    )


def _digest(envelope: dict[str, Any], queue: str, key: bytes) -> str:
    properties = envelope.get("properties") or {}
    # Written anew from the values, with the keys in order: a broker or a Celery worker may have
    # decoded and encoded the message since.
    text = json.dumps(
        [
            queue,
            envelope.get("content-type"),
            envelope.get("content-encoding"),
            properties.get("correlation_id"),
            properties.get("reply_to"),
            {
                name: value
                for name, value in envelope["headers"].items()
                if name not in {SIGNATURE, "redelivered"} and not name.startswith("x-")
            },
        ],
        sort_keys=True,
        separators=(",", ":"),
    )
    body = raw_body(envelope["body"], properties.get("body_encoding"))
    return hmac.new(key, text.encode("ascii") + b"\0" + body, hashlib.sha256).hexdigest()
