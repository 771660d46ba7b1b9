"""`umbel worker`: every option of Celery's, the background, and what signals do."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Project, end, read_until_ready

SLOW = """
import os, time
from tasks import app


@app.task
def wait(path, seconds=60.0):
    open(path, "w").close()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not os.path.exists(path + ".go"):
        time.sleep(0.01)
    return "ended"
"""


def wait_for(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not look():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def busy(project: Project, *args: str) -> tuple[subprocess.Popen[str], Path, str]:
    """A worker in the middle of a task."""
    project.write("slow.py", SLOW)
    process = project.popen("-A", "slow", "worker", "-c", "1", *args)
    read_until_ready(process)
    mark = project.folder / "running"
    sent = project.send("slow.wait", str(mark))
    wait_for(mark.exists, "the task")
    return process, mark, sent


def state(project: Project, id: str) -> str:
    report: str = project.ask("-A", "slow", "result", id, code=0)["state"]
    return report


def test_options_without_effect_say_so(project: Project) -> None:
    line = (
        "-Ofair", "--prefetch-multiplier=1", "--disable-prefetch", "-S", "state.db", "-E",
        "--pool-start-method", "fork", "--without-gossip", "--without-mingle",
        "--without-heartbeat", "--heartbeat-interval", "2", "--scheduler", "django", "-s", "file",
    )  # fmt: skip
    with project.worker(*line) as lines:
        text = "\n".join(lines)
        for name in (
            "--optimization", "--prefetch-multiplier", "--disable-prefetch", "--statedb",
            "--task-events", "--pool-start-method", "--without-gossip", "--without-mingle",
            "--without-heartbeat", "--heartbeat-interval", "--scheduler", "--schedule",
        ):  # fmt: skip
            assert text.count(f"{name} has no effect: ") == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--autoscale=many"], "'many' is neither MAX,MIN nor MAX"),
        (["--autoscale=3,2,1"], "'3,2,1' is neither MAX,MIN nor MAX"),
        (["--autoscale=-1"], "'-1' is neither MAX,MIN nor MAX"),
        (["--autoscale=0"], "the most must be 1 or more"),
        (["--autoreload"], "--reload"),
        (["--uid", "1"], "service manager"),
        (["--gid", "1"], "service manager"),
        (["--umask", "1"], "service manager"),
        (["--executable", "x"], "-m umbel worker"),
        (["--loader", "x"], "--loader is refused"),
        (["-D"], "--detach needs a log file"),
        (["-c", "many"], "neither a number from 1 to 4096 nor auto"),
        (["-Ofast"], "is not one of"),
        (["stray"], "'stray' is neither an option nor a setting"),
        (["-f", "%x.log"], "'%x' in '%x.log' is unknown"),
    ],
)
def test_refusals(project: Project, line: list[str], words: str) -> None:
    complaint = project.refuse("worker", *line, code=64)
    assert words in " ".join(complaint.split())
    assert "Traceback" not in complaint


def test_settings_and_modules_of_the_line(project: Project) -> None:
    project.write("more.py", "from tasks import app\n\n@app.task\ndef level():\n"
                  "    return app.conf.task_default_priority\n")  # fmt: skip
    words = ("-I", "more", "-c", "auto", "task.default_priority=7", ".log_color=0")
    with project.worker(*words) as lines:
        assert any(line.split() == ["tasks", "5"] for line in lines)
        sent = project.send("more.level")
        assert project.ask("result", sent, "--wait")["result"] == 7
    complaint = project.refuse("worker", "task_acks_lait=1", code=64)
    assert "task_acks_late" in complaint


def test_quiet_says_nothing(project: Project) -> None:
    process = project.popen("-q", "worker", "-c", "1", "--pidfile", "w-%n.pid", "-n", "w1@box")
    path = project.folder / "w-w1.pid"
    wait_for(path.exists, "the pid file")
    sent = project.send("tasks.add", 1, 2)
    assert project.ask("result", sent, "--wait")["result"] == 3
    wait_for(path.read_text, "the pid")
    assert int(path.read_text()) == process.pid
    second = project.refuse("worker", "--pidfile", "w-%n.pid", "-n", "w1@box", code=73)
    assert f"names the process {process.pid}, which runs" in second
    out, err = end(process)
    assert out == ""
    (line,) = err.splitlines()
    assert "Warm shutdown" in line
    assert not path.exists()


def test_a_stale_pid_file_is_replaced(project: Project) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    path = project.folder / "w.pid"
    path.write_text(f"{gone.pid}\n")
    with project.worker("--pidfile", "w.pid"):
        assert path.read_text() != f"{gone.pid}\n"
    assert not path.exists()
    complaint = project.refuse("worker", "--pidfile", "nowhere/w.pid", code=73)
    assert "nowhere/w.pid cannot be written" in complaint


def test_detached(project: Project) -> None:
    line = ("worker", "-D", "-f", "w.log", "--pidfile", "w.pid", "-l", "INFO", "-c", "1")
    done = project.popen(*line)
    done.communicate(timeout=30)
    assert done.returncode == 0
    pid = int((project.folder / "w.pid").read_text())
    try:
        assert pid != done.pid
        assert os.getsid(pid) not in {0, os.getsid(0)}
        sent = project.send("tasks.add", 2, 2)
        assert project.ask("result", sent, "--wait")["result"] == 4
        assert sent in (project.folder / "w.log").read_text()
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not (project.folder / "w.pid").exists(), "its end")
    project.write("tasks.py", "raise ImportError('broken')\n")
    done = project.popen("-A", "tasks", *line)
    assert "broken" in done.communicate(timeout=30)[1]
    assert done.returncode == 1


def test_a_third_signal_ends_it_on_the_spot_and_loses_nothing(project: Project) -> None:
    process, mark, sent = busy(project)
    assert process.stderr is not None
    process.send_signal(signal.SIGSTOP)  # all three are there before it looks
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Hard shutdown" in err
    assert state(project, sent) == "PENDING"
    mark.with_name("running.go").touch()
    with project.worker("-A", "slow"):
        assert project.ask("-A", "slow", "result", sent, "--wait")["result"] == "ended"


def test_a_soft_shutdown_gives_what_runs_some_time(project: Project) -> None:
    project.environment["UMBEL_WORKER_SOFT_SHUTDOWN_TIMEOUT"] = "30"
    project.environment["REMAP_SIGTERM"] = "SIGQUIT"
    process, mark, sent = busy(project)
    assert process.stderr is not None
    process.send_signal(signal.SIGTERM)
    assert "Soft shutdown: running tasks have 30 s more" in process.stderr.readline()
    mark.with_name("running.go").touch()
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert state(project, sent) == "SUCCESS"
    mark.with_name("running.go").unlink()
    mark.unlink()
    project.environment["UMBEL_WORKER_SOFT_SHUTDOWN_TIMEOUT"] = "0.1"
    process, mark, sent = busy(project)
    process.send_signal(signal.SIGQUIT)
    _, err = process.communicate(timeout=20)
    assert err.index("Soft shutdown") < err.index("Cold shutdown")
    assert state(project, sent) == "PENDING"


def test_all_stacks_on_sigusr1(project: Project) -> None:
    process, mark, _ = busy(project)
    assert process.stderr is not None
    process.send_signal(signal.SIGUSR1)
    seen = ""
    while "slow.py" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    assert "Stacks of the supervisor:" in seen
    assert "supervisor.py" in seen
    assert "Stacks of child" in seen
    mark.with_name("running.go").touch()
    end(process)


def test_sighup_starts_it_anew(project: Project) -> None:
    process = project.popen("worker", "-c", "1", "--pidfile", "w.pid")
    read_until_ready(process)
    project.write("tasks.py", (project.folder / "tasks.py").read_text() + "\n\n@app.task\n"
                  "def fresh():\n    return 'new'\n")  # fmt: skip
    process.send_signal(signal.SIGHUP)
    lines = read_until_ready(process)
    assert any("Warm shutdown" in line for line in lines)
    assert int((project.folder / "w.pid").read_text()) == process.pid
    sent = project.send("tasks.fresh")
    assert project.ask("result", sent, "--wait")["result"] == "new"
    end(process)
    assert process.returncode == 0


def test_nohup_stays(project: Project) -> None:
    process = project.popen(
        "worker", "-c", "1", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    read_until_ready(process)
    process.send_signal(signal.SIGHUP)
    sent = project.send("tasks.add", 1, 2)
    assert project.ask("result", sent, "--wait")["result"] == 3
    assert process.poll() is None
    _, err = end(process)
    assert err.count("Warm shutdown") == 1
    assert "ready in" not in err  # it has not started anew either
    assert process.returncode == 0
