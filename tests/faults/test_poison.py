"""Tasks that kill their process, and workers that are killed: who is charged for it."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import RecordProof, Rounds
from tests.faults.oracle import Run, wait_until
from tests.faults.processes import Project
from umbel.exceptions import WorkerLostError

NEIGHBOURS = 100
MEMORY = 64 << 20
NO_GROUP = "making a memory control group is not permitted here"

pytestmark = pytest.mark.timeout(120)


@contextlib.contextmanager
def limited_memory() -> Iterator[Path | None]:
    """A control group of processes that together may take 64 MiB; the kernel kills the next.

    None where making one is not permitted.
    """
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"umbel-{secrets.token_hex(4)}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(f"{MEMORY}")
        except OSError:
            group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    yield None


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A group of that kind; without one the test is skipped."""
    with limited_memory() as group:
        if group is None:
            pytest.skip(NO_GROUP)
        yield group


@pytest.mark.parametrize(
    ("way", "cause", "has_stack"),
    [
        ("kill", "SIGKILL", False),
        ("segfault", "SIGSEGV", True),
        ("exit", "exited with code 3", False),
        ("exit quietly", "exited with code 0", False),
    ],
)
def test_deadly_task_is_buried(
    project: Project, record_proof: RecordProof, way: str, cause: str, has_stack: bool
) -> None:
    check_burial(project, record_proof, way, cause, has_stack=has_stack)


def test_idle_process_that_is_lost_is_told_of(project: Project) -> None:
    worker = project.worker(slots=1)
    (child,) = worker.children
    os.kill(child, signal.SIGKILL)
    worker.wait_for_line(f"Child {child} (slot 0) was lost: killed by SIGKILL")
    project.send("work").get(timeout=10)
    (told,) = [line for line in worker.lines if "was lost" in line]
    assert "ERROR" in told
    worker.stop()


def test_task_that_takes_all_memory_is_buried(
    project: Project, record_proof: RecordProof, memory_group: Path
) -> None:
    project.environment["WORKLOAD_MEMORY_GROUP"] = os.fspath(memory_group)
    check_burial(project, record_proof, "memory", "SIGKILL", has_stack=False)
    (letter,) = project.engine.state.dead_letters()
    assert "memory" in letter.detail


def check_burial(
    project: Project, record_proof: RecordProof, way: str, cause: str, *, has_stack: bool
) -> None:
    half = NEIGHBOURS // 2
    neighbours = [project.send("work", 0.002) for _ in range(half)]
    deadly = project.send("die", way)
    neighbours += [project.send("work", 0.002) for _ in range(half)]
    worker = project.worker()
    with pytest.raises(WorkerLostError, match=cause):
        deadly.get(timeout=8)
    for job in neighbours:
        job.get(timeout=10)

    runs = project.oracle.runs_of(deadly.id)
    assert [run.charged for run in runs] == [0, 1, 2], "three attempts, each charged"
    assert len({run.pid for run in runs}) == 3
    (letter,) = project.engine.state.dead_letters()
    assert letter.id == deadly.id
    assert letter.reason == "lost"
    assert letter.deliveries == 3
    assert cause in letter.detail
    if has_stack:
        assert "in die" in letter.detail, letter.detail
    for run in project.oracle.ordered():
        assert run.job == deadly.id or run.charged == 0, "a neighbour was charged"
    for run in runs[1:]:
        assert is_first(project, run), "a suspect ran in a process that was not fresh"
    for run in runs:
        project.note_kill("the task itself", pids={run.pid})
    worker.stop()
    name = f"[{deadly.id}]"
    lost = [line for line in worker.lines if f"{name} was lost with its process: " in line]
    assert len(lost) == 3, worker.output
    assert all("ERROR" in line and cause in line for line in lost)
    (buried,) = [line for line in worker.lines if f"{name} is a dead letter (lost): " in line]
    assert "ERROR" in buried
    assert buried.endswith(f"See it: umbel -A tests.faults.workload dead show {deadly.id}")
    verdict = project.oracle.judge(project.engine, ends={deadly.id: "FAILURE"})
    verdict.demand_soundness()
    assert project.leftovers() == []
    record_proof(charged_attempts=3, neighbours=NEIGHBOURS, neighbours_charged=0)


