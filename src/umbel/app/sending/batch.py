"""Handing messages to the broker: in batches, each under a deadline, with new tries."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from umbel._state import current_request
from umbel.app.request import add_child
from umbel.app.sending.checks import NOTHING_SENT
from umbel.app.sending.parcel import Parcel, all_of, announce, options_of, retry_policy
from umbel.app.sending.publish import build_message
from umbel.app.sending.routing import route
from umbel.exceptions import OperationalError, PartlySentError, UnconfirmedError
from umbel.result import AsyncResult

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.settings.table import Settings
    from umbel.app.task import Task
    from umbel.engines.broker import Message, Workflow

SIZE: Final = 500
"""Messages that are stored in one step: no other process waits long for the store."""


def build_many(
    task: Task[..., Any],
    items: Iterable[tuple[Any, ...] | list[Any]],
    kwargs: dict[str, Any] | None,
    options: Mapping[str, Any],
) -> Iterator[Message]:
    """A message for each item, which is one call's positional arguments.

    Raises what `build_message` does, with a note of which item it is.
    """
    app, name = task.app, task.name
    if options.get("task_id") is not None:
        raise TypeError(
            f"{name}: apply_many takes no task_id, because each message gets an id of its own; "
            f"the results that it returns have them. {NOTHING_SENT}"
        )
    for number, args in enumerate(items):
        try:
            final = route(app, name, args, kwargs, task, options)
            message = build_message(app.conf, name, args, kwargs, task, **final)
        except Exception as error:
            error.add_note(
                f"It is item {number} of those that {name}.apply_many was given. An item is the "
                "tuple of one call's positional arguments: add.apply_many([(1, 2), (3, 4)])."
            )
            raise
        yield message


async def abuild_many(
    task: Task[..., Any],
    items: Iterable[tuple[Any, ...] | list[Any]],
    kwargs: dict[str, Any] | None,
    options: Mapping[str, Any],
) -> list[Message]:
    """`build_many` for coroutines: the event loop gets its turn after each batch."""
    import asyncio

    messages: list[Message] = []
    for message in build_many(task, items, kwargs, options):
        messages.append(message)
        if len(messages) % SIZE == 0:
            await asyncio.sleep(0)
    return messages


def publish(app: App, messages: Sequence[Message], *, ignored: bool) -> list[AsyncResult[Any]]:
    """Hand messages to the broker, all with the same options, each batch under the deadline.

    Raises `PartlySentError` if some batches are safe when one cannot be stored.
    """
    results: list[AsyncResult[Any]] = []
    for batch in _batches(messages):
        options, together = options_of(batch[0]), _with_copies(batch)
        timeout = _deadline_of(app.conf, options)
        end = time.monotonic() + timeout
        try:
            try:
                app.engine.broker.publish(together, timeout=timeout)
            except _errors_of(app.conf, options) as error:
                try_again(app, together, options, end, error)
        except Exception as error:
            _tell_of_rest(messages, results, error)
            raise
        results += [_conclude(app, message, ignored=ignored) for message in batch]
    return results


def publish_whole(
    app: App,
    messages: Sequence[Message],
    workflow: Workflow | None,
    options: Mapping[str, Any],
) -> None:
    """Store all messages and what a workflow needs besides, or nothing."""
    timeout = _deadline_of(app.conf, options)
    end = time.monotonic() + timeout
    tries = _pauses(app.conf, options, end)
    while True:
        try:
            return app.engine.broker.publish(messages, workflow, timeout=timeout)
        except UnconfirmedError:
            raise
        except _errors_of(app.conf, options) as error:
            pause = next(tries, None)
            if pause is None:
                raise
            _tell(messages, pause, error)
            time.sleep(pause)
            timeout = max(end - time.monotonic(), 0.0)


async def apublish(
    app: App, messages: Sequence[Message], *, ignored: bool
) -> list[AsyncResult[Any]]:
    """`publish` for coroutines."""
    results: list[AsyncResult[Any]] = []
    for batch in _batches(messages):
        try:
            await _publish_batch(app, _with_copies(batch), options_of(batch[0]))
        except Exception as error:
            _tell_of_rest(messages, results, error)
            raise
        results += [_conclude(app, message, ignored=ignored) for message in batch]
    return results


def _batches(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    for start in range(0, len(messages), SIZE):
        yield messages[start : start + SIZE]


def _with_copies(batch: Sequence[Message]) -> Sequence[Message]:
    return [one for message in batch for one in all_of(message)]


def _tell_of_rest(
    messages: Sequence[Message], sent: list[AsyncResult[Any]], error: Exception
) -> None:
    """Raise what says how many are queued, if any are."""
    if not sent or isinstance(error, UnconfirmedError):  # that batch is queued, too
        return
    done = len(sent)
    raise PartlySentError(
        f"The first {done} of {len(messages)} messages are queued, and the error's `results` are "
        f"theirs; the others are not: {error} Send the items from number {done} on again.",
        sent,
    ) from error


async def _publish_batch(app: App, messages: Sequence[Message], options: Mapping[str, Any]) -> None:
    """Publish for a coroutine, with new tries as the policy says."""
    timeout = _deadline_of(app.conf, options)
    end = time.monotonic() + timeout
    tries: Iterator[float] | None = None
    while True:
        try:
            return await app.sender.publish(messages, timeout)
        except UnconfirmedError:
            raise
        except _errors_of(app.conf, options) as error:
            if tries is None:
                tries = _pauses(app.conf, options, end)
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
    for pause in _pauses(app.conf, options, end):
        if isinstance(error, UnconfirmedError):
            break
        _tell(messages, pause, error)
        time.sleep(pause)
        try:
            rest = max(end - time.monotonic(), 0.0)
            return app.engine.broker.publish(messages, timeout=rest)
        except _errors_of(app.conf, options) as latest:
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


def _conclude(app: App, message: Message, *, ignored: bool) -> AsyncResult[Any]:
    """Once a message is safe: tell who wants to know, and make its result."""
    options = options_of(message)
    kind = options.get("result_cls") or AsyncResult
    if isinstance(message, Parcel):
        announce(message)
    result: AsyncResult[Any] = kind(message.id, app=app, queue=message.queue, ignored=ignored)
    if options.get("add_to_parent", True) and current_request.get() is not None:
        add_child(result)
    return result


def _errors_of(settings: Settings, options: Mapping[str, Any]) -> tuple[type[Exception], ...]:
    """The errors after which a publish is tried again."""
    return (OperationalError, *(retry_policy(settings, options).get("retry_errors") or ()))


def _deadline_of(settings: Settings, options: Mapping[str, Any]) -> float:
    """The seconds that one publish may take."""
    given = [options.get("timeout"), options.get("confirm_timeout")]
    return min(
        (seconds for seconds in given if seconds is not None),
        default=settings.task_publish_timeout,
    )


def _pauses(settings: Settings, options: Mapping[str, Any], end: float) -> Iterator[float]:
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
