"""Connections to one store file: opening it, transactions, and what its errors mean.

Every write is one `BEGIN IMMEDIATE` transaction. No connection crosses a fork (forks.py). The file
itself is never opened but by SQLite: closing any other descriptor of it would drop this process's
locks (https://www.sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import Final, TypeVar

from umbel.engines.sqlite.forks import PATIENCE, watch
from umbel.exceptions import (
    ImproperlyConfigured,
    OperationalError,
    StoreDamaged,
    StoreFull,
)

T = TypeVar("T")

FORMAT: Final = 4
"""The store's format version, kept as `PRAGMA user_version`."""
UPGRADES: Final[dict[int, tuple[str, ...]]] = {
    1: ("schedule", "schedule_due"),
    2: ("workflow", "workflow_expires", "piece"),
    3: ("termination",),
}
"""What schema.sql has that a store of a format had not yet."""
COLUMNS: Final[dict[int, tuple[tuple[str, str], ...]]] = {
    3: (("history", "place TEXT"),),
}
"""The columns that tables of a format had not yet."""
CREATES: Final = re.compile(r"^CREATE (?:UNIQUE )?(?:TABLE|INDEX) (\w+)", re.MULTILINE)
APPLICATION_ID: Final = 0x756D626C  # "umbl"
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs"}
)

_abandoned: list[sqlite3.Connection] = []
"""Connections that a fork in C carried over: kept so that nothing ever closes them."""


def open_connection(
    path: Path, *, durability: str = "process", timeout: float = 5.0
) -> sqlite3.Connection:
    """Open one connection, creating and upgrading the file where needed.

    `durability="power"` syncs the log at each commit, so that work survives a power cut; the
    default survives the death of any process. Errors: `ImproperlyConfigured` for a folder that
    cannot hold a store or a file that is none, `StoreDamaged`, `StoreFull`, `OperationalError`
    (also when another process holds the file for `timeout` seconds).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _unusable(path, f"no permission to write in {path.parent}")
    kind = _file_system(path.parent)
    if kind in NETWORK_FILE_SYSTEMS:
        raise _unusable(path, f"{path.parent} is on a network file system ({kind})")
    deadline = time.monotonic() + timeout
    while True:
        try:
            return _connect(path, durability)
        except sqlite3.Error as error:
            # Two processes that create one file at the same moment lock each other out, and
            # SQLite's own waiting does not cover the switch to the write-ahead log.
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise explain(error, path) from error
            time.sleep(0.005)


def is_store(path: Path) -> bool:
    """Whether a file is a store of ours, or an empty one; nothing is changed."""
    if path.is_file() and path.stat().st_size == 0:
        return True
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        ) as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
    except sqlite3.Error:
        return False
    return bool(application == APPLICATION_ID)


def _connect(path: Path, durability: str) -> sqlite3.Connection:
    # The file is private from its first moment, and SQLite gives its mode to the log.
    previous = os.umask(0o077) if not path.exists() else None
    try:
        connection = sqlite3.connect(
            path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64
        )
    finally:
        if previous is not None:
            os.umask(previous)
    try:
        _prepare(connection, path, durability)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, durability: str) -> None:
    execute = connection.execute
    execute("PRAGMA wal_autocheckpoint=0")
    execute(f"PRAGMA synchronous={'FULL' if durability == 'power' else 'NORMAL'}")
    execute("PRAGMA temp_store=MEMORY")
    # Debian's SQLite overwrites what is deleted with zeros: pages more to write for each task.
    execute("PRAGMA secure_delete=OFF")
    execute("BEGIN")  # one view of the file: another process may just be creating it
    try:
        version = _format_of(connection, path)
    finally:
        execute("ROLLBACK")
    if version == 0:
        execute("PRAGMA journal_mode=WAL")
    if version < FORMAT:
        _upgrade(connection, path)


def _format_of(connection: sqlite3.Connection, path: Path) -> int:
    """The format of a store that this package can use; 0 if there is nothing in the file."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (application, version, tables) == (0, 0, 0):
        return 0
    if application != APPLICATION_ID:
        message = (
            f"{path} is a SQLite file, but not a store of umbel. It was left as it is. "
            "Name another file in the URL or with UMBEL_HOME."
        )
        raise ImproperlyConfigured(message)
    if version > FORMAT:
        message = (
            f"The store {path} was written by a newer umbel (format {version}, this package "
            f"knows {FORMAT}). Install the newer version, or name another store with UMBEL_HOME."
        )
        raise ImproperlyConfigured(message)
    return int(version)


