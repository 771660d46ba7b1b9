"""What the settings do that other tests give as options: by apps that have them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from umbel import App, Exchange, Queue, states
from umbel.exceptions import ContentDisallowed
from umbel.testing import Harness


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("task_acks_on_failure_or_timeout", False),
        ("task_acks_on_failure", False),
        ("task_acks_on_timeout", False),
        ("task_reject_on_worker_lost", False),
        ("task_retry_on_worker_lost", True),
        ("task_store_errors_even_if_ignored", True),
        ("task_track_started", True),
    ],
)
def test_a_task_without_an_option_has_what_the_setting_says(setting: str, value: bool) -> None:
    option = setting.removeprefix("task_")
    app = App("at work", set_as_current=False, changes={setting: value})
    plain = app.task(name="plain")(lambda: None)
    own = app.task(name="own", **{option: not value})(lambda: None)  # type: ignore[call-overload]
    assert (getattr(plain, option), getattr(own, option)) == (value, not value)
    app.conf[setting] = not value
    assert getattr(plain, option) is not value


@pytest.mark.parametrize("setting", ["task_acks_on_failure", "task_acks_on_failure_or_timeout"])
def test_a_failure_is_kept_as_a_dead_letter(setting: str, umbel: Harness) -> None:
    app = App("at work", changes={setting: False})

    @app.task
    def fail() -> None:
        raise LookupError

    result = fail.delay()
    umbel.run(propagate=False)
    assert result.state == states.FAILURE
    assert [letter.reason for letter in umbel.dead] == ["rejected"]


def test_failures_and_starts_of_all_tasks_are_stored(umbel: Harness) -> None:
    app = App(
        "at work",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=True,
        task_track_started=True,
    )
    seen = []

    @app.task(bind=True, ignore_result=False)
    def look(self: Any) -> None:
        seen.append(app.AsyncResult(self.request.id).state)

    @app.task(bind=True)
    def fail(self: Any) -> None:
        raise LookupError

    look.delay()
    kept = fail.delay()
    umbel.run(propagate=False)
    assert seen == [states.STARTED]
    assert app.AsyncResult(kept.id).state == states.FAILURE


def test_results_in_other_content_are_not_read(umbel: Harness) -> None:
    writer = App("at work")
    result = writer.task(name="answer")(lambda: 42).delay()
    umbel.run()
    strict = App("at work", result_serializer="yaml", result_accept_content=["yaml"])
    with pytest.raises(ContentDisallowed):
        strict.AsyncResult(result.id).get(timeout=1)
    for accepted in (["json"], None):  # None: what is accepted of tasks
        wide = App("at work", result_serializer="yaml", result_accept_content=accepted)
        assert wide.AsyncResult(result.id).get(timeout=1) == 42


def test_calls_that_say_nothing_are_as_urgent_as_the_default(umbel: Harness) -> None:
    app = App("at work", task_default_priority=7)
    plain = app.task(name="plain")(lambda: None)
    own = app.task(name="own", priority=2)(lambda: None)
    for send in (plain.delay, own.delay, lambda: plain.apply_async(priority=4)):
        send()
    assert [(one.name, one.priority) for one in umbel.queued] == [
        ("plain", 7), ("own", 2), ("plain", 4),
    ]  # fmt: skip


def test_queues_that_say_nothing_get_the_defaults() -> None:
    app = App(
        "at work",
        task_queues=[Queue("plain")],
        task_default_queue="own",
        task_default_exchange="things",
        task_default_exchange_type="topic",
        task_default_routing_key="things.own",
        task_create_missing_queue_exchange_type="fanout",
    )
    queues = app.amqp.queues
    assert queues["plain"] == Queue("plain", Exchange("things", "topic"), "things.own")
    assert queues["fresh"].exchange == Exchange("fresh", "fanout")
    bare = App("at work", task_queues=[Queue("plain")], task_default_queue="own").amqp.queues
    assert bare["plain"] == Queue("plain", Exchange("own"), "own")
    assert bare["fresh"].exchange == Exchange("fresh")


@pytest.mark.parametrize(("mode", "said"), [(1, 1), ("transient", 1), ("persistent", 2)])
def test_messages_say_how_they_are_to_be_kept(mode: int | str, said: int, umbel: Harness) -> None:
    app = App("at work", task_default_delivery_mode=mode)
    task = app.task(name="kept")(lambda: None)
    task.delay()
    task.apply_async(delivery_mode=3 - said)
    first, second = (json.loads(one.payload) for one in app.engine.broker.browse())
    assert first["properties"]["delivery_mode"] == said
    assert second["properties"]["delivery_mode"] == 3 - said
