"""The supervisor's side of its children: what each holds, and how it is started and ended.

They are processes behind a fork server; an embedded worker's are threads (`embedded.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple

import msgspec

from umbel.engines.run_file import RECORDS, SlotTable
from umbel.pools.launch import ForkServer
from umbel.pools.link import Setup, SupervisorEnd
from umbel.pools.slots import TASK
from umbel.worker.gate import NEVER, Held

PACKET: Final = 65536
STACKS_CAP: Final = 64 << 10
"""Bytes of a dead child's last stacks that are kept."""


class Verdict(NamedTuple):
    """The decision to end a delivery with its child."""

    held: Held
    record: int
    """The record of the slot that runs it."""
    error: Exception
    """What the delivery fails with."""
    passed: float
    """Monotonic time of the decision; the child gets a moment to write its stacks."""


@dataclass
class Child:
    """One child as the supervisor knows it."""

    seat: int
    """Its number among those that are there."""
    first: int
    """Its first record in the slot table."""
    records: int
    """How many it has: the slots that it was made with."""
    slots: int
    """How many of them are used."""
    link: SupervisorEnd
    stacks: int
    """A file into which its last stacks go."""
    pid: int = 0
    """0 until the fork server has told it."""
    ready: bool = False
    held: dict[int, Held] = field(default_factory=dict)
    """What it was given and has not ended, in that order."""
    finishing: dict[int, Held] = field(default_factory=dict)
    """What has ended there, and whose handlers still run."""
    load: float = 0.0
    """Estimated seconds of work that it holds, a long run counted as `READ_AHEAD`."""
    done: int = 0
    """Deliveries it has ended."""
    stuck: bool = False
    """All its slots have been running for long, or it takes nothing up: it gets nothing now."""
    taken_up: bool = True
    """It had started all that it held and has slots for, when last looked at."""
    look_at: float = 0.0
    """Monotonic time before which there is no need to look at its slots again."""
    behind_since: float = 0.0
    """Monotonic time since which it has a free slot and does not take up what it was given."""
    shut_until: float = 0.0
    """Monotonic time until which it gets nothing, because it took nothing up."""
    spare: bool = False
    """It is there for one suspect, beside the others."""
    alone: bool = False
    """It runs a suspect and gets nothing else."""
    retiring: bool = False
    """It gets nothing more, and ends when it holds nothing."""
    surplus: bool = False
    """The same, without a successor, as long as it is one too many."""
    told_to_end: bool = False
    limits_at: float = NEVER
    """Monotonic time at which the first of its deliveries may have passed a limit."""
    verdict: Verdict | None = None
    """What is about to be ended."""
    culprit: Held | None = None
    """What was ended; the child is killed when the others are done, or at `doom`."""
    doom: float = NEVER
    killed: bool = False
    cut: bool = False
    """It was killed only because its link had come to its end by itself."""
    idle_since: float = field(default_factory=time.monotonic)
    """Monotonic time at which it was last seen running, or without work."""
    born: float = field(default_factory=time.monotonic)

    @property
    def occupied(self) -> int:
        """Deliveries that it has and that have not ended with their handlers."""
        return len(self.held) + len(self.finishing)

    def last_stacks(self, thread: int = 0) -> str:
        """What faulthandler wrote at the end, innermost frame last as in a traceback.

        That of a thread only, where many run.
        """
        text = os.pread(self.stacks, STACKS_CAP, 0).decode("utf-8", "replace")
        return _as_traceback(text, thread if self.records > 1 else 0)

    def forget_stacks(self) -> None:
        """Drop what was written about a task that has ended after all."""
        os.ftruncate(self.stacks, 0)
        os.lseek(self.stacks, 0, os.SEEK_SET)  # the child writes at the same, shared, offset


class Children(ABC):
    """The children of a worker, whatever they are."""

    kills: ClassVar[bool]
    """Whether a child can be ended in the middle of a task; and whether its memory is its own."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        """Can be read when `reports` may have something to tell."""
        self.by_seat: dict[int, Child] = {}
        self._early: dict[int, int] = {}
        self._early_records: set[int] = set()

    def __iter__(self) -> Iterator[Child]:
        return iter(self.by_seat.values())

    def __len__(self) -> int:
        return len(self.by_seat)

    def hand_over(self, run_file: int) -> None:
        """Take in the run file; it must come before the first child."""
        self.table: SlotTable = SlotTable(run_file)

    def note_early(self, number: int) -> None:
        """Keep in the slot table, which outlives us, that a delivery must not run again."""
        if number not in self._early:
            record = self._early[number] = next(
                n for n in range(RECORDS) if n not in self._early_records
            )
            self._early_records.add(record)
            self.table.note_early(record, number)

    def forget_early(self, numbers: Iterable[int]) -> None:
        """These have not started, or their ends are stored."""
        for number in numbers if self._early else ():
            if (record := self._early.pop(number, None)) is not None:
                self._early_records.discard(record)
                self.table.note_early(record, 0)

    def spawn(self, setup: Setup) -> Child:
        """Start a child in the first free seat. `OSError` if there is no room for one."""
        count, first = setup.slots, self._room_for(setup.slots)
        seat = next(n for n in range(RECORDS) if n not in self.by_seat)
        child = Child(seat, first, count, count, SupervisorEnd(), _anonymous_file())
        self.table.clear(first, count)
        self.start(child, msgspec.structs.replace(setup, first=first))
        child.link.close_child_ends()
        self.by_seat[seat] = child
        return child

    def _room_for(self, count: int) -> int:
        first = 0
        for start, records in sorted((child.first, child.records) for child in self):
            if start - first >= count:
                break
            first = start + records
        if first + count > RECORDS:
            raise OSError(f"the slot table has no room for {count} slots more")
        return first

    def running(self, child: Child) -> list[tuple[int, int, float]]:
        """What a child's slots run: record, number, start (monotonic)."""
        return self.table.running(child.first, child.records)

    def forget(self, child: Child) -> None:
        """Drop a child that has ended."""
        del self.by_seat[child.seat]
        self.table.clear(child.first, child.records)
        child.link.close()
        os.close(child.stacks)

    @abstractmethod
    def start(self, child: Child, setup: Setup) -> None:
        """Have it live, with the child's ends of its link."""

    @abstractmethod
    def signal(self, child: Child, number: int) -> None:
        """Tell it that a soft limit has passed (SIGUSR1), or ask for its stacks (SIGUSR2).

        A process that runs one task can be sent any other one, too, to end it.
        """

    @abstractmethod
    def kill(self, child: Child) -> None:
        """End it, whatever it does."""

    @abstractmethod
    def reports(self) -> list[tuple[Child, dict[str, int]]]:
        """The children that have ended, each with wait status and peak memory (KiB).

        `ConnectionError` when no child can be started or ended any more.
        """

    @abstractmethod
    def abandon(self) -> None:
        """End what may be left after that."""

    @abstractmethod
    def close(self) -> None:
        """End whatever is left."""


