"""retry() is an attempt's outcome: however it is called, one follow-up and no more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import RecordProof
from tests.faults.processes import Project

RUNS = 4
"""One, and `max_retries=3`."""

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("task", "end"),
    [
        ("retry_twice_over", "FAILURE"),
        ("retry_swallowed", "SUCCESS"),
        ("retry_without_throw", "FAILURE"),
    ],
)
def test_each_retry_is_one_message(
    project: Project, record_proof: RecordProof, task: str, end: str
) -> None:
    worker = project.worker()
    job = project.send(task)
    most = 0
    states = set()
    while not job.ready():
        most = max(most, len(project.engine.broker.browse(id=job.id)))
        states.add(job.state)
        assert len(project.oracle.runs_of(job.id)) <= RUNS, "it ran too often"
    assert most == 1, "it was in the store more than once"
    assert job.state == end
    if end == "FAILURE":
        error = job.get(timeout=1, propagate=False)
        assert type(error).__name__ == "MaxRetriesExceededError"
    assert "RETRY" in states
    project.drain()
    worker.stop()
    runs = project.oracle.runs_of(job.id)
    assert [run.retries for run in runs] == list(range(RUNS)), "exactly four runs"
    entries = project.engine.state.history(id=job.id)
    assert [entry.state for entry in reversed(entries)] == ["RETRY"] * 3 + [end]
    project.oracle.judge(project.engine, ends={job.id: end}).demand_soundness()
    record_proof(runs=len(runs), most_messages=most)


@pytest.mark.parametrize(
    ("plant", "task"),
    [
        ("retry_as_message", "retry_twice_over"),
        ("retry_as_message", "retry_swallowed"),
        ("retry_as_message", "retry_without_throw"),
        # The second Retry of retry_twice_over leaves the function: this bug does not show in it.
        ("retry_by_exception", "retry_swallowed"),
        ("retry_by_exception", "retry_without_throw"),
    ],
)
def test_planted_bug_is_seen(
    see_plant: Callable[..., None], record_nothing: RecordProof, plant: str, task: str
) -> None:
    end = "SUCCESS" if task == "retry_swallowed" else "FAILURE"
    see_plant(
        plant,
        test_each_retry_is_one_message,
        "more than once|too often|==|'RETRY' in",
        record_nothing,
        task,
        end,
    )
