"""A worker incarnation's run file: its lock, which proves whether it lives, and its slot table.

The worker creates the file, locks it with flock(2), and hands the descriptor down to its fork
server and children; the kernel frees the lock exactly when no process of that worker is left.
Whoever opens that very file (same boot, device, inode and token) and gets the lock has proof of
death; pid, host name and node name prove nothing.

The head, 64 bytes, says when the lease was renewed last, for people on this host: no judge asks
it. After it the file is a table with one record for each slot, mapped into memory by the supervisor
and by the slot's process: what runs there since when. Each word has one writer; all of it outlives
them all.
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
FRESH: Final = "new-"
"""Before the name of one that is just being made."""
LONG_AGO: Final = 60.0
"""Seconds after which whoever was making one has made it, or is dead."""
"""How a run file's name begins."""
HEAD: Final = 64
RENEWED: Final = 48
"""Where in the head the last renewal stands, in monotonic ns; the token is before it."""
SLOTS_NOW: Final = 56
"""Where in the head the worker's number of slots stands, and one more, if it has changed."""
RECORD: Final = 6
"""Eight-byte words in a slot's record."""
NUMBER: Final = 0
"""The delivery that runs in the slot; 0: none. Written by the child, after the other two."""
START: Final = 1
"""When it started (monotonic ns). Written by the child."""
THREAD: Final = 2
"""The thread that runs it, as faulthandler names it. Written by the child."""
SOFT: Final = 3
"""The delivery that the next SIGUSR1 is meant for; with `ENDED`, a SIGTERM is meant for it too, and
its own end is void; with `ASKED`, that is being decided. Written by the supervisor."""
STACK: Final = 4
"""The delivery whose stack the next SIGUSR2 asks for. Written by the supervisor."""
EARLY: Final = 5
"""A delivery that was acknowledged early and handed out, by this worker, whichever the slot.
Written by the supervisor, and taken back once its end is stored."""
ENDED: Final = 1 << 63
ASKED: Final = 1 << 62
"""Bits that no delivery's number has."""
RECORDS: Final = 8192
"""Records of the table. A process that is being replaced keeps its own while it ends."""
SLOTS: Final = RECORDS // 2
"""Most slots that one worker can have."""
SIZE: Final = HEAD + RECORDS * RECORD * 8


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
        path, fresh = run_dir / f"{PREFIX}{token}", run_dir / f"{FRESH}{PREFIX}{token}"
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

    def note_slots(self, slots: int) -> None:
        """Keep how many slots the worker has now."""
        os.pwrite(self.descriptor, struct.pack("=Q", slots + 1), SLOTS_NOW)

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

    def running(self, first: int, count: int) -> list[tuple[int, int, float]]:
        """What runs in the records from `first` on: record, number, start (monotonic seconds)."""
        if count == 1:  # the common case, looked at in every turn of the supervisor's loop
            word = first * RECORD
            number = self.words[word]
            return [(first, number, self.words[word + START] / 1e9)] if number else []
        head, end = first * RECORD, (first + count) * RECORD
        numbers = self.words[head:end:RECORD].tolist()
        starts = self.words[head + START : end : RECORD].tolist()
        return [(first + i, number, starts[i] / 1e9) for i, number in enumerate(numbers) if number]

    def number(self, record: int) -> int:
        """The delivery that runs in one record's slot; 0: none."""
        return self.words[record * RECORD + NUMBER]

    def thread(self, record: int) -> int:
        """The thread that runs what runs there; 0 if that is not known."""
        return self.words[record * RECORD + THREAD]

    def clear(self, first: int, count: int) -> None:
        """Empty the records of a process that is gone."""
        for record in range(first, first + count):
            for word in range(record * RECORD, record * RECORD + EARLY):
                self.words[word] = 0

    def aim(self, record: int, word: int, number: int) -> None:
        """Name the delivery that the next SIGUSR1 or SIGUSR2 is about (`SOFT`, `STACK`)."""
        self.words[record * RECORD + word] = number

    def note_early(self, record: int, number: int) -> None:
        """Keep that this delivery may have started and must not run again; 0: it has ended."""
        self.words[record * RECORD + EARLY] = number


def is_alive(record: WorkerRecord, run_dir: Path) -> bool:
    """Whether a worker on record lives, as far as can be known: only a proven death is no."""
    return not record.dead and proof_of_death(record, run_dir) is None


class Remains(NamedTuple):
    """What a dead worker's slot table says."""

    running: frozenset[int]
    """Deliveries that had started and not ended."""
    early: frozenset[int]
    """Deliveries that were acknowledged early and may have started."""


def proof_of_death(record: WorkerRecord, run_dir: Path) -> Remains | None:
    """What a dead worker left in its slot table, or None if its death is not proven."""
    with _own_file(record, run_dir) as descriptor:
        if descriptor is None or not _is_free(descriptor):
            return None
        table = memoryview(os.pread(descriptor, SIZE - HEAD, HEAD)).cast("Q")
        return Remains(
            frozenset(table[NUMBER::RECORD]) - {0}, frozenset(table[EARLY::RECORD]) - {0}
        )


class Trace(NamedTuple):
    """What a worker's run file says of it, on the host where it is."""

    locked: bool
    """Whether any process of it is left."""
    renewed: float
    """Seconds since it last renewed its lease."""
    running: dict[int, float]
    """What runs in its slots: the delivery's number, and for how many seconds."""
    slots: int
    """How many slots it has now."""


def read_trace(record: WorkerRecord, run_dir: Path) -> Trace | None:
    """A worker's trace on this host; None for a worker elsewhere, or without a file."""
    with _own_file(record, run_dir) as descriptor:
        if descriptor is None:
            return None
        renewed, slots = struct.unpack("=QQ", os.pread(descriptor, 16, RENEWED))
        table = memoryview(os.pread(descriptor, SIZE - HEAD, HEAD)).cast("Q")
        now = time.monotonic_ns()
        running = {
            number: (now - start) / 1e9
            for number, start in zip(table[NUMBER::RECORD], table[START::RECORD], strict=True)
            if number
        }
        slots = slots - 1 if slots else record.slots
        return Trace(not _is_free(descriptor), (now - renewed) / 1e9, running, slots)


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
        if not name.removeprefix(FRESH).startswith(PREFIX) or name in known:
            continue
        with contextlib.suppress(OSError):
            made = os.stat(run_dir / name).st_mtime
            if name.startswith(FRESH) and time.time() - made < LONG_AGO:
                continue
            descriptor = os.open(run_dir / name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (run_dir / name).unlink()
            finally:
                os.close(descriptor)
