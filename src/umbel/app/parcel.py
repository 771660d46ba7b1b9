"""A message with more to it than its bytes: its copies, who hears of it, how it is published."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import msgspec

from umbel._state import current_request
from umbel.app.carried import carry
from umbel.app.checks import NOTHING_SENT, check_priority
from umbel.app.payload import seal, write_body
from umbel.app.request import add_child
from umbel.engines.broker import Message
from umbel.exceptions import EncodeError, OperationalError
from umbel.message import task as task_message
from umbel.message.serializer import describe
from umbel.message.task import Headers, Properties
from umbel.signals import after_task_publish, before_task_publish

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.settings import Settings
    from umbel.result import AsyncResult


class Parcel(Message, frozen=True, gc=False):
    """A message that was sent with rare options, or that somebody wants to hear of."""

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
    carried = carry(name, options)
    exchange = options.get("exchange") or ""
    key = queue if options.get("routing_key") is None else options["routing_key"]
    open_headers = {
        header: value
        for header, value in msgspec.structs.asdict(headers).items()
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
    checked = _check(name, id, open_headers)
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
        return Message(tag, id, queue, seal(settings, payload, queue), priority, due)

    first = close(queue, properties.delivery_tag or "")
    copies = tuple(close(other, f"{id}:{token_hex(4)}") for other in queues)
    return Parcel(
        first.tag, id, queue, first.payload, priority, due, open_headers, body, exchange, key,
        copies, options,
    )  # fmt: skip


def _check(name: str, id: str, headers: dict[str, Any]) -> Headers:
    """The headers as a worker will read them."""
    try:
        checked = msgspec.convert(headers, Headers)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"{name}: with these headers no worker could read the message: {error}. An option, "
            f"headers= or a receiver of before_task_publish has set them so. {NOTHING_SENT}"
        ) from None
    if checked.id != id:
        raise ValueError(f"{name}: its id cannot be changed by a header. {NOTHING_SENT}")
    return checked


def announce(parcel: Parcel) -> None:
    """Tell the receivers of `after_task_publish` that it is safe."""
    after_task_publish.send(
        sender=parcel.headers["task"],
        body=parcel.body,
        headers=parcel.headers,
        exchange=parcel.exchange,
        routing_key=parcel.routing_key,
    )


def publish(app: App, message: Message, *, ignored: bool) -> AsyncResult[Any]:
    """`App.publish` for a message with rare options."""
    options = options_of(message)
    timeout = deadline_of(app.conf, options)
    end = time.monotonic() + timeout
    messages = all_of(message)
    try:
        app.engine.broker.publish(messages, timeout=timeout)
    except errors_of(app.conf, options) as error:
        try_again(app, messages, options, end, error)
    return conclude(app, message, ignored=ignored)


async def apublish(app: App, message: Message, *, ignored: bool) -> AsyncResult[Any]:
    """`App.apublish`."""
    options = options_of(message)
    await publish_all(app, all_of(message), options)
    return conclude(app, message, ignored=ignored)


async def publish_all(app: App, messages: Sequence[Message], options: Mapping[str, Any]) -> None:
    """Publish for a coroutine, with new tries as the policy says."""
    timeout = deadline_of(app.conf, options)
    end = time.monotonic() + timeout
    tries: Iterator[float] | None = None
    while True:
        try:
            return await app.sender.publish(messages, timeout)
        except errors_of(app.conf, options) as error:
            if tries is None:
                tries = pauses(app.conf, options, end)
            pause = next(tries, None)
            if pause is None:
                raise
            _tell(messages, pause, error)
            import asyncio

            await asyncio.sleep(pause)
            timeout = max(end - time.monotonic(), 0.0)


def try_again(
    app: App,
    messages: Sequence[Message],
    options: Mapping[str, Any],
    end: float,
    error: Exception,
) -> None:
    """Publish after a first try has failed with `error`, which is raised if no other succeeds.

    The bytes are the same, so a message that had arrived after all is there once.
    """
    for pause in pauses(app.conf, options, end):
        _tell(messages, pause, error)
        time.sleep(pause)
        try:
            rest = max(end - time.monotonic(), 0.0)
            return app.engine.broker.publish(messages, timeout=rest)
        except errors_of(app.conf, options) as latest:
            error = latest
    raise error


def _tell(messages: Sequence[Message], pause: float, error: Exception) -> None:
    import logging

    logging.getLogger("umbel.app").warning(
        "Publishing %s failed and is tried again in %.1f s: %s",
        messages[0].id if len(messages) == 1 else f"{len(messages)} messages",
        pause,
        error,
    )


def conclude(app: App, message: Message, *, ignored: bool) -> AsyncResult[Any]:
    """Once a message is safe: tell who wants to know, and make its result."""
    from umbel.result import AsyncResult

    options = options_of(message)
    kind = options.get("result_cls") or AsyncResult
    if isinstance(message, Parcel):
        announce(message)
    result: AsyncResult[Any] = kind(message.id, app=app, queue=message.queue, ignored=ignored)
    if options.get("add_to_parent", True) and current_request.get() is not None:
        add_child(result)
    return result


def options_of(message: Message) -> Mapping[str, Any]:
    """The rare options with which a message is sent."""
    return message.options if isinstance(message, Parcel) else {}


def all_of(message: Message) -> tuple[Message, ...]:
    """A message and its copies."""
    return (message, *message.copies) if isinstance(message, Parcel) else (message,)


def retry_policy(settings: Settings, options: Mapping[str, Any]) -> dict[str, Any]:
    """The policy in force for one publish."""
    return {**settings.task_publish_retry_policy, **(options.get("retry_policy") or {})}


def errors_of(settings: Settings, options: Mapping[str, Any]) -> tuple[type[Exception], ...]:
    """The errors after which a publish is tried again."""
    return (OperationalError, *(retry_policy(settings, options).get("retry_errors") or ()))


def deadline_of(settings: Settings, options: Mapping[str, Any]) -> float:
    """The seconds that one publish may take."""
    given = [options.get("timeout"), options.get("confirm_timeout")]
    return min(
        (seconds for seconds in given if seconds is not None),
        default=settings.task_publish_timeout,
    )


def pauses(settings: Settings, options: Mapping[str, Any], end: float) -> Iterator[float]:
    """The pauses before each new try of a publish that failed, up to a monotonic time."""
    retry = options.get("retry")
    if not (settings.task_publish_retry if retry is None else retry):
        return
    policy = retry_policy(settings, options)
    most, longest = policy.get("max_retries", 3), policy.get("interval_max", 1.0)
    pause, tries = min(policy.get("interval_start", 0.0), longest), 0
    while most is None or tries < most:
        if time.monotonic() + pause >= end:
            return
        yield pause
        tries += 1
        pause = min(pause + policy.get("interval_step", 0.2), longest)
