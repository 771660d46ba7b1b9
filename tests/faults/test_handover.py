"""Work that is handed over: nothing waits behind a long run, nothing outlives its store."""

from __future__ import annotations

import math
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import RecordProof, Rounds
from tests.faults.oracle import Run, wait_until
from tests.faults.processes import Project

POOLS_OF_SLOTS = ("threads", "asyncio", "gevent", "eventlet")


def ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_work_behind_a_long_run_goes_to_an_idle_worker(project: Project) -> None:
    busy = project.worker("busy", slots=1)
    for job in [project.send("work", 0.0) for _ in range(200)]:
        job.get(timeout=10)  # it learns that this task is short
    long = project.send("work", 8.0)
    project.wait_for_runs(long.id)
    other = project.worker("other", slots=1)
    for job in [project.send("work", 0.0) for _ in range(20)]:
        job.get(timeout=4)
    assert not long.ready()
    long.get(timeout=15)
    busy.stop()
    other.stop()
    project.oracle.judge(project.engine).demand_soundness()


def free_stretches(runs: list[Run], begin: float, end: float, slots: int) -> list[float]:
    """How long at a time fewer than `slots` of these runs were going, from `begin` to `end`."""
    changes = sorted(
        (at, step) for run in runs for at, step in ((run.start, 1), (run.end or math.inf, -1))
    )
    busy, free_since, stretches = 0, begin, []
    for at, step in changes:
        if busy < slots <= busy + step and at > begin:
            stretches.append(min(at, end) - max(free_since, begin))
        if busy + step < slots <= busy:
            free_since = at
        busy += step
        if at >= end:
            break
    return stretches


@pytest.mark.parametrize(
    "pool",
    ["prefork", *(pytest.param(name, marks=pytest.mark.full) for name in POOLS_OF_SLOTS)],
)
def test_no_slot_is_free_while_a_task_waits(
    project: Project, pool: str, rounds: Rounds, record_proof: RecordProof
) -> None:
    project.pool = pool
    workers = [project.worker(name, slots=2) for name in ("one", "two")]
    for job in [project.send("work", 0.01) for _ in range(40)]:
        job.get(timeout=10)
    long = project.send("work", float(rounds(8, 60)))
    project.wait_for_runs(long.id)
    short = [project.send("work", 0.01) for _ in range(1_000)]
    sent = time.monotonic()
    for job in short:
        job.get(timeout=20)
    assert not long.ready()
    project.oracle.read()
    last = max(run.start for job in short for run in project.oracle.runs_of(job.id))
    of_worker: dict[int, list[Run]] = {}
    for run in project.oracle.runs.values():
        of_worker.setdefault(run.server, []).append(run)
    assert len(of_worker) == 2
    longest = max(
        stretch for runs in of_worker.values() for stretch in free_stretches(runs, sent, last, 2)
    )
    record_proof(pool=pool, longest_free_ms=round(1000 * longest, 1), drained_s=last - sent)
    # A machine with other work may keep a process from running for as long as this.
    assert longest < rounds(250, 50) / 1000
    long.get(timeout=70)
    for worker in workers:
        worker.stop()


def stands_still(pid: int) -> bool:
    stats = [
        stat.read_text().rpartition(")")[2] for stat in Path(f"/proc/{pid}").glob("task/*/stat")
    ]
    return all(stat.split()[0] == "T" for stat in stats)


def test_a_child_that_stood_still_gets_work_as_soon_as_it_goes_on(project: Project) -> None:
    project.pool = "threads"
    worker = project.worker(slots=2)
    job = project.send("work", 0.0)
    job.get(timeout=10)
    (run,) = project.oracle.runs_of(job.id)
    os.kill(run.pid, signal.SIGSTOP)
    wait_until(lambda: stands_still(run.pid), "all its threads")
    job = project.send("work", 0.0)
    browse = project.engine.broker.browse
    wait_until(lambda: any(w.worker for w in browse(id=job.id)), "its claim")
    wait_until(lambda: not any(w.worker for w in browse(id=job.id)), "its return to the queue")
    os.kill(run.pid, signal.SIGCONT)
    begin = time.monotonic()
    job.get(timeout=10)
    assert time.monotonic() - begin < 0.7
    worker.stop()


def test_a_busy_worker_sleeps(project: Project) -> None:
    worker = project.worker(slots=1)
    job = project.send("work", 3.0)
    project.wait_for_runs(job.id)
    before = ticks(worker.pid)
    job.get(timeout=10)
    used = (ticks(worker.pid) - before) / os.sysconf("SC_CLK_TCK")
    assert used < 0.3, f"the supervisor used {used:.2f} s while its only child ran for 3 s"
    worker.stop()


def sleeps(pid: int) -> int:
    """How often a process has gone to sleep by itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]


def test_outcomes_gather_while_every_process_has_work(project: Project) -> None:
    last = [project.send("work", 0.002) for _ in range(1_200)][-1]
    worker = project.worker(slots=2)
    before = sleeps(worker.pid)
    last.get(timeout=30)
    assert sleeps(worker.pid) - before < 500
    worker.stop()


def test_a_replaced_store_gets_no_outcome_of_the_old_one(project: Project) -> None:
    worker = project.worker(slots=1)
    old = project.send("work", 3.0)
    project.wait_for_runs(old.id)
    project.replace_store()
    new = project.send("work", 0.0)
    assert new.get(timeout=15) is not None
    wait_until(lambda: project.oracle.runs_of(old.id)[0].end, "the old task's end")
    assert not project.app.AsyncResult(old.id).ready()
    again = project.send("work", 0.0)
    assert again.get(timeout=5) is not None
    worker.stop()
