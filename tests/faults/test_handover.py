"""Work that is handed over: nothing waits behind a long run, nothing outlives its store."""

from __future__ import annotations

import os

from tests.faults.oracle import wait_until
from tests.faults.processes import Project


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


def test_a_busy_worker_sleeps(project: Project) -> None:
    worker = project.worker(slots=1)
    job = project.send("work", 3.0)
    project.wait_for_runs(job.id)
    before = ticks(worker.pid)
    job.get(timeout=10)
    used = (ticks(worker.pid) - before) / os.sysconf("SC_CLK_TCK")
    assert used < 0.3, f"the supervisor used {used:.2f} s while its only child ran for 3 s"
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
