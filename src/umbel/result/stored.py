"""What lies in the store under a task's id, and what is made of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from umbel import _state, clock, states
from umbel.exceptions import (
    BackendGetMetaError,
    ContentDisallowed,
    DecodeError,
    ImproperlyConfigured,
    TaskRevokedError,
)
from umbel.result.expiry import expiry

if TYPE_CHECKING:
    from umbel.app import App
    from umbel.engines.broker import HistoryEntry, StoredResult, Waiting
    from umbel.engines.results import ResultStore
    from umbel.message.result import Meta


REVOKED_FOR: Final = 7 * 86400.0
"""Seconds for which a revocation is remembered."""

MetaDict = dict[str, Any]
"""A stored state as Celery's callbacks get it: task_id, status, result, traceback, children…"""


def current_app() -> App:
    """The app that a result belongs to when none is named: the current one."""
    if _state.find_app is None:
        raise ImproperlyConfigured(
            "A result needs its app, and this process has made none: import the module that makes "
            "it, or write AsyncResult(id, app=app)."
        )
    app: App = _state.find_app("A result")
    return app


def result_store(app: App) -> ResultStore:
    """The app's result store; `ImproperlyConfigured` if it keeps none."""
    return app.results


def decode(app: App, stored: StoredResult) -> Meta:
    """A stored result's meta; `BackendGetMetaError` if it is none."""
    from umbel.message import result as message

    try:
        return message.decode(stored.meta, app.result_format)
    except ContentDisallowed:
        raise
    except DecodeError as error:
        text = f"The stored result of task {stored.id} cannot be read: {error}"
        raise BackendGetMetaError(text, task_id=stored.id) from error


def stored_value(app: App, meta: Meta) -> object:
    """The return value, or the exception made anew, with the worker's traceback as a note."""
    if meta.status not in states.EXCEPTION_STATES:
        return meta.result
    from umbel.message import result as message

    error = message.restore_exception(meta.result, known_exceptions(app))
    if meta.traceback:
        frames = None
        if app.conf.task_remote_tracebacks:
            from umbel.result.frames import remote_frames

            frames = remote_frames(meta.traceback)
        if frames is None:
            error.add_note(f"In the worker:\n{meta.traceback}")
        else:
            error.__traceback__ = frames
    return error


def meta_dict(app: App, meta: Meta) -> MetaDict:
    """A meta as Celery's callbacks get it."""
    return {
        "task_id": meta.task_id,
        "status": meta.status,
        "result": stored_value(app, meta),
        "traceback": meta.traceback,
        "children": meta.children,
        "date_done": meta.date_done,
    }


def message_watch(
    app: App, on_message: Callable[[MetaDict], object]
) -> Callable[[StoredResult], None]:
    """What calls `on_message` with each stored state."""

    def watch(stored: StoredResult) -> None:
        on_message(meta_dict(app, decode(app, stored)))

    return watch


def signal_number(signal: str | int | None) -> int:
    """A signal's number, of what `revoke` takes: SIGINT, INT, 2. `ValueError` for what is none."""
    from signal import SIGTERM, Signals, valid_signals

    if signal is None:
        return int(SIGTERM)  # a plain number: stores take no other
    try:
        if isinstance(signal, str) and not signal.isdigit():
            return int(Signals[signal if signal.startswith("SIG") else f"SIG{signal}"])
        if (number := int(signal)) in valid_signals():
            return number
    except KeyError:
        pass
    raise ValueError(f"There is no signal {signal!r}; give one as SIGTERM, TERM or 15.")


def revoke_all(
    app: App, ids: Iterable[str], *, terminate: bool, signal: str | int | None
) -> list[str]:
    """Revoke tasks in one step; those that were still waiting."""
    from umbel.engines.broker import StoredResult
    from umbel.message import result as meta

    number = signal_number(signal) if terminate else 0
    now, engine = clock.time(), app.engine
    record = meta.describe_exception(TaskRevokedError("revoked"))
    expires = expiry(app.conf, states.REVOKED, now)
    results = [
        StoredResult(
            id,
            states.REVOKED,
            meta.encode_failure(id, record, now, status=states.REVOKED, form=app.result_format),
            expires,
        )
        for id in dict.fromkeys(ids)
    ]
    messages = {
        result.id: message
        for result in results
        for message in (engine.broker.browse(id=result.id) if engine.broker.browsable else ())
        if message.worker is None
    }
    workflows = {
        id: workflow
        for id, message in messages.items()
        if (workflow := app.end_workflow(message.payload, record, states.REVOKED)) is not None
    }
    history = [_revoked_entry(id, message, now) for id, message in messages.items()]
    return engine.state.revoke(
        results, until=now + REVOKED_FOR, workflows=workflows, signal=number, history=history
    )


