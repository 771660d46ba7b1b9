"""Starting the fork server: the first thing that a worker does, before it imports the app."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from typing import Final

PATIENCE: Final = 5.0
"""Seconds that the fork server gets to end by itself."""


class ForkServer:
    """The fork server's process (`umbel.pools.forkserver`) and the socket to it."""

    def __init__(self) -> None:
        self.control: socket.socket
        self.control, far = packet_pair()
        far.set_inheritable(True)
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        program = (
            f"import sys; sys.path.insert(0, {package!r}); "
            f"from umbel.pools.forkserver import main; main({far.fileno()})"
        )
        # A program of its own: a clean process, into which nothing of the supervisor's state,
        # threads or connections can leak, forks the children. -P: a file in the working directory
        # must not stand in for one of the library's.
        command = [sys.executable, "-P", "-c", program]
        self.pid: int = os.posix_spawn(sys.executable, command, os.environ)
        far.close()

    def close(self) -> None:
        """End it, and with it all children that are left, and wait for its end."""
        if self.pid:
            self.control.close()
            self._wait()

    def kill(self) -> None:
        """End it at once; only while it has no children."""
        if self.pid:
            self.control.close()
            os.kill(self.pid, signal.SIGKILL)
            self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(ChildProcessError):  # process 1 of a container waits for all
            while not os.waitpid(self.pid, os.WNOHANG)[0]:
                if time.monotonic() > deadline:
                    os.kill(self.pid, signal.SIGKILL)  # it is stopped; its children die with it
                    os.waitpid(self.pid, 0)
                    break
                time.sleep(0.002)
        self.pid = 0


def packet_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that keep messages apart and tell when the other end is gone."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
