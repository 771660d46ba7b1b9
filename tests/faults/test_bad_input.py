"""What cannot be read, stored or written: a clear error, nothing lost, and the worker lives."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RecordProof
from tests.faults.processes import MODULE, Project
from umbel.engines.broker import Message
from umbel.exceptions import EncodeError, StoreFull

pytestmark = pytest.mark.timeout(60)


def envelope(body: object, *, raw: bytes | None = None, **headers: object) -> bytes:
    data = json.dumps(body).encode() if raw is None else raw
    return json.dumps(
        {
            "body": base64.b64encode(data).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"lang": "py", "task": f"{MODULE}.work", "id": "bad", **headers},
            "properties": {
                "correlation_id": "bad", "delivery_mode": 2, "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": "celery"}, "priority": 0,
                "delivery_tag": "bad",
            },
        }
    ).encode()  # fmt: skip


MALFORMED = {
    "no JSON": b"\x80\x04K\x01.",
    "empty": b"",
    "no object": b"[1, 2, 3]",
    "no headers": b'{"body": ""}',
    "two items": envelope([[], {}]),
    "no list": envelope({"arguments": []}),  # with "args" it would be a body of protocol 1
    "args no list": envelope([5, {}, {}]),
    "body no JSON": envelope(None, raw=b"\xff\xfe"),
    "deep body": envelope(None, raw=b"[" * 100_000),
    "expires nonsense": envelope([[], {}, {}], expires="tomorrow"),
    "task a number": envelope([[], {}, {}], task=5),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_message_becomes_a_dead_letter(project: Project, kind: str) -> None:
    worker = project.worker(slots=1)
    children = worker.children
    project.engine.broker.publish([Message("bad:1", "bad", "celery", MALFORMED[kind])])
    project.send("work").get(timeout=5)
    project.drain()
    (letter,) = project.engine.state.dead_letters()
    assert letter.reason == "undecodable"
    assert letter.detail
    whole = project.engine.state.dead_letter(str(letter.number))
    assert whole is not None
    assert whole.payload == MALFORMED[kind], "the bytes are not as they came"
    assert worker.is_alive()
    assert worker.children == children
    worker.stop()
    (told,) = [line for line in worker.lines if "is a dead letter (undecodable): " in line]
    assert "ERROR" in told
    assert "See it: umbel -A tests.faults.workload dead " in told


def test_arguments_that_do_not_fit(project: Project) -> None:
    """Sent by name, past the producer's check."""
    worker = project.worker(slots=1)
    job = project.send("work", 1, 2, 3)
    with pytest.raises(TypeError):
        job.get(timeout=5)
    project.send("work").get(timeout=5)
    worker.stop()


@pytest.mark.parametrize(
    ("task", "arguments", "name", "text"),
    [
        ("return_object", (), "EncodeError", "object"),
        ("return_much", (40,), "EncodeError", "task_max_message_bytes"),
        ("raise_nasty", (), "NastyError", ""),
        ("leave", (), "SystemExit", "5"),
    ],
)
def test_strange_outcome_is_a_failure(
    project: Project, task: str, arguments: tuple[Any, ...], name: str, text: str
) -> None:
    worker = project.worker(slots=1)
    children = worker.children
    job = project.send(task, *arguments)
    error = job.get(timeout=10, propagate=False)
    assert job.state == "FAILURE"
    assert name in {type(error).__name__, *(k.__name__ for k in type(error).__mro__)} or (
        name in (job.traceback or "")
    )
    assert text in str(error)
    assert "workload.py" in (job.traceback or "") or name == "EncodeError"
    project.send("work").get(timeout=5)
    assert worker.children == children, "the process was lost"
    worker.stop()
    project.oracle.judge(project.engine, ends={job.id: "FAILURE"}).demand_soundness()


def test_argument_of_100_mb_is_refused(project: Project) -> None:
    with pytest.raises(EncodeError, match="task_max_message_bytes"):
        project.app.send_task(f"{MODULE}.work", ["x" * 100_000_000])
    assert project.engine.broker.counts() == []


# ------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(project: Project) -> Iterator[Path]:
    """The store's folder is a file system of 6 MiB."""
    project.home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", os.fspath(project.home)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system is not permitted here")
    yield project.home
    project.close()
    subprocess.run(["umount", os.fspath(project.home)], check=True)


def fill(folder: Path) -> Path:
    """Take all the space there is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue
    return ballast


def send_until_full(project: Project) -> int:
    """Send until it is refused; how many were acknowledged."""
    with pytest.raises(StoreFull, match="free some space"):  # noqa: PT012  (one of many refuses)
        for _ in range(20_000):
            project.send("work")
    return len(project.oracle.acknowledged)


def test_full_disk_while_a_worker_runs(
    project: Project, small_disk: Path, record_proof: RecordProof
) -> None:
    if project.url is not None:
        pytest.skip("a server's disk is not the worker's")
    worker = project.worker()
    running = [project.send("work", 0.5) for _ in range(2)]
    project.wait_for_runs([job.id for job in running])
    ballast = fill(small_disk)
    sent = send_until_full(project)
    # The running ones end now, and their end cannot be written.
    worker.wait_for_line("full", 10)
    assert worker.is_alive()
    ballast.unlink()
    after = [project.send("work") for _ in range(20)]
    for job in [*running, *after]:
        job.get(timeout=6)
    project.drain()
    assert worker.is_alive()
    worker.stop()
    verdict = project.oracle.judge(project.engine)
    verdict.demand_soundness()
    assert verdict.again == 0
    assert project.leftovers() == []
    record_proof(sent_before_full=sent, **verdict.figures())


@pytest.mark.parametrize("kind", ["two items", "no JSON"])
def test_planted_bug_is_seen_by_malformed_messages(
    see_plant: Callable[..., None], kind: str
) -> None:
    see_plant(
        "bad_message_kills", test_malformed_message_becomes_a_dead_letter, "not ended|never", kind
    )


def test_planted_bug_is_seen_on_a_full_disk(
    project: Project,
    see_plant: Callable[..., None],
    small_disk: Path,
    record_nothing: RecordProof,
) -> None:
    if project.url is not None:
        pytest.skip("a server's disk is not the worker's")
    see_plant(
        "full_disk_drops",
        test_full_disk_while_a_worker_runs,
        "not ended|never emptied|lost: ",
        small_disk,
        record_nothing,
    )