def _keep_out_of_version_control(folder: Path) -> None:
    """The embedded store lies in the user's project, where nobody wants to commit it."""
    if folder.name == ".umbel":
        (folder / ".gitignore").write_text("*\n", encoding="ascii")


def _upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Bring an empty file, or a store of an older package, to today's format, in one step."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _format_of(connection, path)
        if version < FORMAT:  # nobody else was faster
            schema = resources.files(__package__).joinpath("schema.sql").read_text("utf-8")
            new = {name for old, names in UPGRADES.items() if old >= version for name in names}
            for statement in _statements(schema):
                if version == 0 or not new.isdisjoint(CREATES.findall(statement)):
                    connection.execute(statement)
            for old, columns in COLUMNS.items():
                for table, column in columns if old >= version > 0 else ():
                    connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={FORMAT}")
            if version == 0:
                _keep_out_of_version_control(path.parent)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> Iterator[str]:
    # executescript() would commit the transaction that makes creation atomic.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _unusable(path: Path, reason: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"The store {path} cannot be used: {reason}. "
        "Set UMBEL_HOME to a folder on a local disk that this user may write to."
    )


def _file_system(folder: Path) -> str:
    """The type of the file system that holds a folder, as the kernel calls it; '' if unknown."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
        target = os.fspath(folder.resolve())
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, name, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


def explain(error: sqlite3.Error, path: Path) -> Exception:
    """What an SQLite error means to the person who meets it, while the store is being opened."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(
            f"The disk that holds the store {path} is full. Nothing that was queued is lost; "
            "free some space and try again."
        )
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return StoreDamaged(
            f"The store {path} is damaged ({error}). Stop all workers, keep a copy of the file, "
            f'and recover what is readable: sqlite3 "{path}" .recover | sqlite3 recovered.db'
        )
    if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
        return _unusable(path, str(error))
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return OperationalError(
            f"The store {path} is locked by another process; nothing was changed. "
            "Look for a stopped or stuck process that uses it."
        )
    return OperationalError(f"The store {path} could not be used: {error}.")


def explain_in_use(error: Exception, path: Path) -> Exception:
    """The same for a store that has been in use: it may come back, so it can be tried again."""
    if isinstance(error, (sqlite3.DataError, sqlite3.IntegrityError)):
        # No second try helps: it is what was to be stored (over SQLite's billion bytes).
        return ValueError(f"The store {path} cannot take this: {error}.")
    if isinstance(error, sqlite3.Error):
        error = explain(error, path)
    return OperationalError(str(error)) if isinstance(error, ImproperlyConfigured) else error


