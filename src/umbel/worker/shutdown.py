"""What signals ask of a worker: to end, to end sooner, to start anew, to tell what it does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final, Literal

HARD: Final = 1
"""Exit code of a worker that was told a third time to stop."""
How = Literal["warm", "soft", "cold"]
SAYINGS: Final[dict[How, str]] = {
    "warm": "Warm shutdown: waiting for running tasks; once more to stop at once",
    "soft": "Soft shutdown: running tasks have %g s more; once more to stop at once",
    "cold": "Cold shutdown: running tasks are stopped and go back into their queues",
}


class Shutdown(ABC):
    """How a worker is to end, None while it is not; the worker's loop looks at it."""

    def __init__(self, soft: float = 0.0) -> None:
        self.how: How | None = None
        self.signal: str | None = None
        """The name of the last signal that asked for it."""
        self.restart: bool = False
        """Start the same worker again, once this one has ended."""
        self.stacks_wanted: bool = False
        self.deadline: float = float("inf")
        """Monotonic time at which a soft shutdown becomes a cold one."""
        self._soft = soft

    @abstractmethod
    def listen(self) -> AbstractContextManager[socket.socket]:
        """Hear what is asked for; a socket that becomes readable on it."""

    def pass_deadline(self) -> None:
        """Let a soft shutdown become a cold one once its time is up."""
        if self.how == "soft" and time.monotonic() >= self.deadline:
            self.how = "cold"

    def describe(self) -> str:
        """What it means, for the log."""
        text = SAYINGS[self.how or "warm"]
        return text % self._soft if self.how == "soft" else text


class OnRequest(Shutdown):
    """A shutdown for which the program asks that the worker is inside of."""

    @contextlib.contextmanager
    def listen(self) -> Iterator[socket.socket]:
        """A socket that becomes readable on `ask`."""
        wake, self._rung = socket.socketpair()
        with wake, self._rung:
            yield wake

    def describe(self) -> str:
        """What it means, for the log."""
        return "This worker stops: waiting for running tasks"

    def ask(self) -> None:
        """End once what runs has ended. Not before the worker is ready; any thread may ask."""
        self.how = "warm"
        with contextlib.suppress(OSError):  # it has ended by itself
            self._rung.send(b"!")


class OnSignals(Shutdown):
    """A shutdown for which signals ask.

    SIGTERM or SIGINT: warm. Again, or SIGQUIT: cold, with `soft` seconds of grace before it. Once
    more: the process ends on the spot, and another worker takes over what it held. SIGHUP ends a
    worker warmly, to be started anew; one that writes to a terminal, or whose terminal has been
    closed, ends for good; one that was started to ignore it (`nohup`) does. SIGUSR1 asks for all
    stacks. Without `interrupts`, SIGINT is nothing to it.
    """

    def __init__(self, soft: float, *, interrupts: bool = True) -> None:
        super().__init__(soft)
        self._interrupts = interrupts
        self._at_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._had_terminal = has_terminal()
        self._remap = os.environ.get("REMAP_SIGTERM", "").upper() == "SIGQUIT"

    @contextlib.contextmanager
    def listen(self) -> Iterator[socket.socket]:
        """Handle signals; yields a socket that becomes readable on one."""
        wake, rung = socket.socketpair()
        wake.setblocking(False)
        rung.setblocking(False)
        before = signal.set_wakeup_fd(rung.fileno(), warn_on_full_buffer=False)
        actions: dict[int, Callable[[int, object], None]] = {
            signal.SIGTERM: self._on_end,
            signal.SIGINT: self._on_end if self._interrupts else lambda *_: None,
            signal.SIGQUIT: self._on_end, signal.SIGUSR1: self._on_question,
        }  # fmt: skip
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            actions[signal.SIGHUP] = self._on_hangup
        handlers = {number: signal.signal(number, act) for number, act in actions.items()}
        try:
            yield wake
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            wake.close()
            rung.close()

    def _on_end(self, number: int, _: object) -> None:
        self.signal = signal.Signals(number).name
        quick = number == signal.SIGQUIT or (self._remap and number == signal.SIGTERM)
        if self.how == "cold":
            os.write(2, b"Hard shutdown: what ran here goes to the next worker\n")
            os._exit(HARD)  # the fork server kills the children, and so frees this worker's lock
        if self.how is None and not quick:
            self.how = "warm"
        elif self.how == "soft" or not self._soft:
            self.how = "cold"
        else:
            self.how, self.deadline = "soft", time.monotonic() + self._soft

    def _on_hangup(self, number: int, _: object) -> None:
        self.signal = signal.Signals(number).name
        if self._at_terminal or (self._had_terminal and not has_terminal()):
            self.how = "cold"  # starting anew would leave a worker behind that nobody sees
        elif self.how is None:
            self.how, self.restart = "warm", True

    def _on_question(self, _: int, __: object) -> None:
        self.stacks_wanted = True


def has_terminal() -> bool:
    """Whether this process's session has a terminal, wherever its streams go."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
