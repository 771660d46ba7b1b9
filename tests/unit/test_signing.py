"""Messages signed with a shared key: whatever is altered does not run."""

import json
from typing import Any

import pytest

from umbel import App, Task
from umbel.app.publish import build_message
from umbel.app.settings import Settings
from umbel.engines.broker import Message
from umbel.exceptions import ImproperlyConfigured, SecurityError
from umbel.message import task as task_message
from umbel.message.signing import read_keys, sign, verify
from umbel.testing import Harness

KEY = "k" * 32
OTHER = b"o" * 40


def signed(**options: Any) -> Message:
    settings = Settings()
    settings.security_hmac_key = KEY
    return build_message(settings, "t.add", (2, 3), {"k": "ü", "f": 1.0}, **options)


def refused(payload: bytes, queue: str = "celery", keys: Any = KEY) -> bool:
    try:
        verify(payload, queue, read_keys(keys))
    except SecurityError:
        return True
    return False


def test_a_signed_message_is_good_for_its_queue_only() -> None:
    message = signed(queue="q", expires=60, time_limit=3)
    assert not refused(message.payload, "q")
    assert refused(message.payload, "celery")
    assert refused(message.payload, "q", OTHER)
    assert not refused(message.payload, "q", [OTHER, KEY])
    assert task_message.decode(message.payload).args == [2, 3]


def test_every_field_that_decides_what_runs_is_covered() -> None:
    envelope = json.loads(signed(expires=60, compression="zlib").payload)
    for name in list(envelope["headers"]):
        for value in (None, "other", 7, {"a": 1}):
            if envelope["headers"][name] == value:
                continue
            changed = {**envelope, "headers": {**envelope["headers"], name: value}}
            assert refused(json.dumps(changed).encode()), (name, value)
        rest = {key: value for key, value in envelope["headers"].items() if key != name}
        assert refused(json.dumps({**envelope, "headers": rest}).encode()), name
    added = {**envelope["headers"], "new": 1}
    assert refused(json.dumps({**envelope, "headers": added}).encode())
    for key in ("body", "content-type", "content-encoding"):
        assert refused(json.dumps({**envelope, key: "AAAA"}).encode()), key
    for key in ("correlation_id", "reply_to"):
        changed = {**envelope, "properties": {**envelope["properties"], key: "x"}}
        assert refused(json.dumps(changed).encode()), key


def test_what_brokers_change_on_the_way_is_not_covered() -> None:
    """Kombu's Redis transport decodes a message it restores, marks it and writes it anew."""
    envelope = json.loads(signed().payload)
    envelope["headers"] |= {"redelivered": True, "x-death": [{"count": 1}]}
    envelope["properties"]["delivery_info"]["redelivered"] = True
    envelope["properties"]["delivery_tag"] = "another"
    envelope["headers"] = dict(reversed(envelope["headers"].items()))
    assert not refused(json.dumps(envelope, indent=1).encode())


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", b'{"headers":null}', b'{"headers":{"umbel-signature":"1:x"}}']
)
def test_what_cannot_be_checked_is_refused(payload: bytes) -> None:
    assert refused(payload)


def test_a_short_key_is_no_key() -> None:
    for keys in ("short", [KEY, "short"], []):
        with pytest.raises(ImproperlyConfigured, match="at least 32 bytes"):
            read_keys(keys)


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
    foreign = sign(unsigned, "celery", OTHER)
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
