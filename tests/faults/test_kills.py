"""kill -9 of anything at random moments, under load: nothing acknowledged is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.conftest import RecordProof, Rounds
from tests.faults.oracle import Run, Verdict, wait_until
from tests.faults.processes import Project, Worker, is_running

PRODUCERS = 2
RESUME = 2.0
"""Seconds from a worker's start to its first task."""

pytestmark = pytest.mark.timeout(120)


def finish(project: Project, worker: Worker, record_proof: RecordProof) -> Verdict:
    """Let the rest be done, end everything, and judge."""
    project.stop_producers()
    project.drain()
    worker.stop()
    verdict = project.oracle.judge(project.engine)
    verdict.problems["left_behind"] = project.leftovers()
    print(f"seed {project.seed}: {verdict}")
    record_proof(seed=project.seed, **verdict.figures())
    verdict.demand_soundness()
    assert verdict.acknowledged > 0
    return verdict


def start_load(project: Project) -> None:
    for _ in range(PRODUCERS):
        project.producer()
    project.wait_for_run(lambda run: True, "the first job's start", 10)


def strike_at_random(project: Project, longest: float) -> None:
    time.sleep(project.chance.uniform(0.01, longest))


def test_kill_of_a_child(project: Project, rounds: Rounds, record_proof: RecordProof) -> None:
    # A job that is hit again and again is no poison here.
    project.settings["task_max_deliveries"] = 1_000_000
    worker = project.worker()
    start_load(project)
    for _ in range(rounds(10, 200)):
        strike_at_random(project, 0.25)
        project.kill_child(worker)
    verdict = finish(project, worker, record_proof)
    assert verdict.charged <= verdict.kills, "charged more than was killed"
    unfounded = project.oracle.unfounded_charges()
    assert unfounded <= 1 + verdict.kills // 10, f"charged {unfounded} that had not run"


@pytest.mark.parametrize("target", ["supervisor", "fork server"])
def test_kill_of_a_worker(
    project: Project, rounds: Rounds, record_proof: RecordProof, target: str
) -> None:
    check_kills_of_a_worker(project, rounds(6, 200), record_proof, target)


def check_kills_of_a_worker(
    project: Project, kills: int, record_proof: RecordProof, target: str, longest: float = 0.5
) -> None:
    worker = project.worker()
    start_load(project)
    slowest = 0.0
    for _ in range(kills):
        strike_at_random(project, longest)
        project.kill_worker(worker, target=target)
        assert worker.wait() != 0
        worker = project.worker(wait=False)
        wait_until(partial(has_server, worker), "a fork server", 5)
        first = project.wait_for_run(
            partial(is_of, worker.server), "the first task of the restarted worker", 2 * RESUME
        )
        slowest = max(slowest, first.start - worker.started)
        worker.wait_for_line("ready in")
    record_proof(slowest_resume_s=round(slowest, 3))
    finish(project, worker, record_proof)
    print(f"work resumed within {slowest:.2f} s of each start")
    assert slowest < RESUME, f"resumed only after {slowest:.2f} s"


def has_server(worker: Worker) -> bool:
    try:
        return worker.server > 0
    except ValueError:
        return False


def is_of(server: int, run: Run) -> bool:
    return run.server == server


@pytest.mark.parametrize("target", ["supervisor", "fork server"])
def test_children_end_with_their_worker(project: Project, target: str) -> None:
    """Whatever they are in the middle of: their tasks are about to run elsewhere."""
    worker = project.worker()
    jobs = [project.send("work", 30.0) for _ in range(project.slots)]
    project.wait_for_runs([job.id for job in jobs])
    tree = worker.tree()
    project.kill_worker(worker, target=target)
    worker.wait()
    wait_until(lambda: not any(map(is_running, tree)), "the end of the whole worker", 2.0)


@pytest.mark.parametrize("target", ["supervisor", "fork server"])
def test_planted_orphans_are_seen(see_plant: Callable[..., None], target: str) -> None:
    see_plant("orphans", test_children_end_with_their_worker, "the end of the whole", target)


def test_kill_of_a_producer(project: Project, rounds: Rounds, record_proof: RecordProof) -> None:
    worker = project.worker()
    for number in range(rounds(8, 200)):
        producer = project.producer()
        wait_until(partial(has_sent, project, f"p{number}.0"), "the producer's first job")
        strike_at_random(project, 0.3)
        producer.send_signal(signal.SIGKILL)
        producer.wait()
        project.note_kill("a producer", most=0)
    finish(project, worker, record_proof)


def has_sent(project: Project, job: str) -> bool:
    project.oracle.read()
    return job in project.oracle.sending


def test_kills_of_everything(project: Project, rounds: Rounds, record_proof: RecordProof) -> None:
    """Two workers side by side, each of which recovers the other."""
    project.settings["task_max_deliveries"] = 1_000_000
    workers = [project.worker(f"w{n}", slots=1) for n in range(2)]
    start_load(project)
    for _ in range(rounds(8, 200)):
        strike_at_random(project, 0.25)
        number = project.chance.randrange(2)
        victim = project.chance.choice(["child", "supervisor", "fork server"])
        if victim == "child":
            project.kill_child(workers[number])
            continue
        project.kill_worker(workers[number], target=victim)
        workers[number].wait()
        workers[number] = project.worker(f"w{number}", slots=1)
    project.stop_producers()
    project.drain()
    workers[0].stop()
    finish(project, workers[1], record_proof)


@pytest.mark.parametrize(
    ("plant", "match"),
    [
        ("early_ack", "lost: "),
        ("dropped_on_death", "lost: "),
        ("all_held_charged", "charged more|charged [0-9]+ that"),
        ("forgotten_ack", "settled_twice: "),
    ],
)
def test_planted_bug_is_seen_by_kills_of_children(
    see_plant: Callable[..., None], record_nothing: RecordProof, plant: str, match: str
) -> None:
    see_plant(plant, test_kill_of_a_child, match, lambda short, full: 10, record_nothing)


@pytest.mark.parametrize(
    ("plant", "match"),
    [
        ("no_recovery", "first task|never emptied"),
        ("unstarted_lost", "lost: "),
        ("late_commit", "too_many_again: "),
    ],
)
def test_planted_bug_is_seen_by_kills_of_workers(
    project: Project,
    see_plant: Callable[..., None],
    record_nothing: RecordProof,
    plant: str,
    match: str,
) -> None:
    project.slots = 1
    # A bound is passed only by a worker that has had the time to do more than it.
    longest = 1.5 if plant == "late_commit" else 0.5
    arguments = (3, record_nothing, "supervisor", longest)
    see_plant(plant, check_kills_of_a_worker, match, *arguments)
