"""From a tick to its messages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from umbel.app.sending.parcel import all_of
from umbel.app.sending.publish import build_message
from umbel.app.sending.routing import route
from umbel.beat.entries import Entry
from umbel.beat.lazy import BeatLazyFunc
from umbel.engines.broker import Message

if TYPE_CHECKING:
    from umbel.app import App


def build(app: App, entry: Entry, due: float) -> Sequence[Message]:
    """The messages of one tick: one, or one for each queue that its exchange is bound to.

    If the task is known here, its options are the defaults. The task can read its tick:
    `request.periodic_task_name` and `request.periodic_task_due`, the due time as ISO 8601.
    """
    args = [_settle(value) for value in entry.args]
    kwargs = {key: _settle(value) for key, value in entry.kwargs.items()}
    options: dict[str, Any] = dict(entry.options)
    options["headers"] = {
        "celery_beat_task": True,
        "periodic_task_name": entry.name,
        "periodic_task_due": datetime.fromtimestamp(due, UTC).isoformat(),
        **(options.get("headers") or {}),
    }
    if entry.jitter:
        options["countdown"] = (options.get("countdown") or 0) + _delay(entry, due)
    task = app.tasks.get(entry.task)
    final = route(app, entry.task, args, kwargs, task, options)
    message = build_message(app.conf, entry.task, args, kwargs, task, by_name=True, **final)
    return all_of(message)


def _settle(value: Any) -> Any:
    return value() if isinstance(value, BeatLazyFunc) else value


def _delay(entry: Entry, due: float) -> float:
    """The tick's share of the jitter: random among ticks, the same in each scheduler."""
    digest = hashlib.blake2b(f"{entry.name}\0{due!r}".encode(), digest_size=8).digest()
    return entry.jitter * int.from_bytes(digest, "big") / 2**64
