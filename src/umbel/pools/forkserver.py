"""The fork server: a small program that is the sole parent of a worker's children.

It runs no task code and imports no app. It forks children on request, sends them signals, reports
their ends with status and resource usage, and when the supervisor's socket closes it kills all
their process groups. Requests and reports are one JSON text each on a sequenced-packet socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
from typing import Any, Final, NoReturn

from umbel.pools import child

PACKET: Final = 65536
PR_SET_PDEATHSIG: Final = 1
PR_SET_NAME: Final = 15


def main(control_number: int) -> NoReturn:
    """Serve until the supervisor is gone. The control socket is inherited by its number."""
    control = socket.socket(fileno=control_number)
    os.set_inheritable(control_number, False)
    # A terminal's Ctrl-C and a service manager's SIGTERM go to every process of the worker, but
    # only the supervisor decides what they mean.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    try:
        terminal = os.dup(0)
    except OSError:  # it was closed
        terminal = os.dup(nowhere)
    os.dup2(nowhere, 0)  # children are in the terminal's background: reading it would stop them
    os.close(nowhere)
    set_name("umbel forks")
    gc.freeze()
    # The run file comes first; its lock lives as long as any of us holds it.
    _, run_files, _, _ = socket.recv_fds(control, PACKET, 1)
    for run_file in run_files:  # received ones are inherited, by whatever a task starts
        os.set_inheritable(run_file, False)
    birth = serve(control, run_files[0]) if run_files else None
    if birth is not None:
        if not birth[3]:
            os.close(terminal)
        # From here, so that few frames lie above the user's function.
        child.main(*birth[:3], terminal if birth[3] else None)
    os._exit(0)


Birth = tuple[int, int, list[int], bool]
"""What a child is made of: its seat, the run file, its own descriptors, whether it may read what
the worker was given as standard input."""


def serve(control: socket.socket, run_file: int) -> Birth | None:
    """Answer requests and report ends until the control socket closes; returns None then.

    In a new child it returns what the child needs.
    """
    wake, rung = socket.socketpair()
    for end in (wake, rung):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(rung.fileno(), warn_on_full_buffer=False)
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([control, wake], [], [])
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                wake.recv(4096)
            report_ends(control, children)
        if control in ready:
            data, descriptors = receive(control)
            if not data:
                break
            request = json.loads(data)
            if "spawn" in request:
                seat = request["spawn"]
                if spawn(seat, descriptors, (control, wake, rung), children) == 0:
                    return seat, run_file, descriptors, request["terminal"]
            elif request["pid"] in children:
                send_signal(request["pid"], request["signal"])
    for pid in children:
        send_signal(pid, signal.SIGKILL)
    return None


def receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """A request with its descriptors; an empty one when the supervisor is gone."""
    try:
        data, descriptors, _, _ = socket.recv_fds(control, PACKET, 8)
    except ConnectionResetError:  # it was killed with reports unread
        return b"", []
    return data, descriptors


def spawn(
    seat: int, descriptors: list[int], own: tuple[socket.socket, ...], children: set[int]
) -> int:
    """Fork a child and report it; 0 in the child itself."""
    parent, control = os.getpid(), own[0]
    try:
        pid = os.fork()
    except OSError as error:  # too many processes, or no memory; it may pass
        pid = -1
        reply(control, {"unborn": seat, "errno": error.errno or 0})
    if pid == 0:
        signal.set_wakeup_fd(-1)
        for end in own:
            end.close()
        die_with_parent(parent)
        set_name(f"umbel child {seat}")
        return 0
    for descriptor in descriptors:
        os.close(descriptor)
    if pid > 0:
        children.add(pid)
        reply(control, {"spawned": seat, "pid": pid})
    return pid


def send_signal(pid: int, number: int) -> None:
    """Signal a child that has not been waited for; SIGKILL goes to its whole group."""
    with contextlib.suppress(ProcessLookupError):
        if number == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
        os.kill(pid, number)


def report_ends(control: socket.socket, children: set[int]) -> None:
    """Wait for every child that has ended and tell the supervisor."""
    while children:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid in children:
            children.discard(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # what it left behind in its group
            reply(control, {"exited": pid, "status": status, "memory": peak_memory(usage)})


def peak_memory(usage: Any) -> int:
    """Peak resident memory in KiB; macOS counts it in bytes."""
    return int(usage.ru_maxrss) >> (10 if sys.platform == "darwin" else 0)


def reply(control: socket.socket, report: dict[str, int]) -> None:
    """Send one report; the supervisor may be gone."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        control.send(json.dumps(report).encode("ascii"))


def die_with_parent(parent: int) -> None:
    """On Linux: have the kernel kill this process when its parent dies."""
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # it died before the call


def set_name(name: str) -> None:
    """On Linux: what `ps -e`, `top` and `pgrep` call this process."""
    if sys.platform == "linux":
        _prctl(PR_SET_NAME, name.encode("ascii"), 0, 0, 0)


if sys.platform == "linux":
    _prctl = ctypes.CDLL(None, use_errno=True).prctl
