"""What a task finds in a child of the prefork pool."""

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
from umbel.exceptions import EncodeError, RemoteError
from umbel.result import AsyncResult

HERE = Path(__file__).parent


class Worker:
    """A worker of one child, and an app that sends to it."""

    def __init__(self, home: Path) -> None:
        self.app = App("pools", broker=f"sqlite:///{home}/queue.db", backend="broker")
        command = [sys.executable, "-m", "umbel", "-A", "tasks_in_children", "worker", "-c", "1"]
        self.process = subprocess.Popen(
            command,
            cwd=HERE,
            env=os.environ | {"UMBEL_HOME": str(home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("ready"):
                break

    def send(self, name: str, *args: Any) -> AsyncResult[Any]:
        return self.app.send_task(f"tasks_in_children.{name}", args)

    def run(self, name: str, *args: Any) -> Any:
        return self.send(name, *args).get(timeout=20)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("home"))
    yield worker
    worker.process.send_signal(signal.SIGTERM)
    try:
        worker.process.communicate(timeout=20)
    finally:
        worker.process.kill()
    worker.app.engine.close()


def test_first_of_all_a_child_has_imported_little(worker: Worker) -> None:
    """No driver and no asyncio before a task publishes or is async."""
    assert worker.run("imported") == []


@pytest.mark.parametrize("name", ["frames", "frames_async"])
def test_few_frames_lie_above_the_users_function(worker: Worker, name: str) -> None:
    assert 1 < worker.run(name) <= 6


def test_the_request_tells_of_the_delivery(worker: Worker) -> None:
    result = worker.send("request")
    assert result.get(timeout=20) == [result.id, 0, 0, False, "celery"]


def test_standard_input_is_at_its_end(worker: Worker) -> None:
    assert worker.run("stdin") == ""


def test_what_a_task_prints_shows_at_once(worker: Worker) -> None:
    worker.run("say", "hello from the child")
    assert worker.process.stderr is not None
    assert worker.process.stderr.readline().endswith(
        "WARNING/ForkPoolWorker-1] hello from the child\n"
    )


def test_a_sigterm_for_the_whole_worker_does_not_end_a_task(worker: Worker) -> None:
    assert worker.run("survive_sigterm") == "here"


def test_processes_that_a_task_starts_can_be_terminated(worker: Worker) -> None:
    assert worker.run("end_a_process") == -signal.SIGTERM
    assert worker.run("end_a_program") == -signal.SIGTERM


def test_a_task_that_forks_ends_once(worker: Worker) -> None:
    result = worker.send("fork_and_return")
    assert result.get(timeout=20) == "parent"
    assert worker.run("request")[1] == 0
    ended = [entry.state for entry in worker.app.engine.state.history(id=result.id)]
    assert ended == ["SUCCESS"]


def test_a_task_that_exits_fails_alone(worker: Worker) -> None:
    with pytest.raises(RemoteError, match="3") as failure:
        worker.run("leave")
    assert type(failure.value).__name__ == "SystemExit"
    assert worker.run("frames") > 0


def test_an_error_that_is_no_text_is_that_error(worker: Worker) -> None:
    with pytest.raises(ValueError, match="a file named"):
        worker.run("raise_what_is_no_text")


def test_context_variables_do_not_leak_into_the_next_task(worker: Worker) -> None:
    assert worker.run("set_mark") == "clean"
    assert worker.run("set_mark") == "clean"


def test_an_async_task_has_its_own_request_and_context(worker: Worker) -> None:
    for _ in range(2):
        result = worker.send("request_async")
        assert result.get(timeout=20) == f"{result.id} clean"


def test_async_tasks_share_one_event_loop(worker: Worker) -> None:
    assert worker.run("loop_identity") == worker.run("loop_identity")


def test_a_task_can_send_tasks(worker: Worker) -> None:
    result = worker.send("nested", 1)
    assert result.get(timeout=20) == "sent"
    (waiting,) = worker.app.engine.broker.browse("later")
    assert f'"parent_id":"{result.id}"'.encode() in waiting.payload


@pytest.mark.parametrize(
    ("name", "words"),
    [("returns_object", "return value"), ("retry_with_object", "arguments for the retry")],
)
def test_what_cannot_be_stored_is_a_failure(worker: Worker, name: str, words: str) -> None:
    with pytest.raises(EncodeError, match=words):
        worker.run(name)


def test_a_child_keeps_its_descriptors(worker: Worker) -> None:
    before = worker.run("own_descriptors")
    for _ in range(30):
        worker.run("frames")
    assert worker.run("own_descriptors") == before


def test_a_long_silence_is_no_reason_to_be_slow(worker: Worker) -> None:
    """An idle worker is woken, it does not poll: its slow look comes once a second."""
    times = []
    for _ in range(20):
        start = time.monotonic()
        worker.run("frames")
        times.append(time.monotonic() - start)
    assert sorted(times)[10] < 0.25


def test_the_fork_server_ends_quietly_when_its_worker_was_killed_with_reports_unread() -> None:
    code = """
import socket
from umbel.pools.forkserver import serve
ours, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.send(b"a report that is not read")
ours.close()
assert serve(control, 0) is None
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_task_may_close_the_event_loop(worker: Worker) -> None:
    worker.run("loop_identity")
    worker.run("close_the_loop")
    assert worker.run("loop_identity")


def test_a_coroutine_does_not_go_on_after_its_failure(worker: Worker) -> None:
    with pytest.raises(RuntimeError):
        worker.run("stop_the_loop")
    assert worker.run("what_went_on") == []


def test_what_a_task_starts_does_not_hold_the_lock_of_its_worker(worker: Worker) -> None:
    """Nobody could take over from the dead while it lives."""
    home = str(Path(worker.app.engine.name).parent)
    assert [line for line in worker.run("descriptors_of_a_program") if home in line] == []


def test_a_task_may_patch_the_clock(worker: Worker) -> None:
    worker.run("stop_the_clock")
    assert worker.run("frames")
