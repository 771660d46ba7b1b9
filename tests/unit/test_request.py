"""The request of a running task: what was sent is what it sees."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from umbel import App, Task
from umbel.app.execution.pipeline import Pipeline
from umbel.app.request import Request
from umbel.app.sending.publish import build_message
from umbel.message import task as task_message

app = App("requests")
seen: list[Request] = []


@app.task(bind=True)
def look(self: Task[..., Any], *args: Any, **kwargs: Any) -> None:
    seen.append(self.request)


def call(_: int, task: Task[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    return task.run(*args, **kwargs)


def run(headers: dict[str, Any] | None = None, deliveries: int = 0, **options: Any) -> Request:
    """The request that a task sees, whose message got these headers besides its own."""
    message = build_message(app.conf, look.name, (1, 2), {"y": 3}, look, task_id="id-1", **options)
    envelope = msgspec.json.decode(message.payload)
    envelope["headers"].update(headers or {})
    seen.clear()
    outcome, _ = Pipeline(app, "node@host").execute(
        1, msgspec.json.encode(envelope), deliveries, call
    )
    assert outcome.ending == "success"
    return seen[0]


def test_what_every_message_says() -> None:
    request: Any = run(priority=7, queue="mail", time_limit=30, soft_time_limit=20, deliveries=2)
    found: Any = (request.id, request.task, request.args, request.kwargs)
    assert found == (
        "id-1", look.name, [1, 2], {"y": 3},
    )  # fmt: skip
    assert [request.root_id, request.parent_id, request.correlation_id] == ["id-1", None, "id-1"]
    assert request.delivery_info == {
        "exchange": "",
        "routing_key": "mail",
        "priority": 7,
        "redelivered": True,
        "is_eager": False,
    }
    assert (request.deliveries, request.hostname, request.retries) == (2, "node@host", 0)
    assert request.timelimit == (30, 20)
    assert (request.time_limit, request.soft_time_limit) == (30, 20)
    assert str(request.origin).startswith("gen")
    assert str(request.reply_to).isalnum()
    assert not request.called_directly
    assert not request.is_eager
    assert not request.ignore_result
    assert request.utc
    assert (request.eta, request.expires, request.shadow) == (None, None, None)
    assert (request.chord, request.chain, request.callbacks, request.errbacks) == (None,) * 4
    assert (request.children, request.group, request.group_index, request.taskset) == (
        [], None, None, None,
    )  # fmt: skip
    assert request.replaced_task_nesting == 0
    assert request.properties is not None
    assert request.properties["priority"] == 7
    assert request.headers is None


def test_what_only_some_messages_say() -> None:
    request = run(
        {
            "root_id": "root",
            "parent_id": "parent",
            "group": "g",
            "group_index": 4,
            "shadow": "other",
            "replaced_task_nesting": 2,
            "stamped_headers": ["tenant"],
            "stamps": {"tenant": "blue", "x": 1},
            "retries": 3,
            "ignore_result": True,
            "city": "Bath",
        },
        expires=60,
        countdown=5,
    )
    assert (request.root_id, request.parent_id) == ("root", "parent")
    assert (request.group, request.taskset, request.group_index) == ("g", "g", 4)
    assert (request.shadow, request.replaced_task_nesting, request.retries) == ("other", 2, 3)
    assert request.stamps == {"tenant": "blue", "x": 1}
    assert request.ignore_result
    assert task_message.parse_time(request.eta)
    assert task_message.parse_time(request.expires)
    assert request.headers == {"city": "Bath"}
    assert request.city == "Bath"
    assert request.get("city") == "Bath"
    assert request.get("country", "UK") == "UK"
    with pytest.raises(AttributeError, match="neither a field nor a header 'country'"):
        _ = request.country
    options = request.as_execution_options()
    assert options["task_id"] == "id-1"
    assert options["group_id"] == "g"
    assert options["headers"] == {"city": "Bath"}
    assert (options["stamped_headers"], options["tenant"]) == (["tenant"], "blue")
    assert "x" not in options
    assert options["expires"] == request.expires


def test_the_packages_own_headers_are_not_the_users() -> None:
    own = {"umbel-secret": ["x"], "umbel-signature": "s", "compression": None}
    assert run(own).headers is None
    assert run({**own, "secret": "the user's"}).headers == {"secret": "the user's"}


def test_a_headers_death_notes_are_not_sent_on() -> None:
    request = run({"x-death": [{}], "x-first-death-queue": "q", "city": "Bath"})
    assert request.as_execution_options()["headers"] == {"city": "Bath"}


def test_fields_can_be_set_and_forgotten() -> None:
    request = run()
    request.update({"timelimit": [9, 8]}, shadow="other", mine=1)
    assert (request.time_limit, request.soft_time_limit, request.shadow) == (9, 8, "other")
    assert request.mine == 1
    request.clear()
    assert (request.id, request.timelimit, request.called_directly) == (None, (None, None), True)
    assert (request.headers, request.properties, request.delivery_info) == (None, None, None)


def test_called_directly_there_is_a_request_too() -> None:
    seen.clear()
    look(1)
    request = seen[0]
    assert request.called_directly
    assert (request.retries, request.children, request.timelimit) == (0, [], (None, None))
    assert request.loglevel in {None, logging.INFO}


def test_a_run_that_looks_at_nothing_derives_nothing() -> None:
    request = run()
    assert (
        not {"eta", "timelimit", "_delivery_info", "_headers", "callbacks"} & vars(request).keys()
    )
