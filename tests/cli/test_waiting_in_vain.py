"""Work that nobody will do is told to whoever looks, with what to type about it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

from tests.cli.conftest import Project, end


def python(project: Project, code: str) -> subprocess.Popen[str]:
    """A program that imports the project's tasks."""
    return subprocess.Popen(
        [sys.executable, "-uc", code], cwd=project.folder, env=project.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_queue_that_nobody_serves_is_told_everywhere(project: Project) -> None:
    ready = project.send("tasks.add", 1, 2, queue="emails")
    delayed = project.send("tasks.add", 1, 2, queue="reports", countdown=900)
    advice = (
        "Nobody serves emails (1 ready); reports (1 delayed). "
        "Start a worker: umbel worker -Q emails,reports"
    )
    with project.worker("-Q", "celery") as lines:
        assert [line for line in lines if "Nobody serves" in line] == [f"note    {advice}"]
        assert advice in project.say("queues")
        assert advice in project.say("status")
        found = {one["queue"]: one["deserted"] for one in project.ask("queues")["queues"]}
        assert found == {"celery": False, "emails": True, "reports": True}
        for id, queue in ((ready, "emails"), (delayed, "reports")):
            text = project.say("result", id)
            assert f"no live worker serves it; start one: umbel worker -Q {queue}\n" in text
            assert project.ask("result", id)["messages"][0]["served"] is False
        project.say("queues", "--pause", "celery")
        project.send("tasks.add", 1, 2, countdown=900)
        process = project.popen("worker", "--json", "-c", "1", "-Q", "emails,reports")
        assert process.stdout is not None
        try:
            (note,) = json.loads(process.stdout.readline())["notes"]
            assert note == "celery is paused (1 delayed). Go on: umbel queues --resume celery"
            process.stdout.readline()  # ready
            text = project.say("status")
            assert "Nobody serves" not in text
            assert "2 nodes online." in text
        finally:
            end(process)


def test_the_line_to_type_names_app_and_store(project: Project) -> None:
    url = f"sqlite:///{project.folder}/other store.db"
    project.say("-b", url, "call", "tasks.add", "1", "2", "--queue", "two words")
    line = f"umbel -A tasks -b '{url}' worker -Q 'two words'\n"
    assert line in project.say("-A", "tasks", "-b", url, "queues")
    elsewhere = Project(project.folder.parent, project.store.parent)
    elsewhere.environment["UMBEL_BROKER_URL"] = url
    line = f"umbel --workdir {project.folder} worker -Q 'two words'\n"
    assert line in elsewhere.say("queues", "--workdir", "code")


def test_a_name_that_no_worker_has_is_sent_parked_and_shown(project: Project) -> None:
    project.environment["UMBEL_TASK_UNKNOWN_TIMEOUT"] = "0.5"
    code = "from tasks import app; print(app.send_task('tasks.ad', (1, 2)).id)"
    out, err = python(project, code).communicate(timeout=30)
    assert err == ""
    id = out.strip()
    text = project.say("result", id)
    assert "state    PENDING" in text
    assert "the app tasks:app has no task of this name (the nearest: tasks.add)" in text
    assert "after 0.5 s it is a dead letter" in text
    assert project.ask("result", id)["known"] is False
    waiting = python(project, f"from tasks import app; app.AsyncResult({id!r}).get(timeout=20)")
    with project.worker():
        _, err = waiting.communicate(timeout=30)
        assert waiting.returncode == 1
        assert err.splitlines()[-1].startswith("umbel.exceptions.NotRegistered: No task 'tasks.ad'")
    report = project.ask("result", id)
    assert (report["state"], report["messages"]) == ("FAILURE", [])
    assert report["dead_letter"]["reason"] == "unknown"
    (letter,) = project.ask("dead")["dead_letters"]
    assert (letter["id"], letter["task"], letter["reason"]) == (id, "tasks.ad", "unknown")
    assert "The nearest that is: 'tasks.add'" in letter["detail"]
    assert "1 dead letter: umbel dead\n" in project.run("status").stdout
    assert "run it again: umbel dead replay 1" in project.say("result", id)


def test_a_task_that_the_app_knows_is_not_called_unknown(project: Project) -> None:
    sent = project.send("tasks.add", 1, 2)
    assert "unknown" not in project.say("result", sent)
    assert project.ask("result", sent)["known"] is True
    url = f"sqlite:///{project.store}"
    (project.folder / "tasks.py").unlink()
    assert project.ask("-b", url, "result", sent)["known"] is None  # there is no app to ask


def test_whoever_waits_for_a_result_is_warned_within_two_seconds(project: Project) -> None:
    with project.worker("-Q", "other", "-n", "w1@box"):
        process = python(
            project,
            "from tasks import add\nadd.delay(1, 2)\nprint()\nadd.delay(1, 2).get(timeout=30)",
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        started = time.monotonic()
        warning = process.stderr.readline()
        waited = time.monotonic() - started
        process.kill()
        process.communicate()
    assert 1.5 < waited < 3
    assert re.fullmatch(
        rf"Task \S+ waits\. Nobody works on its queue 'celery' of {project.store}\. "
        r"Live workers: w1@box serves other\. Start one: umbel -A tasks worker -Q celery\n",
        warning,
    )
