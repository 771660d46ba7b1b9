"""The serializer `auth`: values signed with a certificate's key, as Celery 5.5 to 5.7 sign them.

    base64( base64(signer) SEP base64(signature) SEP content type SEP encoding SEP body )

The signature covers the body only, not the message's headers.
"""

from __future__ import annotations

import binascii
import importlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from umbel.exceptions import ImproperlyConfigured, SecurityError
from umbel.message import content

NAME: Final = "auth"
CONTENT_TYPE: Final = "application/data"
SEPARATOR: Final = b"\x00\x01"


def library(name: str) -> Any:
    """A module of cryptography; `ImproperlyConfigured` says what to install."""
    try:
        return importlib.import_module(f"cryptography.{name}")
    except ImportError as error:
        raise ImproperlyConfigured(
            'Keys and certificates need a library: pip install "umbel[auth]"'
        ) from error


class Certificate:
    """An X.509 certificate with an RSA or elliptic curve key. `SecurityError` for any other."""

    def __init__(self, pem: bytes) -> None:
        x509 = library("x509")
        try:
            self._certificate = x509.load_pem_x509_certificate(pem)
            self.key: Any = self._certificate.public_key()
        except ValueError as error:
            raise SecurityError(f"Invalid certificate: {error}") from error
        _check_kind(self.key, "PublicKey", "certificates")
        issuer = " ".join(str(attribute.value) for attribute in self._certificate.issuer)
        self.id: str = f"{issuer} {self._certificate.serial_number}"
        """What tells certificates apart: the issuer and the serial number."""

    def check_time(self) -> None:
        """`SecurityError` outside of the time for which it was issued."""
        now = datetime.now(UTC)
        if now >= self._certificate.not_valid_after_utc:
            raise SecurityError(f"Expired certificate: {self.id!r}")
        if now < self._certificate.not_valid_before_utc:
            raise SecurityError(f"Certificate that is not valid yet: {self.id!r}")


class Auth:
    """Signs and verifies for one process.

    `key` and `certificate` are PEM texts of the process's own, `trusted` those of everybody whose
    messages are read. `serializer` writes what is signed; `allowed` may be in what is read.
    """

    def __init__(
        self,
        key: bytes,
        password: bytes | None,
        certificate: bytes,
        trusted: Iterable[bytes],
        digest: str = "sha256",
        serializer: str = "json",
        allowed: Iterable[str] = (),
    ) -> None:
        hashes = library("hazmat.primitives.hashes")
        kind = getattr(hashes, digest.upper(), None)
        if not isinstance(kind, type) or not issubclass(kind, hashes.HashAlgorithm):
            raise ImproperlyConfigured(f"security_digest: there is no digest {digest!r}")
        self._digest = kind()
        self._key = load_key(key, password)
        _check_kind(self._key, "PrivateKey", "keys")
        self._own = Certificate(certificate)
        self._serializer = serializer
        self._accept = content.content_types({"json", serializer, *allowed})
        self._trusted: dict[str, Certificate] = {}
        for pem in trusted:
            one = Certificate(pem)
            one.check_time()
            if one.id in self._trusted:
                raise SecurityError(f"Duplicate certificate: {one.id!r}")
            self._trusted[one.id] = one

    def serialize(self, value: object) -> bytes:
        """Write and sign a value. `EncodeError` if it cannot be written."""
        body, content_type, encoding = content.encode(value, self._serializer)
        signature = self._key.sign(body, *self._scheme(self._key))
        fields = (
            binascii.b2a_base64(self._own.id.encode("utf-8"), newline=False),
            binascii.b2a_base64(signature, newline=False),
            content_type.encode("ascii"),
            encoding.encode("ascii"),
            body,
        )
        return binascii.b2a_base64(SEPARATOR.join(fields), newline=False)

    def deserialize(self, data: bytes) -> Any:
        """Verify and read. `SecurityError` before anything is decoded if it is not as signed."""
        exceptions = library("exceptions")
        try:
            fields = binascii.a2b_base64(data).split(SEPARATOR, maxsplit=4)
            signer, signature = (binascii.a2b_base64(field) for field in fields[:2])
            content_type, _, body = fields[2:]
            name = signer.decode("utf-8")
        except ValueError as error:
            raise SecurityError(f"Not a signed content: {error}") from None
        certificate = self._trusted.get(name)
        if certificate is None:
            raise SecurityError(f"Unknown certificate: {name[:200]!r}")
        certificate.check_time()
        try:
            certificate.key.verify(signature, body, *self._scheme(certificate.key))
        except exceptions.InvalidSignature:
            raise SecurityError(f"Bad signature of {name!r}") from None
        return content.decode(body, content_type.decode("ascii", "replace"), self._accept)

    def _scheme(self, key: Any) -> tuple[Any, ...]:
        """How a key of that kind signs: RSA-PSS as Celery does, or ECDSA."""
        asymmetric = "hazmat.primitives.asymmetric"
        if hasattr(key, "curve"):
            return (library(f"{asymmetric}.ec").ECDSA(self._digest),)
        padding = library(f"{asymmetric}.padding")
        mask = padding.MGF1(self._digest)
        return padding.PSS(mgf=mask, salt_length=padding.PSS.MAX_LENGTH), self._digest


def register(auth: Auth) -> None:
    """Make `auth` the serializer of that name in this process."""
    content.register(NAME, auth.serialize, auth.deserialize, CONTENT_TYPE, "utf-8")


def load_key(pem: bytes, password: bytes | None) -> Any:
    """A private key of any kind, from PEM. `SecurityError` if it is none."""
    serialization = library("hazmat.primitives.serialization")
    try:
        return serialization.load_pem_private_key(pem, password=password)
    except (ValueError, TypeError) as error:
        raise SecurityError(f"Invalid private key: {error}") from error


def _check_kind(key: Any, suffix: str, what: str) -> None:
    rsa, ec = (library(f"hazmat.primitives.asymmetric.{name}") for name in ("rsa", "ec"))
    kinds = (getattr(rsa, f"RSA{suffix}"), getattr(ec, f"EllipticCurve{suffix}"))
    if not isinstance(key, kinds):
        raise SecurityError(f"Only RSA and elliptic curve {what} can sign messages.")