def _log_removed(path: Path) -> StoreDamaged:
    return StoreDamaged(
        f"The write-ahead log {path}-wal was removed while the store was in use; it is part of the "
        "store. Nothing was written now. Stop every process that uses the store, and only then "
        "start again: the last one to close it saves what the log held."
    )


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Database:
    """This process's connection to one store file, shared by its threads."""

    def __init__(self, path: Path, *, durability: str = "process") -> None:
        self.path = path
        self._durability = durability
        self._lock = threading.RLock()  # re-entrant only so that it tells who owns it
        self._caller: FrameType | None = None
        self._held = False  # the lock, for the length of a fork
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._log_path = f"{path}-wal"
        self._log: tuple[int, int] | None = None
        watch(self)

    def _open(self, deadline: float) -> sqlite3.Connection:
        if self._connection is not None and self._file != _identity(self.path):
            # Somebody removed or replaced the file: what is written to the old one is lost.
            self._close()
        elif self._connection is not None and self._log != _identity(self._log_path):
            # No SQLite does that while a connection is open. This one would write on into the
            # removed log, which nobody else finds.
            raise _log_removed(self.path)
        if self._connection is None:
            left = max(deadline - time.monotonic(), 0.0)
            try:
                self._connection = open_connection(
                    self.path, durability=self._durability, timeout=left
                )
            except ImproperlyConfigured as error:
                if self._file is None:
                    raise
                raise explain_in_use(error, self.path) from error
            self._file = _identity(self.path)
            self._log = _identity(self._log_path)
        return self._connection

    @contextmanager
    def write(self, timeout: float = 5.0) -> Iterator[sqlite3.Connection]:
        """One write transaction, under one deadline (seconds) for all that it waits for.

        Commits at the end, rolls back on any error. `OperationalError` when another process
        holds the lock to the end of the deadline.
        """
        deadline = time.monotonic() + timeout
        caller = sys._getframe(2)  # noqa: SLF001  (whose `with` this is; see `_refuse_nested`)
        self._refuse_nested()
        try:
            if not self._lock.acquire(timeout=max(timeout, 0.0)):
                raise self._timed_out(timeout)
            self._caller = caller
            connection = self._open(deadline)
            try:
                self._begin(connection, deadline, timeout)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # A signal handler may raise anywhere, so also right after BEGIN has returned.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise explain_in_use(error, self.path) from error
        finally:
            self._leave()

    def _refuse_nested(self) -> None:
        """`OperationalError` inside a signal handler that has interrupted another call.

        A call of this thread that such a handler's exception has torn apart is mended.
        """
        if not self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
            return
        frame: FrameType | None = sys._getframe(2)  # noqa: SLF001
        while frame is not None:
            if frame is self._caller:
                raise OperationalError(
                    f"The store {self.path} was called from a signal handler (or a finalizer) in "
                    "the middle of another call of this thread; nothing was written. Set a flag in "
                    "the handler and send later."
                )
            frame = frame.f_back
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._leave()

    def _leave(self) -> None:
        if self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
            self._caller = None
            self._lock.release()

    def _begin(self, connection: sqlite3.Connection, deadline: float, timeout: float) -> None:
        pause = 0.0001
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                if time.monotonic() > deadline:
                    raise self._timed_out(timeout) from None
                # SQLite's own waiting doubles up to 100 ms; transactions here take far less.
                time.sleep(pause)
                pause = min(pause * 1.5, 0.002)
            else:
                return

    def _timed_out(self, timeout: float) -> OperationalError:
        return OperationalError(
            f"The store {self.path} stayed locked by another process or thread for {timeout:g} s; "
            "nothing was written. Look for a stopped or stuck process that uses it."
        )

    def read(self, query: Callable[[sqlite3.Connection], T], *, timeout: float = 5.0) -> T:
        """Run a query, on one view if it is one statement. Writers do not block it."""
        deadline = time.monotonic() + timeout
        caller = sys._getframe()  # noqa: SLF001
        self._refuse_nested()
        try:
            if not self._lock.acquire(timeout=max(timeout, 0.0)):
                raise self._timed_out(timeout)
            self._caller = caller
            connection = self._open(deadline)
            while True:
                try:
                    return query(connection)
                except sqlite3.OperationalError as error:
                    # Only while another process recovers or removes the log.
                    busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                    if not busy or time.monotonic() > deadline:
                        raise
                    time.sleep(0.001)
        except sqlite3.Error as error:
            raise explain_in_use(error, self.path) from error
        finally:
            self._leave()

    def close(self) -> None:
        """Close this process's connection; the next use opens a new one."""
        with self._lock:
            self._close()
            self._file = None

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def let_go(self) -> None:
        """Before a fork: close the connection and keep other threads from opening one."""
        # Without a limit, a fork from within a transaction (a signal handler) would never end.
        own = self._lock._is_owned()  # type: ignore[attr-defined]  # noqa: SLF001
        self._held = not own and self._lock.acquire(timeout=PATIENCE)
        if self._held:
            self._close()

    def go_on(self) -> None:
        """After a fork, in the parent."""
        if self._held:
            self._held = False
            self._lock.release()

    def start_afresh(self) -> None:
        """After a fork, in the child: leave a connection of the parent's untouched."""
        if self._connection is not None:
            _abandoned.append(self._connection)
        self._connection = None
        self._held = False
        self._caller = None
        self._lock = threading.RLock()
