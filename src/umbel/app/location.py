"""Where the embedded store lies: derived from the app's module, so producer and worker agree."""

from __future__ import annotations

import os

MARKERS = ("pyproject.toml", "setup.py", "manage.py", ".git")
"""What tells a project's root."""


def locate_store(module: str | None, file: str | None) -> str:
    """The embedded store's file for an app made in a module.

    `UMBEL_HOME` names the folder outright. Else it is `.umbel` in the nearest folder at or above
    the module's file that holds one of MARKERS, else in the top-level package's folder; for an
    app typed into an interpreter or a notebook the search starts at the working directory.
    """
    home = os.environ.get("UMBEL_HOME")
    if home:
        return os.path.join(os.path.abspath(os.path.expanduser(home)), "queue.db")
    if file is None:
        start = top = os.getcwd()
    else:
        start = top = os.path.dirname(os.path.realpath(file))
        is_package = os.path.basename(file).startswith("__init__.")
        for _ in range((module or "").count(".") - (not is_package)):
            top = os.path.dirname(top)
    folder = start
    while True:
        if any(os.path.exists(os.path.join(folder, marker)) for marker in MARKERS):
            return os.path.join(folder, ".umbel", "queue.db")
        parent = os.path.dirname(folder)
        if parent == folder:
            return os.path.join(top, ".umbel", "queue.db")
        folder = parent
