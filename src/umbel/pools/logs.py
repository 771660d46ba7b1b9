"""Logging of a worker: left alone when the user's code has set it up, else one plain handler."""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"


def set_up_logging(level: str, file: str | None) -> None:
    """Give the root logger a handler unless it has one; a given file always gets the lines."""
    root = logging.getLogger()
    if root.handlers and file is None:
        return
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        from logging.handlers import WatchedFileHandler

        handler = WatchedFileHandler(file)
    handler.setFormatter(logging.Formatter(FORMAT))
    root.addHandler(handler)
    root.setLevel(level.upper())
