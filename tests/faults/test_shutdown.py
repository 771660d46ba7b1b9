"""Ends that are asked for: warm, cold, and children that are replaced."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.conftest import RecordProof, Rounds
from tests.faults.processes import Project

pytestmark = pytest.mark.timeout(60)


def test_warm_shutdown_finishes_what_runs(
    project: Project, rounds: Rounds, record_proof: RecordProof
) -> None:
    worker = project.worker()
    for _ in range(rounds(3, 50)):
        for job in [project.send("work") for _ in range(50)]:
            job.get(timeout=10)  # short ones are read ahead
        running = [project.send("work", 0.6) for _ in range(2)]
        project.wait_for_runs([job.id for job in running])
        waiting = [project.send("work") for _ in range(100)]
        worker.signal(signal.SIGTERM)
        code = worker.wait(5)
        assert code == 0
        assert [job.state for job in running] == ["SUCCESS"] * 2
        (count,) = project.engine.broker.counts()
        assert (count.ready, count.claimed) == (100, 0), "what had not started is in its queue"
        assert all(w.deliveries == 0 for w in project.engine.broker.browse(limit=1000))
        assert project.leftovers() == []
        worker = project.worker()
        for job in waiting:
            job.get(timeout=10)
    worker.stop()
    verdict = project.oracle.judge(project.engine)
    verdict.demand_soundness()
    assert verdict.charged == 0
    record_proof(**verdict.figures())


def test_warm_shutdown_under_load(
    project: Project, rounds: Rounds, record_proof: RecordProof
) -> None:
    """With hundreds read ahead at a random moment, nothing runs twice."""
    project.producer()
    for _ in range(rounds(5, 100)):
        worker = project.worker()
        time.sleep(project.chance.uniform(0.0, 0.4))
        worker.stop()
        kept = sum(count.claimed for count in project.engine.broker.counts())
        assert kept == 0, f"{kept} messages were not handed back"
        assert project.engine.state.workers() == []
    worker = project.worker()
    project.stop_producers()
    project.drain()
    worker.stop()
    verdict = project.oracle.judge(project.engine)
    verdict.problems["left_behind"] = project.leftovers()
    verdict.demand_soundness()
    assert verdict.again == 0
    assert verdict.charged == 0
    record_proof(seed=project.seed, **verdict.figures())


@pytest.mark.parametrize("signals", [[signal.SIGQUIT], [signal.SIGTERM, signal.SIGTERM]])
def test_cold_shutdown_puts_everything_back(
    project: Project, record_proof: RecordProof, signals: list[signal.Signals]
) -> None:
    worker = project.worker()
    running = [project.send("work", 3.0), project.send("hold_gil", 3)]
    project.wait_for_runs([job.id for job in running])
    waiting = [project.send("work") for _ in range(50)]
    server = worker.server
    start = time.monotonic()
    worker.signal(signals[0])
    for number in signals[1:]:
        worker.wait_for_line("Warm shutdown")  # two signals at once would arrive as one
        worker.signal(number)
    worker.wait(5)
    took = time.monotonic() - start
    assert took < 2, worker.output
    project.note_kill("a cold shutdown", servers={server}, most=2)
    assert {job.state for job in [*running, *waiting]} == {"PENDING"}
    (count,) = project.engine.broker.counts()
    assert (count.ready, count.claimed) == (52, 0)
    assert all(w.deliveries == 0 for w in project.engine.broker.browse()), "a task was charged"
    assert project.leftovers() == []
    worker = project.worker()
    for job in [*running, *waiting]:
        job.get(timeout=10)
    worker.stop()
    verdict = project.oracle.judge(project.engine)
    verdict.demand_soundness()
    record_proof(took_s=round(took, 2), **verdict.figures())


def test_children_are_replaced_after_so_many_tasks(project: Project) -> None:
    project.settings["worker_max_tasks_per_child"] = 7
    jobs = [project.send("work") for _ in range(100)]
    worker = project.worker()
    for job in jobs:
        job.get(timeout=8)
    worker.stop()
    verdict = project.oracle.judge(project.engine)
    verdict.demand_soundness()
    assert verdict.runs == 100
    per_process = Counter(run.pid for run in project.oracle.runs.values())
    assert max(per_process.values()) <= 7, "a child ran more tasks than allowed"
    assert len(per_process) >= 100 // 7


def test_children_are_replaced_when_they_grow(project: Project) -> None:
    project.settings["worker_max_memory_per_child"] = 100 << 10  # KiB
    worker = project.worker()
    jobs = []
    for _ in range(4):
        jobs += [project.send("work") for _ in range(10)]
        jobs.append(project.send("eat", 150))
    for job in jobs:
        job.get(timeout=8)
    worker.stop()
    verdict = project.oracle.judge(project.engine)
    verdict.demand_soundness()
    assert verdict.runs == len(jobs)
    runs = project.oracle.ordered()
    for eater in (run for run in runs if run.task.endswith("eat")):
        later = [run for run in runs if run.pid == eater.pid and run.start > eater.start]
        # What it already held may still run there; one read-ahead, and then it is gone.
        assert not any(run.task.endswith("eat") for run in later), "a large child went on"


@pytest.mark.parametrize(
    ("plant", "test", "match", "counted"),
    [
        ("shutdown_keeps_claims", test_warm_shutdown_under_load, "handed back|workers", True),
        ("shutdown_charges", test_cold_shutdown_puts_everything_back, "charged", False),
        ("no_recycling", test_children_are_replaced_after_so_many_tasks, "more tasks", None),
        ("no_recycling", test_children_are_replaced_when_they_grow, "large child", None),
        ("recycling_drops", test_children_are_replaced_after_so_many_tasks, "not ended", None),
    ],
)
def test_planted_bug_is_seen(
    see_plant: Callable[..., None],
    record_nothing: RecordProof,
    plant: str,
    test: Callable[..., None],
    match: str,
    counted: bool | None,
) -> None:
    arguments: tuple[object, ...] = ()
    if counted:
        arguments = (lambda short, full: 3, record_nothing)
    elif counted is False:
        arguments = (record_nothing, [signal.SIGQUIT])
    see_plant(plant, test, match, *arguments)
