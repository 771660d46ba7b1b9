"""How far a wait for many tasks is, on a line of the terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, Self

EVERY: Final = 0.1
"""Seconds between two writes at least."""


class Meter:
    """Shows `120 of 1000 tasks have ended` on standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._next = 0.0
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._text:
            sys.stderr.write("\n")

    def show(self, ended: int, size: int) -> None:
        """Write how many of how many have ended, a few times a second and at the end."""
        now = time.monotonic()
        if not self._shown or (now < self._next and ended < size):
            return
        self._next = now + EVERY
        text = f"{ended} of {size} tasks have ended"
        if text != self._text:
            sys.stderr.write(f"\r{text}")
            sys.stderr.flush()
            self._text = text
