"""Everything around a measurement: environments, a Redis server, workers, producers, checks."""

import json
import mmap
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.peer import Peer

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / ".bench"
"""Environments and, while a run lasts, its files: on the disk of the checkout."""
WITHIN = Path(__file__).resolve().parent / "within"
LINK = Path(__file__).resolve().parent / "link.py"
STALL = 30.0
"""Seconds without one more task done after which a run is given up."""


class RunError(Exception):
    """A measurement that must not count: tasks lost or doubled, a worker that ended or stalled."""


def say(line: str) -> None:
    """A line of progress; the tables go to standard output, this does not."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def tail(path: Path, lines: int = 5) -> str:
    """The last lines of a log, with the checkout's own path taken out."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return " | ".join(text.replace(str(ROOT), ".").strip().splitlines()[-lines:])


# -- environments ----------------------------------------------------------------------------------


def install(peer: Peer) -> Path:
    """The peer's virtual environment, made on first use; this checkout is built into its own anew
    each time. Returns the folder of its commands."""
    home = PLACE / f"venv-{peer.environment}"
    binaries, done = home / "bin", home / "installed"
    wanted = "\n".join((sys.version, *peer.requirements))
    own = any(one.startswith(".") for one in peer.requirements)
    if done.exists() and done.read_text() == wanted and not own:
        return binaries
    if not (done.exists() and done.read_text() == wanted):
        say(f"installing {' '.join(peer.requirements)} into {home.relative_to(ROOT)}")
        shutil.rmtree(home, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(home)])
    pip = [str(binaries / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    if own:
        run([*pip, "uninstall", "-y", peer.package])
    run([*pip, "install", *peer.requirements])
    done.write_text(wanted)
    return binaries


def run(command: Sequence[str], seconds: float = 600) -> str:
    """A command in the checkout's root, to its output; `RunError` names its last lines."""
    answer = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
    )
    if answer.returncode:
        last = " | ".join(answer.stderr.replace(str(ROOT), ".").strip().splitlines()[-5:])
        raise RunError(f"{' '.join(command[:4])} … failed with status {answer.returncode}: {last}")
    return answer.stdout


def versions(binaries: Path, packages: Sequence[str]) -> dict[str, str]:
    """The installed versions of packages in an environment."""
    code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
    answer = run([str(binaries / "python"), "-c", code, *packages])
    return dict(zip(packages, answer.split(), strict=True))


def checkout() -> str:
    """What is measured: the commit, and whether files differ from it."""
    try:
        return run(["git", "describe", "--always", "--dirty"]).strip()
    except (OSError, RunError):
        return "no commit"


# -- Redis -----------------------------------------------------------------------------------------


class Redis:
    """A server of our own on a free port of the loopback; keeps nothing on disk, stock otherwise.

    `redis-server` as a developer starts it, with `save ""`: a snapshot in the midst of one peer's
    run would be noise in it.
    """

    def __init__(self, place: Path) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise FileNotFoundError("redis-server")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.entry = self.port
        self._link: subprocess.Popen[str] | None = None
        self.version = run([binary, "--version"]).split("v=")[1].split()[0]
        with (place / "redis.log").open("wb") as log:
            self._process = subprocess.Popen(
                [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""],
                cwd=place,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 10
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RunError(f"redis-server did not start: {tail(place / 'redis.log')}")
            time.sleep(0.02)

    def url(self, database: int) -> str:
        """The URL of one of its databases; each peer has its own."""
        return f"redis://127.0.0.1:{self.entry}/{database}"

    def delay(self, seconds: float) -> None:
        """From now on `url` leads over a link that takes so long each way."""
        command = [sys.executable, str(LINK), str(self.port), str(seconds)]
        self._link = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._link.stdout is not None
        self.entry = int(self._link.stdout.readline())

    def undelay(self) -> None:
        """`url` leads straight to the server again."""
        self.entry = self.port
        if self._link is not None:
            self._link.kill()
            self._link.communicate()
            self._link = None

    def empty(self, database: int) -> None:
        """Take everything out of a database."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(b"SELECT %d\r\nFLUSHDB\r\n" % database)
            answer = b""
            while answer.count(b"\r\n") < 2:
                answer += connection.recv(100) or b"closed\r\n\r\n"
            if answer != b"+OK\r\n+OK\r\n":
                raise RunError(f"redis-server refused to empty a database: {answer!r}")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(100) == b"+PONG\r\n"
        except OSError:
            return False

    def stop(self) -> None:
        """End the server."""
        self.undelay()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


# -- what the tasks marked -------------------------------------------------------------------------


class Record:
    """The file in which each task marks that it ran, and when (`within/record.py`)."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        with path.open("w+b") as file:
            file.truncate(9 * size)
            self._map = mmap.mmap(file.fileno(), 9 * size)

    def counts(self) -> bytes:
        """How often each task ran."""
        return self._map[8 * self.size :]

    def ran(self) -> int:
        """How many tasks ran."""
        return self.size - self.counts().count(0)

    def ends(self) -> list[int]:
        """When each task ended, by its number: nanoseconds of the monotonic clock, 0 for never."""
        return memoryview(self._map)[: 8 * self.size].cast("Q").tolist()

    def check(self) -> None:
        """`RunError` unless each task ran exactly once."""
        counts = self.counts()
        lost = counts.count(0)
        doubled = self.size - lost - counts.count(1)
        if lost or doubled:
            raise RunError(f"{lost} of {self.size} tasks lost, {doubled} run more than once")

    def window(self) -> tuple[int, float]:
        """(tasks, seconds) from the end of the first tenth of the tasks to the end of the last.

        The first tenth hides what differs in starting (children that come one after another); the
        end is not cut, so whoever lets a child sit idle beside the other's read-ahead pays for it.
        """
        ends = sorted(self.ends())
        tenth = max(1, self.size // 10)
        return self.size - tenth, (ends[-1] - ends[tenth - 1]) / 1e9


# -- one measurement -------------------------------------------------------------------------------


@dataclass
class Bench:
    """One run of the benchmark: its settings and what all its measurements share."""

    place: Path
    redis: Redis | None
    binaries: dict[str, Path]
    """The folder of commands, by peer."""
    databases: dict[str, int]
    """The number of the Redis database, by peer."""
    tasks: int = 20_000
    etas: int = 1_000_000
    silence: float = 60.0
    processes: int = 2
    spins: int = 0

    @contextmanager
    def trial(self, peer: Peer, scenario: str, size: int) -> "Iterator[Trial]":
        """An empty store and a fresh record for `size` tasks of a peer."""
        with tempfile.TemporaryDirectory(dir=self.place, prefix=f"{scenario}-") as folder:
            place = Path(folder)
            if self.redis is not None:
                self.redis.empty(self.databases[peer.name])
            yield Trial(self, peer, scenario, place, Record(place / "record", size))


@dataclass
class Trial:
    """One peer in one round of one scenario."""

    bench: Bench
    peer: Peer
    scenario: str
    place: Path
    record: Record

    def environment(self) -> dict[str, str]:
        """The variables of its producer and worker: ours out, the harness's in."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("UMBEL_", "PYTHON"))}
        bench, redis = self.bench, self.bench.redis
        if redis is not None and self.peer.redis:
            kept["BENCH_REDIS"] = redis.url(bench.databases[self.peer.name])
        kept |= {
            "PATH": f"{bench.binaries[self.peer.name]}:{os.environ['PATH']}",
            "PYTHONPATH": str(WITHIN),
            "BENCH_HOME": str(self.place),
            "UMBEL_HOME": str(self.place / "umbel"),
            "BENCH_RECORD": str(self.record.path),
            "BENCH_SIZE": str(self.record.size),
            "BENCH_SPINS": str(bench.spins),
            "BENCH_SCENARIO": self.scenario,
        }
        return kept | dict(self.peer.variables)

    def produce(self, *command: object, seconds: float = STALL) -> dict[str, Any]:
        """Run the producer (`within/produce.py`) to its end; its answer."""
        words = [str(word) for word in (WITHIN / "produce.py", self.peer.tasks, *command)]
        python = str(self.bench.binaries[self.peer.name] / "python")
        try:
            answer = subprocess.run(
                [python, *words],
                cwd=self.place,
                env=self.environment(),
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RunError(
                f"the producer did not end its `{command[0]}` in {seconds:.0f} s"
            ) from None
        if answer.returncode:
            last = " | ".join(answer.stderr.replace(str(ROOT), ".").strip().splitlines()[-3:])
            raise RunError(f"the producer's `{command[0]}` failed: {last}")
        parsed: dict[str, Any] = json.loads(answer.stdout)
        return parsed

    def fill(self, task: str, first: int = 0, count: int | None = None) -> dict[str, Any]:
        """Queue `count` tasks, all if not given, one at a time."""
        count = self.record.size - first if count is None else count
        return self.produce("fill", task, first, count, seconds=STALL + count / 200)

    @contextmanager
    def worker(self) -> "Iterator[Worker]":
        """A worker of the peer; its whole process tree has ended when this returns."""
        token = uuid.uuid4().hex
        binaries = self.bench.binaries[self.peer.name]
        name, *words = self.peer.worker(self.bench.processes)
        command = [str(binaries / name), *words]
        log = self.place / "worker.log"
        with log.open("wb") as file:
            started = time.monotonic_ns()
            process = subprocess.Popen(
                command,
                cwd=self.place,
                env=self.environment() | processes.mark(token),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        patience = 0.5  # for what has failed or was interrupted
        try:
            yield Worker(self, process, token, started, log)
            patience = 15
        finally:
            whole = processes.end(process, token, self.peer.stop, patience)
            if patience > 1 and not whole:
                say(f"{self.peer.name}: its worker did not end whole within {patience} s")

    def drain(self) -> None:
        """Start a worker, wait until all queued tasks ran, stop it, check that each ran once."""
        with self.worker() as worker:
            worker.wait()
        self.record.check()


@dataclass
class Worker:
    """A running worker."""

    trial: Trial
    process: "subprocess.Popen[bytes]"
    token: str
    started: int
    """When it was started, nanoseconds of the monotonic clock."""
    log: Path

    def wait(self, count: int | None = None) -> None:
        """Until `count` tasks ran, or all; `RunError` if none does for `STALL` seconds."""
        record = self.trial.record
        wanted = record.size if count is None else count
        seen, since = 0, time.monotonic()
        while (ran := record.ran()) < wanted:
            if ran > seen:
                seen, since = ran, time.monotonic()
            if (error := self.ended()) is not None:
                raise error
            if time.monotonic() - since > STALL:
                last = tail(self.log)
                raise RunError(
                    f"nothing ran for {STALL:.0f} s after {ran} of {wanted} tasks: {last}"
                )
            time.sleep(0.02)

    def ended(self) -> RunError | None:
        """What to say of a worker that is no longer there; None while it is."""
        if (status := self.process.poll()) is None:
            return None
        ran = self.trial.record.ran()
        return RunError(f"the worker ended with status {status} after {ran}: {tail(self.log)}")

    def tree(self) -> list[int]:
        """Its processes."""
        return processes.tree(self.token)


def bare(bench: Bench, task: str, size: int) -> float:
    """Seconds of the window that plain loops in as many processes take for the same tasks."""
    with tempfile.TemporaryDirectory(dir=bench.place, prefix="bare-") as folder:
        record = Record(Path(folder) / "record", size)
        environment = os.environ | {
            "PYTHONPATH": str(WITHIN),
            "BENCH_RECORD": str(record.path),
            "BENCH_SIZE": str(size),
            "BENCH_SPINS": str(bench.spins),
        }
        command = [sys.executable, str(WITHIN / "bare.py"), task, str(bench.processes)]
        subprocess.run(command, env=environment, timeout=600, check=True)
        record.check()
        return record.window()[1]


def spins_per_ms() -> int:
    """Turns of an empty loop that take 1 ms here: the fastest of 30 tries."""
    turns, best = 20_000, 1.0
    for _ in range(30):
        start = time.process_time()
        for _ in range(turns):
            pass
        best = min(best, time.process_time() - start)
    return int(turns * 0.001 / best)
