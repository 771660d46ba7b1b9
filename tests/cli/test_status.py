"""`umbel status`: which workers live, and what waits for them."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.conftest import Project, end, read_until_ready
from umbel.engines.state import WorkerRecord


def states(project: Project, *args: str) -> dict[str, str]:
    document = project.run("status", "--json", *args)
    assert document.returncode in {0, 69}, document.stderr
    return {worker["node"]: worker["state"] for worker in read(document)["workers"]}


def read(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    import json

    (line,) = done.stdout.splitlines()
    document: dict[str, Any] = json.loads(line)
    return document


def wait_for_state(project: Project, node: str, state: str) -> None:
    deadline = time.monotonic() + 20
    while states(project)[node] != state:
        assert time.monotonic() < deadline, states(project)
        time.sleep(0.02)


def test_without_a_store(project: Project) -> None:
    done = project.run("status")
    assert done.returncode == 69
    assert f"store {project.store} (not made yet" in done.stdout
    assert done.stderr == "Error: No worker is alive. Start one: umbel worker\n"
    document = project.ask("status", code=69)
    assert document == {
        "store": str(project.store), "exists": False, "alive": 0, "workers": [], "queues": [],
        "dead_letters": 0,
    }  # fmt: skip
    assert not project.store.exists()


def test_what_waits_without_a_worker(project: Project) -> None:
    project.send("tasks.add", 1, 2)
    project.bury()
    project.send("tasks.add", 1, 2, queue="emails")
    project.send("tasks.add", 1, 2, countdown=900)
    done = project.run("status", "-A", "tasks")
    assert done.returncode == 69
    assert (
        "Nobody serves celery (1 delayed); emails (1 ready). "
        "Start a worker: umbel -A tasks worker -Q celery,emails\n"
    ) in done.stdout
    assert "1 dead letter: umbel -A tasks dead\n" in done.stdout
    document = project.ask("status", code=69)
    assert [queue["deserted"] for queue in document["queues"]] == [True, True]
    assert document["dead_letters"] == 1


def test_a_live_worker(project: Project) -> None:
    started = time.time()
    host = socket.gethostname()
    with project.worker("-n", "w1@box", "-Q", "celery,b"):
        project.send("tasks.greet", queue="emails")
        done = project.run("status")
        assert done.returncode == 0
        lines = done.stdout.splitlines()
        assert lines[0] == f"store {project.store}"
        assert lines[1].split()[:6] == ["NODE", "STATE", "PID", "HOST", "SLOTS", "BUSY"]
        assert lines[1].split()[6:] == ["QUEUES", "SINCE", "LEASE", "RENEWED"]
        node, state, _, where, *rest = lines[2].split()
        assert (node, state, where, rest[:3]) == ("w1@box", "alive", host, ["1", "0", "celery,b"])
        assert lines[3] == "1 node online."
        assert lines[-1].startswith("Nobody serves emails (1 ready).")
        assert "node online" not in project.say("status", "-q")
        document = project.ask("status")
        (worker,) = document["workers"]
        assert (worker["host"], worker["slots"], worker["state"]) == (host, 1, "alive")
        assert abs(worker["started"] - started) < 20
        assert 0 <= worker["renewed"] < 15
        assert document["alive"] == 1
        short = read(project.run("status", "-j", "-d", "w1@box,w2@box"))
        assert [worker["node"] for worker in short["workers"]] == ["w1@box"]
        assert "queues" not in short
        done = project.run("status", "--destination", "w1@box,w2@box")
        assert done.returncode == 0
        assert done.stderr == "Warning: there is no worker w2@box on record.\n"
        done = project.run("status", "-d", "w2@box")
        assert (done.returncode, done.stderr.splitlines()[-1]) == (
            69, "Error: None of these workers is alive.",
        )  # fmt: skip
    assert project.ask("status", code=69)["workers"] == []


def test_a_worker_that_stands_still_and_one_that_was_killed(project: Project) -> None:
    project.environment["UMBEL_WORKER_LEASE"] = "2"
    process = project.popen("worker", "-c", "1", "-n", "w1@box")
    read_until_ready(process)
    try:
        process.send_signal(signal.SIGSTOP)
        wait_for_state(project, "w1@box", "stalled")
        done = project.run("status")
        assert done.returncode == 69
        assert "w1@box has not renewed its lease for " in done.stdout
        process.send_signal(signal.SIGCONT)
        wait_for_state(project, "w1@box", "alive")
        process.kill()
        process.wait(10)
        wait_for_state(project, "w1@box", "dead")
        done = project.run("status")
        assert done.returncode == 69
        assert "w1@box is dead; the next live worker takes over what it held." in done.stdout
    finally:
        end(process)


@pytest.fixture
def elsewhere(project: Project) -> Iterator[WorkerRecord]:
    """A worker of another host, on record, which renews its lease every 0.2 s if anybody does."""
    with project.engine() as engine:
        record = WorkerRecord("w1@far", "far", 7, ("celery",), 1, 1.2, boot="of another kernel")
        number = engine.state.register(record)
        yield WorkerRecord("w1@far", "far", 7, ("celery",), 1, 1.2, number=number)


def test_a_worker_elsewhere_is_believed_when_its_lease_moves(
    project: Project, elsewhere: WorkerRecord
) -> None:
    started = time.monotonic()
    done = project.run("status")
    assert time.monotonic() - started > 1.2  # a renewal takes 0.2 s, and a second of patience
    assert done.returncode == 69
    assert "w1@far gave no sign of life; it is on another host" in done.stdout
    started = time.monotonic()
    assert states(project, "-t", "0.1") == {"w1@far": "silent"}
    assert time.monotonic() - started < 1.2
    over = threading.Event()

    def renew() -> None:
        with project.engine() as engine:
            while not over.wait(0.2):
                engine.state.renew(elsewhere.number)

    thread = threading.Thread(target=renew)
    thread.start()
    try:  # a process of its own: this one has a thread that may be anywhere in SQLite
        process = project.popen("status", "--json", "-t", "20")
        out, _ = process.communicate(timeout=30)
    finally:
        over.set()
        thread.join()
    assert process.returncode == 0
    assert '"state": "alive"' in out


def test_a_worker_that_others_have_declared_dead(project: Project, elsewhere: WorkerRecord) -> None:
    with project.engine() as engine:
        engine.state.declare_dead(elsewhere.number)
    assert states(project, "-t", "0") == {"w1@far": "dead"}
