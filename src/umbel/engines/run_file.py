"""A worker incarnation's run file: its lock, which proves whether it lives, and its slot table.

The worker creates the file, locks it with flock(2), and hands the descriptor down to its fork
server and children; the kernel frees the lock exactly when no process of that worker is left.
Whoever opens that very file (same boot, device, inode and token) and gets the lock has proof of
death; pid, host name and node name prove nothing.

The head, 64 bytes, says when the lease was renewed last, for people on this host: no judge asks
it. After it the file is a table with one record for each slot, mapped into memory by the slot's
process, which alone writes it: what runs there since when. It outlives them all.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import struct
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from umbel.engines.state import WorkerRecord

PREFIX: Final = "worker."
"""How a run file's name begins."""
HEAD: Final = 64
RENEWED: Final = 48
"""Where in the head the last renewal stands, in monotonic ns; the token is before it."""
RECORD: Final = 4
"""Eight-byte words in a slot's record: the number that runs (0: none), its start (monotonic ns),
the soft limit's target, and the number that was started last."""
SLOTS: Final = 1024
"""Most slots that one worker can have."""
SIZE: Final = HEAD + SLOTS * RECORD * 8


def boot_id() -> str:
    """What tells this run of this host's kernel from all others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        import subprocess

        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]  # macOS
        return subprocess.check_output(command, text=True).strip()  # noqa: S603


@dataclass(frozen=True)
class RunFile:
    """An incarnation's own run file, locked."""

    path: Path
    descriptor: int
    """Inherited by every process of the worker; the lock lives as long as any copy of it."""
    token: str

    @classmethod
    def create(cls, run_dir: Path) -> RunFile:
        """Make and lock a new run file."""
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        token = secrets.token_hex(16)
        path, fresh = run_dir / f"{PREFIX}{token}", run_dir / f"new-{token}"
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(descriptor, 0, SIZE)  # mapped memory without a block would be a SIGBUS
        os.pwrite(descriptor, token.encode("ascii"), 0)
        made = cls(path, descriptor, token)
        made.note_renewal()
        fresh.rename(path)  # nobody sees it by this name without its lock
        return made

    def sign(self, record: WorkerRecord) -> WorkerRecord:
        """The record with what lets others check the lock."""
        status = os.fstat(self.descriptor)
        return msgspec.structs.replace(
            record,
            boot=boot_id(),
            run_file=self.path.name,
            device=status.st_dev,
            inode=status.st_ino,
            token=self.token,
        )

    def note_renewal(self) -> None:
        """Keep the moment of a renewal of the lease."""
        os.pwrite(self.descriptor, struct.pack("=Q", time.monotonic_ns()), RENEWED)

    def close(self, *, remove: bool) -> None:
        """Let go of this process's copy of the lock, and of the file if nobody needs it."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


class SlotTable:
    """The slot table of a run file, mapped into memory."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, SIZE)
        self.words: memoryview[int] = memoryview(self._map)[HEAD:].cast("Q")
        """All records as eight-byte words; one aligned word is read and written whole."""

    def close(self) -> None:
        """Unmap it; the mapping holds a copy of the descriptor, and with it of the lock."""
        self.words.release()
        self._map.close()

    def running(self, slot: int) -> tuple[int, float]:
        """Number of the delivery that runs in a slot, and its start (monotonic seconds)."""
        base = slot * RECORD
        return self.words[base], self.words[base + 1] / 1e9

    def clear(self, slot: int) -> None:
        """Empty the record of a slot that has no process."""
        for word in range(slot * RECORD, (slot + 1) * RECORD):
            self.words[word] = 0

    def aim_soft_limit(self, slot: int, number: int) -> None:
        """Name the delivery that the next SIGUSR1 is meant for (written by the supervisor)."""
        self.words[slot * RECORD + 2] = number


def is_alive(record: WorkerRecord, run_dir: Path) -> bool:
    """Whether a worker on record lives, as far as can be known: only a proven death is no."""
    return not record.dead and proof_of_death(record, run_dir) is None


class Remains(NamedTuple):
    """What a dead worker's slot table says."""

    running: frozenset[int]
    """Deliveries that had started and not ended."""
    last: frozenset[int]
    """The delivery that each slot had started last, ended or not."""


def proof_of_death(record: WorkerRecord, run_dir: Path) -> Remains | None:
    """What a dead worker left in its slot table, or None if its death is not proven."""
    with _own_file(record, run_dir) as descriptor:
        if descriptor is None or not _is_free(descriptor):
            return None
        table = memoryview(os.pread(descriptor, SIZE - HEAD, HEAD)).cast("Q")
        return Remains(frozenset(table[::RECORD]) - {0}, frozenset(table[3::RECORD]) - {0})


class Trace(NamedTuple):
    """What a worker's run file says of it, on the host where it is."""

    locked: bool
    """Whether any process of it is left."""
    renewed: float
    """Seconds since it last renewed its lease."""
    running: dict[int, float]
    """What runs in its slots: the delivery's number, and for how many seconds."""


def read_trace(record: WorkerRecord, run_dir: Path) -> Trace | None:
    """A worker's trace on this host; None for a worker elsewhere, or without a file."""
    with _own_file(record, run_dir) as descriptor:
        if descriptor is None:
            return None
        (renewed,) = struct.unpack("=Q", os.pread(descriptor, 8, RENEWED))
        table = memoryview(os.pread(descriptor, SIZE - HEAD, HEAD)).cast("Q")
        now = time.monotonic_ns()
        running = {
            number: (now - start) / 1e9
            for number, start in zip(table[::RECORD], table[1::RECORD], strict=True)
            if number
        }
        return Trace(not _is_free(descriptor), (now - renewed) / 1e9, running)


@contextlib.contextmanager
def _own_file(record: WorkerRecord, run_dir: Path) -> Iterator[int | None]:
    """The very file that a worker has locked, open; None if it is not to be had here."""
    if record.boot != boot_id():
        yield None  # another kernel's lock says nothing here
        return
    try:
        descriptor = os.open(run_dir / record.run_file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        status = os.fstat(descriptor)
        token = os.pread(descriptor, len(record.token), 0).decode("ascii", "replace")
        found = (status.st_dev, status.st_ino, token)
        yield descriptor if found == (record.device, record.inode, record.token) else None
    finally:
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_strays(run_dir: Path, known: Collection[str]) -> None:
    """Remove the run files of dead workers that are on no record; `known` are the names that are.

    A worker that was declared dead by its lease leaves its file behind when it dies later.
    """
    for name in os.listdir(run_dir) if run_dir.is_dir() else ():
        if not name.startswith(PREFIX) or name in known:
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(run_dir / name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (run_dir / name).unlink()
            finally:
                os.close(descriptor)
