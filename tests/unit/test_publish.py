"""What `apply_async` makes of its options."""

import asyncio
import os
import re
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from umbel import App, Queue, clock
from umbel.app.sending.publish import build_message
from umbel.app.settings.table import Settings
from umbel.exceptions import EncodeError, ImproperlyConfigured
from umbel.message import task as task_message
from umbel.testing import Harness

app = App("publish", broker="memory://publish")


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


@app.task(bind=True)
def bound(self: Any, x: int) -> int:
    return x


@app.task(queue="slow", priority=7, ignore_result=True, time_limit=5, soft_time_limit=4, expires=60)
def tuned() -> None: ...


def headers(message: Any) -> task_message.Headers:
    return task_message.decode_headers(message.payload)


def build(**options: Any) -> Any:
    return build_message(options.pop("settings", Settings()), "t.add", (2, 3), {}, **options)


@pytest.mark.parametrize("moment", [
    datetime(2030, 1, 1, 12, tzinfo=UTC),
    datetime(2030, 1, 1, 12),
    datetime(2030, 1, 1, 20, tzinfo=timezone(timedelta(hours=8))),
    "2030-01-01T12:00:00",
    "2030-01-01T12:00:00Z",
    1893499200,
    1893499200.0,
])  # fmt: skip
def test_an_eta_may_be_written_in_many_ways(moment: Any) -> None:
    message = build(eta=moment)
    assert message.due == 1893499200.0
    assert headers(message).eta == "2030-01-01T12:00:00+00:00"


def test_without_utc_a_naive_eta_means_the_apps_zone() -> None:
    settings = Settings()
    settings.update({"enable_utc": False, "timezone": "Asia/Shanghai"})
    assert build(settings=settings, eta=datetime(2030, 1, 1, 20)).due == 1893499200.0


def test_an_unknown_zone_is_named() -> None:
    with pytest.raises(ImproperlyConfigured, match="Mars/Olympus"):
        Settings().update({"enable_utc": False, "timezone": "Mars/Olympus"})


def test_a_countdown_wins_over_an_eta_and_zero_is_at_once() -> None:
    before = time.time()
    due = build(countdown=1.5, eta=0).due
    assert before + 1.5 <= due <= time.time() + 1.5
    now = clock.time()
    assert now + 60 <= (build(countdown=timedelta(minutes=1)).due or 0) <= clock.time() + 60
    assert build(countdown=timedelta(0)).due is None
    assert build(countdown=0).due is None
    assert headers(build(countdown=0)).eta is None


@pytest.mark.parametrize("expires", [60, 60.0, timedelta(minutes=1)])
def test_a_number_for_expires_is_a_duration(expires: Any) -> None:
    before = time.time()
    moment = task_message.parse_time(headers(build(expires=expires)).expires)
    assert moment is not None
    assert before + 59.9 <= moment <= time.time() + 60.1


def test_a_past_expiry_is_still_sent_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    message = build(expires=datetime(2020, 1, 1))
    assert b'"expiration":"0"' in message.payload
    (line,) = caplog.messages
    assert re.match(r"t\.add\[\S+\] has expired \d+\.\d s before it was sent", line)


def test_what_every_message_tells() -> None:
    found = headers(build(task_id="t1"))
    assert (found.id, found.root_id, found.parent_id) == ("t1", "t1", None)
    assert (found.argsrepr, found.kwargsrepr) == ("(2, 3)", "{}")
    assert re.fullmatch(rf"gen{os.getpid()}@\S+", found.origin or "")
    named = build_message(Settings(), "t.add", (), {"x": [[[[1]]]]})
    assert headers(named).kwargsrepr == "{'x': [[[...]]]}"
    settings = Settings()
    settings.update({"task_repr_maxlevels": 2})
    named = build_message(settings, "t.add", (), {"x": [[[[1]]]]})
    assert headers(named).kwargsrepr == "{'x': [[...]]}"


