"""`umbel worker --reload`: a worker that starts anew whenever its code changes.

This process imports none of the user's code. It runs the same line once more as the worker, and
ends that one cold when a Python file has changed, so what ran goes back into its queue, uncharged.
A worker that cannot start with the new code has told why, and the next change is waited for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, NamedTuple

from umbel.cli.errors import USAGE, Refusal
from umbel.pools.forkserver import die_with_parent

LEADER: Final = "_UMBEL_RELOADED_BY"
"""The variable that tells the worker proper which process restarts it."""
ONCE: Final = frozenset({"--purge", "--discard"})
"""What is done at the first start only."""
PATIENCE: Final = 5.0
"""Seconds that a worker gets to end, after each of the signals that ask it to end at once."""
ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
NOT_OURS: Final = ("venv", "site-packages")
"""Folders that are not watched, besides .venv, .git and the like (`watchfiles.DefaultFilter`)."""

Say = Callable[[dict[str, Any], str], None]
"""Tells people, or a program, of something."""


class Told(NamedTuple):
    """A signal has asked for the end."""

    number: int


class Changed(NamedTuple):
    """Files have changed."""

    paths: list[str]


class Ended(NamedTuple):
    """A worker has ended."""

    worker: subprocess.Popen[bytes]


News = SimpleQueue[Told | Changed | Ended | OSError]


def is_led() -> bool:
    """Whether this is the worker proper. If so, it ends with the process that restarts it."""
    leader = os.getppid()
    if os.environ.get(LEADER) != f"{leader}":
        return False
    die_with_parent(leader)
    return True


def serve_reloading(words: Sequence[str], home: str, say: Say) -> int:
    """Run the worker of a command line, over and over, until a signal ends it; its exit code.

    It is run from `home`; watched are the working directory and those of PYTHONPATH.
    """
    try:
        import watchfiles
    except ImportError as missing:
        raise Refusal(
            '--reload needs the package watchfiles: pip install "umbel[reload]"', USAGE
        ) from missing

    class OurPython(watchfiles.PythonFilter):
        ignore_dirs = (*watchfiles.PythonFilter.ignore_dirs, *NOT_OURS)

    folders = watched_folders()

    def watch() -> None:
        try:
            for changes in watchfiles.watch(*folders, watch_filter=OurPython()):
                news.put(Changed(sorted({path for _, path in changes})))
        except OSError as error:  # the system has no more watches to give, or a folder is gone
            news.put(error)

    news: News = SimpleQueue()
    for number in ENDINGS:
        signal.signal(number, lambda number, _: news.put(Told(number)))
    Thread(target=watch, name="umbel-reload", daemon=True).start()
    say({"event": "watching", "folders": folders}, f"watching {', '.join(folders)} for changes")
    # Two changes in one second that leave a file's size as it was would be one to a .pyc file.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ[LEADER] = f"{os.getpid()}"
    while True:
        code = run_once(words, home, news, say)
        if code is not None:
            return code
        words = [word for word in words if word not in ONCE]


def watched_folders() -> list[str]:
    """The folders from which the user's code is imported, none inside another."""
    named = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    folders = dict.fromkeys(Path(name).resolve() for name in named if Path(name).is_dir())
    return [os.fspath(f) for f in folders if not any(other in f.parents for other in folders)]


def run_once(words: Sequence[str], home: str, news: News, say: Say) -> int | None:
    """Run the worker until its code changes, then None; the exit code if it is all over."""
    line = [sys.executable, "-m", "umbel", *words]
    worker = subprocess.Popen(line, cwd=home)  # noqa: S603

    def wait() -> None:
        worker.wait()
        news.put(Ended(worker))

    waiting = Thread(target=wait, daemon=True)
    waiting.start()
    try:
        while True:
            heard = news.get()
            if isinstance(heard, OSError):
                raise Refusal(f"Changes cannot be watched for: {heard}.") from heard
            if isinstance(heard, Told):
                end(worker, waiting)
                return max(worker.returncode, 0)
            if isinstance(heard, Changed):
                names = [os.path.relpath(path) for path in heard.paths]
                text = f"changed: {', '.join(names)}; starting anew"
                say({"event": "changed", "files": heard.paths}, text)
                end(worker, waiting)
                return code_if_told(news, worker)
            if heard.worker is worker:
                if worker.returncode == 0:
                    return 0
                code = worker.returncode
                text = f"the worker has ended with code {code}; it starts with the next change"
                say({"event": "ended", "exit_code": code}, text)
    finally:
        end(worker, waiting)


def code_if_told(news: News, worker: subprocess.Popen[bytes]) -> int | None:
    """The exit code, if the end was asked for meanwhile; what else came is old by now."""
    code = None
    try:
        while True:
            if isinstance(news.get_nowait(), Told):
                code = max(worker.returncode, 0)
    except Empty:
        return code


def end(worker: subprocess.Popen[bytes], waiting: Thread) -> None:
    """End a worker at once: the second signal cuts a soft shutdown short."""
    for _ in range(2):
        if not waiting.is_alive():
            return
        worker.send_signal(signal.SIGQUIT)
        waiting.join(PATIENCE)
    if waiting.is_alive():
        worker.kill()  # its fork server ends the children
        waiting.join()