def _revoked_entry(id: str, message: Waiting, now: float) -> HistoryEntry:
    from umbel.engines.broker import HistoryEntry
    from umbel.message.task import decode_headers

    task, retries = "", 0
    with suppress(DecodeError):
        headers = decode_headers(message.payload)
        task, retries = headers.task, headers.retries or 0
    return HistoryEntry(
        id, task, message.queue, states.REVOKED, now, None, "", retries, "TaskRevokedError: revoked"
    )


_known: WeakKeyDictionary[App, tuple[int, dict[str, type[BaseException]]]] = WeakKeyDictionary()


def known_exceptions(app: App) -> Mapping[str, type[BaseException]]:
    """The exception classes that an app's tasks know: an error of one comes back as itself.

    They are those named in the tasks' options (`throws`), and those that a module with a task
    defines or imports. The map is made from the app alone: nothing that a stored record names
    is looked up, imported or called because it is named.
    """
    tasks = list(app.tasks.values())
    count, known = _known.get(app, (-1, {}))
    if count != len(tasks):
        kinds: list[object] = [kind for task in tasks for kind in task.throws]
        names = {getattr(task.run, "__module__", None) for task in tasks}
        for module in filter(None, (sys.modules.get(name) for name in names if name)):
            kinds += vars(module).values()
        known = {
            f"{kind.__module__}.{kind.__qualname__}": kind
            for kind in kinds
            if isinstance(kind, type) and issubclass(kind, Exception)
        }
        _known[app] = len(tasks), known
    return known


def advise(app: App, id: str, queue: str | None) -> str:
    """What to do if no live worker serves a task's queue; empty if one does.

    `queue` is where it was sent to, if that is known here.
    """
    from umbel.engines.run_file import is_alive

    engine = app.engine
    if queue is None:
        waiting = engine.broker.browse(id=id, limit=1) if engine.broker.browsable else []
        if not waiting or waiting[0].worker is not None:
            return ""
        queue = waiting[0].queue
    live = [worker for worker in engine.state.workers() if is_alive(worker, engine.run_dir)]
    if any(queue in worker.queues for worker in live):
        return ""
    others = "; ".join(f"{worker.node} serves {', '.join(worker.queues)}" for worker in live)
    return (
        f"Nobody works on its queue {queue!r} of {engine.name}. Live workers: "
        f"{others or 'none'}. Start one: umbel -A {app.module} worker -Q {queue}"
    )


def locate(app: App, id: str, queue: str | None) -> str:
    """Where a task is that has not ended, and what to do if it does not go on by itself."""
    advice = advise(app, id, queue)
    if advice or not app.engine.broker.browsable:
        return advice or "Its queue is served."
    found = app.engine.broker.browse(id=id, limit=1)
    return _place(app, found[0]) if found else _trace(app, id)


def _place(app: App, message: Waiting) -> str:
    from umbel.engines.run_file import is_alive
    from umbel.message.task import decode_headers

    engine, where = app.engine, f"in the queue {message.queue!r}"
    live = {one.number: one for one in engine.state.workers() if is_alive(one, engine.run_dir)}
    if message.worker in live:
        return f"{live[message.worker].node} has it. It goes on."
    if message.worker is not None:
        return "The worker that had it is dead; a live one takes it over."
    if message.due is not None and message.due > clock.time():
        due = datetime.fromtimestamp(message.due, UTC)
        return f"It is due at {due.isoformat(' ', 'seconds')} {where}."
    if any(count.paused for count in engine.broker.counts() if count.queue == message.queue):
        return (
            f"It waits {where}, which is paused. Go on: umbel -A {app.module} queues "
            f"--resume {message.queue}"
        )
    nodes = ", ".join(one.node for one in live.values() if message.queue in one.queues)
    text = f"It waits {where}, which {nodes} works on."
    with suppress(DecodeError):
        name = decode_headers(message.payload).task
        if name not in app.tasks:
            text += f" The app here has no task {name!r}."
    return text


def _trace(app: App, id: str) -> str:
    """What is left of a task that has no message and no result."""
    state = app.engine.state
    letter = state.dead_letter(id)
    if letter is not None and letter.id == id:
        return f"It is a dead letter ({letter.reason}): umbel -A {app.module} dead show {id}"
    ended = state.history(id=id, limit=1)
    if ended:
        return f"It has ended ({ended[0].state}), and no result of it is kept."
    return f"There is nothing of this id in {app.engine.name}: never sent, or expired."