def test_a_task_that_is_sent_by_another_names_its_parents(umbel: Harness) -> None:
    own = App("publish-family")

    @own.task(name="family.leaf")
    def leaf() -> None: ...

    @own.task(bind=True, name="family.middle")
    def middle(self: Any) -> str:
        return str(leaf.delay().id)

    @own.task(name="family.root")
    def root() -> str:
        return str(middle.delay().id)

    top = root.delay()
    umbel.run(limit=2)
    (waiting,) = own.engine.broker.browse()
    found = headers(waiting)
    assert (found.task, found.root_id) == ("family.leaf", top.id)
    assert found.parent_id == top.get()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"priority": 10}, "0 to 9"),
        ({"priority": -1}, "0 to 9"),
        ({"priority": "high"}, "0 to 9"),
        ({"time_limit": 1, "soft_time_limit": 2}, "must not be above"),
        ({"time_limit": "3"}, "time_limit must be a positive number"),
        ({"soft_time_limit": 0}, "soft_time_limit must be a positive number"),
        ({"countdown": "5"}, "countdown must be a number of seconds from now.*got '5'"),
        ({"countdown": float("nan")}, "countdown must be a finite"),
        ({"countdown": 1e12}, "years 1 to 9999"),
        ({"eta": "tomorrow"}, "eta='tomorrow' is no time"),
        ({"eta": float("inf")}, "eta must be a finite"),
        ({"expires": "soon"}, "expires='soon' is no time"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(**options)


@pytest.mark.parametrize("options", [{"task_id": 7}, {"task_id": ""}, {"queue": 3}])
def test_names_that_are_no_text_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"must be text.*Nothing was queued"):
        build(**options)


@pytest.mark.parametrize("name", [5, "", None])
def test_a_task_is_sent_by_its_name(name: Any) -> None:
    with pytest.raises(TypeError, match=r"by its name, a text; got .*Nothing was queued"):
        app.send_task(name)


@pytest.mark.parametrize("queue", [" a", "a ", "a,b", "a\nb", "\x7f", "q" * 256, "ü" * 128])
def test_a_queue_is_named_so_that_it_can_be_typed(queue: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"queue's name: .*255 bytes") as caught:
        app.send_task("some.task", queue=queue)
    assert len(str(caught.value)) < 300
    with pytest.raises(ImproperlyConfigured, match="queue's name"):
        add.apply_async((1,), queue=Queue(queue))


@pytest.mark.parametrize("queue", ["q" * 255, "zwei wörter", "a.b-c:d/e"])
def test_a_queue_may_have_any_other_name(queue: str) -> None:
    result = add.apply_async((1,), queue=queue)
    (waiting,) = app.engine.broker.browse(id=result.id)
    assert waiting.queue == queue
    app.engine.broker.purge([queue])


def test_args_and_kwargs_of_other_types_are_refused() -> None:
    for args, kwargs in [(5, None), ("xy", None), ((1,), [2])]:
        with pytest.raises(TypeError, match="Nothing was queued"):
            app.send_task("some.task", args, kwargs)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="args must be a tuple or list and kwargs a dict"):
            add.apply_async(args, kwargs)  # type: ignore[arg-type]


def test_a_result_that_is_ignored_is_none_at_once() -> None:
    assert tuned.delay().get() is None
    assert add.apply_async((1,), ignore_result=True).get() is None
    assert app.send_task("some.task", ignore_result=True).get() is None
    assert asyncio.run(add.aapply_async((1,), ignore_result=True)).get() is None
    assert asyncio.run(tuned.adelay()).get() is None
    assert app.engine.broker.purge(["slow", "celery"]) == 5