def test_kills_of_the_whole_worker_charge_nobody(
    project: Project, rounds: Rounds, record_proof: RecordProof
) -> None:
    """Hundreds of tasks are read ahead, and none of them is to blame."""
    suspects: set[str] = set()
    for _ in range(rounds(1, 20)):
        jobs = []
        for kill in range(1, 4):
            # While no worker runs, so that the kill finds it busy, however late it comes.
            jobs += [project.send("work") for _ in range(1500)]
            worker = project.worker()
            enough = len(project.oracle.runs) + 200

            def busy(enough: int = enough) -> bool:
                project.oracle.read()
                return len(project.oracle.runs) >= enough

            wait_until(busy, "200 runs more")
            claimed = sum(count.claimed for count in project.engine.broker.counts())
            project.kill_worker(worker)
            worker.wait()
            project.oracle.read()
            suspects |= {run.job for run in project.oracle.runs.values() if run.end is None}
            print(f"kill {kill}: {claimed} claimed")
        worker = project.worker()
        for job in jobs:
            job.get(timeout=8)
        worker.stop()
    assert project.engine.state.dead_letters() == []
    assert sum(project.oracle.charges().values()) == 0, "somebody was charged"
    for suspect in suspects:
        runs = project.oracle.runs_of(suspect)
        if len(runs) > 1:
            assert is_first(project, runs[-1]), "a suspect ran in a process that was not fresh"
    verdict = project.oracle.judge(project.engine)
    verdict.demand_soundness()
    assert project.leftovers() == []
    record_proof(dead_lettered=0, **verdict.figures())


def is_first(project: Project, run: Run) -> bool:
    """Whether nothing else had run in the process before."""
    return all(one is run or one.pid != run.pid or one.start > run.start
               for one in project.oracle.ordered())  # fmt: skip


def test_running_tasks_come_back_alone(project: Project) -> None:
    """Killed with its worker, a task is a suspect: it gets a fresh process, innocents do not."""
    worker = project.worker("dying")
    gate = project.folder / "gate"
    long = [project.send("wait_for_file", os.fspath(gate)) for _ in range(2)]
    project.wait_for_runs([job.id for job in long])
    other = project.worker("other", slots=1)
    innocents = [project.send("work") for _ in range(20)]
    for job in innocents:
        job.get(timeout=5)
    project.kill_worker(worker)
    worker.wait()
    gate.touch()
    for job in long:
        job.get(timeout=10)
        first, second = project.oracle.runs_of(job.id)
        assert second.server != first.server
        assert is_first(project, second), "a suspect ran in a process that was not fresh"
        assert second.charged == 0
    other.stop()
    project.oracle.judge(project.engine).demand_soundness()
    assert project.leftovers() == []


def test_suspect_that_kills_its_worker_again_is_buried(project: Project) -> None:
    """Only what died alone is charged: the first death of three is free."""
    job = project.send("work", 5.0)
    for death in range(4):
        worker = project.worker(slots=1)
        project.wait_for_runs(job.id, death + 1)
        project.kill_worker(worker)
        worker.wait()
    worker = project.worker(slots=1)
    with pytest.raises(WorkerLostError):
        job.get(timeout=5)
    assert [run.charged for run in project.oracle.runs_of(job.id)] == [0, 0, 1, 2]
    (letter,) = project.engine.state.dead_letters()
    assert letter.deliveries == 3
    project.send("work").get(timeout=5)  # dead workers' FIFOs go when something is sent
    worker.stop()
    assert project.leftovers() == []


@pytest.mark.parametrize(
    ("plant", "match"),
    [
        ("poison_for_ever", "has not ended"),
        ("poison_not_alone", "not fresh|charged"),
        ("cause_unknown", "SIGSEGV"),
    ],
)
def test_planted_bug_is_seen_by_a_deadly_task(
    see_plant: Callable[..., None], record_nothing: RecordProof, plant: str, match: str
) -> None:
    see_plant(plant, test_deadly_task_is_buried, match, record_nothing, "segfault", "SIGSEGV", True)


def test_planted_bug_is_seen_by_kills_of_the_whole_worker(
    see_plant: Callable[..., None], record_nothing: RecordProof
) -> None:
    see_plant(
        "all_suspected_charged",
        test_kills_of_the_whole_worker_charge_nobody,
        "charged|has not ended|dead_letters|200 runs more",
        lambda short, full: 1,
        record_nothing,
    )


def test_planted_bug_is_seen_by_running_tasks(see_plant: Callable[..., None]) -> None:
    see_plant("nothing_started", test_running_tasks_come_back_alone, "not fresh")


if sys.platform != "linux":
    pytest.skip("control groups and /proc", allow_module_level=True)
