"""Many slots in a process: limits, deaths and ends, and what becomes of the neighbours."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from itertools import product

import pytest

from tests.conftest import RecordProof
from tests.faults.oracle import wait_until
from tests.faults.processes import Project
from tests.faults.test_limits import HANGS, check_place, full
from tests.faults.test_limits import test_soft_limit_is_never_late as check_late
from tests.faults.test_poison import is_first
from umbel.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

LIMIT = 0.5
GREENLETS = ["gevent", "eventlet"]


TYPICAL = {
    ("threads", "hang_in_c"),
    ("asyncio", "hang_swallowing_cancellation"),
    ("gevent", "hang_swallowing"),
}
"""Pools, and what hangs there beside others, that are not left to the full counts."""
MANY = ["threads", "asyncio", *map(full, GREENLETS)]

pytestmark = pytest.mark.timeout(120)


# ------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    ("pool", "task"),
    [
        pool_and_task if pool_and_task in TYPICAL else full(*pool_and_task)
        for pool_and_task in product(("threads", "asyncio", *GREENLETS), HANGS)
    ],
)
def test_hard_limit_and_the_neighbours(
    project: Project, record_proof: RecordProof, pool: str, task: str
) -> None:
    """The culprit ends at its limit; what ends within a moment ends; the rest runs again."""
    project.pool = pool
    worker = project.worker(slots=6)
    brief = [project.send(name, LIMIT + 0.3) for name in ("work", "awork")]
    long = [project.send(name, LIMIT + 2.5) for name in ("work", "awork")]
    early = project.send("early", LIMIT + 2.5)
    neighbours = [*brief, *long, early]
    project.wait_for_runs([job.id for job in neighbours])
    culprit = project.send(task, time_limit=LIMIT)
    with pytest.raises(TimeLimitExceeded):
        culprit.get(timeout=LIMIT + 3)
    ended = time.monotonic()
    (run,) = project.oracle.runs_of(culprit.id)
    assert LIMIT <= ended - run.start <= LIMIT + 1
    check_place(task, culprit.traceback)
    after = project.send("work")
    after.get(timeout=5)
    project.note_kill("its neighbour", pids={run.pid}, most=len(neighbours))
    with pytest.raises(WorkerLostError, match=culprit.id):
        early.get(timeout=5)
    for job in (*brief, *long):
        job.get(timeout=10)
        runs = project.oracle.runs_of(job.id)
        assert [one.charged for one in runs] == [0] * len(runs), "a neighbour was charged"
        # Nothing of Python runs beside the one that holds the interpreter, and no other greenlet
        # beside one that does not wait.
        hogs = {"hang_in_c"}
        if pool in GREENLETS:
            hogs |= {"hang_spinning", "hang_swallowing"}
        may_end = job in brief and task not in hogs
        assert len(runs) == (1 if may_end else 2), f"{len(runs)} runs of a neighbour"
    (second,) = project.oracle.runs_of(after.id)
    patience = 2.0 if pool in GREENLETS else 1.0  # its imports take long beside one that spins
    assert second.start < run.start + LIMIT + patience, "the successor came late"
    worker.stop()
    ends = {culprit.id: "FAILURE", early.id: "FAILURE"}
    project.oracle.judge(project.engine, ends=ends).demand_soundness()
    assert project.leftovers() == []
    record_proof(limit_s=LIMIT, stopped_after_s=round(ended - run.start, 2))


@pytest.mark.parametrize("project", ["redis", full("sqlite")], indirect=True)
def test_who_is_interrupted_twice_runs_alone(project: Project) -> None:
    project.pool = "threads"
    worker = project.worker(slots=4)
    victim = project.send("work", 2.5)
    pids = set()
    for attempt in (1, 2):
        project.wait_for_runs(victim.id, attempt)
        culprit = project.send("hang_asleep", time_limit=0.3)
        with pytest.raises(TimeLimitExceeded):
            culprit.get(timeout=5)
        pids.add(project.oracle.runs_of(culprit.id)[0].pid)
        project.note_kill("its neighbour", pids=pids, most=1)
    project.wait_for_runs(victim.id, 3)
    others = [project.send("work") for _ in range(20)]
    for job in others:
        job.get(timeout=5)
    assert victim.get(timeout=10)
    last = project.oracle.runs_of(victim.id)[-1]
    assert last.charged == 0
    assert {run.job for run in project.oracle.ordered() if run.pid == last.pid} == {victim.id}
    worker.stop()


@pytest.mark.parametrize(
    ("pool", "task"),
    [
        *((p, task) for p in ("threads", "asyncio") for task in ("hang_spinning", "hang_awaiting")),
        ("gevent", "hang_spinning"),
        *(full(p, t) for p in GREENLETS for t in ("hang_spinning", "hang_awaiting", "hang_asleep")),
    ],
)
def test_soft_limit_hits_one_slot(project: Project, pool: str, task: str) -> None:
    project.pool = pool
    worker = project.worker(slots=4)
    before = worker.children
    neighbours = [project.send(name, 1.0) for name in ("work", "awork")]
    jobs = [project.send(task, soft_time_limit=0.2) for _ in range(2)]
    for job in jobs:
        with pytest.raises(SoftTimeLimitExceeded):
            job.get(timeout=5)
        check_place(task, job.traceback)
    for job in neighbours:
        job.get(timeout=5)
    assert worker.children == before, "the process was replaced"
    worker.stop()
    ends = dict.fromkeys([job.id for job in jobs], "FAILURE")
    project.oracle.judge(project.engine, ends=ends).demand_soundness()


@pytest.mark.parametrize(
    "task", ["catch_soft_limit_busy", "catch_soft_limit_async", "catch_soft_limit_async_busy"]
)
@pytest.mark.parametrize("pool", MANY)
def test_soft_limit_can_be_caught(project: Project, pool: str, task: str) -> None:
    project.pool = pool
    worker = project.worker(slots=4)
    before = worker.children
    jobs = [project.send(task, soft_time_limit=0.2) for _ in range(3)]
    for job in jobs:
        assert job.get(timeout=5) == "cleaned up"
    assert worker.children == before, "the process was replaced"
    worker.stop()


# ------------------------------------------------------------------------------------------ deaths


@pytest.mark.parametrize("way", ["kill", "segfault"])
@pytest.mark.parametrize("pool", MANY)
def test_a_death_in_company_charges_nobody(project: Project, pool: str, way: str) -> None:
    """Then each runs alone in a fresh process, and who kills that one is to blame."""
    project.pool = pool
    worker = project.worker(slots=4)
    gate = project.folder / "gate"
    neighbours = [project.send("wait_for_file", os.fspath(gate)) for _ in range(3)]
    project.wait_for_runs([job.id for job in neighbours])
    deadly = project.send("die", way)
    again = [job.id for job in (*neighbours, deadly)]
    wait_until(
        lambda: any(len(project.oracle.runs_of(job)) > 1 for job in again), "a suspect's second run"
    )
    gate.touch()
    with pytest.raises(WorkerLostError, match="SIG"):
        deadly.get(timeout=20)
    for job in neighbours:
        job.get(timeout=10)
    runs = project.oracle.runs_of(deadly.id)
    assert [run.charged for run in runs] == [0, 0, 1, 2]
    for job in neighbours:
        first, second = project.oracle.runs_of(job.id)
        assert first.charged == second.charged == 0
        assert is_first(project, second), "a suspect ran in a process that was not fresh"
    for run in runs[1:]:
        alone = [one for one in project.oracle.ordered() if one.pid == run.pid]
        assert alone == [run], "a suspect had company"
    (letter,) = project.engine.state.dead_letters()
    assert (letter.id, letter.deliveries) == (deadly.id, 3)
    after = [project.send("work") for _ in range(20)]
    for job in after:
        job.get(timeout=5)
    for run in runs:
        project.note_kill("the task itself", pids={run.pid}, most=4)
    worker.stop()
    project.oracle.judge(project.engine, ends={deadly.id: "FAILURE"}).demand_soundness()
    assert project.leftovers() == []


@pytest.mark.parametrize("pool", MANY)
def test_early_tasks_are_not_run_again(project: Project, pool: str) -> None:
    """Neither after their process died nor after the whole worker did."""
    project.pool = pool
    worker = project.worker(slots=4)
    jobs = [project.send("early", 20.0) for _ in range(3)]
    project.wait_for_runs([job.id for job in jobs])
    waiting = project.send("early", 0.0)
    waiting.get(timeout=5)
    os.kill(worker.children[0], signal.SIGKILL)
    for job in jobs:
        with pytest.raises(WorkerLostError):
            job.get(timeout=5)
    jobs = [project.send("early", 20.0) for _ in range(4)]
    behind = project.send("early", 0.0)
    project.wait_for_runs([job.id for job in jobs])
    project.kill_worker(worker)
    worker.wait()
    worker = project.worker("next")
    for job in jobs:
        with pytest.raises(WorkerLostError):
            job.get(timeout=5)
    behind.get(timeout=5)
    assert all(len(project.oracle.runs_of(job.id)) == 1 for job in [*jobs, waiting, behind])
    worker.stop()


# -------------------------------------------------------------------------------- ends asked for


@pytest.mark.parametrize("pool", MANY)
def test_a_child_that_is_replaced_ends_what_it_runs(project: Project, pool: str) -> None:
    project.pool = pool
    project.settings["worker_max_tasks_per_child"] = 7
    worker = project.worker(slots=4)
    # A child that is patched first takes a third of a second to start.
    long = project.send("work", 6.0 if pool in GREENLETS else 2.0)
    project.wait_for_runs(long.id)
    jobs = [project.send(name) for name in ("work", "awork") * 30]
    for job in jobs:
        job.get(timeout=8)
    assert not long.ready(), "the successors waited for what is still running"
    long.get(timeout=8)
    worker.stop()
    verdict = project.oracle.judge(project.engine)
    verdict.demand_soundness()
    assert verdict.runs == 61
    per_process = Counter(run.pid for run in project.oracle.runs.values())
    assert max(per_process.values()) <= 7, "a child ran more tasks than allowed"


@pytest.mark.parametrize("pool", MANY)
def test_warm_shutdown_finishes_what_runs(project: Project, pool: str) -> None:
    project.pool = pool
    worker = project.worker(slots=4)
    for job in [project.send("work") for _ in range(50)]:
        job.get(timeout=10)
    running = [project.send(name, 0.6) for name in ("work", "awork") * 2]
    project.wait_for_runs([job.id for job in running])
    waiting = [project.send("work") for _ in range(50)]
    worker.stop()
    assert [job.state for job in running] == ["SUCCESS"] * 4
    (count,) = project.engine.broker.counts()
    assert (count.ready, count.claimed) == (50, 0)
    assert project.leftovers() == []
    worker = project.worker()
    for job in waiting:
        job.get(timeout=10)
    worker.stop()
    verdict = project.oracle.judge(project.engine)
    verdict.demand_soundness()
    assert verdict.again == 0


@pytest.mark.parametrize("pool", MANY)
def test_cold_shutdown_puts_everything_back(project: Project, pool: str) -> None:
    project.pool = pool
    worker = project.worker(slots=4)
    running = [project.send(name, 5.0) for name in ("work", "awork") * 2]
    project.wait_for_runs([job.id for job in running])
    waiting = [project.send("work") for _ in range(20)]
    worker.signal(signal.SIGQUIT)
    worker.wait(3)
    assert {job.state for job in [*running, *waiting]} == {"PENDING"}
    (count,) = project.engine.broker.counts()
    assert (count.ready, count.claimed) == (24, 0)
    assert all(w.deliveries == 0 for w in project.engine.broker.browse()), "a task was charged"
    assert project.leftovers() == []


# --------------------------------------------------------------------------------------- hand-over


@pytest.mark.parametrize("pool", ["prefork", *MANY])
def test_nothing_waits_behind_a_long_run(project: Project, pool: str) -> None:
    """Two workers of two slots: three slots go on while one is held."""
    project.pool = pool
    workers = [project.worker(f"w{n}") for n in range(2)]
    for job in [project.send("work", 0.01) for _ in range(100)]:
        job.get(timeout=10)  # they learn that this task is short
    long = project.send("work", 6.0)
    project.wait_for_runs(long.id)
    jobs = [project.send("work", 0.01) for _ in range(200)]
    start = time.monotonic()
    for job in jobs:
        job.get(timeout=5)
    took = time.monotonic() - start
    assert not long.ready()
    assert took < 2.5, f"{took:.1f} s for 200 × 10 ms in three slots"
    long.get(timeout=10)
    for worker in workers:
        worker.stop()
    project.oracle.judge(project.engine).demand_soundness()


def test_work_does_not_wait_for_a_blocked_loop(project: Project) -> None:
    project.pool = "asyncio"
    worker = project.worker("w1", "--processes", "2", slots=20)
    blocking = project.send("block_loop", 4.0)
    project.wait_for_runs(blocking.id)
    jobs = [project.send("awork") for _ in range(30)]
    for job in jobs:
        job.get(timeout=3)
    assert not blocking.ready()
    blocking.get(timeout=8)
    worker.stop()
    verdict = project.oracle.judge(project.engine)
    verdict.demand_soundness()
    assert verdict.again == 0


def test_a_payload_larger_than_the_link_does_not_stop_the_loop(project: Project) -> None:
    project.pool = "asyncio"
    worker = project.worker(slots=4)
    sleeper = project.send("awork", 1.0)
    project.wait_for_runs(sleeper.id)
    large = [project.send("measure", "x" * (3 << 20)) for _ in range(3)]
    assert [job.get(timeout=10) for job in large] == [3 << 20] * 3
    sleeper.get(timeout=5)
    worker.stop()


# ------------------------------------------------------------------------------------ planted bugs


@pytest.mark.parametrize(
    ("plant", "test", "match", "arguments"),
    [
        ("company_charged", "company", "assert|has not ended", ("threads", "kill")),
        (
            "neighbours_charged",
            "hard",
            "charged|not ended|did not match",
            ("threads", "hang_asleep"),
        ),
        ("no_patience", "hard", "2 runs of", ("asyncio", "hang_awaiting")),
        ("early_forgotten", "early", "DID NOT RAISE|has not ended", ("threads",)),
        ("no_recall", "loop", "has not ended", ()),
        ("late_strikes", "late", "lost: |ended a process|has not ended|another task", ("threads",)),
        ("late_throws", "late", "lost: |ended a process|has not ended|another task", ("gevent",)),
    ],
)
def test_planted_bug_is_seen(
    see_plant: Callable[..., None],
    record_nothing: RecordProof,
    project: Project,
    plant: str,
    test: str,
    match: str,
    arguments: tuple[object, ...],
) -> None:
    project.pool = "threads"
    if test == "late":
        see_plant(
            plant, check_late, match,
            lambda short, full: 250, record_nothing, *arguments,
        )  # fmt: skip
    elif test == "hard":
        see_plant(plant, test_hard_limit_and_the_neighbours, match, record_nothing, *arguments)
    else:
        functions: dict[str, Callable[..., None]] = {
            "company": test_a_death_in_company_charges_nobody,
            "early": test_early_tasks_are_not_run_again,
            "loop": test_work_does_not_wait_for_a_blocked_loop,
        }
        see_plant(plant, functions[test], match, *arguments)
