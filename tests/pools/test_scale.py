"""Workers grow and shrink, by themselves and by orders: nothing is interrupted, nothing hoarded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.oracle import wait_until
from tests.faults.processes import children_of
from tests.faults.test_limits import full
from tests.pools.test_slots import Worker
from umbel.result import AsyncResult

pytestmark = pytest.mark.timeout(120)


class Ground:
    """A worker of a size that changes."""

    def __init__(self, home: Path, *arguments: str, keepalive: float) -> None:
        self.home = home
        self.worker = Worker(
            home, "-l", "INFO", *arguments, module="tasks_to_scale", FOLDER=str(home),
            KEEPALIVE=str(keepalive),
        )  # fmt: skip
        self.app = self.worker.app
        self._orders = 0

    def send(self, count: int, task: str = "hold") -> list[AsyncResult[Any]]:
        return [self.app.send_task(f"tasks_to_scale.{task}") for _ in range(count)]

    def runs(self, job: AsyncResult[Any]) -> list[int]:
        path = self.home / f"begun-{job.id}"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_runs(self, jobs: list[AsyncResult[Any]], count: int) -> None:
        """Wait until so many of them run, and the others lie in the store for other workers."""
        wait_until(lambda: sum(bool(self.runs(job)) for job in jobs) == count, f"{count} runs")
        waiting = len(jobs) - count

        def look() -> bool:
            (queue,) = self.app.engine.broker.counts()
            return (queue.claimed, queue.ready) == (count, waiting)

        wait_until(look, f"{count} claimed, {waiting} ready")

    def let_go(self, *jobs: AsyncResult[Any]) -> None:
        """Let tasks end; all, if none is named."""
        for name in [f"go-{job.id}" for job in jobs] or ["go"]:
            (self.home / name).touch()

    def order(self, text: str) -> str:
        """Have the worker's size changed; what came of it."""
        with (self.home / "orders").open("a") as file:
            file.write(text + "\n")
        self._orders += 1
        answers = self.home / "answers"
        wait_until(
            lambda: answers.exists() and len(answers.read_text().splitlines()) == self._orders,
            f"an answer to {text}",
        )
        return answers.read_text().splitlines()[-1]

    @property
    def children(self) -> list[int]:
        (server,) = children_of(self.worker.process.pid)
        return children_of(server)

    def wait_for_children(self, count: int) -> None:
        wait_until(lambda: len(self.children) == count, f"{count} children", 30)

    def status(self) -> dict[str, Any]:
        """The worker, as `umbel status` knows it."""
        store = f"sqlite:///{self.home}/queue.db"
        command = [sys.executable, "-m", "umbel", "-b", store, "status", "-j"]
        text = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
        (worker,) = json.loads(text)["workers"]
        return dict(worker)

    def wait_for_slots(self, count: int) -> None:
        wait_until(lambda: self.status()["slots"] == count, f"{count} slots", 30)


@contextmanager
def ground(home: Path, *arguments: str, keepalive: float = 30.0) -> Iterator[Ground]:
    made = Ground(home, *arguments, keepalive=keepalive)
    try:
        yield made
        made.worker.stop()
    finally:
        made.worker.process.kill()
        made.worker.process.communicate()


def test_processes_come_with_work_and_go_with_idleness(tmp_path: Path) -> None:
    with ground(tmp_path, "--autoscale=4,1", keepalive=1.0) as here:
        assert "pool    prefork, 1 to 4 slots\n" in here.worker.lines
        status = here.status()
        assert (status["slots"], status["autoscale"]) == (1, [1, 4])
        jobs = here.send(6)
        here.wait_for_runs(jobs, 4)
        assert here.status()["slots"] == len(here.children) == 4
        running = [job for job in jobs if here.runs(job)]
        lasting = running[-1]
        here.let_go(*(job for job in jobs if job is not lasting))
        here.wait_for_children(1)  # the one that is busy, whichever it is
        assert here.children == here.runs(lasting)
        here.let_go()
        for job in jobs:
            assert [job.get(timeout=20)] == here.runs(job)
        assert here.status()["slots"] == 1
    assert "Scaling up: 1 → 4 processes, as 6 tasks run or wait" in here.worker.rest
    assert "→ 1 processes, as the rest was idle" in here.worker.rest
    assert "was lost" not in here.worker.rest


