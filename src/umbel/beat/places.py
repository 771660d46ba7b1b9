"""Where the records lie: in the app's store, or in a file of one host (`umbel beat -s FILE`)."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from umbel.beat.records import ScheduleStore
from umbel.beat.schedules import Schedules
from umbel.engines.broker import Message, Waiting
from umbel.engines.sqlite.connection import is_store
from umbel.engines.state import Engine, ScheduleChange, ScheduleRecord
from umbel.engines.urls import connect_engine
from umbel.exceptions import ImproperlyConfigured, OperationalError

if TYPE_CHECKING:
    from umbel.app import App

ENDINGS: Final = ("", ".db", ".umbel.db")
"""What is put behind the name of a file of schedules until none is there that is not ours."""
LOCK_TIMEOUT: Final = 5.0
"""Seconds."""
ON_ITS_WAY: Final = "umbel.beat>"
"""What stands before the queue of a message in a file of schedules.

So nothing else is sent on, if the file that was named is a store with messages of its own.
"""


def open_schedules(app: App) -> Schedules:
    """`App.schedules`."""
    return Schedules(app, lambda: open_store(app))


def open_store(app: App, file: str | None = None, engine: Engine | None = None) -> ScheduleStore:
    """The records of an app: in its store, or in the file that is given or set.

    `engine`: the connection to the app's store that is to be used.
    """
    engine = engine or app.engine
    if file is None:
        file = app.conf.beat_schedule_filename
    if file is None:
        return engine.state
    path = choose_file(file)
    if os.path.realpath(engine.name) == os.path.realpath(path):
        return engine.state
    return FileStore(path, engine)


def choose_file(file: str) -> Path:
    """The file to use where one is asked for: a file there that is not ours is left alone."""
    for ending in ENDINGS:
        path = Path(file + ending).absolute()
        if path.exists() and not path.is_file():
            raise ImproperlyConfigured(
                f"{path} is no regular file, so it cannot hold the schedule. Name one with -s."
            )
        if not path.exists() or is_store(path):
            return path
    raise ImproperlyConfigured(
        f"There is no place for the schedule beside {file}: {', '.join(ENDINGS[1:])} are taken by "
        "files of other programs too. Name another file with -s."
    )


class FileStore:
    """Records in a SQLite file of their own, whose ticks go on to the app's store.

    A tick and its message are written to the file in one step, the message then goes on to the
    store and out of the file. Whoever does so holds a lock, which the kernel frees when it dies;
    its successor sends what was left, unless the store knows it already.
    """

    def __init__(self, path: Path, target: Engine) -> None:
        self.path = path
        self._target = target
        self._engine = connect_engine(f"sqlite:///{quote(os.fspath(path))}")
        try:
            with contextlib.suppress(OperationalError):  # it is locked, and can be used later
                self._engine.state.schedules([])
        except ImproperlyConfigured as error:
            reason = str(error).partition(" cannot be used: ")[2].partition(". Set ")[0]
            raise ImproperlyConfigured(
                f"The file of the schedule {path} cannot be used: {reason or error}. "
                "Name another one with -s, on a local disk that this user may write to."
            ) from error

    def schedules(self, names: Sequence[str] | None = None) -> list[ScheduleRecord]:
        """See `StateStore.schedules`."""
        return self._engine.state.schedules(names)

    def due_schedules(self, now: float, limit: int) -> tuple[list[ScheduleRecord], float | None]:
        """See `StateStore.due_schedules`; also sends on what is left in the file."""
        if self._queues():
            with self._locked():
                self._send_on(left=True)
        return self._engine.state.due_schedules(now, limit)

    def change_schedules(self, changes: Sequence[ScheduleChange]) -> list[str]:
        """See `StateStore.change_schedules`."""
        if not any(change.messages for change in changes):
            return self._engine.state.change_schedules(changes)
        with self._locked():
            self._send_on(left=True)
            refused = self._engine.state.change_schedules([_put_aside(one) for one in changes])
            with contextlib.suppress(OperationalError):  # it is safe here, and sent on later
                self._send_on(left=False)
        return refused

    def _queues(self) -> list[str]:
        """The queues of the messages that are to be sent on."""
        return [
            held.queue for held in self._engine.broker.counts() if held.queue.startswith(ON_ITS_WAY)
        ]

    def _send_on(self, *, left: bool) -> None:
        broker = self._engine.broker
        queues = self._queues()
        if not queues:
            return
        waiting = [one for queue in queues for one in broker.browse(queue, limit=sys.maxsize)]
        messages = [_as_message(one) for one in waiting]
        if left:
            messages = [one for one in messages if not self._is_known(one.id)]
        self._target.broker.publish(messages)
        broker.purge(queues)

    def _is_known(self, id: str) -> bool:
        """Whether the app's store has had a task of that id."""
        target = self._target
        return bool(
            (target.broker.browsable and target.broker.browse(id=id, limit=1))
            or target.results.get([id])
            or target.state.dead_letter(id)
            or target.state.history(id=id, limit=1)
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        import fcntl  # here, as Windows has none

        self._engine.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._engine.run_dir / "beat.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise OperationalError(
                            f"Another scheduler has held {path} for {LOCK_TIMEOUT:g} s; nothing "
                            "was sent. Look for one that is stopped."
                        ) from None
                    time.sleep(0.005)
            yield
        finally:
            os.close(descriptor)


class _Envelope(msgspec.Struct):
    class _Headers(msgspec.Struct):
        id: str

    class _Properties(msgspec.Struct):
        delivery_tag: str

    headers: _Headers
    properties: _Properties


def _as_message(waiting: Waiting) -> Message:
    """A message as it was before it was stored."""
    envelope = msgspec.json.decode(waiting.payload, type=_Envelope)
    return Message(
        envelope.properties.delivery_tag, envelope.headers.id,
        waiting.queue.removeprefix(ON_ITS_WAY), waiting.payload, waiting.priority, waiting.due,
    )  # fmt: skip


def _put_aside(change: ScheduleChange) -> ScheduleChange:
    messages = [
        msgspec.structs.replace(one, queue=ON_ITS_WAY + one.queue) for one in change.messages
    ]
    return msgspec.structs.replace(change, messages=tuple(messages))
