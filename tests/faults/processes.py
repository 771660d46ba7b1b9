"""Workers and producers as processes, and what /proc knows of them (Linux)."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.oracle import BATCH, Kill, Oracle, Run, wait_until
from tests.servers import RedisServer
from umbel import App
from umbel.engines.state import Engine
from umbel.result import AsyncResult

ROOT = Path(__file__).parents[2]
PLANTED = Path(__file__).parent / "planted"
MODULE = "tests.faults.workload"


def children_of(pid: int) -> list[int]:
    """The pids of a process's children, oldest first."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return sorted(found)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def processes_of(home: Path) -> list[int]:
    """Every process of this machine that works on a store, whoever its parent is now."""
    mark = f"UMBEL_HOME={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return [pid for pid in found if is_running(pid)]


class Worker:
    """A worker process, started as a user starts one."""

    def __init__(
        self, command: list[str], environment: dict[str, str], folder: Path, slots: int
    ) -> None:
        self.slots = slots
        self.started = time.monotonic()
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            command, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self.lines.append("(closed)")
            self._news.notify_all()

    @property
    def output(self) -> str:
        with self._news:
            return "\n".join(self.lines)

    def wait_for_line(self, text: str, seconds: float = 15.0) -> None:
        """Wait for a line that holds the text; an error if the worker ends without it."""

        def seen() -> bool:
            return any(text in line or line == "(closed)" for line in self.lines)

        with self._news:
            self._news.wait_for(seen, seconds)
        if text not in self.output:
            raise RuntimeError(f"the worker never said {text!r}:\n{self.output}")

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self._process.pid

    @property
    def server(self) -> int:
        """The fork server's pid."""
        (server,) = children_of(self.pid)
        return server

    @property
    def children(self) -> list[int]:
        return children_of(self.server)

    def tree(self) -> list[int]:
        """All pids, parents first."""
        server = self.server
        return [self.pid, server, *children_of(server)]

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = 15.0) -> int:
        """Wait for the end; the exit code."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker has not ended:\n{self.output}") from None
        self._reader.join(5.0)
        return code

    def stop(self) -> None:
        """End it warmly, as its user would; it must agree."""
        self.signal(signal.SIGTERM)
        code = self.wait()
        assert code == 0, f"exit code {code} after SIGTERM:\n{self.output}"

    def is_alive(self) -> bool:
        return self._process.poll() is None


@dataclass
class Project:
    """A store of its own, with an app, workers and producers on it, and an oracle."""

    folder: Path
    chance: random.Random
    seed: str
    slots: int = 2
    """Of each worker."""
    settings: dict[str, Any] = field(default_factory=dict)
    pool: str = "prefork"
    plant: str | None = None
    """A bug to plant in the workers (`tests.faults.plants`)."""
    environment: dict[str, str] = field(default_factory=dict)
    url: str | None = None
    """The store's; None: an SQLite file in the folder."""

    def __post_init__(self) -> None:
        self.home = self.folder / "home"
        self.log = self.folder / "oracle.log"
        self.oracle = Oracle(self.log)
        url = self.url or f"sqlite:///{self.home}/queue.db"
        self.app = App("workload", broker=url, backend="broker")
        self._workers: list[Worker] = []
        self._producers: list[subprocess.Popen[bytes]] = []

    @property
    def engine(self) -> Engine:
        return self.app.engine

    # -------------------------------------------------------------------------------- processes

    def _environment(self, *, planted: bool) -> dict[str, str]:
        path = [os.fspath(ROOT)]
        environment = {
            **os.environ,
            "UMBEL_HOME": os.fspath(self.home),
            "WORKLOAD_LOG": os.fspath(self.log),
            "WORKLOAD_SETTINGS": json.dumps(self.settings),
            **({"UMBEL_BROKER_URL": self.url} if self.url else {}),
            **self.environment,
        }
        if planted and self.plant is not None:
            path.insert(0, os.fspath(PLANTED))
            environment["WORKLOAD_PLANT"] = self.plant
        path += filter(None, [os.environ.get("PYTHONPATH")])
        environment["PYTHONPATH"] = os.pathsep.join(path)
        return environment

    def worker(
        self,
        name: str = "w1",
        *arguments: str,
        slots: int | None = None,
        prefix: list[str] | None = None,
        wait: bool = True,
        **environment: str,
    ) -> Worker:
        """Start a worker; by default wait until it is ready."""
        slots = slots or self.slots
        command = [
            *(prefix or []), sys.executable, "-m", "umbel", "-A", MODULE, "worker",
            "-P", self.pool, "-c", f"{slots}", "-n", name, *arguments,
        ]  # fmt: skip
        worker = Worker(
            command, {**self._environment(planted=True), **environment}, self.folder, slots
        )
        self._workers.append(worker)
        if wait:
            worker.wait_for_line("ready in")
        return worker

    def producer(self) -> subprocess.Popen[bytes]:
        """Start a process that sends jobs without end."""
        name = f"p{len(self._producers)}"
        command = [sys.executable, "-m", "tests.faults.producer", name, f"{self.seed}:{name}"]
        producer = subprocess.Popen(command, env=self._environment(planted=False), cwd=self.folder)
        self._producers.append(producer)
        return producer

    def stop_producers(self) -> None:
        """Tell the producers to stop and wait for them."""
        for producer in self._producers:
            if producer.poll() is None:
                producer.terminate()
        for producer in self._producers:
            producer.wait(15)

    # ------------------------------------------------------------------------------------- jobs

    def send(self, task: str, *arguments: object, **options: Any) -> AsyncResult[Any]:
        """Send one job from this process; the oracle takes it as acknowledged."""
        result = self.app.send_task(f"{MODULE}.{task}", arguments, **options)
        self.oracle.expect([result.id])
        return result

    def wait_for_runs(self, jobs: list[str] | str, count: int = 1, seconds: float = 15.0) -> None:
        """Wait until each job has been started so many times."""
        for job in [jobs] if isinstance(jobs, str) else jobs:
            wait_until(
                lambda job=job: len(self.oracle.runs_of(job)) >= count,  # type: ignore[misc]
                f"{count} starts of {job}",
                seconds,
            )

    def wait_for_run(self, found: Callable[[Run], bool], what: str, seconds: float) -> Run:
        """Wait until a run is there that fits."""
        hits: list[Run] = []

        def look() -> bool:
            self.oracle.read()
            hits.extend(run for run in self.oracle.runs.values() if found(run))
            return bool(hits)

        wait_until(look, what, seconds)
        return hits[0]

    def drain(self) -> None:
        """Wait until no message waits or is claimed; fail when for 5 s nothing moves."""
        before: object = None
        deadline = 0.0
        while True:
            counts = self.engine.broker.counts()
            if not any(c.ready + c.delayed + c.claimed for c in counts):
                return
            now = (counts, self.log.stat().st_size if self.log.exists() else 0)
            if now != before:
                before, deadline = now, time.monotonic() + 5.0
            assert time.monotonic() < deadline, f"the queue is never emptied: {counts}"
            time.sleep(0.01)

    # ------------------------------------------------------------------------------------ kills

    def kill_child(self, worker: Worker) -> None:
        """Kill one child, whatever it does; mostly one that has come to work already."""
        children: list[int] = []

        def is_there() -> bool:
            children[:] = worker.children
            return bool(children)

        wait_until(is_there, "a child to kill")
        self.oracle.read()
        at_work = {run.pid for run in self.oracle.runs.values()}.intersection(children)
        if at_work and self.chance.random() < 0.8:
            children = sorted(at_work)
        pid = self.chance.choice(children)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.note_kill("a child", pids={pid})

    def note_kill(
        self,
        what: str,
        *,
        pids: set[int] | None = None,
        servers: set[int] | None = None,
        most: int = 1,
    ) -> None:
        """Tell the oracle what was done just now."""
        kill = Kill(what, time.monotonic(), frozenset(pids or ()), frozenset(servers or ()), most)
        self.oracle.kills.append(kill)

    def kill_worker(self, worker: Worker, *, target: str = "supervisor") -> None:
        """Kill a worker's supervisor or fork server, and with it all of the worker."""
        server = worker.server
        os.kill(worker.pid if target == "supervisor" else server, signal.SIGKILL)
        most = worker.slots * (1 + BATCH)
        self.note_kill(f"the {target}", servers={server}, most=most)

    # ---------------------------------------------------------------------------------- the end

    def replace_store(self) -> None:
        """Put an empty store in the place of the one that is in use."""
        if self.url is None:
            shutil.rmtree(self.home)
        else:
            RedisServer.empty(self.url)

    def leftovers(self) -> list[str]:
        """What dead processes must not leave behind once all workers have ended."""
        found = [
            f"claimed in {c.queue}: {c.claimed}" for c in self.engine.broker.counts() if c.claimed
        ]
        found += [f"worker on record: {record.node}" for record in self.engine.state.workers()]
        run_dir = self.engine.run_dir
        found += [
            f"file {path.name}" for path in run_dir.iterdir() if path.name != "checkpoint.lock"
        ]
        found += [f"process {pid}" for pid in processes_of(self.home)]
        return found

    def close(self) -> None:
        """End whatever is left, by its pid."""
        for producer in self._producers:
            if producer.poll() is None:
                producer.kill()
            producer.wait()
        left = {worker.pid for worker in self._workers if worker.is_alive()}
        for pid in {*left, *processes_of(self.home)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for worker in self._workers:
            worker.wait()
        self.engine.close()
