"""Options of `Task.retry`: what each makes of the next attempt's message."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from umbel import App, Exchange, Queue, Task, clock
from umbel.exceptions import MaxRetriesExceededError, Retry
from umbel.message import task as task_message
from umbel.message.content import content_types
from umbel.testing import Harness

LATER = 3600.0
LINK = {"task": "retrying.other", "args": [1], "options": {"queue": "q"}}
WHOLE = {**LINK, "kwargs": {}, "subtask_type": None, "immutable": False}
MEDIA = Exchange("media", "topic")

app = App(
    "retrying",
    accept_content=["json", "msgpack"],
    task_queues=[
        Queue("celery"),
        Queue("slow"),
        Queue("video", MEDIA, "media.video"),
        Queue("image", MEDIA, "media.image"),
        Queue("all", MEDIA, "media.*"),
        Queue("fast", Exchange("fast", delivery_mode=1), "fast"),
    ],
)
asked: dict[str, Any] = {}
seen: list[Any] = []


@app.task(bind=True, default_retry_delay=LATER, max_retries=3)
def act(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
    seen.append((self.request.retries, args, kwargs))
    if self.request.retries or not asked:
        return [list(args), kwargs]
    if args and isinstance(args[0], list):
        args[0].append("changed by the task")
    raise self.retry(**asked)


@app.task(bind=True, default_retry_delay=LATER, secret=("token",))
def hush(self: Task[..., Any], token: str, more: int = 0) -> None:
    raise self.retry(**asked)


@app.task(bind=True, default_retry_delay=LATER)
def sums(self: Task[..., Any], x: int, y: int = 2, *rest: int, z: int = 3) -> None:
    raise self.retry(**asked)


@app.task(bind=True, default_retry_delay=LATER)
def bare(self: Task[..., Any], x: int, /, **more: int) -> None:
    raise self.retry(**asked)


@app.task(bind=True, autoretry_for=(LookupError,), retry_kwargs={"countdown": 60, "queue": "slow"})
def auto(self: Task[..., Any]) -> None:
    raise LookupError


pytestmark = pytest.mark.usefixtures("umbel")


@pytest.fixture(autouse=True)
def _afresh() -> None:
    asked.clear()
    seen.clear()


class Attempt:
    """The message of the next attempt."""

    def __init__(self, waiting: Any) -> None:
        self.queue, self.priority, self.due = waiting.queue, waiting.priority, waiting.due
        self.payload = waiting.payload
        envelope = json.loads(waiting.payload)
        self.headers, self.properties = envelope["headers"], envelope["properties"]
        self.content_type = envelope["content-type"]
        message = task_message.decode(waiting.payload, content_types(["json", "msgpack"]))
        self.args, self.kwargs, self.embed = message.args, message.kwargs, message.embed


def attempts(umbel: Harness, task: Any = act, sent: Any = None, **options: Any) -> list[Attempt]:
    """What waits after a run that was retried with such options."""
    asked.update(options)
    task.apply_async(**(sent or {}))
    umbel.run()
    return [Attempt(waiting) for waiting in app.engine.broker.browse()]


def next_attempt(umbel: Harness, task: Any = act, sent: Any = None, **options: Any) -> Attempt:
    (only,) = attempts(umbel, task, sent, **options)
    return only


def test_without_options_the_message_is_the_same(umbel: Harness) -> None:
    sent = {
        "args": (1,), "queue": "slow", "priority": 7, "expires": 7200, "time_limit": 9,
        "headers": {"tenant": "acme"}, "shadow": "s", "link": LINK, "app_id": "shop",
        "reply_to": "r", "compression": "zlib", "serializer": "msgpack", "group_id": "g",
    }  # fmt: skip
    act.apply_async(**sent)
    (first,) = [Attempt(waiting) for waiting in app.engine.broker.browse()]
    app.engine.broker.purge(["slow"])
    again = next_attempt(umbel, sent={**sent, "task_id": first.headers["id"]}, countdown=LATER)
    assert (again.queue, again.priority) == ("slow", 7)
    changed = {"retries": 1, "eta": again.headers["eta"], "parent_id": first.headers["id"]}
    assert again.headers == {**first.headers, **changed, "expires": again.headers["expires"]}
    first.properties["delivery_tag"] = again.properties["delivery_tag"]
    assert again.properties == first.properties
    assert (again.args, again.embed, again.content_type) == ([1], first.embed, first.content_type)
    assert again.due == pytest.approx(clock.time() + LATER, abs=5)


def test_queue_and_priority(umbel: Harness) -> None:
    again = next_attempt(umbel, sent={"priority": 2}, queue="slow", priority=9)
    assert (again.queue, again.priority) == ("slow", 9)
    assert again.properties["priority"] == 9
    assert again.properties["delivery_info"] == {"exchange": "", "routing_key": "slow"}
    umbel.advance(hours=2)
    umbel.run()
    assert [retries for retries, *_ in seen] == [0, 1]


def test_a_queue_as_a_value_and_one_that_nobody_declared(umbel: Harness) -> None:
    assert next_attempt(umbel, queue=Queue("fresh")).queue == "fresh"


def test_an_exchange_and_a_key_lead_to_the_queues_that_are_bound(umbel: Harness) -> None:
    found = attempts(umbel, exchange=MEDIA, routing_key="media.video", priority=4)
    assert sorted((one.queue, one.priority) for one in found) == [("all", 4), ("video", 4)]
    assert len({one.properties["delivery_tag"] for one in found}) == 2
    assert len({one.headers["id"] for one in found}) == 1
    for one in found:
        info = {"exchange": "media", "routing_key": "media.video"}
        assert one.properties["delivery_info"] == info
    umbel.advance(hours=2)
    umbel.run()
    assert [retries for retries, *_ in seen] == [0, 1, 1]


def test_a_key_alone_stays_with_the_exchange(umbel: Harness) -> None:
    sent = {"exchange": "media", "routing_key": "media.image", "queue": "image"}
    asked.update(routing_key="media.video")
    act.apply_async(**sent)
    app.engine.broker.purge(["all"])
    umbel.run()
    assert sorted(waiting.queue for waiting in app.engine.broker.browse()) == ["all", "video"]


def test_a_key_alone_changes_nothing_for_a_queue_by_its_name(umbel: Harness) -> None:
    again = next_attempt(umbel, sent={"queue": "slow"}, routing_key="other")
    assert again.queue == "slow"


def test_an_exchange_type_sends_by_the_queues_exchange(umbel: Harness) -> None:
    again = attempts(umbel, queue="fast", exchange_type="topic")
    assert [one.queue for one in again] == ["fast"]
    assert again[0].properties["delivery_info"] == {"exchange": "fast", "routing_key": "fast"}


def test_the_exchange_says_how_it_is_delivered(umbel: Harness) -> None:
    assert next_attempt(umbel, queue="fast").properties["delivery_mode"] == 1
    app.engine.broker.purge(["fast"])
    again = next_attempt(umbel, queue="fast", delivery_mode=2)
    assert again.properties["delivery_mode"] == 2


@pytest.mark.parametrize(
    "expires", [60, timedelta(minutes=1), datetime(2100, 1, 1, tzinfo=UTC), "2100-01-01T00:00:00Z"]
)
def test_an_expiry(umbel: Harness, expires: Any) -> None:
    before = clock.time()
    again = next_attempt(umbel, expires=expires)
    moment = task_message.parse_time(again.headers["expires"])
    assert moment is not None
    if isinstance(expires, (int, timedelta)):
        assert before + 59 <= moment <= clock.time() + 61
        assert 58_000 < int(again.properties["expiration"]) <= 60_000
    else:
        assert moment == datetime(2100, 1, 1, tzinfo=UTC).timestamp()
        assert int(again.properties["expiration"]) > 10**12


def test_an_expiry_is_taken_away_by_none(umbel: Harness) -> None:
    again = next_attempt(umbel, sent={"expires": 7200}, expires=None)
    assert again.headers["expires"] is None
    assert "expiration" not in again.properties
    umbel.advance(hours=3)
    umbel.run()
    assert [retries for retries, *_ in seen] == [0, 1]


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({"time_limit": 9}, [9, 4]),
        ({"soft_time_limit": 3}, [5, 3]),
        ({"time_limit": None}, [None, 4]),
        ({"soft_time_limit": None}, [5, None]),
        ({"time_limit": 20, "soft_time_limit": 10}, [20, 10]),
    ],
)
def test_limits(umbel: Harness, options: Any, limits: list[Any]) -> None:
    sent = {"time_limit": 5, "soft_time_limit": 4}
    assert next_attempt(umbel, sent=sent, **options).headers["timelimit"] == limits


def test_options_that_are_headers(umbel: Harness) -> None:
    again = next_attempt(
        umbel, sent={"shadow": "old"},
        shadow="new", group_id="g", group_index=2, root_id="r", parent_id="p", origin="me@here",
        argsrepr="(…)", kwargsrepr="{…}", replaced_task_nesting=1, ignore_result=True,
        stamped_headers=["color"], color="red", stamps={"size": {"s", "m"}},
    )  # fmt: skip
    expected = {
        "shadow": "new", "group": "g", "group_index": 2, "root_id": "r", "parent_id": "p",
        "origin": "me@here", "argsrepr": "(…)", "kwargsrepr": "{…}", "replaced_task_nesting": 1,
        "ignore_result": True, "stamped_headers": ["color", "size"],
        "stamps": {"color": "red", "size": ["m", "s"]},
    }  # fmt: skip
    assert {name: again.headers[name] for name in expected} == expected


def test_an_ignored_result_may_be_wanted_after_all(umbel: Harness) -> None:
    again = next_attempt(umbel, sent={"ignore_result": True}, ignore_result=False)
    assert again.headers["ignore_result"] is False


def test_headers_of_ones_own_take_the_place_of_the_old_ones(umbel: Harness) -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    sent = {"headers": {"tenant": "acme", "deep": {"a": 1}}}
    again = next_attempt(umbel, sent=sent, headers={"tenant": "bolt", "at": moment, "retries": 9})
    assert again.headers["tenant"] == "bolt"
    assert "deep" not in again.headers
    assert again.headers["at"] == {"__type__": "datetime", "__value__": moment.isoformat()}
    assert again.headers["retries"] == 1
    app.engine.broker.purge(["celery"])
    kept = next_attempt(umbel, sent=sent, headers=None, shadow="s")
    assert (kept.headers["tenant"], kept.headers["deep"]) == ("acme", {"a": 1})


def test_options_that_are_properties(umbel: Harness) -> None:
    again = next_attempt(
        umbel, reply_to="mine", delivery_mode="transient", app_id="shop", MessageGroupId="7"
    )
    found = again.properties
    assert (found["reply_to"], found["delivery_mode"]) == ("mine", 1)
    assert (found["app_id"], found["MessageGroupId"]) == ("shop", "7")
    assert found["correlation_id"] == again.headers["id"]


def test_links_take_the_place_of_the_old_ones(umbel: Harness) -> None:
    sent = {"args": ([1],), "link": LINK, "link_error": LINK}
    again = next_attempt(
        umbel, sent=sent, link=[LINK, LINK], link_error=None, chain=[LINK], chord=LINK
    )
    assert again.embed == {
        "callbacks": [WHOLE, WHOLE], "errbacks": None, "chain": [WHOLE], "chord": WHOLE
    }  # fmt: skip
    assert again.args == [[1]], "as they were sent, not as the task has left them"


def test_links_that_are_not_given_stay(umbel: Harness) -> None:
    again = next_attempt(umbel, sent={"link": LINK, "link_error": LINK}, link=[])
    assert again.embed == {"callbacks": [], "errbacks": [WHOLE], "chain": None, "chord": None}


@pytest.mark.parametrize("serializer", [None, "msgpack"])
@pytest.mark.parametrize("compression", [None, "bzip2"])
def test_serializer_and_compression(
    umbel: Harness, serializer: str | None, compression: str | None
) -> None:
    sent = {"args": ("é" * 300, [1])}
    again = next_attempt(umbel, sent=sent, serializer=serializer, compression=compression)
    envelope = json.loads(again.payload)
    assert (again.content_type, envelope["content-encoding"]) == (
        ("application/x-msgpack", "binary") if serializer else ("application/json", "utf-8")
    )
    assert again.headers.get("compression") == (compression and "application/x-bz2")
    umbel.advance(hours=2)
    umbel.run()
    assert seen[-1] == (1, ("é" * 300, [1]), {})


def test_new_arguments_are_shown(umbel: Harness) -> None:
    again = next_attempt(umbel, sent={"args": (1,)}, args=(2,), kwargs={"k": 3})
    assert (again.args, again.kwargs) == ([2], {"k": 3})
    assert (again.headers["argsrepr"], again.headers["kwargsrepr"]) == ("(2,)", "{'k': 3}")
    app.engine.broker.purge(["celery"])
    again = next_attempt(umbel, sent={"args": (1,)}, args=(2,), argsrepr="(…)")
    assert (again.headers["argsrepr"], again.headers["kwargsrepr"]) == ("(…)", "{'k': 3}")


def test_new_secret_arguments_are_not_shown(umbel: Harness) -> None:
    again = next_attempt(umbel, hush, {"args": ("first-token",)}, kwargs={"token": "second-token"})
    assert (again.args, again.kwargs) == (["second-token"], {})
    assert "second-token" not in json.dumps(again.headers)
    app.engine.broker.purge(["celery"])
    again = next_attempt(
        umbel, hush, {"args": ("first-token",)}, args=(), kwargs={"token": "third-token"}
    )
    assert (again.args, again.kwargs) == ([], {"token": "third-token"})
    assert "third-token" not in json.dumps(again.headers)
    assert again.headers["umbel-secret"] == ["token", 0]


@pytest.mark.parametrize(
    ("sent", "given", "expected"),
    [
        ({"args": (1,)}, {"args": (5,)}, ([5], {})),
        ({"args": (1,)}, {"kwargs": {"z": 9}}, ([1], {"z": 9})),
        ({"args": (1,)}, {"kwargs": {"x": 9}}, ([9], {})),
        ({"args": (1, 2, 7)}, {"kwargs": {"y": 9}}, ([1, 9, 7], {})),
        ({"kwargs": {"x": 1, "z": 4}}, {"args": (5,)}, ([5], {"z": 4})),
        ({"kwargs": {"x": 1, "y": 4}}, {"args": (5, 6)}, ([5, 6], {})),
        ({"kwargs": {"x": 1, "y": 4}}, {"kwargs": {"x": 2}}, ([], {"x": 2})),
        ({"args": (1,), "kwargs": {"y": 4}}, {"args": (5,)}, ([5], {"y": 4})),
        ({"args": (1,), "kwargs": {"y": 4}}, {"args": (), "kwargs": {"x": 3}}, ([], {"x": 3})),
    ],
)
def test_what_is_given_in_another_way_is_not_given_twice(
    umbel: Harness, sent: Any, given: Any, expected: Any
) -> None:
    again = next_attempt(umbel, sums, sent, **given)
    assert (again.args, again.kwargs) == expected


def test_a_positional_parameter_leaves_a_keyword_of_its_name_alone(umbel: Harness) -> None:
    again = next_attempt(umbel, bare, {"args": (1,)}, kwargs={"x": 9})
    assert (again.args, again.kwargs) == ([1], {"x": 9})
    app.engine.broker.purge(["celery"])
    asked.clear()
    again = next_attempt(umbel, bare, {"args": (1,), "kwargs": {"x": 9}}, args=(5,))
    assert (again.args, again.kwargs) == ([5], {"x": 9})


def test_an_automatic_retry_has_its_options_too(umbel: Harness) -> None:
    assert next_attempt(umbel, auto).queue == "slow"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"quue": "x"}, "TypeError", "there is no option 'quue'. Did you mean 'queue'"),
        ({"task_id": "x"}, "TypeError", r"retry\(task_id=…\) is refused: the next attempt is the"),
        ({"retries": 5}, "TypeError", r"retry\(retries=…\) is refused: retry\(\) counts them"),
        ({"router": {"*": "x"}}, "TypeError", r"retry\(router=…\) is refused: give the queue="),
        ({"route_name": "x"}, "TypeError", r"retry\(route_name=…\) is refused: give the queue="),
        ({"producer": object()}, "TypeError", "no Kombu underneath"),
        ({"priority": 10}, "ValueError", "priority must be from 0 to 9"),
        ({"expires": "soon"}, "ValueError", "is no time"),
        ({"time_limit": 2}, "ValueError", r"soft_time_limit \(4 s\) must not be above"),
        ({"soft_time_limit": -1}, "ValueError", "must be a positive number"),
        ({"group_index": "2"}, "ValueError", "no worker could read"),
        ({"headers": {"id": "other"}}, "ValueError", "id cannot be changed"),
        ({"headers": {"user": object()}}, "EncodeError", r"headers\.user"),
        ({"link": "other"}, "TypeError", "link takes signatures"),
        ({"serializer": "nosuch"}, "SerializerNotInstalled", "no serializer 'nosuch'"),
        ({"compression": "nosuch"}, "ImproperlyConfigured", "no compression 'nosuch'"),
        ({"exchange": "media", "routing_key": "sound"}, "QueueNotFound", "No queue is bound"),
    ],
)
def test_what_cannot_be_done_fails_the_attempt_by_name(
    umbel: Harness, options: Any, error: str, words: str
) -> None:
    asked.update(options)
    act.apply_async((), {}, time_limit=5, soft_time_limit=4)
    (ended,) = umbel.run(propagate=False)
    assert app.engine.broker.browse() == []
    assert (ended.state, type(ended.result).__name__) == ("FAILURE", error)
    assert re.search(words, str(ended.result))


def test_options_of_publishing_have_no_effect_and_that_is_said(
    umbel: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    from umbel.app.execution import retries as follow_up

    follow_up._told.clear()
    given = {"retry": True, "retry_policy": {}, "timeout": 3, "add_to_parent": True}
    again = next_attempt(umbel, **given, queue="slow")
    assert again.queue == "slow"
    for option in given:
        assert f"The option {option}= of retry() has no effect: " in caplog.text


def test_messages_of_a_retry_are_signed_for_their_own_queue(umbel: Harness) -> None:
    app.conf.security_hmac_key = "k" * 32
    try:
        again = next_attempt(umbel, queue="slow")
        assert again.queue == "slow"
        umbel.advance(hours=2)
        umbel.run()
        assert [retries for retries, *_ in seen] == [0, 1]
    finally:
        app.conf.pop("security_hmac_key")


def test_an_eager_retry_takes_them_too() -> None:
    asked.update(queue="slow", headers={"tenant": "bolt"}, kwargs={"k": 1})
    assert act.apply((1,)).get() == [[1], {"k": 1}]


def test_a_limit_of_its_own_holds_for_one_attempt(umbel: Harness) -> None:
    asked.update(max_retries=0, kwargs={"k": 1})
    act.delay()
    with pytest.raises(MaxRetriesExceededError):
        umbel.run()


def test_the_retry_is_told_to_the_caller_with_throw_off(umbel: Harness) -> None:
    @app.task(bind=True, name="retrying.quiet")
    def quiet(self: Task[..., Any]) -> None:
        if not self.request.retries:
            seen.append(self.retry(throw=False, countdown=LATER, queue="slow"))

    assert next_attempt(umbel, quiet).queue == "slow"
    assert isinstance(seen[0], Retry)
