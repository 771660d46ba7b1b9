"""`umbel worker`: its lines, options, refusals and ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Project, end, read_until_ready


def nothing_left(process: subprocess.Popen[str]) -> bool:
    """Whether no process is left in the group that a command was started in."""
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_first_lines_and_a_warm_end(project: Project) -> None:
    process = project.popen("worker", "-c", "2", "-Q", "emails,celery", "-Q", "b", "-X", "b")
    lines = read_until_ready(process)
    values = dict(re.split(r"\s+", line, maxsplit=1) for line in lines[:-1])
    assert values == {
        "umbel": "0.1.0",
        "app": f"tasks:app ({project.folder / 'tasks.py'})",
        "store": str(project.store),
        "pool": "prefork, 2 slots",
        "queues": "emails, celery",
        "tasks": "4",
    }
    assert re.fullmatch(rf"ready in \d+\.\d\d s as celery@{socket.gethostname()}", lines[-1])
    out, err = end(process)
    assert process.returncode == 0
    assert err.splitlines()[-1] == "stopped"
    assert out == ""
    assert nothing_left(process)
    assert not list(project.store.parent.glob("queue.db.run/worker.*"))


def test_json_lines(project: Project) -> None:
    process = project.popen("worker", "-c", "1", "-n", "w1@%h", "--json")
    assert process.stdout is not None
    starting, ready = (json.loads(process.stdout.readline()) for _ in range(2))
    assert starting["event"] == "starting"
    assert starting["tasks"] == ["tasks.add", "tasks.fail", "tasks.greet", "tasks.quiet"]
    assert (starting["slots"], starting["queues"]) == (1, ["celery"])
    assert ready["event"] == "ready"
    assert ready["node"] == f"w1@{socket.gethostname()}"
    assert ready["pid"] == process.pid
    assert 0 < ready["seconds"] < 30
    out, _ = end(process)
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["stopped"]


def test_a_taken_name_is_refused_and_nothing_stays(project: Project) -> None:
    with project.worker("-n", "w1@%h"):
        process = project.popen("worker", "-n", "w1@%h")
        _, err = process.communicate(timeout=30)
        assert process.returncode == 73
        assert "already named w1@" in err
        assert "--replace" in err
        assert "Traceback" not in err
        assert nothing_left(process)
        assert len(list(project.store.parent.glob("queue.db.run/worker.*"))) == 1


def test_an_early_refusal_ends_the_fork_server_too(empty: Project) -> None:
    process = empty.popen("worker")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 64
    assert "Traceback" not in err
    assert nothing_left(process)


def test_ctrl_c_before_it_is_ready_leaves_nothing(project: Project) -> None:
    project.write("tasks.py", "import os, signal\nfrom umbel import App\napp = App()\n"
                  "os.kill(os.getpid(), signal.SIGINT)\n")  # fmt: skip
    process = project.popen("worker")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert nothing_left(process)


def test_stores_that_cannot_be_used(project: Project, tmp_path: Path) -> None:
    project.environment["UMBEL_HOME"] = str(project.folder / "tasks.py" / "below")
    complaint = project.refuse("worker", code=73)
    assert "UMBEL_HOME" in complaint
    assert "Traceback" not in complaint
    assert project.ask("call", "tasks.add", "1", "2", code=73)["error"]["exit_code"] == 73
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"this is no database at all" * 100)
    url = f"sqlite:///{damaged}"
    for line in (["worker"], ["queues"], ["call", "tasks.add", "1", "2"]):
        complaint = project.refuse(*line, "-b", url, code=69)
        assert f"{damaged} is damaged" in complaint
        assert "Traceback" not in complaint


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["-l", "loud"], "'loud' is not one of"),
        (
            ["-P", "gevents"],
            "gevent, eventlet, solo. Did you mean 'gevent'?",
        ),
        (["-n", "a@%x"], "'%x' in 'a@%x' is unknown"),
        (["-c", "0"], "'0' is neither a number from 1 to 4096 nor auto"),
        (["-X", "celery"], "-X leaves no queue"),
        (["--time-limit", "1", "--soft-time-limit", "2"], "must not be above"),
        (["--tome-limit", "1"], "No such option"),
    ],
)
def test_usage_errors(project: Project, line: list[str], words: str) -> None:
    assert words in project.refuse("worker", *line, code=64)
    assert words in project.ask("worker", *line, code=64)["error"]["message"]


def test_log_level_and_log_file(project: Project) -> None:
    with project.worker("-l", "Info", "-f", "w.log", "-P", "prefork"):
        sent = project.ask("call", "tasks.add", "1", "2", "--wait")
    assert sent["id"] in (project.folder / "w.log").read_text()
    complaint = project.refuse("worker", "-f", "nowhere/w.log", code=73)
    assert "nowhere/w.log cannot be written" in complaint


def test_purge_first(project: Project) -> None:
    project.send("tasks.fail")
    project.send("tasks.fail", queue="other")
    with project.worker("--purge") as lines:
        assert "purged 1 message from celery" in lines
        assert project.say("call", "tasks.greet", "--wait") == "hello you\n"
    (other,) = project.ask("queues")["queues"]
    assert (other["queue"], other["ready"]) == ("other", 1)


def test_limits_and_recycling_reach_the_worker(project: Project) -> None:
    project.write("slow.py", "import os, time\nfrom tasks import app\n\n"
                  "@app.task\ndef sleep():\n    time.sleep(60)\n\n"
                  "@app.task\ndef pid():\n    return os.getpid()\n")  # fmt: skip
    options = ("-A", "slow", "--time-limit", "0.5", "--max-tasks-per-child", "1")
    with project.worker(*options):
        report = project.ask("call", "slow.sleep", "-A", "slow", "--wait", code=1)
        assert report["error"]["type"] == "TimeLimitExceeded"
        pids = {project.ask("call", "slow.pid", "-A", "slow", "--wait")["result"] for _ in range(2)}
    assert len(pids) == 2


def test_a_process_that_has_used_much_memory_is_replaced(project: Project) -> None:
    project.write("big.py", "import os\nfrom tasks import app\n\n@app.task\ndef use(megabytes):\n"
                  "    bytearray(megabytes << 20)\n    return os.getpid()\n")  # fmt: skip
    with project.worker("-A", "big", "--max-memory-per-child", "200000"):
        pids = [
            project.ask("call", "big.use", str(megabytes), "-A", "big", "--wait")["result"]
            for megabytes in (1, 1, 300, 1, 1)
        ]
    assert pids[0] == pids[1] == pids[2]
    assert pids[3] == pids[4] != pids[0]


def test_replace_waits_for_the_other_to_end(project: Project) -> None:
    first = project.popen("worker", "-c", "1", "-n", "w1@%h")
    read_until_ready(first)
    second = project.popen("worker", "-c", "1", "-n", "w1@%h", "--replace")
    assert second.stderr is not None
    while not second.stderr.readline().startswith("tasks"):
        pass
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=10)
    try:
        assert read_until_ready(second)[-1].endswith(f"w1@{socket.gethostname()}")
    finally:
        end(second)


SLOW_TO_BEGIN = """
import time
from umbel import App

