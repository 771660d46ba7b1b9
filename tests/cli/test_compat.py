"""`--compat celery`: what it restores, seen from outside."""

import time

from tests.cli.conftest import Project

TASKS = """
import os, signal
from umbel import App

app = App("tasks")


@app.task
def die(log):
    with open(log, "a") as file:
        file.write("ran\\n")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def limits():
    conf = app.conf
    return [conf.compat, conf.task_acks_late]
"""


def test_a_task_whose_process_dies_is_not_run_again(project: Project) -> None:
    project.write("tasks.py", TASKS)
    log = project.folder / "log"
    with project.worker("--compat", "celery"):
        answer = project.ask("call", "tasks.die", str(log), "--wait", code=1)
        assert "WorkerLostError" in str(answer)
        assert project.ask("call", "tasks.limits", "--wait")["result"] == ["celery", False]
    assert log.read_text() == "ran\n"


def test_a_task_that_nobody_knows_is_taken_out_at_once(project: Project) -> None:
    id = project.send("tasks.unheard_of")
    with project.worker("--compat", "celery"):
        started = time.monotonic()
        answer = project.ask("result", id, "--wait", code=1)
        assert "NotRegistered" in str(answer)
        assert time.monotonic() - started < 20  # without compat it is a minute


def test_nor_if_it_is_acknowledged_late(project: Project) -> None:
    project.write("tasks.py", TASKS)
    project.environment["UMBEL_TASK_ACKS_LATE"] = "1"
    log = project.folder / "log"
    with project.worker("--compat", "celery"):
        assert project.ask("call", "tasks.limits", "--wait")["result"] == ["celery", True]
        answer = project.ask("call", "tasks.die", str(log), "--wait", code=1)
        assert answer["error"]["type"] == "WorkerLostError"
    assert log.read_text() == "ran\n"
