"""Waking processes that wait: a FIFO for each, beside the store.

A waiting process owns one FIFO in the run directory; whoever commits something of interest writes
a byte to each FIFO of that kind. The byte carries nothing: the reader looks into the store. A lost
wake-up costs at most the reader's slow look, so nothing here has to be certain.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
import time
from pathlib import Path
from typing import Final, Literal

from umbel.engines.sqlite.forks import watch
from umbel.engines.waiting import read_now, write_now
from umbel.exceptions import OperationalError

Kind = Literal["work", "result"]

SETTLED: Final = 0.05
"""A listing counts as current only if the directory was this old (s) when it was read: the
kernel's time stamps are coarse, and a FIFO made in the same tick would be missed."""


LONG_AGO: Final = 60.0
"""Seconds after which whoever was making a FIFO has made it, or is dead."""
KEPT_OPEN: Final = 64
"""Most FIFOs of one kind that stay open between rings; the rest are opened for each ring."""


class FifoWaker:
    """One waiting party's FIFO (`umbel.engines.broker.Waker`)."""

    def __init__(self, run_dir: Path, kind: Kind) -> None:
        name = f"{kind}.{os.getpid()}.{secrets.token_hex(4)}"
        self._path = run_dir / f"{name}.fifo"
        self._owner = os.getpid()
        fresh = run_dir / f"new-{name}.fifo"
        self._files = [fresh, self._path]
        self._descriptor = -1
        try:
            run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.mkfifo(fresh, 0o600)
            # Opened for reading and writing, the FIFO never signals end of file, and it has a
            # reader before anybody sees its name: a visible one without is a dead one's.
            self._descriptor = os.open(fresh, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fresh.rename(self._path)
            self._files = [self._path]
        except OSError as error:
            raise OperationalError(f"Nothing can wait in {run_dir}: {error.strerror}.") from error

    def fileno(self) -> int:
        """The descriptor to sleep on."""
        return self._descriptor

    def drain(self) -> None:
        """Forget the news so far."""
        with contextlib.suppress(BlockingIOError):
            read_now(self._descriptor, 65536)

    def close(self) -> None:
        """Remove the FIFO; in a forked child only its copy of the descriptor."""
        if os.getpid() == self._owner:
            for path in self._files:
                with contextlib.suppress(OSError):  # the folder may be gone, or be none any more
                    path.unlink()
        self._files = []
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        """Close it, where a signal handler that raised kept its owner from doing so."""
        if self._descriptor >= 0 or self._files:
            self.close()


def _has_reader(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.errno != errno.ENXIO
    return True


class Bell:
    """Rings all FIFOs of one kind; keeps them open between rings."""

    def __init__(self, run_dir: Path, kind: Kind) -> None:
        self._run_dir = run_dir
        self._kind = kind
        self._prefix = f"{kind}."
        self._listed = -1
        self._open: dict[str, int] = {}
        self._others: list[str] = []
        self._lock = threading.RLock()
        watch(self)

    def listen(self) -> FifoWaker:
        """A FIFO that this bell, in any process, wakes."""
        return FifoWaker(self._run_dir, self._kind)

    def ring(self) -> None:
        """Wake everybody who listens. Never an error: what the ring is about is committed."""
        if self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
            return  # in a signal handler that has interrupted a ring: the slow look is the net
        with self._lock:
            # No folder: nobody has ever listened. No descriptors left: the slow look is the net.
            with contextlib.suppress(OSError):
                changed = os.stat(self._run_dir).st_mtime_ns
                if changed != self._listed:
                    self._list(changed)
            for name, descriptor in list(self._open.items()):
                try:
                    write_now(descriptor, b"!")
                except BlockingIOError:
                    pass  # full: it has been woken often enough
                except OSError:
                    self._remove(name)
            for name in self._others:
                self._ring_once(name)

    def _ring_once(self, name: str) -> None:
        with contextlib.suppress(OSError):
            descriptor = os.open(self._run_dir / name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                write_now(descriptor, b"!")
            finally:
                os.close(descriptor)

    def _list(self, changed: int) -> None:
        names = {
            name
            for name in os.listdir(self._run_dir)
            if name.startswith(self._prefix) and name.endswith(".fifo")
        }
        for name in self._open.keys() - names:
            os.close(self._open.pop(name))
        self._listed = -1  # until every FIFO of the listing is open
        new = sorted(names - self._open.keys())
        room = max(0, KEPT_OPEN - len(self._open))
        self._others = new[room:]
        for name in new[:room]:
            path = self._run_dir / name
            try:
                self._open[name] = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                path.unlink(missing_ok=True)  # its reader died without removing it
        old = time.time() - changed / 1e9 > SETTLED
        self._listed = changed if old else -1

    def _remove(self, name: str) -> None:
        os.close(self._open.pop(name))
        (self._run_dir / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove FIFOs of processes that died while they made them: no ring ever comes to these."""
        now = time.time()
        with contextlib.suppress(OSError):  # no folder: nobody has ever listened
            for path in self._run_dir.glob(f"new-{self._prefix}*.fifo"):
                if now - path.stat().st_mtime > LONG_AGO and not _has_reader(path):
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the FIFOs; the next ring opens them again."""
        with self._lock:
            self._listed = -1
            while self._open:
                os.close(self._open.popitem()[1])

    def let_go(self) -> None:
        """Before a fork: the child opens the FIFOs itself if it ever rings."""
        self.close()

    def go_on(self) -> None:
        """After a fork, in the parent: the next ring opens them again."""

    def start_afresh(self) -> None:
        """After a fork, in the child."""
        self._lock = threading.RLock()
        self._open.clear()
        self._listed = -1