class Processes(Children):
    """The fork server and the processes behind it."""

    kills = True

    def __init__(self, server: ForkServer) -> None:
        super().__init__(server.control)
        self._server = server
        self._by_pid: dict[int, Child] = {}

    def hand_over(self, run_file: int) -> None:
        """Give the fork server the run file, too."""
        socket.send_fds(self.control, [b"run file"], [run_file])
        super().hand_over(run_file)

    def start(self, child: Child, setup: Setup) -> None:
        """Have the fork server start it."""
        spawn = {"spawn": child.seat, "terminal": setup.pool == "solo"}
        request = json.dumps(spawn).encode("ascii")
        link = child.link
        descriptors = [link.child_stream.fileno(), link.child_tokens.fileno(), child.stacks]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `reports` tells of it
            socket.send_fds(self.control, [request], descriptors)
        link.give_setup(setup)

    def signal(self, child: Child, number: int) -> None:
        """Signal a child; SIGKILL goes to all its process group."""
        if child.pid:
            request = json.dumps({"pid": child.pid, "signal": number}).encode("ascii")
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.control.send(request)

    def kill(self, child: Child) -> None:
        """Kill a child and its process group."""
        child.killed = True
        self.signal(child, signal.SIGKILL)

    def reports(self) -> list[tuple[Child, dict[str, int]]]:
        """The children that have ended, each with the fork server's report.

        `ConnectionError` when the fork server itself is gone.
        """
        if os.getpid() == 1:
            reap_orphans()
        ended: list[tuple[Child, dict[str, int]]] = []
        while True:
            try:
                data = self.control.recv(PACKET, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return ended
            if not data:
                raise ConnectionError("the fork server has died")
            report: dict[str, int] = json.loads(data)
            if "unborn" in report:
                ended.append((self.by_seat[report["unborn"]], report))
            elif "spawned" in report:
                child = self.by_seat[report["spawned"]]
                child.pid = report["pid"]
                self._by_pid[child.pid] = child
            else:
                ended.append((self._by_pid.pop(report["exited"]), report))

    def abandon(self) -> None:
        """The fork server died, and with it its children; end what they may have left."""
        for child in self:
            if child.pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the fork server, which kills whatever is left."""
        self._server.close()


def describe_exit(status: int, memory: int) -> str:
    """What a wait status means, for people: "killed by SIGSEGV, peak memory 31 MiB"."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        cause = f"killed by {describe_signal(number)}"
        if number == signal.SIGKILL:
            cause += " (somebody's kill -9, or the kernel when memory ran out)"
    else:
        cause = f"exited with code {os.WEXITSTATUS(status)}"
    return f"{cause}, peak memory {memory / 1024:.0f} MiB"


def describe_signal(number: int) -> str:
    """A signal's name, or a word for one that has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def reap_orphans() -> None:
    """As process 1 of a container: wait for what others have left to it."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _anonymous_file() -> int:
    create: Any = getattr(os, "memfd_create", None)
    if create is not None:
        return int(create("umbel-stacks"))
    descriptor, path = tempfile.mkstemp(prefix="umbel-stacks-")
    os.unlink(path)
    return descriptor


def _as_traceback(text: str, thread: int) -> str:
    """Faulthandler's report with its threads' frames turned round: the culprit comes last.

    If its thread is given and found, or it told itself where it stands, nothing else is told.
    """
    blocks: list[list[str]] = []
    head: list[str] = []
    for line in text.splitlines():
        if line.startswith(("Current thread", "Thread", TASK)):
            blocks.append([line.replace("most recent call first", "most recent call last")])
        elif line.startswith("  File") and blocks:
            place = len(blocks[-1]) if blocks[-1][0].startswith(TASK) else 1
            blocks[-1].insert(place, line)
        elif line.strip() and not line.startswith("Extension modules"):
            head.append(line)
    if thread:
        told = [block for block in blocks if block[0].startswith(TASK)]
        blocks = told or [block for block in blocks if f"0x{thread:016x}" in block[0]] or blocks
    # The culprit last: the current thread, or what is on no thread's stack.
    blocks.sort(key=lambda block: (block[0].startswith(TASK), block[0].startswith("Current")))
    lines = head + [line for block in blocks for line in block]
    return "\n".join(lines) + ("\n" if lines else "")
