"""A message with more to it than its bytes: its copies, and who hears of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from umbel.app.sending.carried import carry
from umbel.app.sending.checks import NOTHING_SENT, check_headers, check_priority, check_timeout
from umbel.app.sending.payload import seal, write_body
from umbel.engines.broker import Message
from umbel.exceptions import EncodeError
from umbel.message import task as task_message
from umbel.message.serializer import describe
from umbel.message.task import Headers, Properties
from umbel.signals import after_task_publish, before_task_publish

if TYPE_CHECKING:
    from umbel.app.settings.table import Settings


class Parcel(Message, frozen=True, gc=False):
    """A message that was sent with rare options, or that somebody wants to hear of."""

    rare: ClassVar[bool] = True
    headers: dict[str, Any] = msgspec.field(default_factory=dict)
    body: tuple[Any, ...] = ()
    exchange: str = ""
    routing_key: str = ""
    copies: tuple[Message, ...] = ()
    """The same message for the other queues that are bound to the exchange."""
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)


def pack(
    settings: Settings,
    headers: Headers,
    properties: Properties,
    value: tuple[Any, ...],
    due: float | None,
    queues: tuple[str, ...],
    options: Mapping[str, Any],
    serializer: str,
    compression: str | None,
) -> Parcel:
    """The parcel of a message as far as it is built, with the rare options added.

    The receivers of `before_task_publish` are asked here; `ValueError` if what they or the
    options leave is a message that no worker could read.
    """
    name, id = headers.task, headers.id
    queue = properties.delivery_info.routing_key
    check_timeout(name, options)
    carried = carry(name, options)
    exchange = options.get("exchange") or ""
    key = queue if options.get("routing_key") is None else options["routing_key"]
    written_as = headers.__struct_encode_fields__
    open_headers = {
        header: value
        for header, value in zip(written_as, msgspec.structs.astuple(headers), strict=True)
        if value is not msgspec.UNSET
    }
    open_headers.update(carried.headers)
    open_properties: dict[str, Any] = {
        "correlation_id": id,
        "reply_to": properties.reply_to,
        "delivery_mode": properties.delivery_mode,
        "priority": properties.priority,
        **({} if properties.expiration is None else {"expiration": properties.expiration}),
        **carried.properties,
    }
    body = (list(value[0]), dict(value[1]), {**value[2], **carried.embed})
    before_task_publish.send(
        sender=name,
        body=body,
        exchange=exchange,
        routing_key=key,
        headers=open_headers,
        properties=open_properties,
        declare=[],
        retry_policy=retry_policy(settings, options),
    )
    checked = check_headers(name, id, open_headers)
    priority = open_properties["priority"]
    check_priority(name, priority)
    written = write_body(settings, name, body, None, serializer, compression)
    if written.compression:
        open_headers["compression"] = written.compression
    if checked.eta != headers.eta:
        due = task_message.parse_time(checked.eta)

    def close(queue: str, tag: str) -> Message:
        envelope = {
            **open_properties,
            "delivery_info": {"exchange": exchange, "routing_key": key},
            "delivery_tag": tag,
        }
        try:
            payload = task_message.encode_open(open_headers, written.data, envelope, *written.kind)
        except EncodeError as error:
            where = describe(error.path)
            raise EncodeError(f"{name}: {where}: {error.problem}. {NOTHING_SENT}") from None
        try:
            task_message.check_readable(payload)
        except EncodeError as error:
            raise EncodeError(f"{name}: {error}. {NOTHING_SENT}") from None
        return Message(tag, id, queue, seal(settings, payload, queue), priority, due)

    first = close(queue, properties.delivery_tag or "")
    copies = tuple(close(other, f"{id}:{os.urandom(4).hex()}") for other in queues)
    return Parcel(
        first.tag, id, queue, first.payload, priority, due, False, open_headers, body, exchange,
        key, copies, options,
    )  # fmt: skip


def announce(parcel: Parcel) -> None:
    """Tell the receivers of `after_task_publish` that it is safe."""
    after_task_publish.send(
        sender=parcel.headers["task"],
        body=parcel.body,
        headers=parcel.headers,
        exchange=parcel.exchange,
        routing_key=parcel.routing_key,
    )


def options_of(message: Message) -> Mapping[str, Any]:
    """The rare options with which a message is sent."""
    return message.options if isinstance(message, Parcel) else {}


def all_of(message: Message) -> tuple[Message, ...]:
    """A message and its copies."""
    return (message, *message.copies) if isinstance(message, Parcel) else (message,)


def retry_policy(settings: Settings, options: Mapping[str, Any]) -> dict[str, Any]:
    """The policy in force for one publish."""
    return {**settings.task_publish_retry_policy, **(options.get("retry_policy") or {})}
