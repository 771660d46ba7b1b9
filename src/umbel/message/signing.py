"""Messages that are signed whole, for one queue: with a shared key, or with keys of each's own.

The signature is a header. It covers every other header (so the task's name, id, expiry, limits),
the body as it travels, how to decode it, whom to answer, and the queue it was sent to. It does not
cover what brokers change on the way: the delivery tag, the mark of a redelivery, the count of
deliveries, `x-death`. Other headers that begin with `x-` are the user's own, and covered.

    1:<hexadecimal>          HMAC-SHA256
    2:<key>:<base64>         Ed25519; the key is the start of its public half's SHA-256
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec

from umbel.exceptions import ImproperlyConfigured, SecurityError
from umbel.message.auth import library, load_key
from umbel.message.task import DEATH_NOTES, SIGNATURE, raw_body

Keys = str | bytes | Sequence[str | bytes]
"""One key or several: the first one signs, each is accepted."""
MIN_KEY: Final = 32
"""Bytes of a shared key."""
UNSIGNED: Final = DEATH_NOTES | {SIGNATURE, "redelivered", "x-delivery-count", "x-acquired-count"}
"""Headers that a signature leaves open: itself, and what brokers write into a message."""


class Signer(Protocol):
    """Signs bytes, and tells whether a signature of somebody's is good."""

    def sign(self, data: bytes) -> str:
        """The text of the header."""
        ...

    def is_good(self, signature: str, data: bytes) -> bool:
        """Whether one of those who are trusted has signed these bytes so."""
        ...


class SharedKey:
    """A secret that all producers and workers know (HMAC-SHA256).

    `ImproperlyConfigured` for a key that is too short to be one.
    """

    def __init__(self, keys: Keys) -> None:
        several = (keys,) if isinstance(keys, (str, bytes)) else keys
        self._keys = tuple(key.encode("utf-8") if isinstance(key, str) else key for key in several)
        if not self._keys or min(map(len, self._keys)) < MIN_KEY:
            raise ImproperlyConfigured(
                f"security_hmac_key must have at least {MIN_KEY} bytes. Make one, and give the "
                "same to producers and workers: "
                "python -c 'import secrets; print(secrets.token_hex(32))'"
            )

    def sign(self, data: bytes) -> str:
        """The text of the header, by the first key."""
        return _digest(self._keys[0], data)

    def is_good(self, signature: str, data: bytes) -> bool:
        """Whether it was signed with one of the keys."""
        given = signature.encode("utf-8", "replace")
        return any(
            hmac.compare_digest(given, _digest(key, data).encode("ascii")) for key in self._keys
        )


class KeyPair:
    """A private key of one's own, and the public keys of those who are trusted (Ed25519).

    `key` and each of `trusted` are PEM texts. Its own messages are good too: a worker signs the
    retries of what it runs. `SecurityError` for what is no such key.
    """

    def __init__(
        self, key: bytes, password: bytes | None = None, trusted: Iterable[bytes] = ()
    ) -> None:
        kinds = library("hazmat.primitives.asymmetric.ed25519")
        self._key = load_key(key, password)
        if not isinstance(self._key, kinds.Ed25519PrivateKey):
            raise SecurityError("security_ed25519_key is a private key of another kind.")
        own = self._key.public_key()
        self._own = _name_of(own)
        self._trusted: dict[str, Any] = {self._own: own}
        for pem in trusted:
            public = _load_public(pem)
            if not isinstance(public, kinds.Ed25519PublicKey):
                raise SecurityError("security_ed25519_trusted has a public key of another kind.")
            self._trusted[_name_of(public)] = public

    def sign(self, data: bytes) -> str:
        """The text of the header, by the private key."""
        signature = binascii.b2a_base64(self._key.sign(_ED25519 + data), newline=False)
        return f"2:{self._own}:{signature.decode('ascii')}"

    def is_good(self, signature: str, data: bytes) -> bool:
        """Whether it was signed with the private half of a trusted key."""
        version, _, rest = signature.partition(":")
        name, _, text = rest.partition(":")
        public = self._trusted.get(name)
        if version != "2" or public is None:
            return False
        try:
            public.verify(binascii.a2b_base64(text), _ED25519 + data)
        except (ValueError, library("exceptions").InvalidSignature):
            return False
        return True


_ED25519: Final = b"umbel message\0"
"""In front of what is signed, so that no signature of this key made elsewhere fits."""


def _name_of(public: Any) -> str:
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def _load_public(pem: bytes) -> Any:
    try:
        return library("hazmat.primitives.serialization").load_pem_public_key(pem)
    except ValueError as error:
        raise SecurityError(f"security_ed25519_trusted has no public key: {error}") from error


def sign(payload: bytes, queue: str, signer: Signer) -> bytes:
    """The message with its signature for a queue; one that it had is replaced."""
    envelope = msgspec.json.decode(payload)
    envelope["headers"][SIGNATURE] = signer.sign(_what_is_signed(envelope, queue))
    return msgspec.json.encode(envelope)


def verify(payload: bytes | memoryview, queue: str, signer: Signer) -> None:
    """`SecurityError` unless somebody who is trusted signed the message, and for this queue."""
    try:
        envelope: Any = msgspec.json.decode(payload)
        signature = (envelope["headers"] or {}).get(SIGNATURE)
        if not isinstance(signature, str):
            raise SecurityError("it is not signed, and this app runs only what is")
        good = signer.is_good(signature, _what_is_signed(envelope, queue))
    except SecurityError:
        raise
    except Exception as error:  # noqa: BLE001  (anything may be inside)
        raise SecurityError(f"its signature cannot be checked: {error}") from None
    if not good:
        raise SecurityError(
            "its signature is not good: it was altered, sent to another queue, or signed with a "
            "key that is not among this app's"
        )


def _what_is_signed(envelope: dict[str, Any], queue: str) -> bytes:
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
            {name: value for name, value in envelope["headers"].items() if name not in UNSIGNED},
        ],
        sort_keys=True,
        separators=(",", ":"),
    )
    return (
        text.encode("ascii") + b"\0" + raw_body(envelope["body"], properties.get("body_encoding"))
    )


def _digest(key: bytes, data: bytes) -> str:
    return "1:" + hmac.new(key, data, hashlib.sha256).hexdigest()