def test_arguments_are_checked_before_anything_is_sent() -> None:
    for args, kwargs in [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((1,), {"x": 1})]:
        with pytest.raises(TypeError, match="publish"):
            add.apply_async(args, kwargs)
    with pytest.raises(TypeError):
        bound.delay()  # type: ignore[call-arg]
    assert app.engine.broker.counts() == []
    bound.delay(1)
    add.delay(1)
    add.delay(x=1)
    assert app.engine.broker.purge(["celery"]) == 3


class User:
    def __init__(self) -> None:
        self._sa_instance_state = object()


def test_an_argument_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(
        EncodeError,
        match=r"^Argument 2 of .*test_publish.add: .* User; .*primary key.*Nothing was queued",
    ):
        add.delay(1, User())  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match=r"^Argument 1 of .*, at it\[0\].user: .* User"):
        add.delay([{"user": User()}])  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match=r"^Argument 'y' of"):
        add.delay(1, y=object())  # type: ignore[arg-type]
    assert app.engine.broker.counts() == []


def test_a_huge_argument_is_refused_with_its_size() -> None:
    with pytest.raises(EncodeError, match=r"100\.0 MiB.*task_max_message_bytes"):
        app.send_task("publish.add", ["x" * (100 << 20)])
    assert app.engine.broker.counts() == []


def test_the_tasks_own_options_apply() -> None:
    tuned.delay()
    (waiting,) = app.engine.broker.browse("slow")
    assert waiting.priority == 7
    found = task_message.decode_headers(waiting.payload)
    assert found.ignore_result is True
    assert list(found.timelimit or ()) == [5, 4]
    expires = task_message.parse_time(found.expires)
    assert expires is not None
    assert 50 < expires - clock.time() <= 60
    tuned.apply_async(queue="fast", priority=1, ignore_result=False, time_limit=9)
    (other,) = app.engine.broker.browse("fast")
    found = task_message.decode_headers(other.payload)
    assert [other.priority, found.ignore_result, found.timelimit] == [1, False, (9, 4)]
    assert app.engine.broker.purge(["slow", "fast"]) == 2


def test_a_setting_that_does_not_exist_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ImproperlyConfigured, match="task_time_limit"):
        App("typo", task_time_limt=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"a": float("nan")}},
        {"headers": {"a": "\udcff"}},
        {"headers": {"a": 1}, "task_id": "\udcff"},
        {"stamps": {"a": float("nan")}},
        {"shadow": "\udcff"},
        {"argsrepr": "\udcff"},
        {"parent_id": "\udcff"},
        {"app_id": "\udcff"},
        {"timestamp": float("nan")},
        {"reply_to": 5},
        {"ignore_result": "yes"},
        {"ignore_result": 1},
        {"priority": True},
        {"priority": True, "shadow": "x"},
    ],
)
def test_what_no_worker_could_read_is_not_sent(options: dict[str, Any]) -> None:
    app = App("x", broker="memory://unreadable")
    with pytest.raises((TypeError, ValueError), match="Nothing was queued"):
        app.send_task("t", (1, 2), **options)
    with pytest.raises((TypeError, ValueError), match="Nothing was queued"):
        app.task(name="t")(print).apply_async((1, 2), **options)
    assert [count.ready for count in app.engine.broker.counts()] == []


@pytest.mark.parametrize("option", ["countdown", "eta", "expires", "time_limit", "timeout"])
def test_a_number_beyond_all_floats_is_refused(option: str) -> None:
    app = App("x", broker="memory://beyond")
    with pytest.raises(ValueError, match=f"t: {option}.*Nothing was queued"):
        app.send_task("t", **{option: 10**400})  # type: ignore[arg-type]  # any of these options
    for timeout in (float("nan"), float("inf"), -1, "5", True):
        with pytest.raises(ValueError, match="t: timeout must be"):
            app.send_task("t", timeout=timeout)  # type: ignore[arg-type]
    assert [count.ready for count in app.engine.broker.counts()] == []


def test_a_setting_beyond_all_floats_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="task_time_limit must be a finite number"):
        App("x", task_time_limit=10**400)
