"""The supervisor's side of its processes: the fork server, and what each child holds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from umbel.engines.run_file import SlotTable
from umbel.pools.launch import ForkServer
from umbel.pools.link import Setup, SupervisorEnd
from umbel.worker.gate import Held

PACKET: Final = 65536
COROUTINE: Final = "Coroutine"
"""How a child begins the stack of a coroutine that waits."""
STACKS_CAP: Final = 64 << 10
"""Bytes of a dead child's last stacks that are kept."""


class Verdict(NamedTuple):
    """The decision to kill a child for the delivery that it runs."""

    number: int
    error: Exception
    """What the delivery fails with."""
    passed: float
    """Monotonic time of the decision; the child gets a moment to write its stacks."""


@dataclass
class Child:
    """One child process as the supervisor knows it."""

    slot: int
    link: SupervisorEnd
    stacks: int
    """A file into which its last stacks go."""
    pid: int = 0
    """0 until the fork server has told it."""
    ready: bool = False
    held: dict[int, Held] = field(default_factory=dict)
    """What it was given and has not ended, in that order; the first may be running."""
    load: float = 0.0
    """Estimated seconds of work that it holds."""
    done: int = 0
    """Deliveries it has ended."""
    stuck: bool = False
    """What runs there has been running for long: nothing goes in behind it."""
    finishing: Held | None = None
    """What has ended there, and whose handlers still run."""
    alone: bool = False
    """It runs a suspect and gets nothing else."""
    retiring: bool = False
    """It gets nothing more, and ends when it holds nothing."""
    told_to_end: bool = False
    soft_sent: int = 0
    """Number of the delivery that was sent its soft limit."""
    soft_at: float = 0.0
    """Monotonic time of that."""
    verdict: Verdict | None = None
    """Why it is being killed."""
    killed: bool = False
    idle_since: float = field(default_factory=time.monotonic)
    """Monotonic time at which it was last seen running, or without work."""
    born: float = field(default_factory=time.monotonic)

    def last_stacks(self) -> str:
        """What faulthandler wrote at the end, innermost frame last as in a traceback."""
        text = os.pread(self.stacks, STACKS_CAP, 0).decode("utf-8", "replace")
        return _as_traceback(text)

    def forget_stacks(self) -> None:
        """Drop what was written about a task that has ended after all."""
        os.ftruncate(self.stacks, 0)
        os.lseek(self.stacks, 0, os.SEEK_SET)  # the child writes at the same, shared, offset


class Children:
    """The fork server and the children behind it."""

    def __init__(self, server: ForkServer) -> None:
        self._server = server
        self.control: socket.socket = server.control
        self.by_slot: dict[int, Child] = {}
        self._by_pid: dict[int, Child] = {}

    def hand_over(self, run_file: int) -> None:
        """Give the fork server the run file; it must come before the first child."""
        socket.send_fds(self.control, [b"run file"], [run_file])
        self.table: SlotTable = SlotTable(run_file)

    def spawn(self, slot: int, setup: Setup) -> Child:
        """Start a child in a slot."""
        stacks = _anonymous_file()
        self.table.clear(slot)
        child = Child(slot, SupervisorEnd(), stacks)
        request = json.dumps({"spawn": slot}).encode("ascii")
        descriptors = [child.link.child_stream.fileno(), child.link.child_tokens.fileno(), stacks]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `reports` tells of it
            socket.send_fds(self.control, [request], descriptors)
        child.link.close_child_ends()
        child.link.give_setup(setup)
        self.by_slot[slot] = child
        return child

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
                ended.append((self.by_slot[report["unborn"]], report))
            elif "spawned" in report:
                child = self.by_slot[report["spawned"]]
                child.pid = report["pid"]
                self._by_pid[child.pid] = child
            else:
                ended.append((self._by_pid.pop(report["exited"]), report))

    def forget(self, child: Child) -> None:
        """Drop a child that has ended."""
        if self.by_slot.get(child.slot) is child:
            del self.by_slot[child.slot]
        self.table.clear(child.slot)
        child.link.close()
        os.close(child.stacks)

    def abandon(self) -> None:
        """The fork server died, and with it its children; end what they may have left."""
        for child in self.by_slot.values():
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
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        cause = f"killed by {name}"
        if number == signal.SIGKILL:
            cause += " (somebody's kill -9, or the kernel when memory ran out)"
    else:
        cause = f"exited with code {os.WEXITSTATUS(status)}"
    return f"{cause}, peak memory {memory / 1024:.0f} MiB"


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


def _as_traceback(text: str) -> str:
    """Faulthandler's report with its threads' frames turned round: the culprit comes last."""
    blocks: list[list[str]] = []
    head: list[str] = []
    for line in text.splitlines():
        if line.startswith(("Current thread", "Thread", COROUTINE)):
            blocks.append([line.replace("most recent call first", "most recent call last")])
        elif line.startswith("  File") and blocks:
            place = len(blocks[-1]) if blocks[-1][0].startswith(COROUTINE) else 1
            blocks[-1].insert(place, line)
        elif line.strip() and not line.startswith("Extension modules"):
            head.append(line)
    # The culprit last: the current thread, or the coroutine that waits on it.
    blocks.sort(key=lambda block: (block[0].startswith(COROUTINE), block[0].startswith("Current")))
    lines = head + [line for block in blocks for line in block]
    return "\n".join(lines) + ("\n" if lines else "")
