"""Redis: whatever the way to connect, whoever sleeps is woken, and large news arrive whole."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.servers import RedisServer, free_port
from umbel.engines.broker import StoredResult
from umbel.engines.redis import RedisEngine
from umbel.engines.urls import mask
from umbel.exceptions import OperationalError
from umbel.testing.contracts.values import fires, message, record, result

pytestmark = pytest.mark.timeout(60)


def certify(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(here, critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "server.crt", folder / "server.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


class Reach:
    """One server that can be reached in several ways."""

    def __init__(self, folder: Path) -> None:
        self.certificate, key = certify(folder)
        self.path = folder / "s"
        self.tls_port = free_port()
        self.server = RedisServer(
            folder, "--requirepass", "pa/ss@1", "--unixsocket", str(self.path), "--tls-port",
            str(self.tls_port), "--tls-cert-file", str(self.certificate), "--tls-key-file",
            str(key), "--tls-ca-cert-file", str(self.certificate), "--tls-auth-clients", "no",
        ).start()  # fmt: skip
        with redis.Redis(port=self.server.port, password="pa/ss@1") as admin:
            admin.execute_command("ACL", "SETUSER", "ann", "on", ">se:cret", "~*", "&*", "+@all")

    def url(self, way: str) -> str:
        word = quote("pa/ss@1", safe="")
        tls = f"rediss://:{word}@127.0.0.1:{self.tls_port}/3"
        return {
            "password": f"redis://:{word}@127.0.0.1:{self.server.port}/3",
            "user": f"redis://ann:{quote('se:cret')}@localhost:{self.server.port}/3?client_name=ann",
            "database": f"redis://:{word}@127.0.0.1:{self.server.port}?db=3",
            "socket": f"redis+socket://:{word}@{self.path}?virtual_host=3",
            "tls": f"{tls}?ssl_ca_certs={self.certificate}",
            "unchecked": f"{tls}?ssl_cert_reqs=none",
            "untrusted": tls,
        }[way]


@pytest.fixture(scope="module")
def reach(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reach]:
    reach = Reach(tmp_path_factory.mktemp("r"))
    yield reach
    reach.server.kill()


def open_engine(url: str) -> RedisEngine:
    return RedisEngine(url, mask(url))


@pytest.mark.parametrize("way", ["password", "user", "database", "socket", "tls", "unchecked"])
def test_each_way_to_connect_leads_to_the_same_database(reach: Reach, way: str) -> None:
    engine = open_engine(reach.url(way))
    worker = engine.state.register(record(node=way))
    work, results = engine.broker.listen(["q"]), engine.results.listen()
    results.drain()
    assert engine.results.get([way], results) == {}
    engine.broker.claim(worker, ["q"], 2, work)
    engine.broker.publish([message(way)])
    assert fires(work)
    assert len(engine.broker.claim(worker, ["q"], 2, work).deliveries) == 1
    large = result(way, meta=b"7" * 300_000)  # many records of TLS
    engine.results.put([large])
    found: dict[str, StoredResult] = {}
    while not found:  # it comes in parts
        assert fires(results)
        results.drain()
        found = engine.results.get([way], results)
    assert found == {way: large}
    assert engine.state.unregister(worker) is False  # it holds one
    for waker in (work, results):
        waker.close()
    engine.close()
    with redis.Redis(port=reach.server.port, password="pa/ss@1", db=3) as admin:
        assert admin.hget("umbel:node", way) is not None


def test_a_certificate_that_nobody_vouches_for_is_refused(reach: Reach) -> None:
    engine = open_engine(reach.url("untrusted"))
    with pytest.raises(OperationalError, match="certificate verify failed"):
        engine.broker.publish([message("a")], timeout=2)
    engine.close()
