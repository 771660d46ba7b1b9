"""Who owns what: names, locks and leases among live, stopped and dead workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tests.conftest import RecordProof, Rounds
from tests.faults.oracle import wait_until
from tests.faults.processes import Project, Worker, children_of
from umbel.engines.run_file import HEAD
from umbel.exceptions import OperationalError
from umbel.result import AsyncResult

LEASE = 1.5

pytestmark = pytest.mark.timeout(120)


@cache
def has_pid_namespaces() -> bool:
    """Whether this user may make a pid namespace here."""
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def test_second_worker_of_a_name_is_refused(project: Project) -> None:
    first = project.worker("one")
    job = project.send("work", 1.0)
    project.wait_for_runs(job.id)
    before = sorted(path.name for path in project.engine.run_dir.glob("worker.*"))
    second = project.worker("one", wait=False)
    assert second.wait(5) != 0
    after = sorted(path.name for path in project.engine.run_dir.glob("worker.*"))
    assert after == before, "the refused worker left its run file behind"
    assert "already named celery@one" in second.output, second.output
    assert "-n" in second.output
    assert "Traceback" not in second.output, second.output
    job.get(timeout=5)
    project.send("work").get(timeout=5)
    first.stop()
    project.oracle.judge(project.engine).demand_soundness()
    assert project.leftovers() == []


def test_name_is_free_at_once_after_a_kill(
    project: Project, rounds: Rounds, record_proof: RecordProof
) -> None:
    """A service manager starts the successor in the same moment."""
    worker = project.worker("one")
    for _ in range(rounds(5, 50)):
        job = project.send("work", 0.05)
        project.wait_for_runs(job.id)
        project.kill_worker(worker)
        worker = project.worker("one")
        job.get(timeout=5)
    worker.stop()
    project.oracle.judge(project.engine).demand_soundness()
    assert project.leftovers() == []
    record_proof(restarts=rounds(5, 50), refused=0)


def test_same_pid_and_host_name_prove_nothing(project: Project) -> None:
    """Two containers: each supervisor is pid 1 of its own namespace, under one host name."""
    if not has_pid_namespaces():
        pytest.skip("making a pid namespace is not permitted here")
    prefix = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    workers = [project.worker(f"w{n}", prefix=prefix) for n in range(2)]
    records = project.engine.state.workers()
    pids = [record.pid for record in records]
    assert pids == [1, 1], "one worker took the other for dead"
    assert records[0].host == records[1].host

    long = [project.send("work", 3.0) for _ in range(2)]
    project.wait_for_runs([job.id for job in long])
    jobs = long + [project.send("work", 0.02) for _ in range(50)]
    # Judges look once a second: both workers have looked at each other by the end.
    for job in jobs:
        job.get(timeout=20)
    assert all(len(project.oracle.runs_of(job.id)) == 1 for job in jobs)

    (supervisor,) = children_of(workers[0].pid)
    victims = [project.send("work", 2.0) for _ in range(4)]
    project.wait_for_runs([job.id for job in victims])
    os.kill(supervisor, signal.SIGKILL)
    killed = time.monotonic()
    workers[0].wait()

    def is_recovered() -> bool:
        return len(project.engine.state.workers()) == 1

    wait_until(is_recovered, "the other worker's recovery of the dead one", 2.5)
    assert time.monotonic() - killed < 2.5
    for job in victims:
        job.get(timeout=20)
    counts = sorted(len(project.oracle.runs_of(job.id)) for job in victims)
    assert counts == [1, 1, 2, 2], "the killed worker's two ran again, and nothing else"
    (inner,) = children_of(workers[1].pid)
    os.kill(inner, signal.SIGTERM)
    workers[1].wait()
    assert project.leftovers() == []


def test_long_task_that_holds_the_gil_runs_once(project: Project) -> None:
    """Three lease lengths in one C call, with another worker watching."""
    project.settings["worker_lease"] = LEASE
    workers = [project.worker(f"w{n}", slots=1) for n in range(2)]
    jobs = [project.send("hold_gil", int(3 * LEASE) + 1) for _ in range(2)]
    for job in jobs:
        job.get(timeout=30)
    for worker in workers:
        worker.stop()
    verdict = project.oracle.judge(project.engine)
    verdict.demand_soundness()
    assert verdict.runs == len(jobs)


def start_two(project: Project, seconds: float) -> tuple[Worker, Worker, AsyncResult[Any]]:
    """A worker that runs a job of so many seconds, and one that is free to take it over."""
    other = project.worker("other", slots=1)
    gate = project.folder / "gate"
    busy = project.send("wait_for_file", os.fspath(gate))
    project.wait_for_runs(busy.id)
    first = project.worker("stale", slots=1)  # while it starts, on a busy machine, no job may end
    job = project.send("work", seconds)
    project.wait_for_runs(job.id)
    gate.touch()
    busy.get(timeout=20)
    return first, other, job


def stop(project: Project, tree: list[int]) -> None:
    """Stop a worker's processes, in a moment in which none of them keeps the store locked."""
    for _ in range(5):
        for pid in tree:
            os.kill(pid, signal.SIGSTOP)
        try:
            project.engine.state.renew(0)  # nobody's; it writes all the same
        except OperationalError:
            for pid in tree:
                os.kill(pid, signal.SIGCONT)
        else:
            return
    pytest.fail("the store was locked by a worker each time that it was stopped")


