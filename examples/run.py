"""The demo's work on its way through Umbel: a worker, the tasks, their results, and the kill."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, TypeVar

from analysis.source import Report
from analysis.tasks import Measured, app, digest_folder, measure_file
from analysis.totals import shorten
from terminal import Terminal

from umbel import AsyncResult
from umbel.exceptions import TimeoutError as StillRunning

R = TypeVar("R")

COMMAND: Final = ("-m", "umbel", "-A", "analysis.tasks", "worker", "-c", "2")
TICK: Final = 0.2
"""Seconds of waiting for one result after which the clock on display goes on."""
PATIENCE: Final = 3.0
"""Seconds for the worker to end when it is told to."""


class WorkerEnded(Exception):  # noqa: N818
    """The worker is gone before its time; the message holds its last words."""


class Worker:
    """A worker in a process of its own, for as long as the `with` block runs."""

    def __init__(self, home: Path) -> None:
        self._log = home / "worker.log"
        # The worker hands the writing end down to its processes: end of file, and all are gone.
        self._life, end = os.pipe()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *COMMAND],
                cwd=Path(__file__).resolve().parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[end],
                start_new_session=True,  # a Ctrl-C is for the demo, which then ends the worker
            )
        os.close(end)
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # As Ctrl-C does it, and only if that takes too long, harder.
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            self._process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
                break
        select.select([self._life], [], [], PATIENCE)
        os.close(self._life)
        self._process.wait()

    def ensure_alive(self) -> None:
        """`WorkerEnded` if nobody is left to wait for."""
        if self._process.poll() is not None:
            said = self._log.read_text(encoding="utf-8", errors="replace")
            raise WorkerEnded(f"The worker has ended too early, so nothing more comes:\n{said}")


@dataclass(frozen=True)
class Ledger:
    """What Umbel's history tells about all attempts."""

    sent: int
    """Tasks."""
    once: int
    """Tasks that have ended with one result, neither none nor two."""
    attempts: int
    lost: list[str]
    """The file of each attempt whose process died under it."""
    dead: int
    """Dead letters."""

    @property
    def balanced(self) -> bool:
        """Whether every task has exactly one result."""
        return self.once == self.sent == self.attempts - len(self.lost) and not self.dead


@dataclass
class Run:
    """All files, sent as tasks and fetched as results."""

    root: Path
    folders: list[list[str]]
    terminal: Terminal
    start: float = field(default_factory=time.monotonic)
    measured: dict[str, AsyncResult[Measured]] = field(default_factory=dict)
    digested: list[AsyncResult[list[str]]] = field(default_factory=list)
    reports: dict[str, Report] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    by_process: Counter[int] = field(default_factory=Counter)
    """How many files each process of the worker has measured."""
    killed: dict[int, str] = field(default_factory=dict)
    """The file at which a process was killed; empty if it was between two files."""
    _seen: set[int] = field(default_factory=set)
    """Processes that had sent results before the last kill."""

    def send(self) -> None:
        """Send a task for each file, and one for each folder. They wait in the store."""
        for path in (path for folder in self.folders for path in folder):
            self.measured[path] = measure_file.delay(path)
            self.show_progress()
        self.digested = [digest_folder.delay(folder) for folder in self.folders]

    def collect(self, worker: Worker) -> None:
        """Fetch the results, in the order of sending; half-way, kill a process."""
        for path, result in self.measured.items():
            answer = self.fetch(result, worker)
            self.reports[path] = answer["report"]
            self.by_process[answer["process"]] += 1
            if self.killed and not any(self.killed.values()):
                self.follow_up(answer["process"])
            elif self.half_way and not self.killed:
                self.kill(answer["process"])
            self.show_progress()
        for folder, digested in zip(self.folders, self.digested, strict=True):
            contents = self.fetch(digested, worker)
            self.digests.update(zip(folder, contents, strict=True))

    def fetch(self, result: AsyncResult[R], worker: Worker) -> R:
        """The value of one task."""
        while True:
            try:
                return result.get(timeout=TICK)
            except StillRunning:
                worker.ensure_alive()
                self.show_progress()

    def show_progress(self) -> None:
        """Counts, rate, and what each process has done of it."""
        shares = [f"{process}:{count}" for process, count in self.by_process.items()]
        detail = f"by pid {' '.join(shares)}" if shares else f"{len(self.measured)} sent"
        total = sum(map(len, self.folders))
        self.terminal.show("umbel", len(self.reports), total, self.start, detail)

    def kill(self, process: int) -> None:
        """SIGKILL a process of the worker: not the one that has just ended a file, if possible."""
        alive = [other for other in self.by_process if other not in self.killed]
        process = next((other for other in alive if other != process), process)
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            return  # it is gone already
        self.killed[process] = ""
        self._seen = set(self.by_process)
        text = f"kill -9 {process}: one of the two processes that run the tasks"
        self.terminal.say(text, "yellow")

    def follow_up(self, process: int) -> None:
        """Learn what the last one killed was at; `process` has just sent a result."""
        last = next(reversed(self.killed))
        if lost := self.ledger().lost:
            self.killed[last] = lost[0]
            text = f"  it was at {self.name_of(lost[0])}; Umbel starts that again"
            self.terminal.say(text, "yellow")
        elif process not in self._seen and self.half_way:
            # Its successor is at work already, so its end is on record, and it held nothing.
            self.terminal.say("  it was between two files, so another one is killed", "yellow")
            self.kill(process)

    @property
    def half_way(self) -> bool:
        """Whether half of the files are done, and not all."""
        return len(self.measured) > len(self.reports) >= len(self.measured) / 2

    def name_of(self, path: str) -> str:
        """A file or folder as people are shown it."""
        return shorten(os.path.relpath(path, self.root), 60)

    def ledger(self) -> Ledger:
        """The account of all attempts so far, from Umbel's own history."""
        files = {result.id: path for path, result in self.measured.items()}
        folders = zip(self.digested, self.folders, strict=True) if self.digested else ()
        files |= {result.id: str(Path(folder[0]).parent) for result, folder in folders}
        entries = app.engine.state.history(limit=100 + 4 * len(files))
        ended = Counter(entry.id for entry in entries if entry.state == "SUCCESS")
        return Ledger(
            sent=len(files),
            once=sum(ended[id] == 1 for id in files),
            attempts=len(entries),
            lost=[files[entry.id] for entry in reversed(entries) if entry.state == "LOST"],
            dead=len(app.engine.state.dead_letters()),
        )
