"""Where the embedded store lies: derived from the app's module, so producer and worker agree."""

from __future__ import annotations

import os

MARKERS = ("pyproject.toml", "setup.py", "manage.py", ".git")
"""What tells a project's root."""
_told: set[str] = set()


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
            break
        parent = os.path.dirname(folder)
        if parent == folder:
            folder = top
            break
        folder = parent
    store = os.path.join(folder, ".umbel", "queue.db")
    if start != folder and not os.path.exists(store):
        _tell_of_older(start, folder, store)
    return store


def _tell_of_older(start: str, root: str, store: str) -> None:
    """Say so if the store lay nearer to the module until `root` became the project's."""
    folder = start
    while folder not in {root, os.path.dirname(folder)}:
        older = os.path.join(folder, ".umbel")
        if os.path.exists(os.path.join(older, "queue.db")) and older not in _told:
            _told.add(older)
            import logging

            logging.getLogger("umbel.app").warning(
                "The store is to be %s, which is not there yet, because %s is the project's root "
                "now; but there is a store in %s, and what waits in that one is not seen. Go on "
                "with it: UMBEL_HOME=%s, for every process; or stop them all and move it: mv %s %s",
                store, root, older, older, older, os.path.join(root, ".umbel"),
            )  # fmt: skip
        folder = os.path.dirname(folder)
