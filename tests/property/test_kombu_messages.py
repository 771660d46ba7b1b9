"""Our envelopes in the hands of the real Kombu, and its envelopes in ours."""

import importlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.app.sending.publish import build_message
from umbel.app.settings.table import Settings
from umbel.engines.broker import Message
from umbel.exceptions import DecodeError
from umbel.message import task as task_message

kombu: Any = importlib.import_module("kombu")  # it has no types
kombu_json: Any = importlib.import_module("kombu.utils.json")

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
).filter(lambda value: not (isinstance(value, dict) and set(value) == {"__type__", "__value__"}))
texts = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())


def through_kombu(message: Message) -> Any:
    """What Kombu's virtual transport (the one under Redis) makes of an envelope."""
    with kombu.Connection("memory://") as connection:
        channel = connection.default_channel
        return channel.message_to_python(json.loads(message.payload))


@given(st.lists(plain, max_size=4), st.dictionaries(st.text(), plain, max_size=3), texts)
def test_kombu_reads_what_we_write(args: list[Any], kwargs: dict[str, Any], name: str) -> None:
    message = build_message(Settings(), name, args, kwargs, queue="q", priority=3)
    received = through_kombu(message)
    assert received.content_type == "application/json"
    assert received.content_encoding == "utf-8"
    assert received.payload == [args, kwargs, task_message.NO_EMBED]
    assert received.headers["task"] == name
    assert received.headers["id"] == received.properties["correlation_id"] == message.id
    assert received.delivery_info == {"exchange": "", "routing_key": "q"}
    assert received.properties["priority"] == 3
    assert received.delivery_tag == message.tag


@given(
    st.lists(plain, max_size=4),
    st.dictionaries(st.text(), plain, max_size=3),
    st.none() | st.floats(1, 1e6),
    st.integers(0, 9),
)
def test_we_read_what_kombu_writes(
    args: list[Any], kwargs: dict[str, Any], limit: float | None, retries: int
) -> None:
    written: list[dict[str, Any]] = []
    with kombu.Connection("memory://") as connection:
        channel = connection.default_channel
        channel._put = lambda _, message, **__: written.append(message)
        headers = {
            "lang": "py", "task": "t.add", "id": "some-id", "shadow": None, "eta": None,
            "expires": None, "group": None, "group_index": None, "retries": retries,
            "timelimit": [limit, None], "root_id": "some-id", "parent_id": None,
            "argsrepr": repr(args), "kwargsrepr": repr(kwargs), "origin": "gen1@host",
            "ignore_result": False, "replaced_task_nesting": 0, "stamped_headers": None,
            "stamps": {}, "mine": {"kept": True},
        }  # fmt: skip
        kombu.Producer(channel).publish(
            [args, kwargs, {"callbacks": None}], routing_key="q", headers=headers,
            correlation_id="some-id", serializer="json",
        )  # fmt: skip
    payload = kombu_json.dumps(written[0]).encode()
    task = task_message.decode(payload)
    assert (task.args, task.kwargs, task.embed) == (args, kwargs, {"callbacks": None})
    assert task.headers.retries == retries
    assert task.headers.timelimit == (limit, None)
    assert task_message.decode_headers(payload) == task.headers
    again = json.loads(
        task_message.encode_retry(payload, tag="some-id:n.1", retries=retries + 1, due=0.0)
    )
    assert again["headers"]["mine"] == {"kept": True}
    assert again["headers"]["eta"] == "1970-01-01T00:00:00+00:00"
    assert again["headers"]["parent_id"] == "some-id"
    assert again["body"] == written[0]["body"]


CAPTURED = [
    "lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries",
    "timelimit", "root_id", "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result",
    "replaced_task_nesting", "stamped_headers", "stamps",
]  # fmt: skip


def test_the_fields_are_those_that_celery_writes() -> None:
    """The sets captured from Celery 5.4 to 5.7 on Redis."""
    envelope = json.loads(build_message(Settings(), "t.add", (2, 3), {}).payload)
    assert set(envelope) == {
        "body", "content-encoding", "content-type", "headers", "properties"
    }  # fmt: skip
    assert set(envelope["headers"]) == set(CAPTURED)
    assert set(envelope["properties"]) == {
        "correlation_id", "reply_to", "delivery_mode", "delivery_info", "priority",
        "body_encoding", "delivery_tag",
    }  # fmt: skip
    assert envelope["headers"]["argsrepr"] == "(2, 3)"
    assert envelope["headers"]["timelimit"] == [None, None]
    assert envelope["properties"]["delivery_mode"] == 2


@pytest.mark.parametrize(
    "body",
    [b"[[1,2],{}]", b"{}", b"[1,{},{}]", b"[[],[],{}]", b"[[],{},3]", b"not json", b"\xff"],
)
def test_a_wrong_body_is_a_decode_error(body: bytes) -> None:
    headers = task_message.Headers("t.add", "i")
    payload = task_message.encode(headers, body, task_message.Properties())
    assert task_message.decode_headers(payload).id == "i"
    with pytest.raises(DecodeError):
        task_message.decode(payload)


def test_a_number_that_no_store_can_hold_is_a_decode_error() -> None:
    payload = build_message(Settings(), "t.add", (), {}).payload
    for retries in (b"9223372036854775808", b"-1"):
        with pytest.raises(DecodeError):
            task_message.decode_headers(payload.replace(b'"retries":0', b'"retries":' + retries))


@given(st.binary(max_size=200))
def test_hostile_payloads_are_decode_errors(payload: bytes) -> None:
    for read in (task_message.decode, task_message.decode_headers):
        with pytest.raises(DecodeError):
            read(payload)
