"""The rare options of `apply_async`: what a message carries, and what is refused."""

import asyncio
import json
import re
import time
from typing import Any

import pytest

from umbel import App, AsyncResult, Queue, Task
from umbel.app.sending import batch, carried
from umbel.app.sending.options import RetryPolicy
from umbel.exceptions import EncodeError, OperationalError
from umbel.message import task as task_message
from umbel.result import many, single
from umbel.signals import after_task_publish, before_task_publish
from umbel.testing import Harness

app = App("sending", broker="memory://sending")
LINK = {"task": "sending.other", "args": [1], "options": {"queue": "q"}}
WHOLE = {**LINK, "kwargs": {}, "subtask_type": None, "immutable": False}


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


def sent(**options: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Headers, properties and body of what a call sends."""
    options.setdefault("args", (1,))
    result = add.apply_async(**options)
    broker = app.engine.broker
    (waiting,) = [m for m in broker.browse("celery") if result.id.encode() in m.payload]
    broker.purge(["celery"])
    envelope = json.loads(waiting.payload)
    message = task_message.decode(waiting.payload)
    return envelope["headers"], envelope["properties"], [message.args, message.embed]


def test_headers_that_are_no_mapping_are_named() -> None:
    with pytest.raises(TypeError, match=r"add: headers must be a mapping; got 3\. Nothing was"):
        add.apply_async((1, 2), headers=3)  # type: ignore[arg-type]


def test_options_become_headers() -> None:
    headers, *_ = sent(
        shadow="short", group_id="g", group_index=2, retries=1, root_id="r", parent_id="p",
        argsrepr="(…)", kwargsrepr="{…}", origin="me@here", replaced_task_nesting=1,
        headers={"tenant": "acme", "deep": {"a": [1]}},
        stamped_headers=["color"], color="red", stamps={"size": {"s", "m"}},
    )  # fmt: skip
    expected = {
        "shadow": "short", "group": "g", "group_index": 2, "retries": 1, "root_id": "r",
        "parent_id": "p", "argsrepr": "(…)", "kwargsrepr": "{…}", "origin": "me@here",
        "replaced_task_nesting": 1, "tenant": "acme", "deep": {"a": [1]},
        "stamped_headers": ["color", "size"], "stamps": {"color": "red", "size": ["m", "s"]},
    }  # fmt: skip
    assert {key: headers[key] for key in expected} == expected


def test_options_become_properties() -> None:
    _, properties, _ = sent(
        reply_to="mine", delivery_mode="transient", app_id="shop", MessageGroupId="7", priority=3,
        expires=-1,
    )  # fmt: skip
    assert properties["reply_to"] == "mine"
    assert properties["delivery_mode"] == 1
    assert properties["app_id"] == "shop"
    assert properties["MessageGroupId"] == "7"
    assert properties["priority"] == 3
    assert properties["expiration"] == "0"
    assert sent(headers={})[1]["delivery_mode"] == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("reply_to", "mine"), ("app_id", "shop"), ("user_id", "ann"), ("message_id", "m1"),
        ("type", "t"), ("cluster_id", "c"), ("timestamp", 1.5), ("MessageGroupId", "7"),
        ("MessageDeduplicationId", "8"),
    ],
)  # fmt: skip
def test_each_property_travels_as_it_is(option: str, value: Any) -> None:
    assert sent(**{option: value})[1][option] == value
    without = sent(**{option: None})[1]
    assert without.get(option) == (without["reply_to"] if option == "reply_to" else None)


def test_a_header_that_is_none_is_as_if_it_were_not_given() -> None:
    headers, *_ = sent(
        task_id="t1", root_id=None, retries=None, argsrepr=None, kwargsrepr=None, origin=None,
        replaced_task_nesting=None, shadow=None,
    )  # fmt: skip
    assert (headers["id"], headers["root_id"], headers["retries"]) == ("t1", "t1", 0)
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("(1,)", "{}")
    assert headers["origin"].startswith("gen")
    assert (headers["replaced_task_nesting"], headers["shadow"]) == (0, None)


def test_a_rare_option_leaves_the_others_alone() -> None:
    """They go another way then (`umbel.app.sending.parcel`)."""
    before = time.time()
    add.apply_async(
        (1,), shadow="s", countdown=60, priority=7, expires=90, time_limit=9,
        compression="zlib", serializer="json",
    )  # fmt: skip
    (waiting,) = app.engine.broker.browse("celery")
    app.engine.broker.purge(["celery"])
    assert (waiting.priority, waiting.due is not None and waiting.due >= before + 60) == (7, True)
    envelope = json.loads(waiting.payload)
    message = task_message.decode(waiting.payload)
    assert envelope["headers"]["compression"] == "application/x-gzip"
    assert task_message.parse_time(envelope["headers"]["eta"]) == pytest.approx(waiting.due)
    assert envelope["headers"]["timelimit"] == [9, None]
    assert 80_000 < int(envelope["properties"]["expiration"]) <= 90_000
    assert envelope["properties"]["priority"] == 7
    assert message.args == [1]


def test_links_travel_as_signatures() -> None:
    *_, (_, embed) = sent(link=LINK, link_error=[LINK, LINK], chain=[LINK], chord=LINK)
    assert embed == {
        "callbacks": [WHOLE], "errbacks": [WHOLE, WHOLE], "chain": [WHOLE], "chord": WHOLE
    }  # fmt: skip
    assert sent(link=None, chord=None)[2][1] == task_message.NO_EMBED


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"countdwn": 3}, TypeError, "Did you mean 'countdown'"),
        ({"producer": object()}, TypeError, "no Kombu underneath"),
        ({"publisher": object()}, TypeError, "no Kombu underneath"),
        ({"connection": object()}, TypeError, "no Kombu underneath"),
        ({"stamped_headers": "color"}, TypeError, "must be a list of names"),
        ({"stamps": ["color"]}, TypeError, "and stamps a dict"),
        ({"link": "sending.other"}, TypeError, "link takes signatures"),
        ({"link_error": [{"args": []}]}, TypeError, "link_error takes signatures"),
        ({"delivery_mode": 3}, ValueError, "delivery_mode must be 1"),
        ({"retries": -1}, ValueError, "no worker could read"),
        ({"group_index": "2"}, ValueError, "no worker could read"),
        ({"headers": {"timelimit": 3}}, ValueError, "no worker could read"),
        ({"headers": {"id": "other"}}, ValueError, "id cannot be changed"),
        ({"stamped_headers": ["color"]}, TypeError, "names 'color'"),
        ({"headers": {"user": object()}}, EncodeError, "headers.user"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=rf"(?s){words}.*Nothing was queued"):
        add.apply_async((1,), **options)
    assert app.engine.broker.counts() == []


def test_what_is_refused_may_be_none() -> None:
    headers, *_ = sent(producer=None, publisher=None, connection=None)
    assert headers["task"] == add.name


def test_a_none_takes_the_tasks_own_default_away() -> None:
    @app.task(
        name="sending.tuned", queue="slow", priority=7, time_limit=5, soft_time_limit=4, expires=60
    )
    def tuned() -> None: ...

    tuned.apply_async(
        queue=None, priority=None, time_limit=None, soft_time_limit=None, expires=None
    )
    (waiting,) = app.engine.broker.browse("celery")
    headers = task_message.decode_headers(waiting.payload)
    assert waiting.priority == 0
    assert (headers.timelimit, headers.expires) == ((None, None), None)
    app.send_task("sending.tuned")
    (waiting,) = app.engine.broker.browse("slow")
    assert (waiting.priority, task_message.decode_headers(waiting.payload).ignore_result) == (
        7,
        None,
    )
    app.engine.broker.purge(["celery", "slow"])


def test_receivers_may_change_what_is_sent() -> None:
    seen: list[dict[str, Any]] = []

    def before(sender: Any, body: Any, headers: Any, properties: Any, **more: Any) -> None:
        body[1]["y"] = 5
        headers["trace"] = "abc"
        properties["app_id"] = "shop"
        seen.append({"sender": sender, "priority": properties["priority"], **more})

    def after(sender: Any, headers: Any, body: Any, **more: Any) -> None:
        seen.append({"trace": headers["trace"], "args": body[0], **more})

    before_task_publish.connect(before)
    after_task_publish.connect(after)
    try:
        headers, properties, _ = sent()
    finally:
        before_task_publish.disconnect(before)
        after_task_publish.disconnect(after)
    assert headers["trace"] == "abc"
    assert properties["app_id"] == "shop"
    first, second = seen
    assert first["sender"] == add.name
    assert first["routing_key"] == "celery"
    assert {"exchange", "declare"} <= first.keys()
    assert first["retry_policy"] == app.conf.task_publish_retry_policy
    assert second["trace"] == "abc"
    assert (second["exchange"], second["routing_key"]) == ("", "celery")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"headers": {"retries": "many"}}, "receiver of before_task_publish"),
        ({"properties": {"priority": 99}}, "priority must be from 0 to 9"),
    ],
)
def test_a_receiver_that_spoils_the_message_is_told(spoil: Any, words: str) -> None:
    def receive(**said: Any) -> None:
        for part, changes in spoil.items():
            said[part].update(changes)

    before_task_publish.connect(receive)
    try:
        with pytest.raises(ValueError, match=words):
            add.delay(1)
    finally:
        before_task_publish.disconnect(receive)
    assert app.engine.broker.counts() == []


def test_a_receiver_may_put_it_off_and_make_it_urgent() -> None:
    def receive(headers: Any, properties: Any, **_: Any) -> None:
        headers["eta"] = "2100-01-01T00:00:00+00:00"
        properties["priority"] = 8

    before_task_publish.connect(receive)
    try:
        add.delay(1)
    finally:
        before_task_publish.disconnect(receive)
    (waiting,) = app.engine.broker.browse("celery")
    app.engine.broker.purge(["celery"])
    assert (waiting.due, waiting.priority) == (4102444800.0, 8)


def test_a_receiver_of_what_was_published_needs_no_other() -> None:
    heard: list[Any] = []

    def after(sender: Any, body: Any, **_: Any) -> None:
        heard.append((sender, body[0]))

    after_task_publish.connect(after)
    try:
        sent()
    finally:
        after_task_publish.disconnect(after)
    assert heard == [(add.name, [1])]


def test_the_shorter_of_two_timeouts_is_the_deadline(flaky: Any) -> None:
    publish = flaky(0)
    cases: list[tuple[dict[str, Any], float]] = [
        ({}, 5.0),
        ({"timeout": 3}, 3),
        ({"confirm_timeout": 2}, 2),
        ({"timeout": 3, "confirm_timeout": 2}, 2),
        ({"timeout": 1, "confirm_timeout": 2}, 1),
    ]
    for given, expected in cases:
        add.apply_async((1,), **given)
        asyncio.run(add.aapply_async((1,), **given))
        assert publish.timeouts == [expected, expected]
        publish.timeouts.clear()


def test_the_result_may_be_of_a_class_of_ones_own() -> None:
    class Mine(AsyncResult[Any]):
        pass

    for result in (
        add.apply_async((1,), result_cls=Mine),
        asyncio.run(add.aapply_async((1,), result_cls=Mine)),
        app.send_task("sending.elsewhere", result_cls=Mine),
    ):
        assert type(result) is Mine
        assert app.engine.broker.browse(id=result.id)
    assert type(add.delay(1)) is AsyncResult
    app.engine.broker.purge(["celery"])


def test_send_task_takes_the_options_of_the_task_that_it_is_given() -> None:
    other = App("sending-other", broker="memory://", set_as_current=False)

    @other.task(name="sending.typed", queue="typed", priority=6)
    def typed() -> None: ...

    app.send_task("sending.typed", task_type=typed)
    (waiting,) = app.engine.broker.browse("typed")
    assert waiting.priority == 6
    app.send_task("sending.typed")
    (waiting,) = app.engine.broker.browse("celery")
    assert waiting.priority == 0
    app.engine.broker.purge(["celery", "typed"])


def test_a_task_may_be_left_out_of_its_senders_children(umbel: Harness) -> None:
    own = App("sending-children")
    inner = own.task(name="children.inner")(lambda: None)

    @own.task(name="children.outer")
    def outer() -> list[str]:
        counted = [inner.delay(), own.send_task(inner.name), inner.apply_async(add_to_parent=True)]
        inner.apply_async(add_to_parent=False)
        own.send_task(inner.name, add_to_parent=False)
        return [result.id for result in counted]

    result = outer.delay()
    umbel.run()
    assert [child.id for child in result.children or ()] == result.get()


def test_a_task_has_a_serializer_of_its_own() -> None:
    class Packed(Task[..., Any]):
        serializer = "msgpack"

    packed = app.task(base=Packed, name="sending.packed")(lambda x: x)
    for options, content_type in [
        ({}, "application/x-msgpack"),
        ({"serializer": "json"}, "application/json"),
    ]:
        packed.apply_async((1,), **options)
        (waiting,) = app.engine.broker.browse("celery")
        assert json.loads(waiting.payload)["content-type"] == content_type
        app.engine.broker.purge(["celery"])


def test_a_task_has_a_compression_of_its_own() -> None:
    class Small(Task[..., Any]):
        compression = "bzip2"

    small = app.task(base=Small, name="sending.small")(lambda x: x)
    for given, expected in [(None, "application/x-bz2"), ("zlib", "application/x-gzip")]:
        small.apply_async((1,), compression=given)
        (waiting,) = app.engine.broker.browse("celery")
        assert json.loads(waiting.payload)["headers"]["compression"] == expected
        app.engine.broker.purge(["celery"])


def test_the_setting_says_how_rare_messages_are_kept_too() -> None:
    app.conf.task_default_delivery_mode = 1
    try:
        assert sent(shadow="s")[1]["delivery_mode"] == 1
    finally:
        app.conf.pop("task_default_delivery_mode")


@pytest.mark.parametrize("extra", [{}, {"shadow": "rare"}])
def test_a_wait_in_vain_names_the_queue_that_it_was_sent_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, extra: Any
) -> None:
    for module in (single, many):
        monkeypatch.setattr(module, "QUIET_AFTER", 0.01, raising=False)
    kept = App("sending-kept", broker="memory://sending-kept", backend="broker")
    results = [
        kept.send_task("x", queue="far", **extra),
        asyncio.run(kept.task(name="y")(lambda: None).aapply_async(queue="far", **extra)),
    ]
    kept.engine.broker.purge(["far"])  # so that only the results know where they were sent to
    for result in results:
        caplog.clear()
        with pytest.raises(TimeoutError):
            result.get(timeout=0.05)
        assert "Nobody works on its queue 'far'" in caplog.text
    app.set_current()


def test_options_without_effect_say_so_once(caplog: pytest.LogCaptureFixture) -> None:
    carried._told.clear()
    for _ in range(2):
        sent(mandatory=True, immediate=True, declare=[Queue("q")])
    for option in ("mandatory", "immediate", "declare"):
        assert caplog.text.count(f"The option {option}= has no effect: ") == 1
    caplog.clear()
    carried._told.clear()
    sent(mandatory=False, immediate=None, declare=[])
    assert "has no effect" not in caplog.text


class Flaky:
    """A broker that fails so many times, and then is the real one."""

    def __init__(self, failures: int) -> None:
        self.failures, self.tries = failures, 0
        self.timeouts: list[float] = []
        self.error: type[Exception] = OperationalError

    def __call__(self, messages: Any, *, timeout: float = 5.0) -> None:
        self.tries += 1
        self.timeouts.append(timeout)
        if self.tries <= self.failures:
            raise self.error("not now")
        type(app.engine.broker).publish(app.engine.broker, messages, timeout=timeout)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(failures: int) -> Flaky:
        publish = Flaky(failures)
        monkeypatch.setattr(app.engine.broker, "publish", publish)
        return publish

    yield make
    monkeypatch.undo()
    app.engine.broker.purge(["celery"])


FAST: RetryPolicy = {"interval_start": 0, "interval_step": 0.001}


@pytest.mark.parametrize("extra", [{}, {"shadow": "x"}])
def test_an_unsuccessful_publish_is_tried_again(flaky: Any, extra: Any) -> None:
    publish = flaky(2)
    add.apply_async((1,), retry_policy=FAST, **extra)
    assert publish.tries == 3
    publish = flaky(9)
    with pytest.raises(OperationalError):
        add.apply_async((1,), retry_policy={**FAST, "max_retries": 1}, **extra)
    assert publish.tries == 2


def test_what_was_tried_again_is_told(flaky: Any, caplog: pytest.LogCaptureFixture) -> None:
    for send in (_send, lambda **options: asyncio.run(_asend(**options))):
        flaky(1)
        caplog.clear()
        send(retry_policy=FAST)
        (line,) = caplog.messages
        assert re.fullmatch(r"Publishing \S+ failed and is tried again in 0\.0 s: not now", line)


def test_other_errors_are_tried_again_where_the_policy_names_them(
    flaky: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for send in (_send, lambda **options: asyncio.run(_asend(**options))):
        publish = flaky(1)
        publish.error = LookupError
        with pytest.raises(LookupError):
            send(retry_policy=FAST)
        publish = flaky(1)
        publish.error = LookupError
        send(retry_policy={**FAST, "retry_errors": (LookupError,)})
        assert publish.tries == 2


@pytest.mark.parametrize(
    ("policy", "pauses"),
    [
        ({}, [0.0, 0.2, 0.4]),
        ({"max_retries": 5}, [0.0, 0.2, 0.4, 0.6, 0.8]),
        ({"max_retries": 8, "interval_step": 0.4}, [0.0, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ({"interval_start": 0.5, "interval_max": 0.6}, [0.5, 0.6, 0.6]),
        ({"interval_start": 2.0}, [1.0, 1.0, 1.0]),
        ({"max_retries": 0}, []),
    ],
)
def test_pauses_grow_by_a_step_up_to_the_longest(policy: Any, pauses: list[float]) -> None:
    end = time.monotonic() + 60
    found = list(batch._pauses(app.conf, {"retry_policy": policy}, end))
    assert found == pytest.approx(pauses)
    assert list(batch._pauses(app.conf, {"retry_policy": policy}, time.monotonic())) == []


def test_new_tries_come_after_their_pauses_and_with_what_is_left_of_the_time(flaky: Any) -> None:
    policy: RetryPolicy = {"interval_start": 0.05, "interval_step": 0}
    for send in (_send, lambda **options: asyncio.run(_asend(**options))):
        publish = flaky(2)
        start = time.monotonic()
        send(retry_policy=policy, timeout=3)
        assert time.monotonic() - start >= 0.1
        first, second, third = publish.timeouts
        assert (first, second <= 2.95, third <= 2.9) == (3, True, True)


def test_without_retry_there_is_one_try(flaky: Any) -> None:
    publish = flaky(1)
    with pytest.raises(OperationalError):
        add.apply_async((1,), retry=False)
    assert publish.tries == 1


def test_the_settings_say_how_often_by_default(flaky: Any) -> None:
    app.conf.task_publish_retry_policy = {**FAST, "max_retries": 1}
    publish = flaky(9)
    with pytest.raises(OperationalError):
        add.delay(1)
    assert publish.tries == 2
    app.conf.task_publish_retry = False
    publish = flaky(1)
    with pytest.raises(OperationalError):
        add.delay(1)
    assert publish.tries == 1
    add.apply_async((1,), retry=True)
    assert publish.tries == 2
    app.conf.pop("task_publish_retry")
    app.conf.pop("task_publish_retry_policy")


def _send(**options: Any) -> None:
    add.apply_async((1,), **options)


async def _asend(**options: Any) -> None:
    await add.aapply_async((1,), **options)


def test_a_coroutine_tries_again_too(flaky: Any) -> None:
    publish = flaky(2)
    asyncio.run(_asend(retry_policy=FAST))
    assert publish.tries == 3
    publish = flaky(1)
    with pytest.raises(OperationalError):
        asyncio.run(_asend(retry=False))


def test_the_deadline_ends_all_tries(flaky: Any) -> None:
    publish = flaky(99)
    policy: RetryPolicy = {"max_retries": None, "interval_start": 0.02, "interval_step": 0}
    with pytest.raises(OperationalError):
        add.apply_async((1,), retry_policy=policy, timeout=0.1)
    assert 1 < publish.tries < 8
