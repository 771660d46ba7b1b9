"""Time limits stop what hangs, say where it hung, and never hit anything else."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from tests.conftest import RecordProof, Rounds
from tests.faults import workload
from tests.faults.processes import Project
from umbel.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from umbel.result import AsyncResult

LIMIT = 0.4
GRACE = 0.3
HANGS = [
    "hang_asleep",
    "hang_spinning",
    "hang_in_c",
    "hang_swallowing",
    "hang_reading",
    "hang_awaiting",
    "hang_swallowing_cancellation",
]
IGNORES = {"hang_in_c", "hang_swallowing", "hang_swallowing_cancellation"}
"""What goes on after a soft limit, in any pool."""
WAITS_IN_C = {"hang_asleep", "hang_reading"}
"""What goes on in a thread other than the main one."""
POOLS = ["prefork", "solo", "threads", "asyncio", "gevent", "eventlet"]

pytestmark = pytest.mark.timeout(120)


def full(*values: str) -> ParameterSet:
    """A case that runs with the full counts only."""
    return pytest.param(*values, marks=pytest.mark.full)


def lines_where_it_hangs(task: str) -> set[int]:
    """The lines of a task of the workload that are marked as the place."""
    source = Path(workload.__file__).read_text().splitlines()
    start = next(n for n, line in enumerate(source) if re.search(rf"def {task}\(", line))
    end = next(n for n in range(start + 1, len(source)) if source[n].startswith("@"))
    # A loop around the place may be met between two of its rounds.
    first = next(n for n in range(start, end) if "with run" in source[n]) + 1
    marked = {n + 1 for n in range(first, end) if "# hangs here" in source[n]}
    assert marked
    return set(range(first + 1, end + 1)) if "swallow" in task else marked


def check_place(task: str, traceback: str | None) -> None:
    assert traceback is not None
    frames = re.findall(r'File "([^"]+)", line (\d+)(?:,)? in (\w+)', traceback)
    ours = [(int(line), name) for file, line, name in frames if file.endswith("workload.py")]
    assert ours, f"no frame of the task in:\n{traceback}"
    line, name = ours[-1]
    assert name == task, traceback
    assert line in lines_where_it_hangs(task), traceback


@pytest.mark.parametrize("pool", [*POOLS[:-1], full(POOLS[-1])])
def test_hard_limit_stops(project: Project, record_proof: RecordProof, pool: str) -> None:
    """Whatever hangs, and in every pool."""
    project.pool = pool
    worker = project.worker(slots=2)
    took, ends = {}, {}
    for task in HANGS:
        job = project.send(task, time_limit=LIMIT)
        with pytest.raises(TimeLimitExceeded):
            job.get(timeout=LIMIT + 5)
        took[task] = seconds = since_its_start(project, job)
        assert LIMIT <= seconds <= LIMIT + 1, task
        check_place(task, job.traceback)
        ends[job.id] = "FAILURE"
    project.send("work").get(timeout=10)
    assert project.engine.state.dead_letters() == []
    worker.stop()
    project.oracle.judge(project.engine, ends=ends).demand_soundness()
    record_proof(limit_s=LIMIT, stopped_after_s=took)


@pytest.mark.parametrize("pool", [POOLS[0], *map(full, POOLS[1:])])
def test_soft_limit_stops(project: Project, record_proof: RecordProof, pool: str) -> None:
    """What ignores it is killed after the grace."""
    project.settings["task_soft_time_limit_grace"] = GRACE
    project.pool = pool
    worker = project.worker(slots=2)
    took, ends = {}, {}
    for task in HANGS:
        job = project.send(task, soft_time_limit=LIMIT)
        with pytest.raises(SoftTimeLimitExceeded):
            job.get(timeout=LIMIT + GRACE + 5)
        took[task] = seconds = since_its_start(project, job)
        escalates = task in IGNORES or (task in WAITS_IN_C and pool in {"threads", "asyncio"})
        least = LIMIT + GRACE * escalates
        assert least <= seconds <= least + 1, task
        check_place(task, job.traceback)
        ends[job.id] = "FAILURE"
    project.send("work").get(timeout=10)
    worker.stop()
    project.oracle.judge(project.engine, ends=ends).demand_soundness()
    record_proof(limit_s=LIMIT, grace_s=GRACE, stopped_after_s=took)


def since_its_start(project: Project, job: AsyncResult[Any]) -> float:
    """Seconds since the only run of a task began."""
    now = time.monotonic()
    (run,) = project.oracle.runs_of(job.id)
    return round(now - run.start, 2)


@pytest.mark.parametrize(
    "task", ["catch_soft_limit", "catch_soft_limit_async", "catch_soft_limit_async_busy"]
)
def test_soft_limit_can_be_caught(project: Project, task: str) -> None:
    worker = project.worker(slots=1)
    before = worker.children
    for _ in range(3):
        job = project.send(task, soft_time_limit=0.2)
        assert job.get(timeout=3) == "cleaned up"
        (run,) = project.oracle.runs_of(job.id)
        assert run.end is not None
        assert 0.2 <= run.end - run.start < 0.6, "the limit is not kept"
    project.send("awork").get(timeout=5)
    assert worker.children == before, "the process was replaced"
    worker.stop()


def test_the_settings_limit_every_task(project: Project) -> None:
    project.settings["task_soft_time_limit"] = 0.2
    project.settings["task_time_limit"] = 0.6
    worker = project.worker(slots=1)
    assert project.send("catch_soft_limit").get(timeout=5) == "cleaned up"
    with pytest.raises(TimeLimitExceeded):
        project.send("hang_in_c").get(timeout=5)
    with pytest.raises(SoftTimeLimitExceeded):
        project.send("hang_asleep", soft_time_limit=0.1).get(timeout=5)
    worker.stop()


@pytest.mark.parametrize("pool", POOLS)
def test_soft_limit_is_never_late(
    project: Project, rounds: Rounds, record_proof: RecordProof, pool: str
) -> None:
    """Tasks that end within a millisecond of their limit, each followed by innocent ones."""
    project.pool = pool
    limit = 0.02
    worker = project.worker()
    before = worker.children
    close, innocent = [], []
    for _ in range(rounds(100, 10_000)):
        task = project.chance.choice(["spin", "work", "awork"])
        length = limit + project.chance.uniform(-0.001, 0.001)
        close.append(project.send(task, length, soft_time_limit=limit))
        innocent.append(project.send("work", 0.0))
        innocent.append(project.send("awork", 0.0))
    outcomes = [job.get(timeout=60, propagate=False) for job in close]
    for job in innocent:
        outcome = job.get(timeout=60, propagate=False)
        assert not isinstance(outcome, Exception), f"{outcome!r} hit by another task's signal"
    runs = project.oracle.by_job()
    ends: dict[str, str] = {}
    for job, outcome in zip(close, outcomes, strict=True):
        # None: on a busy machine the limit may come before the body has noted its start.
        assert len(runs[job.id]) <= 1, "the signal ended a process"
        if not isinstance(outcome, Exception):
            continue
        assert type(outcome) is SoftTimeLimitExceeded, outcome
        for run in runs[job.id]:
            if run.end is not None:  # else it came while the body noted its end
                # One that has waited its millisecond less than the limit is hit on its way out.
                assert run.end - run.opened > 0.94 * limit, "hit by another task's signal"
        ends[job.id] = "FAILURE"
    assert worker.children == before, "the signal ended a process"
    worker.stop()
    project.oracle.judge(project.engine, ends=ends).demand_soundness()
    record_proof(tasks=len(close), reached=len(ends), hit_others=0)
    print(f"{len(ends)} of {len(close)} met their limit")


@pytest.mark.parametrize(
    ("plant", "test", "match", "arguments"),
    [
        ("no_limits", "hard", "has not ended", ("prefork",)),
        ("no_stacks", "hard", "no frame", ("prefork",)),
        ("no_limits", "soft", "has not ended", ("prefork",)),
        ("no_escalation", "soft", "has not ended", ("prefork",)),
        ("swallowed_soft_limit_async", "caught", "has not ended", ("catch_soft_limit_async",)),
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
    if test == "caught":
        see_plant(plant, test_soft_limit_can_be_caught, match, *arguments)
        return
    function = {"hard": test_hard_limit_stops, "soft": test_soft_limit_stops}[test]
    see_plant(plant, function, match, record_nothing, *arguments)


@pytest.mark.parametrize("plant", ["soft_limit_anywhere", "soft_limit_at_random"])
def test_planted_bug_is_seen_by_close_limits(
    see_plant: Callable[..., None], record_nothing: RecordProof, plant: str
) -> None:
    see_plant(
        plant,
        test_soft_limit_is_never_late,
        "ended a process|another task's|lost: |has not ended",
        lambda short, full: 250,
        record_nothing,
        "prefork",
    )
