"""Moving the write-ahead log into the database, by one process at a time.

SQLite before 3.51.3 can corrupt the log when two connections checkpoint at once
(https://www.sqlite.org/wal.html#walresetbug), so automatic checkpoints are off and whoever finds
the log long takes a lock file first. A first, passive pass moves most of it without holding up
writers; the second empties the log.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import fcntl
import os
import sqlite3
import threading
import time
import weakref
from pathlib import Path
from typing import Final

from umbel.engines.sqlite.connection import open_connection
from umbel.engines.sqlite.forks import PATIENCE, watch
from umbel.exceptions import ImproperlyConfigured, OperationalError

LONG: Final = 64 << 20
"""Bytes of log from which on a checkpoint is worth its sync."""
OUTRUN: Final = 3
"""Times LONG from which on a producer waits for the checkpoint."""
GIVE_WAY: Final = 1.0
"""Seconds for which it waits at most."""
LOOK_EVERY: Final = 16
"""Commits between two looks at the log's length: a commit of 500 messages can be 1 MB of log."""


class Checkpointer:
    """Keeps the log short, in a thread of its own, whenever this process has written enough."""

    def __init__(self, path: Path, run_dir: Path) -> None:
        self._path = path
        self._log = f"{path}-wal"
        self._lock_file = run_dir / "checkpoint.lock"
        self._commits = 0
        self._lock = threading.Lock()
        self._held = False  # the lock, for the length of a fork
        self._hurry = False  # a fork waits for the end
        watch(self)

    def count_commit(self, *, give_way: bool = False) -> None:
        """Note one commit; now and then, look whether the log has grown long.

        With `give_way` the caller waits for a checkpoint that it would otherwise outrun.
        """
        # The first one too: the log may be that of a thousand processes with one commit each.
        self._commits += 1
        if self._commits % LOOK_EVERY != 1:
            return
        size = log_size(self._log)
        if size > LONG and not self._lock.locked():
            _unfinished.add(self)
            # Not threading.Thread: a signal handler that raises within its start() (a soft limit,
            # Ctrl-C) breaks threading's tables, and with them the thread.
            # No thread to be had (the process is ending): `_finish` or the next process does it.
            with contextlib.suppress(RuntimeError):
                _thread.start_new_thread(self.run, ())
        if give_way and size > OUTRUN * LONG and self._lock.acquire(timeout=GIVE_WAY):
            self._lock.release()

    def finish(self) -> None:
        """At the end of the process: wait for what is under way, do what has not begun."""
        if self._lock.acquire(timeout=PATIENCE):
            # Not let go in between: the thread may begin just then, and the process ends under it.
            try:
                if log_size(self._log) > LONG:
                    self._run_alone()
            finally:
                self._lock.release()

    def run(self) -> bool:
        """Checkpoint now; False if somebody else is at it or readers were in the way."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            return self._run_alone()
        finally:
            self._lock.release()

    def _run_alone(self) -> bool:
        try:
            return self._run_as_only_process()
        except (OSError, sqlite3.Error, OperationalError, ImproperlyConfigured):
            return False  # a full disk, a lock, a file that is gone: whoever writes meets it too

    def _run_as_only_process(self) -> bool:
        self._lock_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return self._checkpoint()
        finally:
            os.close(descriptor)

    def _checkpoint(self) -> bool:
        connection = open_connection(self._path)
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            deadline = time.monotonic() + 2.0
            while not self._hurry and time.monotonic() < deadline:
                (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if not busy:
                    return True
                time.sleep(0.0003)  # writers leave gaps no longer than that
        finally:
            connection.close()
        return False

    def let_go(self) -> None:
        """Before a fork: a child must inherit neither the connection nor the lock file."""
        self._hurry = True
        self._held = self._lock.acquire(timeout=PATIENCE)

    def go_on(self) -> None:
        """After a fork, in the parent."""
        self._hurry = False
        if self._held:
            self._held = False
            self._lock.release()

    def start_afresh(self) -> None:
        """After a fork, in the child: no thread of the parent's is here."""
        self._hurry = self._held = False
        self._lock = threading.Lock()


_unfinished: weakref.WeakSet[Checkpointer] = weakref.WeakSet()


@atexit.register
def _finish() -> None:
    """Short-lived processes shorten the log too: their thread dies with them, so they wait here."""
    for checkpointer in list(_unfinished):
        checkpointer.finish()


def log_size(log: str) -> int:
    """Bytes in the write-ahead log; 0 if there is none."""
    try:
        return os.stat(log).st_size
    except FileNotFoundError:
        return 0
