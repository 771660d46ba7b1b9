"""`umbel queues` and `umbel purge`."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Project

FULL = Path("/dev/full")


def test_what_lies_where(project: Project) -> None:
    for options in ({}, {"countdown": 900}, {"queue": "emails"}, {"queue": "emails"}):
        project.send("tasks.add", 1, 2, **options)
    emails, celery = sorted(project.ask("queues")["queues"], key=lambda q: q["ready"])[::-1]
    assert (emails["queue"], emails["ready"], emails["delayed"]) == ("emails", 2, 0)
    assert (celery["queue"], celery["ready"], celery["delayed"]) == ("celery", 1, 1)
    assert 0 <= celery["oldest_age"] < 60
    assert celery["deserted"] is True
    text = project.say("queues")
    assert (
        "Nobody serves celery (1 ready, 1 delayed); emails (2 ready). "
        "Start a worker: umbel worker -Q celery,emails\n"
    ) in text
    with project.worker("-Q", "celery,idle", "-n", "w1@here"):
        project.say("call", "tasks.greet", "--wait")  # after the one that was there
        found = {queue["queue"]: queue for queue in project.ask("queues")["queues"]}
        assert found["celery"]["workers"] == found["idle"]["workers"] == ["w1@here"]
        assert found["celery"]["ready"] == 0
        text = project.say("queues", "-A", "tasks:app")
        advice = "emails (2 ready). Start a worker: umbel -A tasks:app worker -Q emails\n"
        assert f"Nobody serves {advice}" in text
        assert "Nobody serves celery" not in text
        assert [line.split()[0] for line in text.splitlines()[:4]] == [
            "QUEUE", "celery", "emails", "idle",
        ]  # fmt: skip
        project.say("queues", "--pause", "idle")
        project.send("tasks.greet", queue="idle")
        idle = project.ask("queues")["queues"][2]
        assert (idle["ready"], idle["paused"], idle["deserted"]) == (1, True, False)
    assert project.ask("queues")["queues"][1]["workers"] == []


def test_pause_and_resume(project: Project) -> None:
    assert "no store yet" in project.refuse("queues", "--pause", "celery", code=1)
    project.send("tasks.add", 1, 2)
    assert project.ask("queues", "--pause", "celery")["queues"][0]["paused"] is True
    assert "umbel queues --resume celery" in project.say("queues")
    assert project.ask("queues", "--resume", "celery")["queues"][0]["paused"] is False
    done = project.run("queues", "--resume", "celery")
    assert (done.returncode, "was not paused" in done.stderr) == (0, True)


def test_purge_asks(project: Project) -> None:
    for queue in ("celery", "celery", "emails"):
        project.send("tasks.add", 1, 2, queue=queue)
    done = project.run("purge", answer="n\n")
    assert done.returncode == 1
    assert f"Drop 2 messages waiting in celery of {project.store}?" in done.stderr
    assert project.refuse("purge", code=1)  # nobody answers
    assert project.ask("purge", code=64)["error"]["message"].startswith("With --json nobody")
    assert sum(queue["ready"] for queue in project.ask("queues")["queues"]) == 3
    for option, nothing in (("-Q", ""), ("-Q", " , "), ("-X", "")):  # such as an unset variable
        error = project.ask("purge", option, nothing, "--force", code=64)["error"]["message"]
        assert f"{option}" in error
        assert "names nothing" in error
    assert project.say("purge", answer="y\n") == "2 messages dropped from celery\n"
    answer = project.ask("purge", "-Q", "celery,emails", "-X", "celery", "--force")
    assert (answer["queues"], answer["dropped"]) == (["emails"], 1)
    assert project.say("purge") == "0 messages dropped from celery\n"  # no question


def test_people_are_told_the_store_and_colours_can_be_off(project: Project) -> None:
    project.send("tasks.add", 1, 2)
    first = on_a_terminal(project, {}).splitlines()[0]
    assert f"store {project.store}" in first
    assert "\x1b[" in first
    plain = on_a_terminal(project, {"NO_COLOR": "1"})
    assert plain.splitlines()[0].strip() == f"store {project.store}"
    assert "\x1b[" not in plain


def on_a_terminal(project: Project, environment: dict[str, str]) -> str:
    """What `umbel queues` writes to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "umbel", "queues"], cwd=project.folder,
        env={**project.environment, "TERM": "xterm", **environment}, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    text = b""
    try:
        while data := os.read(ours, 4096):
            text += data
    except OSError:  # Linux says so when the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(30) == 0
    return text.decode()


def test_pausing_a_queue_that_nobody_knows_is_told(project: Project) -> None:
    project.send("tasks.add", 1, 2)
    done = project.run("queues", "--pause", "celry", "--pause", "celery")
    assert done.returncode == 0
    assert done.stderr == (
        "Note: celry is empty, and no live worker serves it; it is paused now.\n"
    )
    assert project.run("queues", "--pause", "celry").stderr == ""


def test_a_question_that_nobody_answers_changes_nothing(project: Project) -> None:
    project.send("tasks.add", 1, 2)
    complaint = project.refuse("purge", code=1)
    assert "Error: Aborted: nobody answered, and nothing was changed. Say -f" in complaint
    (one,) = project.ask("queues")["queues"]
    assert one["ready"] == 1


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_an_answer_that_cannot_be_written_is_told(project: Project) -> None:
    for options in ((), ("--json",)):
        with FULL.open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "umbel", "queues", *options], cwd=project.folder,
                env=project.environment, stdout=full, stderr=subprocess.PIPE, text=True,
                check=False,
            )  # fmt: skip
        assert done.stderr == "Error: the answer could not be written: No space left on device.\n"
        assert done.returncode == 1
