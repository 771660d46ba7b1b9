"""Projects to run commands in: real processes, each project with a store of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from umbel import cli
from umbel.app.sending.publish import build_message
from umbel.app.settings.table import Settings
from umbel.engines.broker import Bury, Settlement
from umbel.engines.sqlite import SqliteEngine
from umbel.engines.state import WorkerRecord
from umbel.message.task import decode_headers

TASKS = """
from umbel import App

app = App("tasks")


@app.task
def add(x, y):
    return x + y


@app.task
def greet(name="you"):
    return f"hello {name}"


@app.task
def fail():
    raise ValueError("no such luck")


@app.task(ignore_result=True)
def quiet():
    print("quiet has run")
"""


class Project:
    """A folder in which commands are run."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.store = home / "queue.db"
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith("UMBEL_")
        } | {"UMBEL_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def popen(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "umbel", *args],
            cwd=self.folder, env=self.environment, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options,
        )  # fmt: skip

    def run(self, *args: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in a process forked from this one: all but the interpreter's start."""
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as output, \
                tempfile.TemporaryFile() as errors:  # fmt: skip
            stdin.write(answer.encode())
            stdin.seek(0)
            files = (stdin, output, errors)
            pid = os.fork()
            if pid == 0:
                self._become_command(args, [file.fileno() for file in files])
            _, status = os.waitpid(pid, 0)
            for file in files:
                file.seek(0)
            code = os.waitstatus_to_exitcode(status)
            texts = output.read().decode(), errors.read().decode()
        return subprocess.CompletedProcess(args, code, *texts)

    def _become_command(self, args: Sequence[str], files: Sequence[int]) -> NoReturn:
        code = 70
        try:
            signal.alarm(30)
            for number, file in enumerate(files):
                os.dup2(file, number)
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
            logging.root.handlers.clear()
            os.chdir(self.folder)
            os.environ.clear()
            os.environ.update(self.environment)
            code = cli.run(args)
        except BaseException:  # noqa: BLE001  (nothing may unwind into the tests)
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def send(self, name: str, *args: Any, id: str | None = None, **options: Any) -> str:
        """Put a message into the store; the task's id."""
        message = build_message(Settings(), name, args, {}, task_id=id, **options)
        with self.engine() as engine:
            engine.broker.publish([message])
        return message.id

    def say(self, *args: str, code: int = 0, answer: str = "") -> str:
        """What a command answers on standard output."""
        done = self.run(*args, answer=answer)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert code or "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def ask(self, *args: str, code: int = 0) -> dict[str, Any]:
        """The one JSON document that a command answers."""
        (line,) = self.say(*args, "--json", code=code).splitlines()
        document: dict[str, Any] = json.loads(line)
        return document

    def refuse(self, *args: str, code: int) -> str:
        """What a command complains about."""
        done = self.run(*args)
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stderr

    @contextlib.contextmanager
    def worker(self, *args: str) -> Iterator[list[str]]:
        """A live worker; the lines that it has written until it was ready."""
        process = self.popen("worker", "-c", "1", *args)
        try:
            yield read_until_ready(process)
        finally:
            end(process)

    @contextlib.contextmanager
    def engine(self) -> Iterator[SqliteEngine]:
        engine = SqliteEngine(self.store)
        try:
            yield engine
        finally:
            engine.close()

    def bury(self, detail: str = "killed by SIGSEGV\nFile 'x.c'") -> None:
        """Make dead letters of all that is ready."""
        with self.engine() as engine:
            host = WorkerRecord("undertaker@here", "here", 1, ("celery",), 1, 30.0)
            number = engine.state.register(host)
            claim = engine.broker.claim(number, ["celery"], 100)
            for delivery in claim.deliveries:
                headers = decode_headers(delivery.payload)
                bury = Bury(headers.id, headers.task, "lost", detail, 3)
                fence = (delivery.number, delivery.worker, delivery.attempt)
                assert engine.broker.settle([Settlement(*fence, bury)]) == []
            assert engine.state.unregister(number)


def read_until_ready(process: subprocess.Popen[str]) -> list[str]:
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if line.startswith("ready in "):
            return lines
    pytest.fail(f"the worker ended with {process.wait(10)}: {lines}")


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Stop a worker as a service manager does; what else it wrote."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        return process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A folder with one module, `tasks`, and no store yet."""
    (tmp_path / "code").mkdir(exist_ok=True)
    made = Project(tmp_path / "code", tmp_path / "home")
    made.write("tasks.py", TASKS)
    return made


@pytest.fixture
def empty(tmp_path: Path) -> Project:
    """A folder with nothing in it."""
    (tmp_path / "code").mkdir(exist_ok=True)
    return Project(tmp_path / "code", tmp_path / "home")
