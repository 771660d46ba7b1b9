"""Certificates, and engines with a prefix of their own."""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.servers import RedisServer
from umbel.engines.redis import RedisEngine
from umbel.engines.urls import mask

Opener = Callable[..., RedisEngine]


@pytest.fixture
def opener() -> Iterator[Opener]:
    """`opener(url, **options)`: an engine, closed after the test."""
    prefix = f"{secrets.token_hex(4)}:"
    made: list[RedisEngine] = []

    def open_engine(url: str, **options: Any) -> RedisEngine:
        own = {"global_keyprefix": prefix, "result_keyprefix": prefix}
        made.append(RedisEngine(url, mask(url), own | options))
        return made[-1]

    yield open_engine
    for engine in made:
        engine.close()


class Pair(NamedTuple):
    """A key and its own certificate, for 127.0.0.1."""

    certificate: str
    key: str


def make_pair(folder: Path, name: str) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    pair = Pair(str(folder / f"{name}.crt"), str(folder / f"{name}.key"))
    pem = serialization.Encoding.PEM
    Path(pair.certificate).write_bytes(certificate.public_bytes(pem))
    Path(pair.key).write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pair


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("tls"), "own")


@pytest.fixture(scope="session")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("tls"), "strange")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that no test stops."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendfsync", "no").start()
    yield server
    server.kill()
