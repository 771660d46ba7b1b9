"""Who may run what, and when: early acknowledgement, revocation, expiry, pauses, priorities."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.conftest import RecordProof
from tests.faults.oracle import wait_until
from tests.faults.processes import MODULE, Project
from umbel.exceptions import NotRegistered, TaskRevokedError, WorkerLostError

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_early_acknowledged_task_does_not_run_again(project: Project, victim: str) -> None:
    worker = project.worker()
    job = project.send("early", 30.0)
    project.wait_for_runs(job.id)
    if victim == "child":
        os.kill(project.oracle.runs_of(job.id)[0].pid, signal.SIGKILL)
    else:
        project.kill_worker(worker)
        worker.wait()
        worker = project.worker()
    with pytest.raises(WorkerLostError):
        job.get(timeout=5)
    project.send("work").get(timeout=5)
    worker.stop()
    assert len(project.oracle.runs_of(job.id)) == 1, "it ran again"
    project.oracle.judge(project.engine, ends={job.id: "FAILURE"}).demand_soundness()
    assert project.leftovers() == []


def test_early_task_that_never_started_runs(project: Project) -> None:
    """Early means before it runs, not when it is read ahead."""
    worker = project.worker(slots=1)
    for job in [project.send("early", 0.0) for _ in range(20)]:
        job.get(timeout=5)  # short ones are read ahead
    jobs = [project.send("early", 0.0) for _ in range(300)]
    project.wait_for_run(lambda run: run.job == jobs[20].id, "a start", 5)
    project.kill_worker(worker)
    worker.wait()
    worker = project.worker(slots=1)
    project.drain()
    project.oracle.read()
    started = {run.job for run in project.oracle.runs.values()}
    unstarted = [job.id for job in jobs if job.id not in started]
    # The one that the slot was given may have had no time for its first line.
    assert len(unstarted) <= 1, f"{len(unstarted)} tasks were given up that had never started"
    worker.stop()


@pytest.mark.parametrize("countdown", [None, 3600.0])
def test_revoking_without_any_worker(project: Project, countdown: float | None) -> None:
    job = project.send("work", countdown=countdown)
    assert len(project.engine.broker.browse(id=job.id)) == 1
    assert job.revoke() is True
    assert project.engine.broker.browse(id=job.id) == []
    with pytest.raises(TaskRevokedError):
        job.get(timeout=1)
    worker = project.worker()
    project.send("work").get(timeout=5)
    worker.stop()
    assert project.oracle.runs_of(job.id) == []
    assert job.state == "REVOKED"


def test_expired_task_does_not_run(project: Project) -> None:
    job = project.send("work", expires=0.05)
    fresh = project.send("work", expires=60.0)
    time.sleep(0.1)
    worker = project.worker()
    with pytest.raises(TaskRevokedError, match="expired"):
        job.get(timeout=5)
    fresh.get(timeout=5)
    worker.stop()
    assert project.oracle.runs_of(job.id) == []


def test_unknown_task_waits_and_is_parked(project: Project) -> None:
    project.settings["task_unknown_timeout"] = 1.0
    worker = project.worker()
    sent = time.monotonic()
    job = project.send("wrok")
    project.send("work").get(timeout=5)
    with pytest.raises(NotRegistered, match=f"{MODULE}.work"):
        job.get(timeout=5)
    assert time.monotonic() - sent >= 1.0
    (letter,) = project.engine.state.dead_letters()
    assert letter.reason == "unknown"
    assert letter.task == f"{MODULE}.wrok"
    worker.stop()
    assert project.engine.state.replay([letter.number]) == 1
    assert len(project.engine.broker.browse(id=job.id)) == 1


def test_unknown_task_runs_when_a_worker_knows_it(project: Project) -> None:
    """A rolling deploy: the first worker is of the old release."""
    project.settings["task_unknown_timeout"] = 3.0
    old = project.worker("old")
    job = project.send("newcomer")

    def was_refused() -> bool:
        waiting = project.engine.broker.browse(id=job.id)
        return bool(waiting) and waiting[0].due is not None

    wait_until(was_refused, "the old release's refusal", 3)
    new = project.worker("new", WORKLOAD_KNOWS_MORE="1")
    job.get(timeout=5)
    (run,) = project.oracle.runs_of(job.id)
    assert run.server == new.server
    assert run.charged == 0
    old.stop()
    new.stop()
    project.oracle.judge(project.engine).demand_soundness()


def test_paused_queue_is_not_served(project: Project) -> None:
    worker = project.worker("w1", "-Q", "celery,other")
    project.engine.state.pause("celery")
    paused = [project.send("work") for _ in range(20)]
    for job in [project.send("work", queue="other") for _ in range(20)]:
        job.get(timeout=5)
    assert [job.state for job in paused] == ["PENDING"] * 20, "a paused queue was served"
    assert project.engine.state.resume("celery")
    for job in paused:
        job.get(timeout=5)
    worker.stop()


def test_most_urgent_runs_first(project: Project) -> None:
    kept = project.engine.broker.levels
    levels = [kept[n % len(kept)] for n in range(30)]
    project.chance.shuffle(levels)
    jobs = {project.send("work", priority=level).id: level for level in levels}
    worker = project.worker(slots=1)
    project.drain()
    worker.stop()
    order = [jobs[run.job] for run in project.oracle.ordered()]
    # One claim in 16 serves the least urgent level; the first 15 never do.
    assert order[:15] == sorted(levels, reverse=True)[:15], "not the most urgent first"
    sent = list(jobs)
    for level in kept:
        mine = [run.job for run in project.oracle.ordered() if jobs[run.job] == level]
        assert mine == [job for job in sent if jobs[job] == level], "not in order within a level"


def test_least_urgent_does_not_starve(project: Project, record_proof: RecordProof) -> None:
    least = project.send("work", priority=0)
    for _ in range(400):
        project.send("work", 0.005, priority=9)
    worker = project.worker(slots=1)
    project.drain()
    worker.stop()
    order = [run.job for run in project.oracle.ordered()]
    assert order.index(least.id) < 200, "it had to wait for all that was more urgent"
    record_proof(place=order.index(least.id), of=len(order))


@pytest.mark.parametrize(
    ("plant", "test", "match", "arguments"),
    [
        ("early_runs_again", "early", "ran again|not ended|DID NOT", ("worker",)),
        ("expired_runs", "expiry", "not ended|DID NOT", ()),
        ("unknown_dropped", "parked", "not ended", ()),
        ("unknown_dropped", "deploy", "not within|not ended", ()),
        ("pause_ignored", "pause", "was served", ()),
        ("priority_upside_down", "urgent", "most urgent", ()),
        ("least_urgent_starves", "starving", "more urgent", ("record",)),
    ],
)
def test_planted_bug_is_seen(
    see_plant: Callable[..., None],
    record_nothing: RecordProof,
    plant: str,
    test: str,
    match: str,
    arguments: tuple[str, ...],
) -> None:
    tests: dict[str, Callable[..., None]] = {
        "early": test_early_acknowledged_task_does_not_run_again,
        "expiry": test_expired_task_does_not_run,
        "parked": test_unknown_task_waits_and_is_parked,
        "deploy": test_unknown_task_runs_when_a_worker_knows_it,
        "pause": test_paused_queue_is_not_served,
        "urgent": test_most_urgent_runs_first,
        "starving": test_least_urgent_does_not_starve,
    }
    given = [record_nothing if one == "record" else one for one in arguments]
    see_plant(plant, tests[test], match, *given)
