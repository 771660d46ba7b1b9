"""The rare options of `apply_async`: what a message carries, and what is refused."""

import asyncio
import json
from typing import Any

import pytest

from umbel import App, AsyncResult, Queue, Task
from umbel.app import carried
from umbel.app.options import RetryPolicy
from umbel.exceptions import EncodeError, OperationalError
from umbel.message import task as task_message
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


def test_a_none_takes_the_tasks_own_default_away() -> None:
    @app.task(name="sending.tuned", queue="slow", priority=7, time_limit=5, expires=60)
    def tuned() -> None: ...

    tuned.apply_async(queue=None, priority=None, time_limit=None, expires=None)
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
        seen.append({"sender": sender, **more})

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
    assert {"exchange", "declare", "retry_policy"} <= first.keys()
    assert second["trace"] == "abc"
    assert (second["exchange"], second["routing_key"]) == ("", "celery")


def test_a_receiver_that_spoils_the_message_is_told() -> None:
    def spoil(headers: Any, **_: Any) -> None:
        headers["retries"] = "many"

    before_task_publish.connect(spoil)
    try:
        with pytest.raises(ValueError, match="receiver of before_task_publish"):
            add.delay(1)
    finally:
        before_task_publish.disconnect(spoil)


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

    def __call__(self, messages: Any, *, timeout: float = 5.0) -> None:
        self.tries += 1
        self.timeouts.append(timeout)
        if self.tries <= self.failures:
            raise OperationalError("not now")
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
