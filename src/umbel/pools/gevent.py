"""The pool `gevent`. Importing this module patches the process: only a child may do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent import hub, monkey, socket
from greenlet import greenlet

from umbel.pools.greenlets import Greenlets

monkey.patch_all()
# gevent does so when it first watches over a process, just after the fork: the end of one that is
# gone by then would never be told.
gevent.get_hub().loop.install_sigchld()


class Gevent(Greenlets):
    """Slots that are greenlets of gevent."""

    library = "gevent"

    def spawn(self, function: Callable[..., None], *args: Any) -> greenlet:
        """Run a function in a greenlet of its own."""
        return gevent.spawn(function, *args)

    def join(self, greenlets: list[greenlet]) -> None:
        """Wait for the end of greenlets."""
        gevent.joinall(greenlets)

    def pause(self) -> None:
        """Let the other greenlets run that can."""
        gevent.sleep(0)

    def park(self) -> None:
        """Let the others run until this greenlet is switched to."""
        gevent.get_hub().switch()

    def soon(self, function: Callable[..., None], *args: Any) -> None:
        """Have gevent's loop make a call."""
        gevent.get_hub().loop.run_callback(function, *args)

    def wait_readable(self, descriptor: int) -> None:
        """Wait until a descriptor can be read."""
        socket.wait_read(descriptor)

    def abandon(self) -> None:
        """Give the forked process a loop of its own, in which nothing waits."""
        self._left = gevent.get_hub()  # its greenlets hang on it; they go on in the parent
        hub.set_hub(hub.Hub(default=False))  # type: ignore[attr-defined]  # not in its stubs
