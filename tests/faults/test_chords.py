"""Chords: the body runs once, right after the last member, whatever is killed and however each
member ends; and nobody polls for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import RecordProof, Rounds
from tests.faults.oracle import wait_until
from tests.faults.processes import MODULE, Project
from umbel import Signature, chord, group
from umbel.exceptions import ChordError

PROMPT = 1.0
"""Seconds within which the body begins once the last member has ended."""

pytestmark = pytest.mark.timeout(180)


def task(project: Project, name: str, *args: Any, **options: Any) -> Signature[Any]:
    return Signature(f"{MODULE}.{name}", args, options=options, app=project.app)


def kill_through_a_chord(
    project: Project,
    size: int,
    record_proof: RecordProof,
    *,
    until: float,
    patience: float = 30.0,
    seconds: float = 0.005,
) -> None:
    """Kill workers and children at random until a share of a chord's members have ended."""
    project.settings["task_max_deliveries"] = 1_000_000
    workers = [project.worker(f"w{n}", slots=1) for n in range(2)]
    header = [task(project, "member", number, seconds) for number in range(size)]
    result: Any = chord(header, task(project, "body")).apply_async()
    id = result.parent.id
    project.wait_for_run(lambda run: True, "the first member's start", 10)

    def progress() -> float:
        found = project.engine.results.progress(id)
        return 1.0 if found is None else found[0] / found[1]

    deadline = time.monotonic() + patience + size * 0.02
    while progress() < until:
        assert time.monotonic() < deadline, f"only {progress():.0%} of the members have ended"
        time.sleep(project.chance.uniform(0.01, 0.15))
        number = project.chance.randrange(2)
        victim = project.chance.choice(["child", "child", "supervisor", "fork server"])
        if victim == "child":
            project.kill_child(workers[number])
        else:
            project.kill_worker(workers[number], target=victim)
            workers[number].wait()
            workers[number] = project.worker(f"w{number}", slots=1)
    count, total, rest = result.get(timeout=patience)
    for worker in workers:
        worker.stop()
    assert (count, total, rest) == (size, sum(range(size)), [])
    check_body(project, result.id)
    kills = len(project.oracle.kills)
    record_proof(seed=project.seed, members=size, kills=kills)
    assert kills >= 3
    assert project.engine.results.progress(id) is None  # nothing is left of it


def check_body(project: Project, id: str) -> None:
    """The body has run to its end once, and in good time; nothing else has run but members."""
    project.oracle.read()
    runs = list(project.oracle.runs.values())
    bodies = [run for run in runs if run.job == id]
    ended = [run for run in bodies if run.end is not None]
    assert len(ended) == 1, f"the body has run {len(ended)} times"
    killed = [run for run in bodies if run.end is None]
    assert all(any(kill.explains(run) for kill in project.oracle.kills) for run in killed)
    last = max(run.end for run in runs if run.job != id and run.end is not None)
    if not project.oracle.kills or project.oracle.kills[-1].at < last:
        delay = min(run.start for run in bodies) - last
        assert delay < PROMPT, f"the body began {delay:.2f} s after the last member's end"
    names = Counter(entry.task for entry in project.engine.state.history(limit=1_000_000))
    assert set(names) == {f"{MODULE}.member", f"{MODULE}.body"}, names
    assert names[f"{MODULE}.body"] - len(killed) == 1


def test_a_chord_with_kills(project: Project, rounds: Rounds, record_proof: RecordProof) -> None:
    kill_through_a_chord(project, rounds(1_000, 10_000), record_proof, until=0.95)


def test_a_chord_with_kills_up_to_its_end(
    project: Project, rounds: Rounds, record_proof: RecordProof
) -> None:
    """The last settlement and the body's own run are struck too."""
    for _ in range(rounds(1, 20)):
        kill_through_a_chord(project, 300, record_proof, until=1.0, seconds=0.01)
        project.oracle.runs.clear()


@pytest.mark.parametrize("plant", ["part_forgotten", "part_afterwards"])
def test_planted_bug_is_seen(
    see_plant: Callable[..., None], record_nothing: RecordProof, plant: str
) -> None:
    def check(project: Project) -> None:
        kill_through_a_chord(project, 300, record_nothing, until=0.8, patience=4.0)

    see_plant(plant, check, "has not ended|members have ended")


# --------------------------------------------------------------------------- ends that are violent


def body_of(project: Project, *members: Signature[Any], collect: bool) -> Any:
    options = {"on_error": "collect"} if collect else {}
    body = task(project, "body").on_error(task(project, "tell_failure"))
    return chord(group(members), body, **options).apply_async()


def test_a_member_over_its_hard_limit(project: Project) -> None:
    """As people write it: one port of a scan hangs."""
    project.worker()
    hangs = task(project, "hang_asleep", time_limit=0.4)
    others = [task(project, "member", number) for number in range(20)]
    collected = body_of(project, *others, hangs, collect=True)
    failed = body_of(project, *others, hangs, collect=False)
    count, total, rest = collected.get(timeout=20)
    assert (count, total) == (20, sum(range(20)))
    assert rest == ["TimeLimitExceeded(0.4)"]
    with pytest.raises(ChordError) as caught:
        failed.get(timeout=20)
    culprit = failed.parent[20].id
    assert str(caught.value) == f"Dependency {culprit} raised TimeLimitExceeded(0.4)"
    told = errback_runs(project)
    wait_until(lambda: len(errback_runs(project)) == 1, "the errback's run")
    project.drain()
    assert len(errback_runs(project)) == 1, told


def errback_runs(project: Project) -> list[str]:
    project.oracle.read()
    return [run.job for run in project.oracle.runs.values() if run.task.endswith(".tell_failure")]


def test_a_member_that_kills_its_process(project: Project) -> None:
    project.settings["task_max_deliveries"] = 2
    project.worker()
    dies = task(project, "die", "kill")
    result = body_of(project, task(project, "member", 1), dies, collect=True)
    count, total, (error,) = result.get(timeout=20)
    assert (count, total) == (1, 1)
    assert error.startswith("WorkerLostError(")
    (letter,) = project.engine.state.dead_letters()
    assert letter.id == result.parent[1].id


def test_a_step_of_a_member_that_kills_its_process(project: Project) -> None:
    project.settings["task_max_deliveries"] = 1
    project.worker()
    chain = task(project, "member", 1) | task(project, "die", "kill").set(immutable=True)
    result = body_of(project, task(project, "member", 5), chain | task(project, "member"),
                     collect=True)  # fmt: skip
    count, total, (error,) = result.get(timeout=20)
    assert (count, total) == (1, 5)
    assert error.startswith("WorkerLostError(")