app = App("tasks")


class Prepared(app.Task):
    def before_start(self, *_):
        time.sleep(0.3)


@app.task(base=Prepared, soft_time_limit=0.1)
def sleep():
    for _ in range(3000):
        time.sleep(0.01)


@app.task(base=Prepared, soft_time_limit=0.1)
async def nap():
    import asyncio
    await asyncio.sleep(30)


@app.task(soft_time_limit=0.01)
async def first_nap():  # importing asyncio takes longer than it allows
    import asyncio
    await asyncio.sleep(30)
"""


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "gevent"])
def test_a_soft_limit_that_passes_before_the_function_begins(project: Project, pool: str) -> None:
    project.write("tasks.py", SLOW_TO_BEGIN)
    sent = [project.send(f"tasks.{name}") for name in ("first_nap", "sleep", "nap")]
    with project.worker("-P", pool, "--processes", "1"):
        errors = [wait_for_attempts(project, id)[0]["error"] for id in sent]
    for error in errors:
        assert error.startswith("SoftTimeLimitExceeded")
        assert "ignored" not in error


def wait_for_attempts(project: Project, id: str) -> list[Any]:
    deadline = time.monotonic() + 20
    while not (attempts := project.ask("result", id)["attempts"]):
        assert time.monotonic() < deadline, "the task does not end"
    return list(attempts)
