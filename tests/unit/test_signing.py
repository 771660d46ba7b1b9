"""Messages signed with a shared key, or with key pairs: whatever is altered does not run."""

import asyncio
import importlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from umbel import App, Task
from umbel.app.sending.publish import build_message
from umbel.app.settings.table import Settings
from umbel.engines.broker import Message
from umbel.exceptions import ImproperlyConfigured, SecurityError
from umbel.message import task as task_message
from umbel.message.signing import KeyPair, SharedKey, Signer, sign, verify
from umbel.testing import Harness
from umbel.worker.gate import Gate
from umbel.worker.settle import Settler

ed25519: Any = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
rsa: Any = importlib.import_module("cryptography.hazmat.primitives.asymmetric.rsa")
pem: Any = importlib.import_module("cryptography.hazmat.primitives.serialization")

KEY = "k" * 32
OTHER = b"o" * 40
PASSWORD = b"only for tests"


def public_pem(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(
        pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo
    )
    return data


def private_pem(key: Any, password: bytes | None = None) -> bytes:
    encryption = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
    data: bytes = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, encryption)
    return data


PRODUCER, WORKER, STRANGER = (ed25519.Ed25519PrivateKey.generate() for _ in range(3))
SIGNERS: dict[str, tuple[Signer, Signer]] = {
    "shared key": (SharedKey(KEY), SharedKey(KEY)),
    "key pair": (
        KeyPair(private_pem(PRODUCER)),
        KeyPair(private_pem(WORKER, PASSWORD), PASSWORD, [public_pem(PRODUCER)]),
    ),
}
"""What signs, and what verifies."""

each_way = pytest.mark.parametrize("way", SIGNERS)


def signed(way: str = "shared key", **options: Any) -> Message:
    message = build_message(Settings(), "t.add", (2, 3), {"k": "ü", "f": 1.0}, **options)
    payload = sign(message.payload, message.queue, SIGNERS[way][0])
    return msgspec.structs.replace(message, payload=payload)


def refused(payload: bytes, signer: Signer, queue: str = "celery") -> bool:
    try:
        verify(payload, queue, signer)
    except SecurityError:
        return True
    return False


@each_way
def test_a_signed_message_is_good_for_its_queue_only(way: str) -> None:
    message, signer = signed(way, queue="q", expires=60, time_limit=3), SIGNERS[way][1]
    assert not refused(message.payload, signer, "q")
    assert refused(message.payload, signer, "celery")
    assert task_message.decode(message.payload).args == [2, 3]


def test_each_of_several_shared_keys_is_accepted() -> None:
    message = signed()
    assert refused(message.payload, SharedKey(OTHER))
    assert not refused(message.payload, SharedKey([OTHER, KEY]))
    assert refused(message.payload, SIGNERS["key pair"][1])


def test_who_is_trusted_is_who_holds_a_named_key() -> None:
    message = signed("key pair")
    own, both = (
        KeyPair(private_pem(WORKER), trusted=trusted)
        for trusted in ([], [public_pem(STRANGER), public_pem(PRODUCER)])
    )
    assert refused(message.payload, own)
    with pytest.raises(SecurityError, match="is not good"):
        verify(message.payload.replace(b"t.add", b"t.rob"), "celery", both)
    assert not refused(message.payload, both)
    assert not refused(sign(message.payload, "celery", own), both)  # a retry of its own
    assert refused(message.payload, SIGNERS["shared key"][1])
    envelope = json.loads(message.payload)
    _, name, text = envelope["headers"][task_message.SIGNATURE].split(":")
    for forged in (
        f"1:{name}:{text}", f"2:{'f' * 16}:{text}", f"2:{name}:", f"2:{name}", "2", "",
        f"2:{name}:{text[:-4]}", f"2:{name}:{text[:-4]}AAA=", f"2:{name}:ü",
    ):  # fmt: skip
        envelope["headers"][task_message.SIGNATURE] = forged
        assert refused(json.dumps(envelope).encode(), both), forged


