"""The serializer auth beside the real Celery's: each reads what the other has signed."""

import base64
import binascii
import contextlib
import importlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from umbel import App
from umbel.exceptions import ContentDisallowed, ImproperlyConfigured, SecurityError
from umbel.message import auth, content
from umbel.message import task as task_message
from umbel.testing import Harness

celery_security: Any = importlib.import_module("celery.security.serialization")
celery_certificate: Any = importlib.import_module("celery.security.certificate")
celery_key: Any = importlib.import_module("celery.security.key")
celery_exceptions: Any = importlib.import_module("celery.exceptions")
kombu_exceptions: Any = importlib.import_module("kombu.exceptions")
kombu: Any = importlib.import_module("kombu")
kombu_serialization: Any = importlib.import_module("kombu.serialization")
x509: Any = importlib.import_module("cryptography.x509")
ec: Any = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ec")
rsa: Any = importlib.import_module("cryptography.hazmat.primitives.asymmetric.rsa")
hashes: Any = importlib.import_module("cryptography.hazmat.primitives.hashes")
pem: Any = importlib.import_module("cryptography.hazmat.primitives.serialization")

PASSWORD = b"only for tests"


class Identity:
    """A key with its certificate, as PEM."""

    def __init__(
        self, name: str, key: Any, *, days: int = 30, password: bytes | None = None
    ) -> None:
        subject = x509.Name([
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, name),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "wire"),
        ])  # fmt: skip
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + timedelta(days=days))
            .sign(key, hashes.SHA256())
        )
        self.certificate: bytes = certificate.public_bytes(pem.Encoding.PEM)
        encryption = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
        self.key: bytes = key.private_bytes(
            pem.Encoding.PEM, pem.PrivateFormat.PKCS8, encryption
        )  # fmt: skip


def make_rsa(name: str, **options: Any) -> Identity:
    return Identity(name, rsa.generate_private_key(65537, 2048), **options)


@pytest.fixture(scope="module")
def acme() -> Identity:
    return make_rsa("Acme", password=PASSWORD)


@pytest.fixture(scope="module")
def stranger() -> Identity:
    return make_rsa("Stranger")


def ours(own: Identity, *trusted: Identity, **options: Any) -> auth.Auth:
    password = PASSWORD if b"ENCRYPTED" in own.key else None
    return auth.Auth(
        own.key, password, own.certificate, [one.certificate for one in trusted], **options
    )


def theirs(own: Identity, *trusted: Identity, digest: str = "sha256") -> Any:
    store = celery_certificate.CertStore()
    for one in trusted:
        store.add_cert(celery_certificate.Certificate(one.certificate))
    password = PASSWORD if b"ENCRYPTED" in own.key else None
    return celery_security.SecureSerializer(
        celery_key.PrivateKey(own.key, password),
        celery_certificate.Certificate(own.certificate),
        store,
        digest,
    )


