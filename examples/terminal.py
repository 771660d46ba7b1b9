"""Standard output with one live line."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Final

REWRITE: Final = 0.1
"""Seconds between two states of the live line on a terminal."""
REPEAT: Final = 1.0
"""Seconds between two lines where lines cannot be rewritten."""
COLOURS: Final = {"bold": 1, "red": 31, "green": 32, "yellow": 33}


class Terminal:
    """Text that stays, and progress: a line that is rewritten, or plain lines into a pipe."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self._live and not os.environ.get("NO_COLOR")
        self._next = 0.0

    def say(self, text: str = "", colour: str = "") -> None:
        """Print a line that stays."""
        if self._colour and colour:
            text = f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"
        print("\r\x1b[K" * self._live + text, flush=True)

    def show(self, label: str, done: int, total: int, since: float, detail: str = "") -> None:
        """Show how far it is, unless it was just shown; `since` is the start (monotonic)."""
        now = time.monotonic()
        if now < self._next and done < total:
            return
        self._next = now + (REWRITE if self._live else REPEAT)
        bar = f"{'#' * (10 * done // total):.<10}"
        seconds = now - since
        line = f"{label} [{bar}] {done:>4}/{total} {done / seconds:>4.0f}/s {seconds:>4.1f} s"
        line = f"{line}  {detail}".rstrip()
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:width]}\x1b[K", end="", flush=True)
        else:
            print(line, flush=True)
