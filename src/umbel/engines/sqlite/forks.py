"""What a fork does to an open store: no connection crosses it.

A child would inherit SQLite's notes on which locks this process holds, but not the locks: once the
parent is gone, the next process to open the store takes itself for the only one, removes the
write-ahead log, and what the child commits after that is lost
(https://www.sqlite.org/howtocorrupt.html, section 2.6). So this process closes its connections
before it forks and opens new ones when it needs them.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final, Protocol

PATIENCE: Final = 5.0
"""Seconds for which a fork waits for a transaction of another thread."""


class Part(Protocol):
    """Something that may not cross a fork as it is."""

    def let_go(self) -> None:
        """Before the fork: finish, let go of what must not cross, and start nothing new."""
        ...

    def go_on(self) -> None:
        """After the fork, in the parent."""
        ...

    def start_afresh(self) -> None:
        """After the fork, in the child, which may have come without `let_go` (a fork in C)."""
        ...


_parts: weakref.WeakSet[Part] = weakref.WeakSet()
_waiting: list[Part] = []
_lock = threading.Lock()


def watch(part: Part) -> None:
    """Tell a part of each fork of this process, as long as it lives."""
    with _lock:
        _parts.add(part)


def _before() -> None:
    _lock.acquire()
    _waiting.extend(_parts)
    for part in _waiting:
        part.let_go()


def _in_parent() -> None:
    for part in _waiting:
        part.go_on()
    _waiting.clear()
    _lock.release()


def _in_child() -> None:
    global _lock  # noqa: PLW0603  (a lock that another thread held will never be released here)
    _lock = threading.Lock()
    _waiting.clear()
    for part in list(_parts):
        part.start_afresh()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
