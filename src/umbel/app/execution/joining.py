"""What becomes of a complete chord where Celery's workers may serve the body's queue.

The body's own message says whose results it gets, which only this package understands. Of it is
made one that has them among its arguments; or the body fails, without being run, because a member
has.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from umbel import clock, states
from umbel.app.execution.following import after_failure, read, values_of
from umbel.app.sending.payload import seal
from umbel.app.sending.workflow import plain_message, shelf_of
from umbel.engines.broker import (
    Acknowledge,
    HistoryEntry,
    Message,
    Settlement,
    StoredResult,
    Workflow,
)
from umbel.exceptions import ChordError, DecodeError, EncodeError
from umbel.message import content
from umbel.message import result as result_message
from umbel.message import task as task_message
from umbel.message.format import PLAIN
from umbel.message.serializer import loads
from umbel.result.expiry import expiry

if TYPE_CHECKING:
    from umbel.app.app import App

logger: Final = logging.getLogger("umbel.app")


def join_body(
    app: App, body: Message, parts: Sequence[bytes], nesting: bytes | None
) -> Settlement | None:
    """All that follows from a chord's end (`umbel.engines.broker.Joiner`).

    None where only this package's workers can run the body: it is to get exceptions as values, or
    the results are too many for a message.
    """
    _, message = read(app, body.payload)
    if message is None or message.headers.join is UNSET:
        return None  # whoever runs it finds out what is wrong
    headers = message.headers
    id, policy, wanted = message.headers.join
    try:
        values = values_of(app, parts, policy)
        if nesting is not None:
            values = _nested(app, parts, values, nesting)
        args = [values, *message.args] if wanted else message.args
        content = (args, message.kwargs, message.embed)
        written = task_message.encode_body(content, message, app.conf.task_max_message_bytes)
    except ChordError as error:
        return _failed(app, body, message, error)
    except (DecodeError, EncodeError):
        return None
    shown: Mapping[str, str] = {}
    if headers.secret is UNSET:
        levels = app.conf.task_repr_maxlevels
        shown = {"argsrepr": task_message.describe(tuple(args), levels)}
    payload = seal(app.conf, task_message.encode_joined(body.payload, written, shown), body.queue)
    made = Message(body.tag, body.id, body.queue, payload, body.priority, body.due)
    return Settlement(
        0, 0, 1, Acknowledge(), follow_ups=(made,), workflow=Workflow(dropped=(id,))
    )  # fmt: skip


def _nested(app: App, parts: Sequence[bytes], values: Sequence[Any], nesting: bytes) -> list[Any]:
    """Results in the form that Celery has saved of the header; as they are if they do not fit."""
    form = app.result_format
    ids = [result_message.decode_part(part, form)[0] for part in parts]
    by_id = dict(zip(ids, values, strict=True))

    def value_of(node: Any) -> Any:
        (id, _), members = node
        return by_id[id] if members is None else [value_of(member) for member in members]

    try:
        saved: Any = (
            loads(nesting)
            if form is PLAIN
            else content.decode(nesting, form.content_type, form.accept)
        )
        found: list[Any] = value_of(saved["result"])
    except (KeyError, TypeError, ValueError):
        return list(values)
    return found


def _failed(app: App, body: Message, message: task_message.Task, error: ChordError) -> Settlement:
    """The end of a body that gets no results."""
    headers, now = message.headers, clock.time()
    logger.error("Chord body %s[%s]: %s", headers.shown_name, headers.id, error)
    record = result_message.describe_exception(error)
    traceback = result_message.format_traceback(error)
    followed = after_failure(
        app, shelf_of(app), headers, message, body.payload, record, traceback, states.FAILURE
    )
    task = app.tasks.get(headers.task)
    ignored = headers.ignore_result if task is None else task.ignores_result(headers.ignore_result)
    result = None
    if app.keeps_results and not ignored:
        meta = result_message.encode_failure(
            headers.id, record, now, traceback, parent_id=headers.parent_id, form=app.result_format
        )
        kept_until = expiry(app.conf, states.FAILURE, now)
        result = StoredResult(headers.id, states.FAILURE, meta, kept_until)
    entry = HistoryEntry(
        headers.id, headers.task, body.queue, states.FAILURE, now, None, "", headers.retries or 0,
        f"ChordError: {error}"[:500],
    )  # fmt: skip
    sent = tuple(plain_message(m, private=m.private) for m in followed.messages)
    return Settlement(0, 0, 1, Acknowledge(), result, sent, entry, followed.workflow)
