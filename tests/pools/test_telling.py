"""What the processes of a worker tell: its own signals, and ends that no child can tell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from umbel import App
from umbel.engines.broker import Message
from umbel.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError
from umbel.result import AsyncResult

HERE = Path(__file__).parent


class Worker:
    """A worker of one child whose receivers write down what they hear."""

    def __init__(self, home: Path) -> None:
        self.told = home / "told"
        self.told.touch()
        self.app = App("tell", broker=f"sqlite:///{home}/queue.db", backend="broker")
        command = [sys.executable, "-m", "umbel", "-A", "tasks_that_tell", "worker", "-c", "1"]
        self.process = subprocess.Popen(
            command,
            cwd=HERE,
            env=os.environ | {"UMBEL_HOME": str(home), "TOLD": str(self.told)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("ready"):
                break

    def send(self, name: str, *args: Any, **options: Any) -> AsyncResult[Any]:
        return self.app.send_task(f"tasks_that_tell.{name}", args, **options)

    def lines(self, *names: str) -> list[list[Any]]:
        found = [json.loads(line) for line in self.told.read_text().splitlines()]
        return [one for one in found if one[0] in names]

    def wait_for(self, *names: str, about: str = "", count: int = 1) -> list[list[Any]]:
        """The lines of these names that speak of something, once there are so many."""
        deadline = time.monotonic() + 30
        while True:
            found = [one for one in self.lines(*names) if not about or about in one]
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.01)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("home"))
    yield worker
    worker.process.kill()
    worker.process.communicate()
    worker.app.engine.close()


def test_a_worker_tells_of_its_start_in_order(worker: Worker) -> None:
    started = worker.lines(
        "celeryd_init", "worker_init", "celeryd_after_setup", "worker_before_create_process",
        "worker_process_init",
    )  # fmt: skip
    worker.wait_for("worker_ready")
    own = worker.process.pid
    assert [(name, pid == own) for name, pid, *_ in started] == [
        ("celeryd_init", True),
        ("worker_init", True),
        ("celeryd_after_setup", True),
        ("worker_before_create_process", True),
        ("worker_process_init", False),
    ]


def test_what_arrives_is_told_by_the_worker_itself(worker: Worker) -> None:
    result = worker.send("say", "hello")
    assert result.get(timeout=20) == "hello"
    (received,) = worker.wait_for("task_received", about=result.id)
    assert received[1:] == [worker.process.pid, "tasks_that_tell.say", result.id, ["hello"]]
    (unknown, *_) = worker.wait_for("task_unknown", about=worker.send("nobody_has_it").id)
    assert unknown[2] == "tasks_that_tell.nobody_has_it"
    with pytest.raises(TaskRevokedError):
        worker.send("say", "late", expires=-1).get(timeout=20)
    assert worker.wait_for("task_revoked")[0][2:] == ["False", "True"]
    worker.app.engine.broker.publish([Message("x:1", "x", "celery", b"no message")])
    (rejected,) = worker.wait_for("task_rejected")
    assert rejected[2] == "celery"
    assert "not a task message" in rejected[3]


def test_a_hard_limit_is_told_by_the_worker_itself(worker: Worker) -> None:
    result = worker.send("limited", "spin")
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=20)
    (failure,) = worker.wait_for("task_failure", about=result.id)
    (handled,) = worker.lines("on_failure")
    assert handled == [
        "on_failure", worker.process.pid, result.id, "TimeLimitExceeded", ["spin"], True,
    ]  # fmt: skip
    assert failure[1] == worker.process.pid


def test_a_hard_limit_that_is_no_end_is_as_a_death(worker: Worker) -> None:
    result = worker.send("limited_and_kept")
    with pytest.raises(WorkerLostError, match="TimeLimitExceeded"):
        result.get(timeout=30)
    assert len(worker.lines("limited_and_kept")) == 3
    assert len(worker.wait_for("task_failure", about=result.id)) == 1


def test_a_death_is_an_end_where_the_task_says_so(worker: Worker) -> None:
    result = worker.send("killed")
    with pytest.raises(WorkerLostError, match="SIGKILL"):
        result.get(timeout=20)
    assert len(worker.lines("killed")) == 1
    assert len(worker.wait_for("on_failure", about=result.id)) == 1


def test_a_death_is_a_retry_where_the_task_says_so(worker: Worker) -> None:
    result = worker.send("killed_and_retried")
    with pytest.raises(WorkerLostError, match="SIGKILL"):
        result.get(timeout=20)
    assert len(worker.lines("killed_and_retried")) == 2
    (retry,) = worker.wait_for("on_retry", about=result.id)
    assert retry[1:] == [worker.process.pid, result.id, "WorkerLostError"]
    assert len(worker.wait_for("task_retry", about=result.id)) == 1
    assert len(worker.wait_for("on_failure", about=result.id)) == 1


def test_a_death_in_a_handler_leaves_the_result_and_repeats_nothing(worker: Worker) -> None:
    result = worker.send("say", "die")
    assert result.get(timeout=20) == "die"
    assert worker.send("say", "next").get(timeout=20) == "next"
    assert len(worker.lines("say")) == len({tuple(one) for one in worker.lines("say")})
    assert len(worker.wait_for("on_success", about=result.id)) == 1


def test_a_handler_that_hangs_is_killed_at_the_tasks_limit(worker: Worker) -> None:
    result = worker.send("limited", "linger")
    assert result.get(timeout=20) == "linger"
    assert worker.send("say", "after it").get(timeout=20) == "after it"
    assert result.state == "SUCCESS"


def test_a_worker_tells_of_its_end(worker: Worker) -> None:
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(timeout=20) == 0
    own = worker.process.pid
    assert worker.lines("worker_shutting_down") == [
        ["worker_shutting_down", own, "SIGTERM", "Warm", "0"]
    ]
    (*_, child) = worker.lines("worker_process_shutdown")
    assert child[1] != own
    assert child[2:] == [str(child[1]), "0"]
    assert worker.lines("worker_shutdown") == [["worker_shutdown", own]]