def test_a_key_of_another_kind_is_refused() -> None:
    of_rsa = rsa.generate_private_key(65537, 2048)
    with pytest.raises(SecurityError, match="security_ed25519_key is a private key of another"):
        KeyPair(private_pem(of_rsa))
    with pytest.raises(SecurityError, match="Invalid private key"):
        KeyPair(private_pem(WORKER, PASSWORD), b"wrong")
    with pytest.raises(SecurityError, match="security_ed25519_trusted has a public key of another"):
        KeyPair(private_pem(WORKER), trusted=[public_pem(of_rsa)])
    with pytest.raises(SecurityError, match="security_ed25519_trusted has no public key"):
        KeyPair(private_pem(WORKER), trusted=[private_pem(PRODUCER)])


@each_way
def test_every_field_that_decides_what_runs_is_covered(way: str) -> None:
    signer = SIGNERS[way][1]
    envelope = json.loads(signed(way, expires=60, compression="zlib").payload)
    for name in list(envelope["headers"]):
        for value in (None, "other", 7, {"a": 1}):
            if envelope["headers"][name] == value:
                continue
            changed = {**envelope, "headers": {**envelope["headers"], name: value}}
            assert refused(json.dumps(changed).encode(), signer), (name, value)
        rest = {key: value for key, value in envelope["headers"].items() if key != name}
        assert refused(json.dumps({**envelope, "headers": rest}).encode(), signer), name
    for new in ("new", "x-tenant", "x-death-of-mine"):
        added = {**envelope["headers"], new: 1}
        assert refused(json.dumps({**envelope, "headers": added}).encode(), signer), new
    for key in ("body", "content-type", "content-encoding"):
        assert refused(json.dumps({**envelope, key: "AAAA"}).encode(), signer), key
    for key in ("correlation_id", "reply_to"):
        changed = {**envelope, "properties": {**envelope["properties"], key: "x"}}
        assert refused(json.dumps(changed).encode(), signer), key


@each_way
def test_what_brokers_change_on_the_way_is_not_covered(way: str) -> None:
    """Kombu's Redis transport decodes a message it restores, marks it and writes it anew."""
    envelope = json.loads(signed(way).payload)
    envelope["headers"] |= {"redelivered": True, "x-death": [{"count": 1}], "x-delivery-count": 2}
    envelope["properties"]["delivery_info"]["redelivered"] = True
    envelope["properties"]["delivery_tag"] = "another"
    envelope["headers"] = dict(reversed(envelope["headers"].items()))
    assert not refused(json.dumps(envelope, indent=1).encode(), SIGNERS[way][1])


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", b'{"headers":null}', b'{"headers":{"umbel-signature":"1:x"}}']
)
def test_what_cannot_be_checked_is_refused(payload: bytes) -> None:
    for _, signer in SIGNERS.values():
        assert refused(payload, signer)


def test_a_short_key_is_no_key() -> None:
    for keys in ("short", [KEY, "short"], []):
        with pytest.raises(ImproperlyConfigured, match="at least 32 bytes"):
            SharedKey(keys)


# -------------------------------------------------------------------------------- in a worker


def make_app(ran: list[int], **settings: Any) -> App:
    app = App("shop", **settings)

    @app.task(name="shop.note", bind=True, max_retries=5, default_retry_delay=1)
    def note(self: Task[..., Any], x: int) -> int:
        ran.append(x)
        if x > 0:
            raise self.retry(args=(x - 1,))
        return x

    return app


def test_signed_tasks_run_and_their_retries_are_signed_again(umbel: Harness) -> None:
    ran: list[int] = []
    app = make_app(ran, security_hmac_key=[KEY, OTHER])
    result = app.tasks["shop.note"].delay(2)
    for _ in range(3):
        umbel.run()
        umbel.advance(seconds=2)
    assert ran == [2, 1, 0]
    assert result.get(timeout=1) == 0


