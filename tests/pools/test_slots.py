"""What a task finds in a slot of each pool."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from umbel import App
from umbel.result import AsyncResult

HERE = Path(__file__).parent
POOLS = {
    "prefork": ["-P", "prefork", "-c", "3"],
    "threads": ["-P", "threads", "-c", "3"],
    "asyncio": ["-P", "asyncio", "-c", "3"],
    "gevent": ["-P", "gevent", "-c", "3"],
    "eventlet": ["-P", "eventlet", "-c", "3"],
    "solo": ["-P", "solo", "-c", "3"],
}
SLOTS = {"prefork": 3, "threads": 3, "asyncio": 3, "gevent": 3, "eventlet": 3, "solo": 1}


class Worker:
    """A worker of a pool, and an app that sends to it."""

    def __init__(
        self,
        home: Path,
        *arguments: str,
        stdin: int = subprocess.DEVNULL,
        module: str = "tasks_in_slots",
        url: str | None = None,
        **environment: str,
    ) -> None:
        self.module = module
        url = url or f"sqlite:///{home}/queue.db"
        self.app = App("slots", broker=url, backend="broker")
        command = [sys.executable, "-m", "umbel", "-A", module, "worker", *arguments]
        environment |= {"UMBEL_HOME": str(home), "UMBEL_BROKER_URL": url}
        environment["UMBEL_RESULT_BACKEND"] = "broker"
        self.process = subprocess.Popen(
            command,
            cwd=HERE,
            env=os.environ | environment,
            stdin=stdin,
            stdout=subprocess.PIPE if stdin == subprocess.DEVNULL else stdin,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.lines = []
        for line in self.process.stderr:
            self.lines.append(line)
            if line.startswith("ready"):
                break

    def send(self, name: str, *args: Any) -> AsyncResult[Any]:
        return self.app.send_task(f"{self.module}.{name}", args)

    def run(self, name: str, *args: Any) -> Any:
        return self.send(name, *args).get(timeout=20)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.output, self.rest = self.process.communicate(timeout=20)
            assert self.process.returncode == 0, self.rest
        finally:
            self.process.kill()
            self.app.engine.close()


@pytest.fixture(scope="module", params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def worker(pool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("home"), *POOLS[pool])
    yield worker
    worker.stop()


def test_first_of_all_a_child_has_imported_little(worker: Worker, pool: str) -> None:
    # eventlet imports asyncio by itself
    assert worker.run("imported") == (["asyncio"] if pool in {"asyncio", "eventlet"} else [])


def test_the_worker_says_how_it_is_laid_out(worker: Worker, pool: str) -> None:
    text = {
        "prefork": "prefork, 3 slots",
        "threads": "threads, 3 slots in 1 process",
        "asyncio": "asyncio, 3 slots in 1 process",
        "gevent": "gevent, 3 slots in 1 process",
        "eventlet": "eventlet, 3 slots in 1 process",
        "solo": "solo, 1 slot",
    }[pool]
    assert f"pool    {text}\n" in worker.lines


@pytest.mark.parametrize("name", ["together", "together_async"])
def test_as_many_run_at_once_as_there_are_slots(
    worker: Worker, pool: str, name: str, tmp_path: Path
) -> None:
    """Each sees its own request, its own current task and its own context."""
    count = SLOTS[pool]
    for round_ in range(3):  # the slots have run others before
        place = tmp_path / f"{round_}"
        place.mkdir()
        results = [worker.send(name, str(place), count) for _ in range(count)]
        seen = [result.get(timeout=20) for result in results]
        for result, (own, current, before, own_after, current_after, mark, _) in zip(
            results, seen, strict=True
        ):
            assert {own, current, own_after, current_after, mark} == {result.id}
            assert before == "clean"
        assert len({pid for *_, pid in seen}) == (count if pool == "prefork" else 1)


def test_async_and_plain_tasks_run_beside_each_other(
    worker: Worker, pool: str, tmp_path: Path
) -> None:
    count = SLOTS[pool]
    names = ["together", "together_async", "together"][:count]
    results = [worker.send(name, str(tmp_path), count) for name in names]
    assert [result.get(timeout=20)[0] for result in results] == [r.id for r in results]


def test_async_tasks_of_a_process_share_one_loop(worker: Worker, pool: str) -> None:
    identities = {worker.run("loop_identity") for _ in range(8)}
    assert len(identities) <= (3 if pool == "prefork" else 1)


def test_a_coroutine_that_a_plain_function_returns_is_awaited(worker: Worker) -> None:
    assert worker.run("makes_coroutine") == "made"


def test_plain_functions_run_where_the_pool_says(worker: Worker, pool: str) -> None:
    in_main_thread, _ = worker.run("thread")
    assert in_main_thread == (pool in {"prefork", "solo"})


@pytest.mark.parametrize("name", ["traced", "traced_async"])
def test_handlers_run_in_their_tasks_context(worker: Worker, name: str, tmp_path: Path) -> None:
    told = tmp_path / "told"
    results = [worker.send(name, str(told)) for _ in range(9)]
    assert [result.get(timeout=20) for result in results] == ["begun"] * 9
    deadline = time.monotonic() + 10
    while len(told.read_text().splitlines()) < 9:
        assert time.monotonic() < deadline
    lines = [line.split() for line in told.read_text().splitlines()]
    assert sorted(lines) == sorted([r.id, r.id, "begun"] for r in results)


def test_a_task_that_forks_ends_once(worker: Worker) -> None:
    result = worker.send("fork_and_return")
    assert result.get(timeout=20) == "parent"
    assert worker.run("thread")[1] > 0
    ended = [entry.state for entry in worker.app.engine.state.history(id=result.id)]
    assert ended == ["SUCCESS"]


@pytest.mark.parametrize(
    ("arguments", "layout"),
    [
        (["-P", "threads"], f"threads, {min(32, 10 * os.cpu_count())} slots in 1 process"),  # type: ignore[operator]
        (["-P", "asyncio", "--processes", "2"], "asyncio, 200 slots in 2 processes"),
        (["-P", "processes", "--processes", "2"], "prefork, 2 slots"),
        (["worker_pool=celery.concurrency.thread:TaskPool", "-c", "2"], "threads, 2 slots in"),
    ],
)
def test_layouts(arguments: list[str], layout: str, tmp_path: Path) -> None:
    worker = Worker(tmp_path, *arguments)
    assert f"pool    {layout}" in "".join(worker.lines)
    assert worker.run("thread")
    worker.stop()


def test_solo_reads_the_terminal(tmp_path: Path) -> None:
    """`breakpoint()` works: the task can be talked to."""
    ours, theirs = pty.openpty()
    worker = Worker(tmp_path, "-P", "solo", "-l", "INFO", stdin=theirs)
    os.close(theirs)
    result = worker.send("stop_here")

    def read_until(text: bytes) -> None:
        seen = b""
        while text not in seen:
            assert select.select([ours], [], [], 15)[0], f"no {text!r} in {seen!r}"
            seen += os.read(ours, 4096)

    read_until(b"(Pdb) ")
    os.write(ours, b"number += 1\n")
    read_until(b"(Pdb) ")
    os.write(ours, b"c\n")
    assert result.get(timeout=20) == 42
    os.write(ours, b"a line\n")
    assert worker.run("stdin") == "a line\n"
    worker.stop()
    os.close(ours)


def test_many_coroutines_wait_together(tmp_path: Path) -> None:
    worker = Worker(tmp_path, "-P", "asyncio", "-c", "1000")
    worker.run("sleep_async", 0.0)
    start = time.time()
    results = [worker.send("sleep_async", 1.0) for _ in range(1000)]
    ends = [result.get(timeout=20) for result in results]
    assert max(ends) - start < 3.0
    worker.stop()


def test_a_soft_limit_that_came_too_late_leaves_the_interpreter_as_it_was() -> None:
    """A profiler, like coverage or a debugger, works after it."""
    program = """
import sys, threading
from types import SimpleNamespace
from umbel.pools.threads import call
slot = SimpleNamespace(guard=threading.Lock(), thread=threading.get_ident(), inside=0, struck=0)
slot.name_thread = lambda ident: None
def task():
    slot.struck = slot.inside  # as if the limit were struck at this moment
    return "its value"
assert call(slot, 1, task, (), {}) == "its value"
calls = []
sys.setprofile(lambda *event: calls.append(event[1]))
(lambda: None)()
sys.setprofile(None)
assert "call" in calls
"""
    subprocess.run([sys.executable, "-c", program], timeout=10, check=True)
