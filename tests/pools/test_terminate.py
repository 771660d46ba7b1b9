"""Running tasks are terminated, in every pool: each ends once, and nobody else is hit."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.oracle import wait_until
from tests.faults.test_limits import full
from tests.pools.test_slots import Worker
from umbel import App
from umbel.exceptions import TaskRevokedError
from umbel.result import AsyncResult
from umbel.worker.embedded import EmbeddedWorker

MANY = ["threads", "asyncio", "gevent", "eventlet"]
PREFIX = "tasks_to_terminate"

pytestmark = pytest.mark.timeout(120)


class Ground:
    """A worker, and what its tasks and receivers have told."""

    def __init__(self, home: Path, *arguments: str, grace: float) -> None:
        self.told = home / "told"
        self.told.touch()
        self.worker = Worker(home, *arguments, module=PREFIX, TOLD=str(self.told), GRACE=str(grace))
        self.app = self.worker.app

    def send(self, task: str, *arguments: Any, **options: Any) -> AsyncResult[Any]:
        return self.app.send_task(f"{PREFIX}.{task}", arguments, **options)

    def lines(self, what: str, id: str) -> list[list[Any]]:
        found = [json.loads(line) for line in self.told.read_text().splitlines()]
        return [line[2:] for line in found if line[:2] == [what, id]]

    def begin(self, task: str, *arguments: Any, **options: Any) -> AsyncResult[Any]:
        """Send a task, and wait until it runs."""
        job = self.send(task, *arguments, **options)
        wait_until(lambda: bool(self.lines("begun", job.id)), f"the start of {task}", 20)
        return job

    def pid_of(self, job: AsyncResult[Any]) -> int:
        return int(self.lines("begun", job.id)[-1][0])

    def check_end(self, job: AsyncResult[Any], task: str, signum: int = signal.SIGTERM) -> None:
        """It has ended once, as one that was terminated, and nothing else is heard of it."""
        with pytest.raises(TaskRevokedError, match=r"^terminated$"):
            job.get(timeout=10)
        assert job.state == "REVOKED"
        assert job.traceback is None
        told = [f"{PREFIX}.{task}", True, signum, False]
        wait_until(lambda: bool(self.lines("revoked", job.id)), "the signal", 10)
        assert self.lines("revoked", job.id) == [told]
        (entry,) = self.app.history(id=job.id)
        assert (entry.state, entry.error) == ("REVOKED", "TaskRevokedError: terminated")
        for name in ("failure", "success", "on_failure", "on_success", "after_return", "postrun"):
            assert self.lines(name, job.id) == [], name
        assert len(self.lines("begun", job.id)) == 1

    def stop(self) -> None:
        """End the worker; it holds nothing, and has nothing left to tell."""
        self.worker.stop()
        assert not any(c.claimed + c.ready for c in self.app.engine.broker.counts())
        self.app.engine.close()


@contextmanager
def ground(tmp_path: Path, *arguments: str, grace: float = 10.0) -> Iterator[Ground]:
    made = Ground(tmp_path, *arguments, grace=grace)
    try:
        yield made
        made.stop()
    finally:
        made.worker.process.kill()
        made.worker.process.communicate()


def is_gone(pid: int) -> Callable[[], bool]:
    def look() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    return look


@pytest.mark.parametrize("pool", ["prefork", *MANY[:3], full("eventlet"), full("solo")])
def test_a_running_task_is_terminated(tmp_path: Path, pool: str) -> None:
    many = pool in MANY
    with ground(tmp_path, "-P", pool, "-c", "3" if many else "1") as here:
        neighbours = [here.begin(name, 1.0) for name in ("nap", "sleep_async")] if many else []
        for task in ("nap", "sleep_async"):
            job = here.begin(task, 60.0)
            started = time.monotonic()
            assert job.revoke(terminate=True) is False
            here.check_end(job, task)
            assert time.monotonic() - started < 5
            after = here.send("pid")  # its slot is free for the next one
            if many:  # no neighbour has noticed
                assert after.get(timeout=10) == here.pid_of(job)
            else:
                assert after.get(timeout=10) != here.pid_of(job)
                wait_until(is_gone(here.pid_of(job)), "the end of its process", 5)
        for job in neighbours:
            assert job.get(timeout=10) == here.pid_of(job)
            assert len(here.lines("begun", job.id)) == 1
    for job in neighbours:
        assert len(here.lines("on_success", job.id)) == 1
    assert "(SIGTERM)" in here.worker.rest
    assert "raised" not in here.worker.rest
    assert "lost" not in here.worker.rest


@pytest.mark.parametrize(
    ("pool", "task", "named"),
    [
        full("prefork", "sleep", "SIGKILL"),
        full("threads", "sleep", "KILL"),
        ("threads", "swallow", "SIGTERM"),
        full("threads", "count_in_c", "SIGINT"),
        full("asyncio", "sleep", "QUIT"),
        full("gevent", "swallow", "SIGTERM"),
    ],
)
def test_who_cannot_be_told_is_killed(tmp_path: Path, pool: str, task: str, named: str) -> None:
    """As at a hard limit: neighbours that cannot end in a moment run again, uncharged."""
    many = pool in MANY
    with ground(tmp_path, "-P", pool, "-c", "3" if many else "1") as here:
        brief = here.begin("nap", 1.0) if many and task != "count_in_c" else None
        long = here.begin("nap", 3.0) if many else None
        job = here.begin(task, *([60.0] if task == "sleep" else []))
        job.revoke(terminate=True, signal=named)
        here.check_end(job, task, signal.Signals[f"SIG{named.removeprefix('SIG')}"])
        wait_until(lambda: here.send("pid").get(timeout=15) != here.pid_of(job), "a successor", 10)
        if brief is not None:
            assert brief.get(timeout=10) == here.pid_of(brief)
        if long is not None:
            assert long.get(timeout=20)
            assert len(here.lines("begun", long.id)) == 2
        wait_until(is_gone(here.pid_of(job)), "the end of its process", 5)


@pytest.mark.full
def test_a_process_that_ignores_its_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    with ground(tmp_path, "-c", "1", grace=0.5) as here:
        for task, named in (("count_in_c", "SIGTERM"), ("swallow", "SIGUSR1"), ("sleep", "SIGURG")):
            job = here.begin(task, *([60.0] if task == "sleep" else []))
            job.revoke(terminate=True, signal=named)
            here.check_end(job, task, signal.Signals[named])
            assert here.send("pid").get(timeout=10) != here.pid_of(job)


@pytest.mark.parametrize("pool", ["prefork", full("threads")])
def test_a_soft_termination(tmp_path: Path, pool: str) -> None:
    with ground(tmp_path, "-P", pool, "-c", "1") as here:
        stray = here.begin("nap", 0.3)
        os.kill(here.pid_of(stray), signal.SIGTERM)  # of a service manager, to all processes
        assert stray.get(timeout=10) == here.pid_of(stray)
        assert len(here.lines("begun", stray.id)) == 1
        job = here.begin("clean_up")
        job.revoke(terminate=True, signal="SIGUSR1")
        here.check_end(job, "clean_up", signal.SIGUSR1)
        assert here.send("pid").get(timeout=10) == here.pid_of(job)
        assert here.lines("cleaned", job.id)


@pytest.mark.full
def test_a_tasks_own_handler_of_the_signal_runs(tmp_path: Path) -> None:
    with ground(tmp_path, "-c", "1") as here:
        job = here.begin("own_handler")
        job.revoke(terminate=True)
        here.check_end(job, "own_handler")
        assert here.send("pid").get(timeout=10) != here.pid_of(job)
        assert here.lines("handled", job.id)


@pytest.mark.parametrize("pool", ["prefork", full("threads"), full("asyncio")])
def test_only_the_one_that_is_meant_is_hit(tmp_path: Path, pool: str) -> None:
    """Terminated when they are about to end, they end one way or the other, and no other one."""
    with ground(tmp_path, "-P", pool, "-c", "1") as here:
        pairs = []
        for n in range(8):
            jobs = [here.send("nap", seconds) for seconds in (0.25, 0.03, 0.0)]
            wait_until(lambda: bool(here.lines("begun", jobs[0].id)), "a start", 20)  # noqa: B023
            time.sleep(0.09 + 0.012 * n)
            jobs[0].revoke(terminate=True)
            pairs.append(jobs)
        for victim, *others in pairs:
            for job in others:
                job.get(timeout=20)
            wait_until(victim.ready, "the end of one", 20)
    states = []
    for victim, *others in pairs:
        assert all(len(here.lines("on_success", job.id)) == 1 for job in others)
        states.append(victim.state)
        ends = [len(here.lines(what, victim.id)) for what in ("revoked", "on_success")]
        assert ends == ([1, 0] if states[-1] == "REVOKED" else [0, 1])
        assert len(here.app.history(id=victim.id)) == 1
    assert "REVOKED" in states


def test_what_waits_is_dropped_and_what_runs_is_ended(tmp_path: Path) -> None:
    with ground(tmp_path, "-c", "2") as here:
        running = [here.begin("sleep", 60.0) for _ in range(2)]
        waiting = [here.send("sleep", 60.0) for _ in range(20)]
        for job in (*waiting, *running):
            job.revoke(terminate=True)
        for job in running:
            here.check_end(job, "sleep")
        for job in waiting:
            with pytest.raises(TaskRevokedError, match=r"^revoked$"):
                job.get(timeout=10)
            assert here.lines("begun", job.id) == []


@pytest.mark.parametrize("pool", ["solo", "threads", "asyncio"])
def test_a_task_of_an_embedded_worker(pool: str) -> None:
    app = App("embedded", broker=f"memory://terminate-{pool}", result_backend="broker")
    begun: list[str] = []

    @app.task(bind=True)
    def nap(self: Any) -> None:
        begun.append(self.request.id)
        while True:
            time.sleep(0.005)

    @app.task
    def pid() -> int:
        return os.getpid()

    worker = EmbeddedWorker(app, pool=pool)
    worker.start()
    try:
        job = nap.delay()
        wait_until(lambda: begun == [job.id], "its start", 10)
        job.revoke(terminate=True)
        with pytest.raises(TaskRevokedError, match=r"^terminated$"):
            job.get(timeout=10)
        assert pid.delay().get(timeout=10) == os.getpid()
    finally:
        worker.stop(20)
    app.engine.close()