def test_stopped_worker_is_fenced(project: Project, record_proof: RecordProof) -> None:
    """SIGSTOP for two leases: its work goes elsewhere, and its late result is refused."""
    project.settings["worker_lease"] = LEASE
    stale, other, job = start_two(project, 1.75 * LEASE)
    server = stale.server
    tree = stale.tree()
    (record,) = [one for one in project.engine.state.workers() if "stale" in one.node]
    stop(project, tree)
    stopped = time.monotonic()
    project.note_kill("a stopped worker", servers={server}, most=1)
    project.wait_for_runs(job.id, 2, seconds=30)
    taken_over = time.monotonic() - stopped
    # The counter last moved at most one renewal, a sixth of a lease, before the stop.
    assert taken_over >= 0.8 * LEASE, "nobody may take work over before a lease has passed"
    # Its own run ends the moment it goes on, well before the second one.
    time.sleep(max(0.0, 2 * LEASE - taken_over))
    assert not job.ready()
    # The supervisor last: it finds the outcome before it can learn that its lease is gone, so
    # the fence alone stands in the way.
    for pid in reversed(tree[1:]):
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: project.oracle.runs_of(job.id)[0].end, "the stale run's end")
    table = project.engine.run_dir / record.run_file
    wait_until(lambda: not any(table.read_bytes()[HEAD : HEAD + 8]), "the stale outcome")
    os.kill(tree[0], signal.SIGCONT)
    token = job.get(timeout=20)
    first, second = project.oracle.runs_of(job.id)
    assert first.server == server
    assert first.end is not None
    assert token == second.token, "the stored result is the stale worker's"
    assert second.end is not None
    assert first.end < second.end

    # The stopped one goes on to work.
    other.stop()
    more = [project.send("work") for _ in range(20)]
    for one in more:
        one.get(timeout=20)
        assert project.oracle.runs_of(one.id)[0].server == server
    stale.stop()
    verdict = project.oracle.judge(project.engine)
    verdict.demand_soundness()
    assert project.leftovers() == []
    record_proof(taken_over_after_s=round(taken_over, 2), lease_s=LEASE, **verdict.figures())


def test_stopped_worker_that_dies_leaves_nothing(project: Project) -> None:
    """Declared dead while it was stopped, then killed: nobody else has its files in mind."""
    project.settings["worker_lease"] = LEASE
    stale, other, job = start_two(project, 2 * LEASE)
    server, tree = stale.server, stale.tree()
    stop(project, tree)
    project.note_kill("a stopped worker", servers={server}, most=1)
    project.wait_for_runs(job.id, 2, seconds=30)
    for pid in tree:
        os.kill(pid, signal.SIGKILL)
    stale.wait()
    job.get(timeout=20)
    project.send("work").get(timeout=5)  # dead workers' FIFOs go when something is sent
    other.stop()
    project.oracle.judge(project.engine).demand_soundness()
    assert project.leftovers() == []


@pytest.mark.parametrize(
    ("plant", "test", "match"),
    [
        ("no_name_check", test_second_worker_of_a_name_is_refused, "has not ended"),
        ("pid_proves_death", test_same_pid_and_host_name_prove_nothing, "took the other"),
        ("busy_workers_do_not_renew", test_long_task_that_holds_the_gil_runs_once, "has not ended"),
    ],
)
def test_planted_bug_is_seen(
    see_plant: Callable[..., None], plant: str, test: Callable[..., None], match: str
) -> None:
    see_plant(plant, test, match)


@pytest.mark.parametrize(
    ("plant", "match"),
    [
        ("no_leases", "2 starts"),
        ("lost_lease_ignored", "has not ended"),
        ("no_fence", "stale worker's"),
    ],
)
def test_planted_bug_is_seen_by_a_stopped_worker(
    see_plant: Callable[..., None], record_nothing: RecordProof, plant: str, match: str
) -> None:
    see_plant(plant, test_stopped_worker_is_fenced, match, record_nothing)