@pytest.mark.parametrize("pool", ["threads", *map(full, ("asyncio", "gevent", "eventlet"))])
def test_slots_come_with_work_and_go_with_idleness(tmp_path: Path, pool: str) -> None:
    with ground(tmp_path, "-P", pool, "--autoscale", "1,5", keepalive=1.0) as here:
        assert f"pool    {pool}, 1 to 5 slots in 1 process\n" in here.worker.lines
        before = here.children
        jobs = [*here.send(4), *here.send(4, "hold_async")]
        here.wait_for_runs(jobs, 5)
        assert here.status()["slots"] == 5
        lasting = [job for job in jobs if here.runs(job)][-1]
        here.let_go(*(job for job in jobs if job is not lasting))
        here.wait_for_slots(1)
        late = here.send(1)[0]
        here.wait_for_slots(2)  # one is taken, one is wanted
        here.let_go()
        for job in (*jobs, late):
            assert [job.get(timeout=20)] == here.runs(job) == before
    assert "Scaling up: 1 → 5 slots in each process" in here.worker.rest


def test_without_work_there_may_be_no_process_at_all(tmp_path: Path) -> None:
    with ground(tmp_path, "--autoscale=2", "-c", "7", keepalive=0.3) as here:
        assert any("--concurrency has no effect" in line for line in here.worker.lines)
        assert here.status()["slots"] == 0
        assert here.children == []
        for _ in range(2):
            jobs = here.send(2)
            here.wait_for_runs(jobs, 2)
            here.let_go(*jobs)
            for job in jobs:
                assert [job.get(timeout=20)] == here.runs(job)
            here.wait_for_children(0)


def test_a_pool_is_told_to_grow_and_to_shrink(tmp_path: Path) -> None:
    with ground(tmp_path, "-c", "1") as here:
        jobs = here.send(4)
        here.wait_for_runs(jobs, 1)
        assert here.order("grow 2") == "3"
        here.wait_for_runs(jobs, 3)
        assert here.status()["slots"] == 3
        assert here.order("shrink 2") == "1"
        here.wait_for_slots(1)
        assert len(here.children) == 3  # they are busy, and nothing is interrupted
        assert here.order("grow") == "2"
        running = [job for job in jobs if here.runs(job)]
        here.let_go(running[0])
        here.wait_for_children(2)
        assert sum(bool(here.runs(job)) for job in jobs) == 3  # two run as before
        here.let_go(*running[1:])
        here.wait_for_runs([job for job in jobs if job not in running], 1)
        here.wait_for_children(2)
        assert here.order("shrink 9") == "1"
        here.let_go()
        here.wait_for_children(1)
        for job in jobs:
            assert [job.get(timeout=20)] == here.runs(job)
        assert "1 to 4096 slots, not 5001" in here.order("grow 5000")
        assert here.order("autoscale 3 1").startswith("Autoscale not enabled")


@pytest.mark.full
@pytest.mark.parametrize("pool", ["threads", "asyncio", "gevent", "eventlet"])
def test_slots_of_a_pool_are_told_to_be_more_and_fewer(tmp_path: Path, pool: str) -> None:
    with ground(tmp_path, "-P", pool, "-c", "2") as here:
        jobs = here.send(6)
        here.wait_for_runs(jobs, 2)
        assert here.order("shrink") == "1"
        here.wait_for_slots(1)
        first = [job for job in jobs if here.runs(job)]
        assert len(first) == 2  # nothing is interrupted
        here.let_go(*first)
        rest = [job for job in jobs if job not in first]
        here.wait_for_runs(rest, 1)
        (third,) = (job for job in rest if here.runs(job))
        assert here.order("grow 2") == "3"  # more than its process was made for: there is another
        here.wait_for_runs(rest, 4)
        here.let_go(third)
        here.wait_for_children(1)
        here.let_go()
        for job in jobs:
            assert [job.get(timeout=20)] == here.runs(job)


def test_fewer_slots_are_kept_to_where_more_could_be_read_ahead(tmp_path: Path) -> None:
    with ground(tmp_path, "-P", "threads", "-c", "4", "-l", "ERROR") as here:
        for slots in (4, 2):
            here.wait_for_slots(slots)
            assert max(job.get(timeout=20) for job in here.send(150, "blink")) == slots
            here.order("shrink 2")


@pytest.mark.full
def test_the_range_is_changed(tmp_path: Path) -> None:
    with ground(tmp_path, "--autoscale=2,1") as here:
        assert here.order("grow 1").startswith("pool_grow is not supported with autoscale")
        assert here.order("autoscale 0 4") == "It cannot change between 4 and 0."
        jobs = here.send(4)
        here.wait_for_runs(jobs, 2)
        assert here.order("autoscale 3") == "(3, 1)"
        here.wait_for_runs(jobs, 3)
        assert here.order("autoscale 6 4") == "(6, 4)"
        here.wait_for_runs(jobs, 4)
        here.let_go()
