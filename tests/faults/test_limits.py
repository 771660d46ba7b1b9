"""Time limits stop what hangs, say where it hung, and never hit anything else."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RecordProof, Rounds
from tests.faults import workload
from tests.faults.processes import Project
from umbel.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

LIMIT = 0.4
GRACE = 0.3
HANGS = ["hang_asleep", "hang_spinning", "hang_in_c", "hang_swallowing", "hang_awaiting"]

pytestmark = pytest.mark.timeout(120)


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


@pytest.mark.parametrize("task", HANGS)
def test_hard_limit_stops(project: Project, record_proof: RecordProof, task: str) -> None:
    worker = project.worker(slots=1)
    job = project.send(task, time_limit=LIMIT)
    after = project.send("work")
    with pytest.raises(TimeLimitExceeded):
        job.get(timeout=LIMIT + 3)
    ended = time.monotonic()
    (run,) = project.oracle.runs_of(job.id)
    assert ended - run.start <= LIMIT + 1
    assert ended - run.start >= LIMIT
    check_place(task, job.traceback)
    after.get(timeout=5)
    assert project.engine.state.dead_letters() == []
    worker.stop()
    project.oracle.judge(project.engine, ends={job.id: "FAILURE"}).demand_soundness()
    record_proof(limit_s=LIMIT, stopped_after_s=round(ended - run.start, 2))


@pytest.mark.parametrize("task", HANGS)
def test_soft_limit_stops(project: Project, record_proof: RecordProof, task: str) -> None:
    """What ignores it is killed after the grace."""
    project.settings["task_soft_time_limit_grace"] = GRACE
    worker = project.worker(slots=1)
    job = project.send(task, soft_time_limit=LIMIT)
    after = project.send("work")
    with pytest.raises(SoftTimeLimitExceeded):
        job.get(timeout=LIMIT + GRACE + 3)
    ended = time.monotonic()
    (run,) = project.oracle.runs_of(job.id)
    escalates = task in {"hang_in_c", "hang_swallowing"}
    assert ended - run.start <= LIMIT + GRACE * escalates + 1
    assert ended - run.start >= LIMIT + GRACE * escalates
    check_place(task, job.traceback)
    after.get(timeout=5)
    worker.stop()
    project.oracle.judge(project.engine, ends={job.id: "FAILURE"}).demand_soundness()
    record_proof(limit_s=LIMIT, grace_s=GRACE, stopped_after_s=round(ended - run.start, 2))


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


@pytest.mark.parametrize("task", ["spin", "work", "awork"])
def test_soft_limit_is_never_late(
    project: Project, rounds: Rounds, record_proof: RecordProof, task: str
) -> None:
    """Tasks that end within a millisecond of their limit, each followed by an innocent one."""
    limit = 0.02
    worker = project.worker()
    before = worker.children
    close, innocent = [], []
    for _ in range(rounds(100, 2000)):
        length = limit + project.chance.uniform(-0.001, 0.001)
        close.append(project.send(task, length, soft_time_limit=limit))
        innocent.append(project.send("work", 0.0))
        innocent.append(project.send("awork", 0.0))
    ends: dict[str, str] = {}
    unnoted = 0
    for job in close:
        error = job.get(timeout=60, propagate=False)
        if isinstance(error, Exception):
            assert type(error) is SoftTimeLimitExceeded, error
            runs = project.oracle.runs_of(job.id)
            assert len(runs) <= 1, "the signal ended a process"
            unnoted += not runs  # on a busy machine the limit came before the body noted its start
            for run in runs:
                if run.end is not None:  # else it came while the body noted its end
                    # One that has waited its millisecond less than the limit is hit on its way out.
                    assert run.end - run.opened > 0.94 * limit, "hit by another task's signal"
            ends[job.id] = "FAILURE"
    for job in innocent:
        job.get(timeout=10)
    assert worker.children == before, "the signal ended a process"
    worker.stop()
    verdict = project.oracle.judge(project.engine, ends=ends)
    verdict.demand_soundness()
    assert verdict.runs == 3 * len(close) - unnoted
    record_proof(tasks=len(close), reached=len(ends), hit_others=0)
    print(f"{len(ends)} of {len(close)} met their limit")


@pytest.mark.parametrize(
    ("plant", "test", "match", "arguments"),
    [
        ("no_limits", "hard", "has not ended", ("hang_asleep",)),
        ("no_stacks", "hard", "no frame", ("hang_in_c",)),
        ("no_limits", "soft", "has not ended", ("hang_asleep",)),
        ("no_escalation", "soft", "has not ended", ("hang_in_c",)),
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
        "spin",
    )