VALUES: list[Any] = [
    [[2, 3], {"k": "ü"}, {"callbacks": None}],
    {"when": datetime(2030, 1, 1), "raw": b"\x00\x01\xff"},
    "\x00\x01" * 3,
    None,
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("digest", ["sha256", "sha512"])
def test_celery_reads_ours_and_we_read_celerys(acme: Identity, digest: str, value: Any) -> None:
    we, they = ours(acme, acme, digest=digest), theirs(acme, acme, digest=digest)
    assert they.deserialize(we.serialize(value)) == value
    assert we.deserialize(they.serialize(value).encode()) == value


def test_what_is_altered_or_of_a_stranger_is_refused(acme: Identity, stranger: Identity) -> None:
    we = ours(acme, acme)
    signed = we.serialize([1, 2])
    raw = base64.b64decode(signed)
    with pytest.raises(SecurityError, match="Bad signature"):
        we.deserialize(base64.b64encode(raw.replace(b"[1,2]", b"[1,3]")))
    with pytest.raises(SecurityError, match="Unknown certificate"):
        we.deserialize(theirs(stranger, stranger).serialize([1, 2]).encode())
    with pytest.raises(celery_exceptions.SecurityError):
        theirs(acme, acme).deserialize(ours(stranger, stranger).serialize([1, 2]))
    for garbage in (b"", b"!", b"AAAA", signed[:40]):
        with pytest.raises(SecurityError):
            we.deserialize(garbage)


def test_what_is_signed_may_not_hold_what_is_not_allowed(acme: Identity) -> None:
    pickled = ours(acme, acme, serializer="pickle").serialize([1])
    with pytest.raises(ContentDisallowed, match="pickle"):
        ours(acme, acme).deserialize(pickled)
    assert ours(acme, acme, allowed=["pickle"]).deserialize(pickled) == [1]


def test_certificates_end(acme: Identity) -> None:
    old = make_rsa("Old", days=-1)
    with pytest.raises(SecurityError, match="Expired"):
        ours(acme, old)
    we = ours(acme, acme)
    signed = ours(old, acme).serialize([1])
    certificate = auth.Certificate(old.certificate)
    we._trusted[certificate.id] = certificate  # it has ended since the store was read
    with pytest.raises(SecurityError, match="Expired"):
        we.deserialize(signed)
    with pytest.raises(SecurityError, match="Duplicate"):
        ours(acme, acme, acme)


def test_elliptic_curves(acme: Identity) -> None:
    curve = Identity("Curve", ec.generate_private_key(ec.SECP256R1()))
    we = ours(curve, curve, acme)
    assert we.deserialize(we.serialize([1, 2])) == [1, 2]
    with pytest.raises(SecurityError, match="Bad signature"):
        ours(acme, Identity("Curve", ec.generate_private_key(ec.SECP256R1())), curve).deserialize(
            binascii.b2a_base64(
                binascii.a2b_base64(we.serialize([1, 2])).replace(b"[1,2]", b"[2,1]")
            )
        )


def test_keys_of_other_kinds_are_refused() -> None:
    ed25519: Any = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
    key = ed25519.Ed25519PrivateKey.generate()
    text = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    for wrong in (text, b"no key"):
        with pytest.raises(SecurityError):
            auth.Auth(wrong, None, b"", [])
    with pytest.raises(SecurityError, match="Invalid certificate"):
        auth.Certificate(b"nothing")


# ------------------------------------------------------------------------------ the app's way


@pytest.fixture
def files(acme: Identity, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Paths, and both packages' tables as they were afterwards."""
    for name, data in (("key", acme.key), ("cert", acme.certificate)):
        (tmp_path / f"{name}.pem").write_bytes(data)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "acme.pem").write_bytes(acme.certificate)
    (tmp_path / "store" / "folder").mkdir()
    # Celery's set-up turns everything but "auth" off for the whole process.
    disabled = set(kombu_serialization.registry._disabled_content_types)
    yield {
        "security_key": str(tmp_path / "key.pem"),
        "security_certificate": str(tmp_path / "cert.pem"),
        "security_cert_store": str(tmp_path / "store"),
    }
    content._by_name.pop("auth", None)
    content._by_type.pop("application/data", None)
    with contextlib.suppress(kombu_exceptions.SerializerNotInstalled):
        kombu_serialization.unregister("auth")
    kombu_serialization.registry._set_default_serializer("json")
    kombu_serialization.registry._disabled_content_types.clear()
    kombu_serialization.registry._disabled_content_types.update(disabled)


def test_the_real_celery_and_we_exchange_signed_messages(
    files: dict[str, Any], umbel: Harness
) -> None:
    celery_app = importlib.import_module("celery").Celery(
        broker="memory://auth", set_as_current=False
    )
    celery_app.conf.update(
        **{name: f"{path}/*" if name.endswith("store") else path for name, path in files.items()},
        task_serializer="auth", accept_content=["auth"], security_key_password=PASSWORD,
    )  # fmt: skip
    (Path(files["security_cert_store"]) / "folder").rmdir()  # which Celery would open
    celery_app.setup_security()
    app = App("signed", task_serializer="auth", accept_content=["auth"], **files)
    app.setup_security(key_password=PASSWORD.decode())
    ran: list[int] = []

    @app.task(name="t.add")
    def add(x: int, y: int) -> int:
        ran.append(x + y)
        return x + y

    # Celery's message in our hands.
    written: list[dict[str, Any]] = []
    with celery_app.connection() as connection, connection.channel() as channel:
        channel._put = lambda _, message, **__: written.append(message)
        with kombu.Producer(channel) as producer:
            celery_app.send_task("t.add", (2, 3), producer=producer)
    assert written[0]["content-type"] == "application/data"
    payload = json.dumps(written[0]).encode()
    assert task_message.decode(payload, content.content_types(["auth"])).args == [2, 3]

    # Ours in Celery's, and in our own.
    result = add.delay(4, 5)
    [waiting] = app.engine.broker.browse(id=result.id)
    with kombu.Connection("memory://") as connection:
        message = connection.default_channel.message_to_python(json.loads(waiting.payload))
        message.accept = {"application/data"}
        assert message.decode() == [[4, 5], {}, task_message.NO_EMBED]
    umbel.run()
    assert ran == [9]


def test_an_unsigned_message_does_not_run(files: dict[str, Any], umbel: Harness) -> None:
    app = App("signed", task_serializer="auth", accept_content=["auth"], **files)
    app.setup_security(key_password=PASSWORD)
    ran: list[int] = []

    @app.task(name="t.note")
    def note(x: int) -> None:
        ran.append(x)

    result = note.apply_async((1,), serializer="json")
    umbel.run(propagate=False)
    assert ran == []
    assert [letter.reason for letter in umbel.dead] == ["disallowed"]
    with pytest.raises(ContentDisallowed):
        result.get(timeout=1)


def test_setup_says_what_is_missing(files: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match="task_serializer = 'auth'"):
        App("x").setup_security()
    app = App("x", task_serializer="auth", accept_content=["auth"])
    with pytest.raises(ImproperlyConfigured, match="security_cert_store"):
        app.setup_security(key=files["security_key"])
    app.conf.update(files)
    with pytest.raises(SecurityError, match="Invalid private key"):
        app.setup_security(key_password="wrong")
    with pytest.raises(ImproperlyConfigured, match="/nowhere cannot be read"):
        app.setup_security(key="/nowhere")
    with pytest.raises(ImproperlyConfigured, match="no digest 'sha-256'"):
        app.setup_security(key_password=PASSWORD, digest="sha-256")
    app.conf.security_digest = "md-7"
    with pytest.raises(ImproperlyConfigured, match="no digest 'md-7'"):
        app.setup_security(key_password=PASSWORD)
    app.conf.accept_content = ["auth", "json"]
    with pytest.raises(ImproperlyConfigured, match="no point"):
        app.setup_security(key_password=PASSWORD)