def test_what_is_not_signed_as_it_should_be_never_runs(umbel: Harness) -> None:
    ran: list[int] = []
    app = make_app(ran, security_hmac_key=KEY)
    broker = app.engine.broker
    good = build_message(app.conf, "shop.note", (0,), {})
    envelope = json.loads(good.payload)
    envelope["headers"]["time_limit"] = 1
    altered = json.dumps(envelope).encode()
    unsigned = build_message(Settings(), "shop.note", (0,), {}).payload
    foreign = sign(unsigned, "celery", SharedKey(OTHER))
    protocol_1 = json.dumps({
        "body": json.dumps({"task": "shop.note", "id": "i", "args": [0], "kwargs": {}}),
        "content-type": "application/json", "headers": {}, "properties": {},
    }).encode()  # fmt: skip
    bad = [altered, unsigned, foreign, protocol_1]
    broker.publish([Message(f"i{n}:a", f"i{n}", "celery", data) for n, data in enumerate(bad)])
    broker.publish([Message("j:b", "j", "other", good.payload)])
    umbel.run(propagate=False)
    assert ran == []
    assert [letter.reason for letter in umbel.dead] == ["untrusted"] * 5
    assert app.AsyncResult(good.id).state == "PENDING"
    broker.publish([good])
    umbel.run()
    assert ran == [0]


def test_a_worker_without_the_key_drops_the_old_signature_of_a_retry(umbel: Harness) -> None:
    ran: list[int] = []
    app = make_app(ran)
    message = signed()
    again = task_message.encode_retry(message.payload, tag="x:1", retries=1, due=None)
    assert task_message.SIGNATURE not in json.loads(again)["headers"]
    app.engine.broker.publish([message])  # what it cannot check it runs
    umbel.run(propagate=False)
    assert [letter.reason for letter in umbel.dead] == []


# ------------------------------------------------------------------- keys of each one's own


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """Paths by name: `producer` a private key, `producer.pub` its public half."""
    for name, key in (("producer", PRODUCER), ("worker", WORKER), ("stranger", STRANGER)):
        (tmp_path / name).write_bytes(private_pem(key, PASSWORD if name == "worker" else None))
        (tmp_path / f"{name}.pub").write_bytes(public_pem(key))
    return {path.name: str(path) for path in tmp_path.iterdir()}


def test_producers_and_workers_hold_different_keys(umbel: Harness, keys: dict[str, str]) -> None:
    ran: list[int] = []
    worker = make_app(
        ran,
        security_ed25519_key=keys["worker"],
        security_key_password=PASSWORD.decode(),
        security_ed25519_trusted=[keys["producer.pub"]],
    )
    sent = []
    for holder, x in (("producer", 2), ("stranger", 9), ("", 9)):
        settings = Settings()
        if holder:
            settings.security_ed25519_key = keys[holder]
        sent.append(build_message(settings, "shop.note", (x,), {}))
    worker.engine.broker.publish(sent)
    for _ in range(3):  # the retries are the worker's own
        umbel.run(propagate=False)
        umbel.advance(seconds=2)
    assert ran == [2, 1, 0]
    assert worker.AsyncResult(sent[0].id).get(timeout=1) == 0
    assert [letter.reason for letter in umbel.dead] == ["untrusted"] * 2
    assert ["is not signed" in letter.detail for letter in umbel.dead] == [True, False]


def test_every_way_of_sending_signs(umbel: Harness, keys: dict[str, str]) -> None:
    app = App("producer", security_ed25519_key=keys["producer"])
    add = app.task(name="t.add")(lambda x: x)
    add.delay(1)
    add.apply_async((2,), headers={"trace": "x"}, queue="other")
    asyncio.run(_send_from_coroutine(add))
    signer = KeyPair(private_pem(WORKER), trusted=[public_pem(PRODUCER)])
    waiting = app.engine.broker.browse()
    assert len(waiting) == 3
    for one in waiting:
        verify(one.payload, one.queue, signer)


async def _send_from_coroutine(add: Task[..., Any]) -> None:
    await add.adelay(3)


def test_settings_that_do_not_go_together(umbel: Harness, keys: dict[str, str]) -> None:
    for settings, words in (
        ({"security_ed25519_trusted": [keys["producer.pub"]]}, "security_ed25519_key is needed"),
        ({"security_ed25519_key": keys["producer"], "security_hmac_key": KEY}, "set one of them"),
        ({"security_ed25519_key": "/nowhere"}, "security_ed25519_key: /nowhere cannot be read"),
    ):
        app = App("x", changes=settings)
        with pytest.raises(ImproperlyConfigured, match=words):
            app.send_task("anything")
        with pytest.raises(ImproperlyConfigured, match=words):
            Gate(app, Settler(app, "w1@here"), None, None)
    assert umbel.queued == []
