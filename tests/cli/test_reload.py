"""`umbel worker --reload`: new code, nothing lost, nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue

import pytest

from tests.cli.conftest import Project

CODE = """
import os, time
from pathlib import Path
from umbel import App

app = App("tasks")


@app.task(bind=True)
def version(self, folder):
    version = {version}
    folder = Path(folder)
    (folder / f"began-{{version}}").touch()
    while version == 1:  # until it is interrupted
        time.sleep(0.01)
    (folder / "end").write_text(f"{{version}} {{self.request.deliveries}}")
    (folder / "end").rename(folder / "ended")
"""
POOLS = {
    "prefork": ["-c", "2"],
    "asyncio": ["-P", "asyncio", "-c", "2"],
    "solo": ["-P", "solo"],
}


class Reloading:
    """A worker that starts anew, in a process group of its own, and what it writes."""

    def __init__(self, project: Project, *arguments: str) -> None:
        self.process = project.popen("worker", "--reload", *arguments)
        self._lines: Queue[str] = Queue()
        self._seen: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line.rstrip("\n"))

    def wait_for(self, text: str) -> str:
        """The next line that holds a text."""
        deadline = time.monotonic() + 30
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.001))
            except Empty:
                pytest.fail(f"nothing told of {text!r}: {self._seen}")
            self._seen.append(line)
            if text in line:
                return line

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self._reader.join(10)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def nothing_left(self) -> bool:
        """Whether no process of the group is left, soon."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.01)
        return False


@contextlib.contextmanager
def reloading(project: Project, *arguments: str) -> Iterator[Reloading]:
    worker = Reloading(project, *arguments)
    try:
        yield worker
    finally:
        worker.close()


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def write(project: Project, version: int) -> None:
    project.write("tasks.py", CODE.format(version=version))


@pytest.mark.parametrize("pool", POOLS)
def test_new_code_runs_what_the_old_was_interrupted_in(
    project: Project, pool: str, tmp_path: Path
) -> None:
    write(project, 1)
    with reloading(project, *POOLS[pool]) as worker:
        worker.wait_for("watching ")
        worker.wait_for("ready in")
        project.send("tasks.version", os.fspath(tmp_path))
        wait_for_file(tmp_path / "began-1")
        write(project, 2)
        assert "tasks.py" in worker.wait_for("changed: ")
        worker.wait_for("ready in")
        wait_for_file(tmp_path / "ended")
        assert (tmp_path / "ended").read_text() == "2 0"
        os.killpg(worker.process.pid, signal.SIGINT)  # what Ctrl-C does
        assert worker.process.wait(10) == 0
        assert worker.nothing_left()


def test_wrong_code_is_shown_and_the_next_change_waited_for(
    project: Project, tmp_path: Path
) -> None:
    write(project, 1)
    with reloading(project) as worker:
        worker.wait_for("ready in")
        project.write("tasks.py", CODE.format(version="1 +"))
        worker.wait_for("line 11: invalid syntax")
        worker.wait_for("starts with the next change")
        project.write("readme.txt", "no code")
        write(project, 2)
        assert worker.wait_for("changed: ").startswith("changed: tasks.py;")
        worker.wait_for("ready in")
        project.send("tasks.version", os.fspath(tmp_path))
        wait_for_file(tmp_path / "ended")


def test_ctrl_c_ends_all_at_once_and_what_ran_is_put_back(project: Project, tmp_path: Path) -> None:
    write(project, 1)
    with reloading(project, "-c", "1") as worker:
        worker.wait_for("ready in")
        project.send("tasks.version", os.fspath(tmp_path))
        wait_for_file(tmp_path / "began-1")
        os.killpg(worker.process.pid, signal.SIGINT)
        assert worker.process.wait(10) == 0
        assert worker.nothing_left()
    (queue,) = json.loads(project.say("queues", "--json"))["queues"]
    assert queue["ready"] == 1, queue


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of the end on Linux only")
def test_a_worker_does_not_outlive_who_restarts_it(project: Project) -> None:
    with reloading(project) as worker:
        worker.wait_for("ready in")
        worker.process.kill()
        worker.process.wait(10)
        assert worker.nothing_left()


def test_a_worker_that_ends_by_itself_ends_it_all(project: Project) -> None:
    with reloading(project, "--json") as worker:
        assert worker.process.stdout is not None
        events = (json.loads(line) for line in worker.process.stdout)
        pid = next(event["pid"] for event in events if event["event"] == "ready")
        os.kill(pid, signal.SIGTERM)
        assert worker.process.wait(20) == 0


def test_what_cannot_be(project: Project) -> None:
    assert "leave --detach out" in project.refuse("worker", "--reload", "-D", "-f", "x", code=64)
    project.environment["PYTHONPATH"] = os.fspath(project.folder / "path")
    project.write("path/watchfiles.py", "raise ImportError")
    process = subprocess.run(
        [sys.executable, "-m", "umbel", "worker", "--reload"],
        cwd=project.folder, env=project.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (process.returncode, process.stdout) == (64, "")
    assert 'pip install "umbel[reload]"' in process.stderr
    assert "Traceback" not in process.stderr
