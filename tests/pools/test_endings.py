"""Every ending of a task on every pool, held against the table of docs/reference/endings.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.test_poison import NO_GROUP, limited_memory
from tests.pools.tasks_that_end import ATTEMPTS
from umbel import App
from umbel.engines.broker import Message
from umbel.result import AsyncResult

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reference" / "endings.md"
POOLS = ["prefork", "solo", "threads", "asyncio", "gevent", "eventlet"]
PATIENCE = 30.0
"""Seconds without news after which what was to be told will not come."""
HARMLESS = {
    "it returns": "return",
    "it raises": "raise",
    "it retries": "retry",
    "it raises Ignore": "ignore",
    "it raises Reject": "reject",
    "its value cannot be stored": "return an object",
}
MORE = (", to be tried again", ", the last time")
DEADLY = {
    "terminated": "sleep",
    "its soft limit, ignored": "swallow",
    "its hard limit": "sleep",
    "SIGKILL": "kill",
    "a segmentation fault": "segfault",
    "out of memory": "memory",
}
LIMITS = {
    "its soft limit, ignored": {"soft_time_limit": 0.5},
    "its hard limit": {"time_limit": 1.0},
}

pytestmark = pytest.mark.timeout(300)


class Row(NamedTuple):
    """One ending, as the page has it."""

    ending: str
    before: list[str]
    child: list[str]
    afterwards: list[str]
    result: list[str]
    """State, and the class of the error."""
    history: list[str]


def read_page() -> dict[str, Row]:
    rows = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| ending"):
            ending, *columns = (cell.strip() for cell in line.strip("|").split("|"))
            names = [re.findall(r"[`*](\w+)[`*]", column) for column in columns]
            rows[ending.replace("`", "")] = Row(ending, *names)
    return rows


PAGE_ROWS = read_page()
TERMINATED = PAGE_ROWS["terminated"]


class Worker:
    """A worker of one pool, and what it told."""

    def __init__(self, pool: str, home: Path, memory_group: Path | None) -> None:
        self.pool = pool
        self.told = home / "told"
        self.told.touch()
        self.app = App("ends", broker=f"sqlite:///{home}/queue.db", backend="broker")
        command = [sys.executable, "-m", "umbel", "-A", "tasks_that_end", "worker", "-P", pool]
        environment = {"UMBEL_HOME": os.fspath(home), "TOLD": os.fspath(self.told)}
        self.may_exhaust_memory = memory_group is not None
        if memory_group is not None:
            environment["MEMORY_GROUP"] = os.fspath(memory_group)
        self.process = subprocess.Popen(
            [*command, "-c", "3"],
            cwd=HERE,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.sent: dict[tuple[str, str], AsyncResult[Any]] = {}
        """By ending and way of definition: plain, or async."""
        self.waiting: dict[tuple[str, str], AsyncResult[Any]] = {}
        """What has not ended yet."""
        self.since = time.time()
        """When something was sent last."""
        self.deadly = deque(DEADLY.items())
        """What is still to be sent."""

    def send(self, ending: str, way: str, *, suffix: str = "", **options: Any) -> AsyncResult[Any]:
        result = self.app.send_task(f"tasks_that_end.ends{suffix}", (way,), **options)
        self.sent[ending, suffix] = self.waiting[ending, suffix] = result
        self.since = time.time()
        return result

    def send_harmless(self) -> None:
        """All that ends without its process, of both kinds of function."""
        for suffix in ("", "_async"):
            for ending, way in HARMLESS.items():
                self.send(ending, way, suffix=suffix)
            self.send("its soft limit", "sleep", suffix=suffix, soft_time_limit=0.5)
            self.send("expired", "return", suffix=suffix, expires=-1)
            assert self.send(
                "revoked while it waits", "return", suffix=suffix, countdown=10_000
            ).revoke()
            id = f"revoked{suffix}"
            assert not self.app.AsyncResult(id).revoke()
            self.send("revoked when a worker takes it", "return", suffix=suffix, task_id=id)
        self.sent["no worker knows the task", ""] = self.app.send_task("tasks_that_end.unknown")
        self.app.engine.broker.publish([Message("x:1", "x", "celery", b"no message")])

    def send_deadly(self, ending: str, way: str) -> None:
        """What takes its process with it; the others are to be done by then."""
        # Where coroutines are at home, one of them.
        suffix = "_async" if self.pool == "asyncio" else ""
        if way != "memory" or self.may_exhaust_memory:
            self.send(ending, way, suffix=suffix, **LIMITS.get(ending, {}))

    def lines(self) -> list[tuple[str, str, int, int]]:
        """Event, id, attempt and pid, in order."""
        return [tuple(json.loads(line)) for line in self.told.read_text().splitlines()]

    def of(self, id: str) -> list[list[str]]:
        """What was told of each attempt, by whom: "worker" or "child", and what."""
        attempts: list[list[str]] = []
        own = self.process.pid
        for event, about, attempt, pid in self.lines():
            if about == id:
                attempts += [[] for _ in range(attempt + 1 - len(attempts))]
                attempts[attempt].append(f"{'worker' if pid == own else 'child'} {event}")
        return attempts

    def states(self, id: str) -> list[str]:
        """The history of a task, oldest first."""
        return [entry.state for entry in self.app.engine.state.history(id=id)][::-1]

    def goes_on(self) -> bool:
        """Look what has ended; if all has, send the next one. False once there is nothing left."""
        for ending, result in list(self.waiting.items()):
            if ending[0] == "terminated" and self.of(result.id)[-1:] == [expected(TERMINATED)[:-1]]:
                result.revoke(terminate=True)
            rows = rows_of(ending[0])
            wanted = [told for row in rows if (told := expected(row))]
            history = [state for row in rows for state in row.history]
            if self.of(result.id) == wanted and self.states(result.id) == history:
                del self.waiting[ending]
        if time.time() > max(self.since, self.told.stat().st_mtime) + PATIENCE:
            self.waiting.clear()
        if not self.waiting and self.deadly:
            # One after the other: what dies in company has another attempt, alone.
            self.send_deadly(*self.deadly.popleft())
        return bool(self.waiting or self.deadly)

    def stop(self) -> None:
        """See it end, which it was told to."""
        try:
            assert self.process.wait(20) == 0
        finally:
            self.process.kill()
            self.process.wait()
            self.app.engine.close()


def rows_of(ending: str) -> list[Row]:
    """Its attempts, as the page has them."""
    rows = [PAGE_ROWS.get(f"{ending}{more}") for more in ("", *MORE)]
    return [row for row in rows if row is not None]


def expected(row: Row) -> list[str]:
    return [
        *(f"worker {event}" for event in row.before),
        *(f"child {event}" for event in row.child),
        *(f"worker {event}" for event in row.afterwards),
    ]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Worker]]:
    """One of each pool, side by side; everything has happened."""
    with ExitStack() as stack:
        workers = {}
        for pool in POOLS:
            group = stack.enter_context(limited_memory())
            workers[pool] = Worker(pool, tmp_path_factory.mktemp(pool), group)
            stack.callback(workers[pool].stop)
        for worker in workers.values():
            stack.callback(worker.process.terminate)
        for worker in workers.values():
            worker.send_harmless()
        while [worker for worker in workers.values() if worker.goes_on()]:
            time.sleep(0.05)
        yield workers


@pytest.mark.parametrize("ending", PAGE_ROWS)
@pytest.mark.parametrize("pool", POOLS)
def test_an_ending_is_told_as_the_page_says(
    workers: dict[str, Worker], pool: str, ending: str
) -> None:
    worker, row = workers[pool], PAGE_ROWS[ending]
    name = ending.removesuffix(MORE[0]).removesuffix(MORE[1])
    attempt = ATTEMPTS - 1 if ending.endswith(MORE[1]) else 0
    if name == "no task message":
        assert worker.of("") == [expected(row)]
        return
    if name == "out of memory" and not worker.may_exhaust_memory:
        pytest.skip(NO_GROUP)
    sent = [result for (one, _), result in worker.sent.items() if one == name]
    assert sent, "nobody has sent it"
    for result in sent:
        attempts = worker.of(result.id)
        assert attempts[attempt : attempt + 1] == ([told] if (told := expected(row)) else [])
        assert worker.states(result.id)[attempt : attempt + 1] == row.history
        if not ending.endswith(MORE[0]):  # it looks for itself whether the first one has left any
            assert len(attempts) <= attempt + 1
            assert len(worker.states(result.id)) == attempt + 1
            assert described(result) == (row.result or ["PENDING"])


def described(result: AsyncResult[Any]) -> list[str]:
    """A result as the page has it: its state, and the class of its error."""
    error = result.result
    names = [type(error).__name__] if isinstance(error, Exception) else []
    return [result.state, *names]
